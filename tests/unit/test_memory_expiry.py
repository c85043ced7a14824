"""Tests of the expiry index against a naive one, and of the cost of a sweep."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from greentic_session.abc.records import EncodedSession
from greentic_session.clock import ManualClock
from greentic_session.memory import InMemorySessionStore
from greentic_session.memory.expiry import ExpiryIndex, Name
from greentic_session.model import Session, SessionCursor, SessionKey, SessionMeta, TenantCtx

if TYPE_CHECKING:
    from collections.abc import Callable

    Store = InMemorySessionStore[dict[str, Any]]

SEED: Final = int(os.environ.get("GREENTIC_SESSION_TEST_SEED", "20240229"))
CTX: Final = TenantCtx(tenant_id="acme")
START_MS: Final = 1_700_000_000_000

names: Final = st.tuples(st.sampled_from(("a/x", "b/x")), st.sampled_from("klmn"))
# The boundaries are at the width of a bucket and its multiples.
spans_ms: Final = st.one_of(
    st.integers(1, 5),
    st.integers(1, 5000),
    st.sampled_from((1023, 1024, 1025, 2047, 2048, 2049, 10_240)),
    st.integers(1, 10_000_000),
)


class IndexMachine(RuleBasedStateMachine):
    """The index as the store uses it, and a dictionary of expiries."""

    def __init__(self) -> None:
        super().__init__()
        self.index = ExpiryIndex()
        self.now_ms = START_MS
        self.expiries: dict[Name, int] = {}
        self.due: dict[Name, int] = {}
        self.visits: Counter[Name] = Counter()

    @rule(name=names, span_ms=spans_ms)
    def enter(self, name: Name, span_ms: int) -> None:
        self._leave(name)
        self._enter(name, self.now_ms + span_ms)
        self.visits[name] = 0

    @rule(name=names)
    def discard(self, name: Name) -> None:
        self._leave(name)

    @rule(name=names)
    def discard_twice(self, name: Name) -> None:
        due = self.due.get(name)
        self._leave(name)
        if due is not None:
            self.index.discard(name, due)

    @rule(name=names, span_ms=spans_ms)
    def extend(self, name: Name, span_ms: int) -> None:
        """Extend a lifetime. The record stays in place, and the visit finds the new expiry."""
        if name in self.expiries:
            self.expiries[name] += span_ms
            # One visit finds the old lifetime, and one the bucket of the new one.
            self.visits[name] = 0

    @rule(span_ms=spans_ms)
    def sweep_after(self, span_ms: int) -> None:
        self.now_ms += span_ms
        expected = {name for name, expiry in self.expiries.items() if expiry <= self.now_ms}
        swept: set[Name] = set()
        while (name := self.index.pop_due(self.now_ms)) is not None:
            self.visits[name] += 1
            del self.due[name]
            if self.expiries[name] <= self.now_ms:
                del self.expiries[name]
                swept.add(name)
            else:
                self._enter(name, self.expiries[name])
        assert swept == expected

    @rule()
    def sweep_again(self) -> None:
        if all(expiry > self.now_ms for expiry in self.expiries.values()):
            self.sweep_after(0)
            assert self.index.pop_due(self.now_ms) is None

    @rule()
    def clear(self) -> None:
        self.index.clear()
        self.expiries.clear()
        self.due.clear()
        assert self.index.pop_due(self.now_ms + 10**12) is None

    def _enter(self, name: Name, expiry: int) -> None:
        due = self.index.add(name, expiry, self.now_ms)
        assert due <= expiry, "the index would look too late"
        assert due > self.now_ms or due == expiry, "the index would look for nothing"
        self.expiries[name] = expiry
        self.due[name] = due

    def _leave(self, name: Name) -> None:
        if self.expiries.pop(name, None) is not None:
            self.index.discard(name, self.due.pop(name))

    @invariant()
    def holds_each_record_once(self) -> None:
        assert len(self.index) == len(self.expiries)
        assert {
            name: due for due, bucket in self.index._buckets.items() for name in bucket
        } == self.due

    @invariant()
    def visits_a_life_three_times_at_most(self) -> None:
        # Its coarse bucket and its millisecond, and once the place that an extension left.
        assert all(count <= 3 for count in self.visits.values())

    @invariant()
    def is_bounded_by_what_it_holds(self) -> None:
        assert len(self.index._times) <= 2 * len(self.index._buckets) + 65


def test_index_does_what_a_naive_one_does(scaled: Callable[[int], int]) -> None:
    print(f"GREENTIC_SESSION_TEST_SEED={SEED}")  # noqa: T201 - pytest shows it with a failure
    run_state_machine_as_test(
        seed(SEED)(IndexMachine),
        settings=settings(
            max_examples=scaled(300),
            stateful_step_count=50,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_index_visits_an_untouched_record_twice_at_most() -> None:
    index = ExpiryIndex()
    expiry = START_MS + 3_600_000 + 777
    index.add(("a/x", "k"), expiry, START_MS)
    visits = []
    for now_ms in range(START_MS, expiry + 1, 7):
        while (name := index.pop_due(now_ms)) is not None:
            visits.append(now_ms)
            index.add(name, expiry, now_ms)
    while index.pop_due(expiry) is not None:
        visits.append(expiry)
    assert len(visits) == 2
    assert expiry - visits[0] < 1024


# --- in the store ---------------------------------------------------------------------------------


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START_MS)


@pytest.fixture
def store(clock: ManualClock) -> Store:
    # Not entered, so that only the test sweeps.
    return InMemorySessionStore(clock=clock)


@pytest.fixture
def visited(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the keys that sweeps visit, in order."""
    keys: list[str] = []
    pop_due = ExpiryIndex.pop_due

    def counting(self: ExpiryIndex, now_ms: int) -> Name | None:
        name = pop_due(self, now_ms)
        if name is not None:
            keys.append(name[1])
        return name

    monkeypatch.setattr(ExpiryIndex, "pop_due", counting)
    return keys


def session(key: str, ttl_secs: float) -> Session[dict[str, Any]]:
    return Session(
        key=SessionKey(key),
        cursor=SessionCursor(flow_id="flow", node_id="node"),
        meta=SessionMeta.of(CTX),
        ttl_secs=ttl_secs,
    )


async def fill(store: Store, count: int, ttl_secs: float) -> list[SessionKey]:
    keys = [SessionKey(f"key-{number}") for number in range(count)]
    for key in keys:
        await store.put(session(key, ttl_secs))
    return keys


def sizes(store: Store) -> tuple[int, ...]:
    """Return the sizes of everything in the store, down to the index's heap."""
    records, waits = store._records, store._waits
    index = records._expiry
    return (
        sum(map(len, records._tenants.values())),
        len(records._tenants),
        len(records._lookup),
        len(index),
        len(index._buckets),
        len(index._times),
        len(waits._index),
        len(waits._events),
        len(waits._events_of_owners),
    )


@pytest.mark.anyio
class TestSweep:
    @pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
    async def test_sweep_of_many_records_lets_other_tasks_run(
        self, store: Store, clock: ManualClock
    ) -> None:
        count = 200_000
        # By the primitive, because the stored content does not matter and encoding takes long.
        for number in range(count):
            store._put(EncodedSession("default/acme", f"key-{number}", "/", 60_000, b""), None)
        clock.advance(60)
        seen: list[int] = []
        over = False

        async def tick() -> None:
            while not over:
                seen.append(store.statistics().swept)
                await checkpoint()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tick)
            await checkpoint()
            assert await store.sweep() == count
            over = True
        # Half a millisecond at a time gives hundreds of slices here and tens on the fastest
        # machine.
        midway = {swept for swept in seen if 0 < swept < count}
        assert len(midway) >= 20
        assert not any(sizes(store))

    async def test_a_sweep_of_nothing_visits_nothing(
        self,
        store: Store,
        clock: ManualClock,
        visited: list[str],
    ) -> None:
        await fill(store, 1000, 60)
        await store.put(session("for ever", 0))
        for _ in range(50):
            clock.advance(1)
            assert await store.sweep() == 0
        assert visited == []

    async def test_costs_in_proportion_to_what_expired(
        self,
        store: Store,
        clock: ManualClock,
        visited: list[str],
    ) -> None:
        await fill(store, 1000, 3600)
        for number in range(10):
            await store.put(session(f"short-{number}", 5))
        clock.advance(5)
        assert await store.sweep() == 10
        assert sorted(visited) == sorted(f"short-{number}" for number in range(10))

    async def test_a_touched_session_is_swept_when_its_new_life_ends(
        self, store: Store, clock: ManualClock
    ) -> None:
        key = SessionKey("key")
        await store.put(session(key, 10))
        clock.advance(9.999)
        assert await store.touch(key)
        clock.advance(0.001)
        assert await store.sweep() == 0
        clock.advance(9.998)
        assert await store.sweep() == 0
        assert await store.get(key, ctx=CTX) is not None
        clock.advance(0.001)
        assert await store.sweep() == 1
        assert await store.get(key, ctx=CTX) is None
        assert not any(sizes(store))

    @pytest.mark.parametrize("how", ["touch", "put"])
    async def test_a_shortened_life_is_swept_when_it_ends(
        self, store: Store, clock: ManualClock, how: str
    ) -> None:
        key = SessionKey("key")
        await store.put(session(key, 3600))
        if how == "touch":
            await store.touch(key, 5)
        else:
            await store.put(session(key, 5))
        clock.advance(4.999)
        assert await store.sweep() == 0
        clock.advance(0.001)
        assert await store.sweep() == 1
        assert not any(sizes(store))

    @pytest.mark.parametrize("how", ["touch", "put"])
    async def test_a_session_made_permanent_is_never_swept(
        self,
        store: Store,
        clock: ManualClock,
        visited: list[str],
        how: str,
    ) -> None:
        key = SessionKey("key")
        await store.put(session(key, 5))
        if how == "touch":
            await store.touch(key, 0)
        else:
            await store.put(session(key, 0))
        clock.advance(10_000_000)
        assert await store.sweep() == 0
        assert visited == []
        assert await store.get(key, ctx=CTX) is not None
        assert store.statistics().expiring == 0

    async def test_touches_cost_the_index_nothing(
        self,
        store: Store,
        clock: ManualClock,
        visited: list[str],
    ) -> None:
        keys = await fill(store, 100, 60)
        before = sizes(store)
        for _ in range(50):
            for key in keys:
                await store.touch(key)
        assert sizes(store) == before
        # A lifetime that touches extend is visited once per lifetime, not once per touch.
        for _ in range(600):
            clock.advance(1)
            for key in keys:
                await store.touch(key)
            assert await store.sweep() == 0
        assert len(visited) <= len(keys) * (600 // 60 + 1) * 2
        clock.advance(60)
        assert await store.sweep() == len(keys)
        assert not any(sizes(store))

    async def test_create_and_delete_leave_nothing_to_grow(
        self, store: Store, clock: ManualClock
    ) -> None:
        await store.put(session("stays", 1_000_000))
        index = store._records._expiry
        for number in range(20_000):
            key = SessionKey(f"key-{number % 7}")
            await store.create(session(key, 30 + number % 11))
            assert await store.delete(key, ctx=CTX)
            clock.advance(0.1 * (number % 3))
            assert len(index._times) <= 2 * len(index._buckets) + 65
        assert sizes(store)[:5] == (1, 1, 1, 1, 1)
        await store.delete(SessionKey("stays"), ctx=CTX)
        assert not any(sizes(store))

    async def test_writes_over_expired_sessions_leave_nothing_to_grow(
        self, store: Store, clock: ManualClock
    ) -> None:
        key = SessionKey("key")
        for _ in range(5000):
            cas = await store.put(session(key, 0.5))
            assert cas.value == 1
            clock.advance(0.5)
        assert sizes(store)[:5] == (1, 1, 1, 1, 1)
        assert len(store._records._expiry._times) <= 67
        assert await store.sweep() == 1
        assert not any(sizes(store))

    async def test_a_large_empty_table_is_kept_for_what_comes(
        self, store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("greentic_session.memory.records._FREED_BYTES", 5000)
        await fill(store, 1000, 60)
        clock.advance(60)
        assert await store.sweep() == 1000
        assert sizes(store) == (0, 1, 0, 0, 0, 0, 0, 0, 0)
        assert store.statistics().tenants == 0
        assert [one async for one in store.scan(CTX)] == []
        (key,) = await fill(store, 1, 60)
        assert store.statistics().tenants == 1
        found = await store.get(key)
        assert found is not None
        assert found.cas.value == 1

    async def test_a_write_during_a_sweep_survives_it(
        self,
        store: Store,
        clock: ManualClock,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # Every slice ends at once, so the sweep pauses as often as possible.
        monkeypatch.setattr("greentic_session.memory.store._SLICE_SECS", 0.0)
        keys = await fill(store, 2000, 60)
        clock.advance(60)
        born: list[SessionKey] = []

        async def write() -> None:
            for key in reversed(keys):
                await store.create(session(key, 60))
                born.append(key)
                if len(born) % 20 == 0:
                    await checkpoint()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await checkpoint()
            swept = await store.sweep()
        assert 0 < swept < len(keys)
        assert store.statistics().sessions == len(born) == len(keys)
        found = await store.get_many(keys, ctx=CTX)
        assert all(one is not None and one.cas.value == 1 for one in found)

    async def test_closing_during_a_sweep_ends_it(
        self,
        store: Store,
        clock: ManualClock,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("greentic_session.memory.store._SLICE_SECS", 0.0)
        await fill(store, 2000, 60)
        clock.advance(60)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.sweep)
            await checkpoint()
            await store.aclose()
        assert not any(sizes(store))
