"""Contract tests of turns while the store's clock is set back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from .helpers import LEASE, REST, desk

if TYPE_CHECKING:
    from ...harness import StoreHarness

_HOUR: Final = 3600.0


@pytest.mark.anyio
class InboxClockContract:
    """A clock that is set back extends no turn and no backoff, and lowers no token."""

    async def test_messages_are_handed_out_after_the_clock_was_set_back(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        await at.admit("one")
        await harness.advance(-_HOUR)
        assert await at.handle() == ["one"]

    async def test_a_turn_of_a_dead_worker_ends_within_its_lease_after_the_clock_was_set_back(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        await at.admit("one")
        async with at.doomed() as dead:
            await harness.advance(-_HOUR)
            assert await at.is_idle()
            await harness.advance(LEASE)
            async with at.turn("worker-2") as turn:
                assert turn.fence > dead.fence
                assert [mail.event_id for mail in turn.mail] == ["one"]

    async def test_a_turn_that_is_renewed_is_not_cut_off_after_the_clock_was_set_back(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        await at.admit("one")
        async with at.turn() as turn:
            await harness.advance(-_HOUR)
            for _ in range(3):
                assert await at.is_idle()
                await harness.advance(LEASE * 0.6)
                await turn.renew()
            assert await at.is_idle()

    async def test_a_backoff_is_not_prolonged_by_a_clock_that_was_set_back(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        await at.admit("one")
        await at.fail()
        await harness.advance(-_HOUR)
        assert await at.is_idle()
        await harness.advance(REST)
        assert await at.fail() == (["one"], 2)

    async def test_tokens_grow_over_empty_mailboxes_after_the_clock_was_set_back(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        fences: list[int] = []
        for number in range(3):
            await at.admit(f"{number}")
            async with at.turn() as turn:
                fences.append(turn.fence)
                await turn.finish()
            await harness.advance(-_HOUR)
        assert fences == sorted(set(fences))
