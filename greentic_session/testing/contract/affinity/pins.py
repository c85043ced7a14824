"""Contract tests of pins: the named worker serves the key while it is a member."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ....model import SessionKey
from ..samples import KEY, LIFE, PART
from .helpers import HOUR, WORKERS, affinity_harness, chosen

if TYPE_CHECKING:
    from ...harness import StoreHarness

_CHOSEN = chosen(KEY, *WORKERS)
_OTHER, _ANOTHER = [worker for worker in WORKERS if worker != _CHOSEN][:2]


@pytest.mark.anyio
class AffinityPinContract:
    """A pin has priority, and yields only while its worker is gone."""

    @pytest.mark.parametrize("is_placed", [True, False], ids=["placed", "new"])
    async def test_a_pinned_key_is_served_by_its_worker(
        self, harness: StoreHarness, *, is_placed: bool
    ) -> None:
        at = await affinity_harness(harness, workers=WORKERS)
        if is_placed:
            assert await at.worker_for() == _CHOSEN
        await at.affinity.pin(KEY, _OTHER)
        assert await at.server_of(pinned=True) == _OTHER
        assert await at.worker_for(pinned=True) == _OTHER
        await at.affinity.pin(KEY, _ANOTHER)
        assert await at.worker_for(pinned=True) == _ANOTHER

    @pytest.mark.parametrize("is_placed", [True, False], ids=["placed", "new"])
    async def test_while_its_worker_is_gone_the_key_is_as_without(
        self, harness: StoreHarness, *, is_placed: bool
    ) -> None:
        at = await affinity_harness(harness, workers=WORKERS)
        if is_placed:
            await at.affinity.pin(KEY, _ANOTHER)
            assert await at.worker_for(pinned=True) == _ANOTHER
        await at.affinity.pin(KEY, "absent")
        expected = _ANOTHER if is_placed else _CHOSEN
        assert await at.server_of() == (_ANOTHER if is_placed else None)
        assert await at.worker_for() == expected
        assert await at.server_of() == expected
        await at.join("absent")
        assert await at.server_of(pinned=True) == "absent"
        assert await at.worker_for(pinned=True) == "absent"
        await at.leave("absent")
        assert await at.server_of() is None
        assert await at.worker_for() == _CHOSEN
        await at.join("absent")
        assert await at.worker_for(pinned=True) == "absent"

    async def test_a_pin_outlasts_a_group_without_members(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness)
        await at.affinity.pin(KEY, "w1")
        assert await at.worker_for() is None
        assert await at.server_of() is None
        await at.join("w2")
        assert await at.worker_for() == "w2"
        await at.join("w1")
        assert await at.worker_for(pinned=True) == "w1"

    async def test_an_unpinned_key_stays_where_it_was_served(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness, workers=WORKERS)
        assert await at.worker_for() == _CHOSEN
        assert await at.affinity.unpin(KEY) is False
        await at.affinity.pin(KEY, _OTHER)
        assert await at.worker_for(pinned=True) == _OTHER
        assert await at.affinity.unpin(KEY) is True
        assert await at.affinity.unpin(KEY) is False
        assert await at.server_of() == _OTHER
        assert await at.worker_for() == _OTHER

    async def test_a_pin_that_was_not_used_leaves_the_key_as_it_was(
        self, harness: StoreHarness
    ) -> None:
        at = await affinity_harness(harness, workers=WORKERS)
        assert await at.worker_for() == _CHOSEN
        await at.affinity.pin(KEY, _OTHER)
        assert await at.affinity.unpin(KEY) is True
        assert await at.server_of() == _CHOSEN
        new = SessionKey("new")
        await at.affinity.pin(new, _OTHER)
        assert await at.affinity.unpin(new) is True
        assert await at.server_of(new) is None
        assert await at.affinity.touch(new) is False

    async def test_a_pin_lives_for_its_own_time(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness, workers=WORKERS)
        await at.affinity.pin(KEY, _OTHER, 3 * LIFE)
        short = SessionKey("short")
        await at.affinity.pin(short, "absent")
        await harness.advance(2 * LIFE)
        assert await at.affinity.unpin(short) is False
        assert await at.worker_for(pinned=True) == _OTHER  # restarts the lifetime
        await harness.advance(2 * LIFE)
        assert await at.affinity.touch(KEY) is True
        await harness.advance(2 * LIFE)
        assert await at.server_of(pinned=True) == _OTHER
        assert await at.affinity.unpin(KEY) is True  # the group's lifetime applies again
        await harness.advance(PART)
        assert await at.server_of() == _OTHER
        await harness.advance(PART)
        assert await at.server_of() is None

    async def test_a_pin_that_expired_is_gone(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness, workers=WORKERS)
        await at.affinity.pin(KEY, _OTHER, PART)
        await harness.advance(PART)
        assert await at.server_of() is None
        assert await at.worker_for() == _CHOSEN
        assert await at.affinity.unpin(KEY) is False

    async def test_a_pin_of_a_worker_that_is_gone_can_be_kept_and_removed(
        self, harness: StoreHarness
    ) -> None:
        at = await affinity_harness(harness)
        await at.affinity.pin(KEY, "absent")
        await harness.advance(PART)
        assert await at.affinity.touch(KEY) is True
        await harness.advance(PART)
        assert await at.affinity.forget(KEY) is True
        await at.join("absent", lease=HOUR)
        assert await at.worker_for() == "absent"
        assert await at.affinity.unpin(KEY) is False
