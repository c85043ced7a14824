"""Contract tests of claims while the store's clock is set back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ....errors import LeaseLostError, WaitClaimedError
from ..samples import KEY
from .helpers import ANN, ENDINGS, HOUR, LEASE, wait_harness

if TYPE_CHECKING:
    from ...harness import StoreHarness


@pytest.mark.anyio
class WaitClockContract:
    """A clock that is set back extends no claim, ends no live one, and lowers no token."""

    @pytest.mark.parametrize("step", [HOUR, LEASE / 2])
    async def test_a_claim_of_a_dead_worker_ends_within_its_lease_after_the_clock_was_set_back(
        self, harness: StoreHarness, step: float
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        dead = await at.claim(lease=LEASE)
        await harness.advance(-step)
        with pytest.raises(WaitClaimedError):
            await at.claim()
        await harness.advance(LEASE)
        turn = await at.claim()
        assert turn.fence > dead.fence
        with pytest.raises(LeaseLostError):
            await ENDINGS["complete"](dead)
        await ENDINGS["complete"](turn)

    async def test_a_claim_that_is_renewed_is_not_cut_off_after_the_clock_was_set_back(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim(lease=LEASE)
        await harness.advance(-HOUR)
        for _ in range(3):
            with pytest.raises(WaitClaimedError):
                await at.claim()
            await harness.advance(LEASE * 0.6)
            await turn.renew(LEASE)
        await ENDINGS["complete"](turn)

    async def test_tokens_grow_over_deleted_sessions_after_the_clock_was_set_back(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        fences: list[int] = []
        for _ in range(3):
            await at.register()
            fences.append((await at.claim()).fence)
            assert await at.store.delete(KEY, ctx=ANN) is True
            await harness.advance(-HOUR)
        assert fences == sorted(set(fences))
