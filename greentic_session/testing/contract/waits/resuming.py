"""Contract tests of ``resume``: a claim for a block, auto-renewed, and released at its end."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from ....errors import (
    DecodeError,
    DuplicateEventError,
    LeaseLostError,
    WaitClaimedError,
    WaitNotFoundError,
)
from ..assertions import told
from ..samples import KEY, LIFE, SECRET, AppState, evolve
from .helpers import ANN, CHAT, ENDINGS, THREAD, WAYS_TO_WRITE, wait_harness

if TYPE_CHECKING:
    from ....model import Versioned
    from ....waits import Claim
    from ...harness import StoreHarness

_PATIENCE_SECS = 20
"""Limit in seconds for an expected event, generous because the machine may be busy."""
_SHORT_SECS = 0.9
"""A lease in seconds that is renewed soon: after a third of it, by the event loop's clock."""


@pytest.mark.anyio
class WaitResumingContract:
    """At the end of a block, the wait is over or free at once."""

    @pytest.mark.parametrize("ending", ENDINGS)
    async def test_a_block_ends_the_turn(self, harness: StoreHarness, ending: str) -> None:
        at = await wait_harness(harness)
        await at.register(context={"n": 1})
        async with at.resume(event_id="e") as turn:
            assert (turn.key, turn.event_id, turn.ended) == (KEY, "e", False)
            assert (turn.session, turn.cas) == await at.record()
            await ENDINGS[ending](turn)
            assert turn.ended is True
            async with at.kept():
                await checkpoint()
        if ending == "finish":
            assert await at.store.get(KEY, ctx=ANN) is None
        else:
            found = await at.record()
            assert found.session.context == {"step": "taken"}
            assert found.cas.value == 3
        where = {"wait again": (KEY, None), "wait elsewhere": (None, KEY)}
        found_at = (await at.find(CHAT), await at.find(THREAD))
        assert found_at == where.get(ending, (None, None))
        with pytest.raises(DuplicateEventError):
            async with at.resume(event_id="e"):
                pytest.fail("the block must not be entered")

    async def test_a_block_that_ends_nothing_gives_the_wait_back(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register(context={"n": 1})
        async with at.resume(event_id="e", lease=LIFE) as first:
            await at.claimed_until()
        assert first.ended is True
        found = await at.record()
        assert (found.cas, found.session.context) == (first.cas, {"n": 1})
        async with at.resume(event_id="e") as second:
            assert second.fence > first.fence
            assert second.session.context == {"n": 1}
            await second.complete(second.session)

    async def test_a_block_that_fails_gives_the_wait_back(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register(context={"n": 1})

        async def fail() -> None:
            async with at.resume(event_id="e", lease=LIFE) as turn:
                fences.append(turn.fence)
                await turn.save(evolve(turn.session, context={"n": 2}))
                raise ZeroDivisionError

        fences: list[int] = []
        with pytest.raises(ZeroDivisionError):
            await fail()
        assert await at.find() == KEY
        async with at.resume(event_id="e") as second:
            assert second.session.context == {"n": 2}
            assert second.fence > fences[0]

    async def test_a_block_that_fails_after_its_ending_has_ended(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register()

        async def complete_and_fail() -> None:
            async with at.resume(event_id="e") as turn:
                await turn.complete(evolve(turn.session, context={"n": 2}))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await complete_and_fail()
        assert (await at.record()).session.context == {"n": 2}
        assert await at.find() is None

    async def test_a_block_that_is_cancelled_gives_the_wait_back(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register(context={"n": 1})
        fences: list[int] = []
        with anyio.CancelScope() as scope:
            async with at.resume(event_id="e", lease=LIFE) as turn:
                fences.append(turn.fence)
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        async with at.resume(event_id="e") as second:
            assert second.session.context == {"n": 1}
            assert second.fence > fences[0]

    async def test_a_block_that_is_cancelled_after_its_ending_has_ended(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        with anyio.CancelScope() as scope:
            async with at.resume() as turn:
                await turn.wait_again(evolve(turn.session, context={"n": 2}), THREAD)
                scope.cancel()
                await anyio.sleep_forever()
        assert await at.find(THREAD) == KEY
        assert (await at.claim(THREAD)).session.context == {"n": 2}

    @pytest.mark.parametrize("steps", range(6))
    async def test_a_claim_that_was_cancelled_holds_nothing(
        self, harness: StoreHarness, steps: int
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        returned: list[object] = []

        async def claim() -> None:
            returned.append(await at.claim(lease=LIFE))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(claim)
            for _ in range(steps):
                await checkpoint()
            tasks.cancel_scope.cancel()
        if returned:
            await at.claimed_until()
        else:
            await (await at.claim()).finish()

    async def test_a_block_is_not_entered_by_two(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        async with at.resume(lease=LIFE) as turn:
            with pytest.raises(WaitClaimedError) as caught:
                async with at.resume():
                    pytest.fail("the block must not be entered")
            assert caught.value.until == turn.lease_until
            await turn.complete(turn.session)
        with pytest.raises(WaitNotFoundError):
            async with at.resume():
                pytest.fail("the block must not be entered")

    @pytest.mark.parametrize("way", WAYS_TO_WRITE)
    async def test_after_the_block_the_turn_is_over(self, harness: StoreHarness, way: str) -> None:
        at = await wait_harness(harness)
        await at.register()
        async with at.resume() as turn:
            pass
        async with at.kept():
            with pytest.raises(LeaseLostError):
                await WAYS_TO_WRITE[way](turn, turn.session)

    async def test_a_late_ending_in_a_block_is_refused_aloud(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        winners: list[Claim[Any]] = []

        async def be_late() -> None:
            async with at.resume(lease=LIFE) as turn:
                await harness.advance(LIFE)
                winners.append(await at.claim())
                await turn.complete(evolve(turn.session, context={"by": "stale"}))

        with pytest.raises(LeaseLostError):
            await be_late()
        [winner] = winners
        await winner.complete(evolve(winner.session, context={"by": "winner"}))
        assert (await at.record()).session.context == {"by": "winner"}

    @pytest.mark.parametrize("loss", ["claimed by another", "registered", "cleared"])
    async def test_leaving_a_block_that_lost_its_claim_changes_nothing(
        self, harness: StoreHarness, loss: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        winner: Claim[Any] | None = None
        turn: Claim[Any] | None = None
        before: Versioned[Any] | None = None
        with suppress(LeaseLostError):  # the block may end before the error
            async with at.resume(lease=LIFE) as turn:
                if loss == "cleared":
                    assert await at.clear() is True
                elif loss == "registered":
                    await at.register()
                else:
                    await harness.advance(LIFE)
                if loss != "cleared":
                    winner = await at.claim(lease=LIFE)
                before = await at.store.get(KEY, ctx=ANN)
        assert turn is not None
        assert turn.ended is True
        assert await at.store.get(KEY, ctx=ANN) == before
        if winner is None:
            assert await at.find() is None
        else:
            assert await at.claimed_until() == winner.lease_until
            await winner.complete(winner.session)

    async def test_how_a_block_failed_counts_more_than_its_loss(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register()

        async def lose_and_fail() -> None:
            async with at.resume(lease=LIFE):
                await harness.advance(LIFE)
                await at.claim(lease=LIFE)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await lose_and_fail()
        await at.claimed_until()

    async def test_a_session_that_cannot_be_read_is_given_back(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness, AppState, verify=False)
        wrong: Any = SECRET
        await at.register(context=AppState(step=wrong))
        assert await at.find() == KEY
        for _ in range(2):  # a wait still claimed would raise another error
            with pytest.raises(DecodeError) as caught:
                await at.claim(lease=LIFE, event_id="e")
            assert caught.value.key == KEY
            assert SECRET not in told(caught.value)
            with pytest.raises(DecodeError):
                async with at.resume(lease=LIFE, event_id="e"):
                    pytest.fail("the block must not be entered")
        await at.register(context=AppState(step=1))
        async with at.resume(event_id="e") as turn:
            await turn.finish()

    # --- while the block runs ----------------------------------------------------------------

    async def test_the_lease_is_renewed_while_the_block_runs(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        async with at.resume(lease=_SHORT_SECS) as turn:
            until = turn.lease_until
            await harness.advance(_SHORT_SECS / 2)
            with anyio.fail_after(_PATIENCE_SECS):
                while turn.lease_until <= until:
                    await checkpoint()
            assert turn.ended is False
            await at.claimed_until()
            await turn.complete(turn.session)

    @pytest.mark.parametrize("loss", ["registered", "cleared"])
    async def test_a_block_whose_claim_is_lost_is_cancelled(
        self, harness: StoreHarness, loss: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        cancelled: list[Claim[Any]] = []

        async def lose() -> None:
            async with at.resume(lease=_SHORT_SECS) as turn:
                if loss == "registered":
                    await at.register()
                else:
                    assert await at.clear() is True
                try:
                    await anyio.sleep_forever()
                except anyio.get_cancelled_exc_class():
                    cancelled.append(turn)
                    raise

        with anyio.fail_after(_PATIENCE_SECS), pytest.raises(LeaseLostError):
            await lose()
        [turn] = cancelled
        assert turn.ended is True
        assert await at.find() == (KEY if loss == "registered" else None)
        if loss == "registered":
            await at.claim()

    async def test_a_claim_is_kept_like_a_block(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim(attempt_id="a", lease=LIFE)
        async with turn.kept() as same:
            assert same is turn
            assert turn.ended is False
            await at.claimed_until()
        assert turn.ended is True
        again = await at.claim(attempt_id="b")
        assert again.fence > turn.fence
