"""Contract tests of leaks: nothing is left when every wait has ended."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

import pytest

from ....errors import (
    CasConflictError,
    DuplicateEventError,
    LeaseLostError,
    SessionError,
    TenantMismatchError,
    WaitClaimedError,
    WaitNotFoundError,
)
from ....model import Cas, SessionKey
from ..samples import GLOBEX, KEY, LIFE, PART, ctx, session
from ..store.verbs import CHANGES
from .helpers import (
    ANN,
    ANOTHER,
    BOB,
    CHAT,
    ENDINGS,
    HOUR,
    MAIL,
    STEPS,
    THREAD,
    evolve_ctx,
    wait_harness,
    without_user,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ....waits import Claim
    from ...harness import StoreHarness
    from .helpers import Step, WaitHarness


async def _complete_and_delete(at: WaitHarness) -> None:
    await ENDINGS["complete"](await at.claim(event_id="e"))
    assert await at.store.delete(KEY, ctx=ANN) is True


async def _supersede_and_delete(at: WaitHarness) -> None:
    await at.register(key=ANOTHER)
    assert await at.store.delete(KEY, ctx=ANN) is True
    assert await at.store.delete(ANOTHER, ctx=ANN) is True


async def _touch(at: WaitHarness) -> None:
    assert await at.store.touch(KEY, LIFE, ctx=ANN) is True
    await at.harness.advance(LIFE)


async def _claim_and_delete(at: WaitHarness) -> None:
    turn = await at.claim(event_id="e")
    assert await at.store.delete(KEY, ctx=ANN) is True
    with pytest.raises(LeaseLostError):
        await turn.wait_again(turn.session, THREAD)


async def _move_and_clear(at: WaitHarness) -> None:
    await at.take_turn(event_id="e", onto=THREAD)
    await at.register(MAIL)
    assert await at.clear(MAIL) is True


async def _finish(at: WaitHarness) -> None:
    await (await at.claim(event_id="e")).finish()


_ENDS: Final[dict[str, Callable[[WaitHarness], Awaitable[object]]]] = {
    "deleted": lambda at: at.store.delete(KEY, ctx=ANN),
    "deleted without a caller": lambda at: at.store.delete(KEY),
    "cleared": lambda at: at.clear(),
    "finished": _finish,
    "completed and deleted": _complete_and_delete,
    "displaced and deleted": _supersede_and_delete,
    "touched to an end": _touch,
    "claimed and deleted": _claim_and_delete,
    "moved and cleared": _move_and_clear,
}
"""Ways to end a wait without an expiry."""


@pytest.mark.anyio
class WaitLeavingContract:
    """When every wait has ended, the store is as empty as at the start."""

    @pytest.mark.parametrize("others", [True, False], ids=["beside others", "alone"])
    @pytest.mark.parametrize("end", _ENDS)
    async def test_nothing_is_left_of_a_wait_without_an_end(
        self, harness: StoreHarness, end: str, *, others: bool
    ) -> None:
        at = await wait_harness(harness, events_ttl=LIFE)
        if others:
            await at.register(MAIL, "c8", ttl=LIFE)
            await at.register(CHAT, "c9", ttl=LIFE, owner=BOB)
        await at.register()
        await _ENDS[end](at)
        await harness.advance(HOUR)
        # No later call is needed.
        assert await harness.residue() == []
        assert await at.find() is None
        assert await at.listed() == []
        assert await harness.residue() == []

    @pytest.mark.parametrize("ending", [*STEPS, "release", "nothing"])
    async def test_nothing_is_left_of_a_wait_with_an_end(
        self, harness: StoreHarness, ending: str
    ) -> None:
        at = await wait_harness(harness, events_ttl=LIFE)
        await at.register(ttl=LIFE)
        turn = await at.claim(event_id="e", lease=LIFE)
        if ending == "release":
            assert await turn.release() is True
        elif ending != "nothing":
            await STEPS[ending](turn)
        await harness.advance(2 * LIFE if ending != "finish" else HOUR)
        assert await harness.residue() == []

    @pytest.mark.parametrize("verb", [*CHANGES, "touch"])
    async def test_nothing_is_left_of_a_wait_whose_life_was_cut_short(
        self, harness: StoreHarness, verb: str
    ) -> None:
        at = await wait_harness(harness)
        cas = await at.register(ttl=10 * HOUR)
        if verb == "touch":
            assert await at.store.touch(KEY, LIFE, ctx=ANN) is True
        else:
            await CHANGES[verb](at.store, session(owner=ANN, ttl_secs=LIFE), cas)
        await harness.advance(LIFE)
        assert await at.listed() == []
        assert await harness.residue() == []

    @pytest.mark.parametrize("verb", [*CHANGES, "touch"])
    async def test_nothing_is_left_of_a_user_without_further_calls(
        self, harness: StoreHarness, verb: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register(THREAD, ANOTHER, ttl=LIFE)
        cas = await at.register()  # permanent, until it gets a lifetime
        if verb == "touch":
            assert await at.store.touch(KEY, 2 * LIFE, ctx=ANN) is True
        else:
            await CHANGES[verb](at.store, session(owner=ANN, ttl_secs=2 * LIFE), cas)
        await harness.advance(2 * LIFE)
        assert await harness.residue() == []

    async def test_nothing_is_left_in_a_list_next_to_another_wait(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register(MAIL, ANOTHER)
        before = await harness.residue()
        for number in range(5):
            await at.register(CHAT, f"c{number}", ttl=LIFE)
            await at.register(THREAD, f"d{number}", ttl=LIFE)
            await harness.advance(LIFE)
            assert await at.listed() == [ANOTHER]
            assert await harness.residue() == before
        assert await at.store.delete(ANOTHER) is True
        await harness.advance(HOUR)
        assert await harness.residue() == []

    async def test_superseded_and_moved_sessions_leave_one_entry(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        before = await harness.residue()
        for scope in (THREAD, MAIL, THREAD, CHAT):
            await at.register(scope)
        assert await harness.residue() == before
        for _ in range(3):
            turn = await at.claim()
            await turn.wait_again(turn.session, THREAD)
            turn = await at.claim(THREAD)
            await turn.wait_again(turn.session, CHAT)
        assert await harness.residue() == before
        await at.register(key=ANOTHER)
        assert await at.store.delete(KEY, ctx=ANN) is True
        await harness.advance(HOUR)
        # Some names contain the key, or a number that depends on it.
        assert len(await harness.residue()) == len(before)
        assert await at.clear() is True
        await harness.advance(HOUR)
        assert await harness.residue() == []

    async def test_events_leave_when_they_are_old(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness, events_ttl=LIFE)
        await at.register()
        before = await harness.residue()
        for number in range(3):
            await at.take_turn(event_id=f"e{number}")
            await harness.advance(PART)
        assert await harness.residue() != before
        await harness.advance(LIFE)
        assert await at.find() == KEY
        assert await harness.residue() == before

    async def test_no_event_leaves_nothing(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        before = await harness.residue()
        for _ in range(3):
            await at.take_turn()
        assert await harness.residue() == before

    async def test_refused_verbs_leave_nothing(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        stranger = evolve_ctx(ANN, tenant_id=GLOBEX)
        token = Cas(value=1, incarnation="a" * 32)
        await at.create(ANOTHER, owner=BOB, ttl_secs=LIFE)
        for scope in (CHAT, MAIL):
            with pytest.raises(CasConflictError):
                await at.register(scope, expected=token)
            with pytest.raises(TenantMismatchError):
                await at.register(scope, ANOTHER)
            with pytest.raises(TenantMismatchError):
                await at.waits.register_wait(ANN, "ann", scope, session(owner=stranger))
            with pytest.raises(WaitNotFoundError):
                await at.claim(scope, event_id="e", attempt_id="a")
            assert await at.find(scope) is None
            assert await at.clear(scope) is False
        await harness.advance(LIFE)
        assert await harness.residue() == []

    async def test_turns_that_were_refused_leave_nothing(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness, events_ttl=LIFE)
        await at.register(ttl=LIFE)
        turn = await at.claim(event_id="e")
        with pytest.raises(WaitClaimedError):
            await at.claim(event_id="f")
        with pytest.raises(TenantMismatchError):
            await turn.wait_again(session(owner=BOB), THREAD)
        await at.register(ttl=LIFE)
        with pytest.raises(LeaseLostError):
            await turn.wait_again(turn.session, THREAD)
        await at.take_turn(event_id="e")
        with pytest.raises(DuplicateEventError):
            await at.claim(event_id="e")
        await harness.advance(2 * LIFE)
        assert await harness.residue() == []

    async def test_losing_the_indexes_leaves_nothing_behind(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness, events_ttl=LIFE)
        await at.register(ttl=LIFE)
        await at.register(THREAD, ANOTHER)
        await at.take_turn(THREAD, "e")
        await harness.forget_indexes()
        await at.waits.rebuild_index(ANN)
        await harness.advance(LIFE)
        assert await at.clear(THREAD) is True
        await harness.advance(HOUR)
        assert await at.listed() == []
        assert await harness.residue() == []

    @pytest.mark.parametrize("seed", range(6))
    async def test_nothing_is_left_after_many_waits(self, harness: StoreHarness, seed: int) -> None:
        at = await wait_harness(harness, events_ttl=LIFE, max_events=3)
        chance = random.Random(seed)
        keys = [SessionKey(f"c{number}") for number in range(6)]
        owners = (ANN, BOB)
        scopes = (CHAT, THREAD, MAIL)
        steps: list[Step] = [*STEPS.values(), lambda turn: turn.release()]
        turns: list[Claim[Any]] = []
        for number in range(120):
            # A key belongs to one owner, otherwise the access check would refuse most calls.
            index = chance.randrange(len(keys))
            key, owner, scope = keys[index], owners[index % 2], chance.choice(scopes)
            ttl = chance.choice([0, 1, LIFE, HOUR])
            try:
                match chance.randrange(9):
                    case 0 | 1 | 2:
                        await at.register(scope, key, ttl, owner=owner)
                    case 3 | 4:
                        lease = chance.choice([1, LIFE])
                        event = chance.choice([None, f"e{number % 7}"])
                        turns.append(
                            await at.claim(scope, owner=owner, event_id=event, lease=lease)
                        )
                    case 5 | 6 if turns:
                        await chance.choice(steps)(turns.pop(chance.randrange(len(turns))))
                    case 7:
                        await chance.choice((at.store.delete, at.store.touch))(key, ctx=owner)
                    case _:
                        await harness.advance(chance.choice([0.001, 1, PART]))
            except SessionError:
                continue  # which errors occur depends on the random steps
        for owner in owners:
            for scope in scopes:
                await at.clear(scope, owner)
        for key, owner in zip(keys, owners * 3, strict=True):
            await at.store.delete(key, ctx=owner)
        await harness.advance(HOUR)
        for owner in owners:
            assert await at.listed(owner) == []
        assert await at.waits.rebuild_index(ctx()) == 0
        assert await harness.residue() == []

    async def test_looking_for_others_leaves_nothing(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        for owner in (ANN, BOB, evolve_ctx(ANN, env="staging")):
            for caller in (owner, without_user(owner)):
                user = owner.user_id or ""
                assert await at.waits.find_wait_by_scope(caller, user, CHAT) is None
                assert await at.waits.list_waits_for_user(caller, user) == []
                assert await at.waits.clear_wait(caller, user, CHAT) is False
        assert await harness.residue() == []
