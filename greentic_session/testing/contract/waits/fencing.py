"""Contract tests of the owner of a wait: no other user finds, clears, claims or traces it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from ....errors import TenantMismatchError, WaitNotFoundError
from ....model import Cas, SessionKey
from ..assertions import refusal, told
from ..samples import GLOBEX, KEY, LIFE, SECRET, ctx, session
from .helpers import ANN, ANOTHER, BOB, CHAT, LEASE, THREAD, evolve_ctx, wait_harness, without_user

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ....model import TenantCtx
    from ....waits import WaitRegistry
    from ...harness import StoreHarness

_STRANGERS: Final[dict[str, TenantCtx]] = {
    "another user": BOB,
    "another team": evolve_ctx(ANN, team_id="blue"),
    "no team": evolve_ctx(ANN, team_id=None),
    "another tenant": evolve_ctx(ANN, tenant_id=GLOBEX),
    "another env": evolve_ctx(ANN, env="staging"),
}
_ODD_USERS: Final = (
    "ann",
    "ann:b",
    "ann%3Ab",
    "ann/b",
    "red/ann",
    "{ann}",
    "Ann",
    "änn",
    "😀",
    " ",
)

_VERBS: Final[dict[str, Callable[[WaitRegistry[Any], TenantCtx, str], Awaitable[object]]]] = {
    "register": lambda waits, caller, user: waits.register_wait(
        caller, user, CHAT, session(owner=caller)
    ),
    "find": lambda waits, caller, user: waits.find_wait_by_scope(caller, user, CHAT),
    "list": lambda waits, caller, user: waits.list_waits_for_user(caller, user),
    "clear": lambda waits, caller, user: waits.clear_wait(caller, user, CHAT),
    "claim": lambda waits, caller, user: waits.claim(caller, user, CHAT),
    "resume": lambda waits, caller, user: waits.resume(caller, user, CHAT).__aenter__(),
}


@pytest.mark.anyio
class WaitFencingContract:
    """Env, tenant, team and user of a wait are the caller's."""

    async def test_a_session_without_a_user_gets_the_user_of_the_wait(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        mine = session(owner=without_user(ANN))
        await at.waits.register_wait(ANN, "ann", CHAT, mine)
        assert (await at.record()).session.meta == session(owner=ANN).meta
        assert await at.find(CHAT) == KEY

    @pytest.mark.parametrize("whose", _STRANGERS)
    async def test_a_session_of_another_owner_is_not_registered(
        self, harness: StoreHarness, whose: str
    ) -> None:
        at = await wait_harness(harness)
        owner = _STRANGERS[whose]
        for caller in (ANN, without_user(ANN)):
            async with at.kept():
                with pytest.raises(TenantMismatchError) as caught:
                    await at.waits.register_wait(caller, "ann", CHAT, session(owner=owner))
            assert caught.value.key == KEY
            assert caught.value.code == "permission_denied"
        assert await harness.residue() == []

    @pytest.mark.parametrize("state", ["plain", "waiting"])
    @pytest.mark.parametrize("whose", ["another user", "another team", "no team", "no user"])
    async def test_a_live_session_of_another_owner_is_left_alone(
        self, harness: StoreHarness, whose: str, state: str
    ) -> None:
        at = await wait_harness(harness)
        owner = without_user(ANN) if whose == "no user" else _STRANGERS[whose]
        owner = evolve_ctx(owner, user_id=SECRET if owner.user_id == "bob" else owner.user_id)
        if state == "plain" or owner.user_id is None:
            cas = await at.create(owner=owner)
        else:
            cas = await at.register(owner=owner)
        for expected in (None, cas, Cas.none()):
            async with at.kept():
                with pytest.raises(TenantMismatchError) as caught:
                    await at.register(expected=expected)
            assert caught.value.key == KEY
            assert SECRET not in told(caught.value)
        assert (await at.record(owner=owner)).cas == cas
        assert await at.find() is None

    async def test_a_refused_session_supersedes_no_other(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.create(ANOTHER, owner=BOB)
        await at.register()
        async with at.kept():
            with pytest.raises(TenantMismatchError):
                await at.register(key=ANOTHER)
        assert await at.find() == KEY

    async def test_a_key_is_free_again_when_the_other_owners_session_has_expired(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register(owner=BOB, ttl=LIFE)
        await harness.advance(LIFE)
        assert (await at.register()).value == 1
        assert await at.find() == KEY
        assert await at.find(owner=BOB) is None
        assert await at.listed(BOB) == []

    @pytest.mark.parametrize("verb", ["find", "list", "clear", "claim", "resume"])
    async def test_a_key_that_passed_to_another_owner_is_not_found(
        self, harness: StoreHarness, verb: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register(THREAD, ANOTHER)  # so that Ann's index exists throughout
        await at.register(ttl=LIFE)
        await harness.advance(LIFE)
        cas = await at.register(owner=BOB)
        # Ann's call is the first one after that.
        if verb in ("claim", "resume"):
            with pytest.raises(WaitNotFoundError):
                await _VERBS[verb](at.waits, ANN, "ann")
        else:
            found = await _VERBS[verb](at.waits, ANN, "ann")
            assert found == {"find": None, "list": [ANOTHER], "clear": False}[verb]
        assert (await at.record(owner=BOB)).cas == cas
        assert await at.find(owner=BOB) == KEY
        assert await at.listed() == [ANOTHER]

    @pytest.mark.parametrize("stranger", _STRANGERS)
    async def test_to_strangers_a_wait_does_not_exist(
        self, harness: StoreHarness, stranger: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register(ttl=LIFE)
        caller = _STRANGERS[stranger]
        async with at.kept():
            for presented in (caller, without_user(caller)):
                user = caller.user_id or ""
                assert await at.waits.find_wait_by_scope(presented, user, CHAT) is None
                assert await at.waits.list_waits_for_user(presented, user) == []
                assert await at.waits.clear_wait(presented, user, CHAT) is False
                with pytest.raises(WaitNotFoundError):
                    await at.waits.claim(presented, user, CHAT)
                with pytest.raises(WaitNotFoundError):
                    async with at.waits.resume(presented, user, CHAT):
                        pytest.fail("the block must not be entered")
                assert await at.find_by_user(presented, user) is None
        turn = await at.claim()
        assert turn.cas.value == 2
        async with at.kept():
            with pytest.raises(WaitNotFoundError):  # and no error that reveals the claim
                await at.claim(owner=caller)

    @pytest.mark.parametrize("presents", [True, False], ids=["with a user", "without"])
    async def test_the_caller_may_present_the_user_or_not(
        self, harness: StoreHarness, *, presents: bool
    ) -> None:
        at = await wait_harness(harness)
        one, other = (ANN, without_user(ANN)) if presents else (without_user(ANN), ANN)
        given = session(owner=ANN)
        assert (await at.waits.register_wait(one, "ann", CHAT, given)).value == 1
        assert await at.waits.find_wait_by_scope(other, "ann", CHAT) == KEY
        assert await at.waits.list_waits_for_user(other, "ann") == [KEY]
        turn = await at.waits.claim(other, "ann", CHAT, event_id="e")
        await turn.wait_again(turn.session, THREAD)
        async with at.waits.resume(one, "ann", THREAD) as again:
            await again.wait_again(again.session, CHAT)
        assert await at.waits.clear_wait(other, "ann", CHAT) is True
        assert await at.waits.list_waits_for_user(one, "ann") == []

    @pytest.mark.parametrize("verb", _VERBS)
    async def test_a_caller_does_not_speak_for_another_user(
        self, harness: StoreHarness, verb: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        async with at.kept():
            for caller, user in ((ANN, "bob"), (BOB, "ann"), (ANN, "Ann")):
                error = await refusal(_VERBS[verb](at.waits, caller, user))
                assert error.field == "user_id"

    async def test_find_by_user_does_not_speak_for_another_user(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        error = await refusal(at.find_by_user(ANN, "bob"))
        assert error.field == "user_id"

    async def test_attributes_of_a_caller_do_not_matter(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        caller = type(ANN)(tenant_id="acme", team_id="red", attributes={"trace": "1"})
        assert await at.waits.find_wait_by_scope(caller, "ann", CHAT) == KEY

    async def test_owners_share_a_place_and_a_key_and_never_meet(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        owners = [ANN, evolve_ctx(ANN, tenant_id=GLOBEX), evolve_ctx(ANN, env="staging")]
        for number, owner in enumerate(owners):
            await at.register(owner=owner, context={"n": number})
        await at.register(owner=BOB, key=ANOTHER)
        for number, owner in enumerate(owners):
            assert await at.find(owner=owner) == KEY
            assert await at.listed(owner) == [KEY]
            turn = await at.claim(owner=owner, event_id="e")
            assert turn.session.context == {"n": number}
            await turn.finish()
            assert await at.find(owner=owner) is None
            assert await at.store.get(KEY, ctx=owner) is None
        assert await at.find(owner=BOB) == ANOTHER

    async def test_users_of_any_name_never_meet(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        owners = [ctx(team_id="red", user_id=user) for user in _ODD_USERS]
        for number, owner in enumerate(owners):
            await at.register(key=f"c{number}", owner=owner)
        for number, owner in enumerate(owners):
            key = SessionKey(f"c{number}")
            assert await at.find(owner=owner) == key
            assert await at.listed(owner) == [key]
            turn = await at.claim(owner=owner, event_id="e", lease=LEASE)
            assert turn.key == key
            await turn.wait_again(turn.session, CHAT)
            assert await at.clear(owner=owner) is True

    async def test_a_team_and_a_user_do_not_run_together(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        pairs = [("a", "b"), (None, "a/b"), ("a", "/b"), (None, "b"), ("-", "b"), ("b", "a")]
        owners = [ctx(team_id=team, user_id=user) for team, user in pairs]
        for number, owner in enumerate(owners):
            await at.register(key=f"c{number}", owner=owner)
        for number, owner in enumerate(owners):
            assert await at.listed(owner) == [f"c{number}"]
