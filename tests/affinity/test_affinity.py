"""Tests of affinity: the published hash, even loads, few moves, and the memory backend's data."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from greentic_session import InMemorySessionStore, ManualClock, SessionKey, TenantCtx
from greentic_session.abc.affinity import affinity_key, rendezvous
from greentic_session.ordering import SessionAffinity
from greentic_session.testing.contract.affinity.helpers import (
    HOUR,
    AffinityHarness,
    affinity_harness,
)
from greentic_session.testing.harness import MemoryHarness, RedisHarness

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from greentic_session.testing.harness import StoreHarness

pytestmark = pytest.mark.anyio

VECTORS: Final[list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "affinity.json").read_text("utf-8")
)
WORKERS: Final = tuple(f"worker-{number}" for number in range(10))
KEYS: Final = tuple(f"conversation-{number}" for number in range(10_000))


# --- the hash -------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS, ids=range(len(VECTORS)))
def test_workers_for_the_published_places_are_theirs(vector: dict[str, Any]) -> None:
    assert rendezvous(vector["place"], vector["workers"]) == vector["worker"]
    assert rendezvous(vector["place"], reversed(vector["workers"])) == vector["worker"]


@pytest.mark.parametrize("url", ["memory", "valkey_url", "redis_url"])
async def test_backends_agree_on_the_vectors(url: str, request: pytest.FixtureRequest) -> None:
    opened: Any = MemoryHarness() if url == "memory" else RedisHarness(request.getfixturevalue(url))
    async with opened as harness:
        store = await harness.open()
        for number, vector in enumerate(VECTORS):
            at = AffinityHarness(harness, store, f"{number}")
            await at.join(*vector["workers"])
            placed = await at.backend.assign(at.group, vector["place"], 1000)
            assert (placed and placed.worker) == vector["worker"]


def test_tenants_have_places_of_their_own() -> None:
    places = {
        affinity_key(scope, "k") for scope in ("", "default/acme", "default/globex", "a/acme")
    }
    assert places == {"k", "default/acme\nk", "default/globex\nk", "a/acme\nk"}


def assert_even(workers: Iterable[str | None], count: int = len(WORKERS)) -> None:
    loads = Counter(workers)
    print(f"{len(loads)} workers, {min(loads.values())}..{max(loads.values())} keys")  # noqa: T201
    even = len(KEYS) / count
    assert len(loads) == count
    assert all(abs(load - even) <= 0.15 * even for load in loads.values()), loads


def test_a_death_or_a_join_moves_what_it_must_only() -> None:
    before = {key: rendezvous(key, WORKERS) for key in KEYS}
    assert_even(before.values())
    for dead in (WORKERS[0], WORKERS[-1]):
        left = [worker for worker in WORKERS if worker != dead]
        after = {key: rendezvous(key, left) for key in KEYS}
        assert all(after[key] == before[key] for key in KEYS if before[key] != dead)
        assert_even(after.values(), len(left))
    after = {key: rendezvous(key, (*WORKERS, "new")) for key in KEYS}
    moved = [key for key in KEYS if after[key] != before[key]]
    print(f"{len(moved)} of {len(KEYS)} keys move to the eleventh worker")  # noqa: T201
    assert {after[key] for key in moved} == {"new"}
    assert abs(len(moved) - len(KEYS) / 11) <= 0.15 * len(KEYS) / 11


# --- ten workers, ten thousand keys ---------------------------------------------------------------


@pytest.fixture(params=["memory", "valkey"])
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[StoreHarness]:
    if request.param == "memory":
        async with MemoryHarness() as harness:
            yield harness
    else:
        async with RedisHarness(request.getfixturevalue("valkey_url")) as harness:
            yield harness


async def test_ten_thousand_keys_over_ten_workers(harness: StoreHarness) -> None:
    at = await affinity_harness(harness, ttl=2 * HOUR, workers=WORKERS[1:])
    (dying,) = WORKERS[:1]
    await at.join(dying, lease=HOUR / 2)

    async def asked(keys: Iterable[str] = KEYS) -> dict[str, str | None]:
        answers: dict[str, str | None] = {}
        left = list(keys)

        async def ask() -> None:
            while left:
                key = left.pop()
                answers[key] = await at.worker_for(key)

        async with anyio.create_task_group() as tasks:
            for _ in range(64):
                tasks.start_soon(ask)
        return answers

    with anyio.fail_after(50):
        before = await asked()
        assert_even(before.values())
        await at.join("worker-10", "worker-11", lease=HOUR)
        some = KEYS[::10]
        assert await asked(some) == {key: before[key] for key in some}
        await at.leave("worker-10")
        await at.leave("worker-11")
        await harness.advance(HOUR / 2)
        assert sorted(await at.living()) == sorted(WORKERS[1:])
        after = await asked()
    assert_even(after.values(), len(WORKERS) - 1)
    moved = {key for key in KEYS if after[key] != before[key]}
    assert moved == {key for key in KEYS if before[key] == dying}
    assert all(after[key] == rendezvous(key, WORKERS[1:]) for key in moved)


# --- in memory ------------------------------------------------------------------------------------


class Rig:
    """Affinity in memory, with a manual clock."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store: InMemorySessionStore[dict[str, Any]] = InMemorySessionStore(clock=self.clock)
        self.affinity = SessionAffinity(self.store, ttl=timedelta(milliseconds=1000))
        self.backend = self.store._affinity_backend()

    async def join(self, worker: str, lease_ms: int = 10**9) -> int:
        return (await self.backend.join("default", worker, worker, lease_ms)).fence

    @property
    def sizes(self) -> tuple[int | None, int | None]:
        seen = self.store.statistics()
        return seen.members, seen.placements


async def test_lives_end_at_the_very_millisecond() -> None:
    rig = Rig()
    await rig.join("w1", 5000)
    key = SessionKey("k")
    for _ in range(3):
        assert await rig.affinity.worker_for(key) is not None
        rig.clock.advance(0.999)
        assert await rig.affinity.placement(key) is not None
    rig.clock.advance(0.001)
    assert await rig.affinity.placement(key) is None
    assert await rig.affinity.touch(key) is False
    await rig.affinity.worker_for(key)
    rig.clock.advance(5 - 2.998 - 0.001)
    await rig.affinity.worker_for(key)
    assert len(await rig.affinity.members()) == 1
    rig.clock.advance(0.001)
    assert await rig.affinity.members() == ()
    assert await rig.affinity.placement(key) is None
    assert await rig.affinity.worker_for(key) is None


async def test_a_sweep_frees_what_has_expired_and_nothing_else() -> None:
    rig = Rig()
    assert rig.sizes == (0, 0)
    await rig.join("w1")
    await rig.join("dies", 500)
    for number in range(100):
        await rig.affinity.worker_for(SessionKey(f"{number}"))
    await rig.affinity.pin(SessionKey("pinned"), "w1", 10)
    assert rig.sizes == (2, 101)
    rig.clock.advance(0.5)
    for number in range(50):
        await rig.affinity.worker_for(SessionKey(f"{number}"))
    assert await rig.store.sweep() == 0  # of sessions
    assert rig.sizes == (1, 101)
    rig.clock.advance(0.5)
    await rig.store.sweep()
    assert rig.sizes == (1, 51)
    rig.clock.advance(0.5)
    await rig.store.sweep()
    assert rig.sizes == (1, 1)
    rig.clock.advance(10**6)
    await rig.store.sweep()
    assert rig.sizes == (0, 0)


async def test_a_shorter_life_is_swept_in_time() -> None:
    rig = Rig()
    await rig.join("w1")
    await rig.affinity.pin(SessionKey("k"), "w1", 1000)
    assert await rig.affinity.touch(SessionKey("k"), 2) is True
    rig.clock.advance(1.999)
    await rig.store.sweep()
    assert rig.sizes == (1, 1)
    rig.clock.advance(0.001)
    await rig.store.sweep()
    assert rig.sizes == (1, 0)


async def test_what_is_removed_is_gone_at_once() -> None:
    rig = Rig()
    await rig.join("w1")
    await rig.affinity.worker_for(SessionKey("a"))
    await rig.affinity.pin(SessionKey("b"), "w2")
    assert await rig.affinity.forget(SessionKey("a")) is True
    assert await rig.affinity.unpin(SessionKey("b")) is True
    assert rig.sizes == (1, 0)
    assert await rig.backend.leave("default", "w1", "w1") is True
    assert rig.sizes == (0, 0)


async def test_closing_forgets_everything() -> None:
    rig = Rig()
    await rig.join("w1")
    await rig.affinity.worker_for(SessionKey("k"))
    await rig.store.aclose()
    assert rig.sizes == (0, 0)


async def test_fences_grow_though_the_clock_is_set_back() -> None:
    rig = Rig()
    fences: list[int] = []
    for _ in range(3):
        fences.append(await rig.join("w1"))
        assert await rig.backend.leave("default", "w1", "w1") is True
        rig.clock.set_ms(rig.clock.now_ms() - 3_600_000)
    assert fences == sorted(set(fences))


async def test_of_a_tenants_keys_only_a_page_is_looked_at_at_a_time() -> None:
    rig = Rig()
    await rig.join("w1")
    ann = TenantCtx(tenant_id="acme", user_id="ann")
    for number in range(1000):
        await rig.affinity.worker_for(SessionKey(f"{number}"), ctx=ann if number % 2 else None)
    others = 0

    async def go_by() -> None:
        nonlocal others
        while True:
            others += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(go_by)
        assert len([key async for key in rig.affinity.keys_of("w1", ctx=ann)]) == 500
        tasks.cancel_scope.cancel()
    assert others > 0
