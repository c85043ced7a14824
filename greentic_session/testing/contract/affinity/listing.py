"""Contract tests of listing the keys that a worker serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from ....model import SessionKey
from ..samples import GLOBEX, ctx
from .helpers import WORKERS, affinity_harness, keys

if TYPE_CHECKING:
    from ...harness import StoreHarness

_MANY = 1200
"""More than two pages."""
_ODD = ("a:b", "{a}", "a/b", "%0A", "*", "\N{SNOWMAN}", "default/acme", "at", "ops", "-")


@pytest.mark.anyio
class AffinityListingContract:
    """The list has each worker's keys and no others."""

    async def test_each_key_is_listed_once_and_under_its_worker(
        self, harness: StoreHarness
    ) -> None:
        at = await affinity_harness(harness, workers=WORKERS)
        served: dict[str, list[str]] = {worker: [] for worker in WORKERS}

        async def place(some: list[SessionKey]) -> None:
            for key in some:
                served[f"{await at.worker_for(key)}"].append(key)

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(place, keys(_MANY)[number::20])
        assert sum(map(len, served.values())) == _MANY
        for worker, own in served.items():
            assert await at.keys_of(worker) == sorted(own)

    async def test_what_is_not_served_is_not_listed(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness)
        assert await at.keys_of("w1") == []
        await at.join("w1", "w2")
        await at.affinity.pin(SessionKey("a"), "w1")
        await at.affinity.pin(SessionKey("b"), "w2")
        await at.affinity.pin(SessionKey("c"), "absent")
        assert await at.keys_of("w1") == ["a"]
        assert await at.keys_of("w2") == ["b"]
        assert await at.keys_of("absent") == []
        await at.worker_for("a", pinned=True)
        await at.affinity.pin(SessionKey("a"), "w2")
        assert await at.keys_of("w1") == []
        assert await at.keys_of("w2") == ["a", "b"]
        await at.leave("w2")
        assert await at.keys_of("w1") == ["a"]
        assert await at.keys_of("w2") == []
        await at.worker_for("c")
        assert await at.keys_of("w1") == ["a", "c"]

    async def test_keys_may_be_odd_and_are_their_tenants(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness, workers=("w1",))
        callers = (None, ctx(), ctx(GLOBEX), ctx(env="at"))
        for number, caller in enumerate(callers):
            for key in (*_ODD, f"{number}"):
                assert await at.worker_for(key, caller=caller) == "w1"
        for number, caller in enumerate(callers):
            assert await at.keys_of("w1", caller=caller) == sorted((*_ODD, f"{number}"))

    async def test_a_list_may_be_left_early(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness, workers=("w1",))
        for key in keys(3):
            await at.worker_for(key)
        found = at.affinity.keys_of("w1")
        first = [await anext(found)]
        async for key in found:
            first.append(key)
            break
        assert len({*first, *[key async for key in found]}) == 3
        with pytest.raises(StopAsyncIteration):
            await anext(found)
