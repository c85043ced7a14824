"""Contract tests of the index of waits, which may be lost and is repaired from the records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from ....errors import StoreUnavailableError, WaitNotFoundError
from ....model import ReplyScope, SessionKey
from ..assertions import refusal
from ..samples import GLOBEX, KEY, LIFE, PART, ctx, evolve
from .helpers import ANN, ANOTHER, BOB, CHAT, HOUR, MAIL, STEPS, THREAD, evolve_ctx, wait_harness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ...harness import StoreHarness
    from .helpers import WaitHarness


_VERBS: Final[dict[str, Callable[[WaitHarness], Awaitable[object]]]] = {
    "register": lambda at: at.register(),
    "find": lambda at: at.find(),
    "list": lambda at: at.listed(),
    "clear": lambda at: at.clear(),
    "find_by_user": lambda at: at.find_by_user(),
    "claim": lambda at: at.claim(),
    "resume": lambda at: at.resume().__aenter__(),
    "rebuild": lambda at: at.waits.rebuild_index(ANN),
}


async def _is_whole(at: WaitHarness, *, event_id: str | None = None) -> None:
    """Check by every verb that the session waits in the chat."""
    assert await at.find() == KEY
    assert await at.listed() == [KEY]
    turn = await at.claim(event_id=event_id)
    assert turn.key == KEY
    assert await turn.release() is True
    assert await at.clear() is True
    assert await at.listed() == []


@pytest.mark.anyio
class WaitIndexContract:
    """A wait missing from the index is not found until repair. The records still have it."""

    async def test_a_lost_index_loses_no_session(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        cas = await at.register(context={"n": 1}, ttl=LIFE)
        before = await at.record()
        await harness.forget_indexes()
        assert await at.find() is None
        assert await at.listed() == []
        with pytest.raises(WaitNotFoundError):
            await at.claim()
        assert await at.clear() is False
        assert await at.record() == before
        assert before.cas == cas

    async def test_registering_restores_the_index(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        cas = await at.register()
        await harness.forget_indexes()
        again = await at.register(expected=cas)
        assert (again.value, again.incarnation) == (cas.value + 1, cas.incarnation)
        await _is_whole(at)

    async def test_rebuilding_restores_the_index(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register(ttl=LIFE)
        before = await at.record()
        await harness.forget_indexes()
        assert await at.waits.rebuild_index(ANN) == 1
        assert await at.record() == before
        await harness.advance(PART)
        await _is_whole(at)

    async def test_a_held_claim_is_completed_all_the_same(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim(event_id="e", attempt_id="a")
        await harness.forget_indexes()
        await turn.renew()
        await turn.save(evolve(turn.session, context={"n": 1}))
        cas = await turn.complete(evolve(turn.session, context={"n": 2}))
        found = await at.record()
        assert (found.cas, found.session.context) == (cas, {"n": 2})
        assert await at.waits.rebuild_index(ANN) == 0
        assert await at.find() is None

    @pytest.mark.parametrize("scope", [CHAT, THREAD], ids=["there", "elsewhere"])
    async def test_waiting_again_restores_the_index(
        self, harness: StoreHarness, scope: Any
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim()
        await harness.forget_indexes()
        await turn.wait_again(turn.session, scope)
        assert await at.find(scope) == KEY
        assert await at.listed() == [KEY]

    async def test_a_claim_is_given_back_and_found_when_rebuilt(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        async with at.resume() as turn:
            await harness.forget_indexes()
            assert await at.waits.rebuild_index(ANN) == 1
            assert await at.claimed_until() == turn.lease_until
        await _is_whole(at)

    # --- rebuilding --------------------------------------------------------------------------

    async def test_rebuilding_heals_every_user_of_the_tenant(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        owners = [
            *(ctx(team_id=team, user_id=user) for team in ("red", None) for user in ("ann", "bob")),
            *(ctx(user_id=user) for user in ("a:b", "a/b", "{é}", "😀")),
        ]
        for number, owner in enumerate(owners):
            await at.register(CHAT, f"c{number}", owner=owner)
            await harness.advance(1)
            await at.register(THREAD, f"d{number}", owner=owner, ttl=LIFE)
        await harness.forget_indexes()
        assert await at.waits.rebuild_index(ctx()) == 2 * len(owners)
        for number, owner in enumerate(owners):
            assert await at.listed(owner) == [f"c{number}", f"d{number}"]
            assert await at.find(CHAT, owner) == f"c{number}"
            assert await at.find(THREAD, owner) == f"d{number}"

    @pytest.mark.parametrize("other", [{"tenant_id": GLOBEX}, {"env": "staging"}], ids=str)
    async def test_rebuilding_is_for_one_tenant(self, harness: StoreHarness, other: Any) -> None:
        at = await wait_harness(harness)
        owner = evolve_ctx(ANN, **other)
        await at.register()
        await at.register(owner=owner)
        await harness.forget_indexes()
        assert await at.waits.rebuild_index(evolve_ctx(owner, user_id=None, team_id=None)) == 1
        assert await at.find() is None
        assert await at.find(owner=owner) == KEY
        assert await at.waits.rebuild_index(BOB) == 1
        assert await at.find() == KEY

    async def test_a_rebuilt_index_leaves_out_sessions_that_do_not_wait(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.create("plain")
        await at.register(CHAT, "displaced")
        await at.register(CHAT, "completed")
        turn = await at.claim(CHAT)
        await turn.complete(turn.session)
        await at.register(CHAT, "expired", ttl=LIFE)
        await harness.advance(LIFE)
        await at.register(MAIL, "finished")
        await (await at.claim(MAIL)).finish()
        await at.register(THREAD)
        for _ in range(2):
            await harness.forget_indexes()
            assert await at.waits.rebuild_index(ANN) == 1
            assert await at.listed() == [KEY]
            assert await at.find(CHAT) is None
            assert await at.find(THREAD) == KEY

    async def test_rebuilding_doubles_nothing(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        await harness.advance(1)
        await at.register(THREAD, ANOTHER)
        async with at.kept():
            for _ in range(3):
                assert await at.waits.rebuild_index(ANN) == 2
        await harness.forget_indexes()
        for _ in range(3):
            assert await at.waits.rebuild_index(ANN) == 2
            assert await at.listed() == [KEY, ANOTHER]
        assert await at.clear() is True
        assert await at.listed() == [ANOTHER]
        assert await at.clear(THREAD) is True
        await harness.advance(HOUR)
        assert await harness.residue() == []

    async def test_rebuilding_keeps_the_order(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        keys = [SessionKey(f"c{number}") for number in (3, 1, 2, 0)]
        for key in keys:
            await at.register(ReplyScope(conversation=key), key)
            await harness.advance(1)
        await harness.forget_indexes()
        assert await at.waits.rebuild_index(ANN) == 4
        assert await at.listed() == keys

    async def test_waits_among_many_sessions_are_rebuilt(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        for number in range(600):
            await at.create(f"plain-{number}")
        keys = [SessionKey(f"c{number:02}") for number in range(50)]
        for key in keys:
            await at.register(ReplyScope(conversation=key), key)
        await harness.forget_indexes()
        assert await at.waits.rebuild_index(ANN) == 50
        assert await at.listed() == keys

    # --- two entries of one reply scope ----------------------------------------------------------

    async def test_the_last_registration_is_found_although_the_index_lost_the_first(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        await harness.forget_indexes()
        await harness.advance(1)
        # It cannot know which session to supersede. Once both are indexed, the later one counts.
        await at.register(key=ANOTHER)
        assert await at.waits.rebuild_index(ANN) in (1, 2)
        assert await at.find() == ANOTHER
        assert await at.listed() == [ANOTHER]
        turn = await at.claim()
        assert turn.key == ANOTHER
        await turn.complete(turn.session)
        assert await at.find() is None
        assert await at.waits.rebuild_index(ANN) == 0
        assert (await at.record()).cas.value == 1

    @pytest.mark.parametrize("verb", ["find", "list", "claim", "clear"])
    async def test_a_reader_of_two_supersedes_the_earlier(
        self, harness: StoreHarness, verb: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        await harness.forget_indexes()
        await harness.advance(1)
        await at.register(key=ANOTHER)
        await at.waits.rebuild_index(ANN)
        await _VERBS[verb](at)
        assert await at.waits.rebuild_index(ANN) == (0 if verb == "clear" else 1)
        assert await at.find() == (None if verb == "clear" else ANOTHER)
        assert (await at.record()).cas.value == 1


@pytest.mark.anyio
class WaitClosingContract:
    """A registry on a closed store raises the right error."""

    @pytest.mark.parametrize("verb", _VERBS)
    async def test_every_verb_on_a_closed_store_raises(
        self, harness: StoreHarness, verb: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        await at.store.aclose()
        with pytest.raises(StoreUnavailableError) as caught:
            await _VERBS[verb](at)
        assert caught.value.code == "unavailable"
        assert "closed" in caught.value.reason

    @pytest.mark.parametrize("step", [*STEPS, "release"])
    async def test_a_turn_on_a_closed_store_raises(self, harness: StoreHarness, step: str) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim(event_id="e")
        await at.store.aclose()
        with pytest.raises(StoreUnavailableError) as caught:
            await (turn.release() if step == "release" else STEPS[step](turn))
        assert "closed" in caught.value.reason
        assert turn.ended is False

    async def test_a_registry_can_be_made_before_the_store_is_entered(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        async with at.store:
            await at.register()
            assert await at.find() == KEY
            await at.store.aclose()
            with pytest.raises(StoreUnavailableError):
                await at.find()

    async def test_rebuilding_needs_a_caller(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        nobody: Any = None
        assert (await refusal(at.waits.rebuild_index(nobody))).field == "ctx"
