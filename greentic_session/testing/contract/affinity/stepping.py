"""Contract tests of memberships while the store's clock is set back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from ..samples import LIFE
from .helpers import HOUR, affinity_harness

if TYPE_CHECKING:
    from ...harness import StoreHarness

_LONG: Final = 2 * HOUR


@pytest.mark.anyio
class AffinityClockContract:
    """A clock that is set back extends no membership and lowers no token."""

    async def test_a_dead_member_ends_within_its_lease_after_the_clock_was_set_back(
        self, harness: StoreHarness
    ) -> None:
        at = await affinity_harness(harness)
        await at.join("dead", lease=LIFE)
        await harness.advance(-HOUR)
        await at.join("live", lease=_LONG)
        assert await at.living() == ["dead", "live"]
        await harness.advance(LIFE)
        assert await at.living() == ["live"]
        assert await at.worker_for() == "live"

    async def test_tokens_grow_over_members_that_left_after_the_clock_was_set_back(
        self, harness: StoreHarness
    ) -> None:
        at = await affinity_harness(harness)
        fences: list[int] = []
        for _ in range(3):
            fences += await at.join("worker", lease=LIFE)
            await at.leave("worker")
            await harness.advance(-HOUR)
        assert fences == sorted(set(fences))
