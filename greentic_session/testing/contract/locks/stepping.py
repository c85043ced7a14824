"""Contract tests of locks while the store's clock is set back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from ....abc.records import Verdict
from .helpers import LEASE, POSITION_MS, lock_harness

if TYPE_CHECKING:
    from ...harness import StoreHarness

_HOUR: Final = 3600.0


@pytest.mark.anyio
class LockClockContract:
    """A clock that is set back extends no lease, ends no live one, and lowers no token."""

    @pytest.mark.parametrize("step", [_HOUR, LEASE / 2, 0.001])
    async def test_a_lease_of_a_dead_holder_ends_within_its_length_after_the_clock_was_set_back(
        self, harness: StoreHarness, step: float
    ) -> None:
        at = await lock_harness(harness)
        dead = await at.ask("dead")
        await harness.advance(-step)
        refused = await at.ask("next", queues=False)
        assert refused.verdict is Verdict.CLAIMED
        assert refused.left_ms <= LEASE * 1000
        await harness.advance(LEASE)
        granted = await at.ask("next", queues=False)
        assert granted.verdict is Verdict.DONE
        assert granted.fence > dead.fence

    async def test_a_lease_that_is_renewed_is_not_cut_off_after_the_clock_was_set_back(
        self, harness: StoreHarness
    ) -> None:
        at = await lock_harness(harness)
        held = await at.ask("live")
        await harness.advance(-_HOUR)
        for _ in range(3):
            assert (await at.ask("next", queues=False)).verdict is Verdict.CLAIMED
            await harness.advance(LEASE * 0.6)
            assert (await at.renew("live")).verdict is Verdict.DONE
        assert (await at.ask("live")).fence == held.fence

    async def test_a_released_lock_stays_free_and_its_next_token_is_higher_after_a_step_back(
        self, harness: StoreHarness
    ) -> None:
        at = await lock_harness(harness)
        fences: list[int] = []
        for token in ("a", "b", "c"):
            fences.append((await at.ask(token, queues=False)).fence)
            assert await at.leave(token) is True
            await harness.advance(-_HOUR)
        assert fences == sorted(set(fences))
        assert fences[0] > 0

    async def test_a_dead_waiter_reserves_the_lock_no_longer_after_the_clock_was_set_back(
        self, harness: StoreHarness
    ) -> None:
        at = await lock_harness(harness)
        await at.ask("holder")
        await at.ask("dead")
        await at.leave("holder")
        await harness.advance(-_HOUR)
        assert (await at.ask("next")).left_ms <= POSITION_MS // 4
        await harness.advance(POSITION_MS / 4000)
        assert (await at.ask("next")).verdict is Verdict.DONE
