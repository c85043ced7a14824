"""Contract tests of a lost claim: every late step is refused and changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from ....errors import DuplicateEventError, LeaseLostError, WaitNotFoundError
from ..samples import KEY, LIFE, PART, evolve
from .helpers import ANN, ANOTHER, CHAT, MAIL, STEPS, THREAD, wait_harness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ....waits import Claim
    from ...harness import StoreHarness
    from .helpers import WaitHarness

    Loss = Callable[[WaitHarness], Awaitable[object]]


async def _claimed(at: WaitHarness) -> None:
    await at.harness.advance(LIFE)
    await at.claim(lease=LIFE)


async def _completed(at: WaitHarness) -> None:
    await at.harness.advance(LIFE)
    turn = await at.claim()
    await turn.complete(turn.session)


async def _waits_again(at: WaitHarness) -> None:
    await at.harness.advance(LIFE)
    await at.take_turn()


async def _finished(at: WaitHarness) -> None:
    await at.harness.advance(LIFE)
    await (await at.claim()).finish()


async def _finished_and_made_anew(at: WaitHarness) -> None:
    await _finished(at)
    await at.register()
    await at.claim()


async def _deleted(at: WaitHarness) -> None:
    assert await at.store.delete(KEY, ctx=ANN) is True


async def _deleted_and_made_anew(at: WaitHarness) -> None:
    await _deleted(at)
    await at.create()


async def _expired(at: WaitHarness) -> None:
    await at.harness.advance(6 * LIFE)


async def _expired_and_made_anew(at: WaitHarness) -> None:
    await at.harness.advance(6 * LIFE)
    await at.register()


_LOSSES: Final[dict[str, Loss]] = {
    "claimed by another": _claimed,
    "completed by another": _completed,
    "paused again by another": _waits_again,
    "finished by another": _finished,
    "finished and claimed anew": _finished_and_made_anew,
    "registered there": lambda at: at.register(),
    "registered elsewhere": lambda at: at.register(MAIL),
    "cleared": lambda at: at.clear(),
    "deleted": _deleted,
    "deleted and made anew": _deleted_and_made_anew,
    "expired": _expired,
    "expired and made anew": _expired_and_made_anew,
}
"""Events on a session that is claimed for ``LIFE`` and lives for five."""


@pytest.mark.anyio
class WaitLosingContract:
    """A lost claim writes nothing."""

    @pytest.mark.parametrize("loss", _LOSSES)
    async def test_late_steps_are_refused(self, harness: StoreHarness, loss: str) -> None:
        at = await wait_harness(harness)
        await at.register(ttl=5 * LIFE)
        # All are the same claim, but each makes its own calls to the store.
        turns = {
            name: await at.claim(lease=LIFE, event_id="e", attempt_id="a")
            for name in (*STEPS, "release")
        }
        await _LOSSES[loss](at)
        async with at.kept():
            assert await turns["release"].release() is False
            for name, step in STEPS.items():
                with pytest.raises(LeaseLostError) as caught:
                    await step(turns[name])
                assert caught.value.code == "conflict", name
            for turn in turns.values():
                assert turn.ended is True
                assert await turn.release() is False
                with pytest.raises(LeaseLostError):
                    await turn.save(turn.session)

    @pytest.mark.parametrize("loss", ["claimed by another", "registered there", "registered over"])
    async def test_an_event_of_a_lost_turn_is_not_remembered(
        self, harness: StoreHarness, loss: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        turns = [
            (step, await at.claim(lease=LIFE, event_id="e", attempt_id="a"))
            for step in STEPS.values()
        ]
        if loss == "claimed by another":
            await harness.advance(LIFE)
        else:
            await at.register(expected=turns[0][1].cas if loss == "registered over" else None)
        winner = await at.claim(event_id="e")
        for step, turn in turns:
            with pytest.raises(LeaseLostError):
                await step(turn)
        assert await winner.release() is True
        winner = await at.claim(event_id="e")
        await winner.complete(winner.session)
        with pytest.raises(DuplicateEventError):
            await at.claim(event_id="e")

    @pytest.mark.parametrize("winner_first", [True, False], ids=["before", "after"])
    async def test_only_the_winners_write_is_seen(
        self, harness: StoreHarness, *, winner_first: bool
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        stale = await at.claim(lease=LIFE)
        await harness.advance(LIFE)
        winner = await at.claim(lease=LIFE)
        assert winner.fence > stale.fence
        given = evolve(winner.session, context={"by": "winner"})
        if winner_first:
            await winner.complete(given)
        with pytest.raises(LeaseLostError):
            await stale.complete(evolve(stale.session, context={"by": "stale"}))
        if not winner_first:
            await winner.complete(given)
        found = await at.record()
        assert found.session.context == {"by": "winner"}
        assert found.cas.value == 4

    async def test_of_a_row_of_workers_that_died_the_last_one_writes(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        turns: list[Claim[Any]] = []
        for _ in range(5):
            turns.append(await at.claim(lease=LIFE))
            await harness.advance(LIFE)
        *stale, last = turns
        assert [turn.fence for turn in turns] == sorted({turn.fence for turn in turns})
        for number, turn in enumerate(stale):
            with pytest.raises(LeaseLostError):
                await turn.complete(evolve(turn.session, context={"n": number}))
        cas = await last.complete(evolve(last.session, context={"n": 4}))
        assert cas.value == 7
        assert (await at.record()).session.context == {"n": 4}

    # --- superseded, but not lost -------------------------------------------------------------

    async def test_a_superseded_session_is_still_claimed(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim(event_id="e")
        await at.register(key=ANOTHER)
        assert await at.find() == ANOTHER
        await turn.renew()
        await turn.save(evolve(turn.session, context={"n": 1}))
        assert await at.find() == ANOTHER
        cas = await turn.complete(evolve(turn.session, context={"n": 2}))
        found = await at.record()
        assert (found.cas, found.session.context) == (cas, {"n": 2})
        assert await at.find() == ANOTHER
        assert await at.listed() == [ANOTHER]
        with pytest.raises(DuplicateEventError):
            await at.claim(event_id="e")
        assert (await at.claim()).key == ANOTHER

    async def test_a_superseded_session_that_waits_again_supersedes_in_turn(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim()
        await at.register(key=ANOTHER)
        other = await at.claim()
        assert other.key == ANOTHER
        await turn.wait_again(turn.session, CHAT)
        assert await at.find() == KEY
        assert await at.listed() == [KEY]
        await other.wait_again(other.session, CHAT)
        assert await at.find() == ANOTHER
        assert await at.listed() == [ANOTHER]

    async def test_a_superseded_session_can_wait_elsewhere_by_its_claim(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim()
        await at.register(key=ANOTHER)
        await turn.wait_again(turn.session, THREAD)
        assert await at.find(CHAT) == ANOTHER
        assert await at.find(THREAD) == KEY

    async def test_a_superseded_session_that_is_given_back_waits_nowhere(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim()
        await at.register(key=ANOTHER)
        assert await turn.release() is True
        assert await at.find() == ANOTHER
        assert await at.clear() is True
        assert await at.find() is None
        with pytest.raises(WaitNotFoundError):
            await at.claim()
        assert (await at.record()).cas == turn.cas

    async def test_a_superseded_session_is_finished_by_its_claim(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim()
        await at.register(key=ANOTHER)
        await turn.finish()
        assert await at.store.get(KEY, ctx=ANN) is None
        assert await at.find() == ANOTHER

    async def test_a_completion_in_time_stays_after_the_lease(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim(lease=LIFE)
        await harness.advance(PART)
        cas: Any = await turn.complete(turn.session)
        await harness.advance(LIFE)
        with pytest.raises(WaitNotFoundError):
            await at.claim()
        assert (await at.record()).cas == cas
