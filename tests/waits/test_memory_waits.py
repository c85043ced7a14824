"""Tests of the end of claims and events in memory, to the millisecond."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest
from anyio.lowlevel import checkpoint

from greentic_session.abc.records import EncodedSession, Verdict
from greentic_session.abc.waits import (
    ClaimEnding,
    ClaimRef,
    ClaimRequest,
    EndingMode,
    EventMemory,
    IndexChange,
    IndexUpsert,
    Registration,
    SeenEvent,
    WaitOwner,
)
from greentic_session.clock import ManualClock
from greentic_session.memory import InMemorySessionStore
from greentic_session.memory.dedupe import EventLog
from greentic_session.model import SessionKey

from ..unit.test_memory_expiry import START_MS, sizes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from greentic_session.abc.waits import WaitOutcome

    Store = InMemorySessionStore[dict[str, Any]]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START_MS)


@pytest.fixture
def store(clock: ManualClock) -> Store:
    # Not entered, so that only the test sweeps.
    return InMemorySessionStore(clock=clock)


# --- claimed sessions, and events -----------------------------------------------------------------

KEY: Final = SessionKey("key")
HOLD: Final = ClaimRef("default/acme", KEY, "/", 0)
MEMORY: Final = EventMemory(3, 60_000)


def encoded(ttl_ms: int = 10_000) -> EncodedSession:
    return EncodedSession(HOLD.scope, KEY, HOLD.owner, ttl_ms, b"")


def hold(claim: WaitOutcome) -> ClaimRef:
    return HOLD._replace(fence=claim.fence)


async def claimed(store: Store, attempt: str = "first") -> WaitOutcome:
    request = ClaimRequest(HOLD.scope, KEY, HOLD.owner, "scope", attempt, "", 30_000)
    claim = await store._waits.claim(request, MEMORY)
    assert claim.verdict is Verdict.DONE
    return claim


async def settled(store: Store, claim: WaitOutcome, how: EndingMode, ttl_ms: int = 10_000) -> None:
    settlement = ClaimEnding(hold(claim), how, encoded(ttl_ms), claim.token, "event", "scope")
    assert (await store._waits.end_claim(settlement, MEMORY)).verdict is Verdict.DONE


async def superseded(store: Store, claim: WaitOutcome) -> None:
    await store._waits.supersede(HOLD.scope, KEY, "scope", claim.since_us)


async def put(store: Store, _: WaitOutcome) -> None:
    store._put(encoded(15_000), None)


# Seconds after the claim of each step and of the end of the lifetime. A lifetime is ten seconds.
# While the claim is held, it counts from the end of the lease of thirty seconds.
LIVES: Final[dict[str, tuple[float, Callable[[Store, WaitOutcome], Awaitable[object]], float]]] = {
    "nothing": (20, lambda _, __: checkpoint(), 40),
    "renew": (20, lambda store, claim: store._waits.renew(hold(claim), 45_000), 75),
    "renew by less": (20, lambda store, claim: store._waits.renew(hold(claim), 1), 40),
    "renew late": (35, lambda store, claim: store._waits.renew(hold(claim), 30_000), 75),
    "release": (20, lambda store, claim: store._waits.release(hold(claim), ""), 30),
    "release late": (35, lambda store, claim: store._waits.release(hold(claim), ""), 45),
    "complete": (20, lambda store, claim: settled(store, claim, EndingMode.COMPLETE), 30),
    "wait": (20, lambda store, claim: settled(store, claim, EndingMode.WAIT), 30),
    "save": (20, lambda store, claim: settled(store, claim, EndingMode.SAVE), 40),
    "save shorter": (20, lambda store, claim: settled(store, claim, EndingMode.SAVE, 5000), 35),
    "pause": (
        20,
        lambda store, _: store._waits.register(Registration(encoded(), None, "scope"), MEMORY),
        30,
    ),
    "supersede": (20, superseded, 40),
    "put": (20, put, 45),
    "touch": (20, lambda store, _: store.touch(KEY, 2), 32),
    "touch late": (35, lambda store, _: store.touch(KEY), 45),
    "claim late": (35, lambda store, _: claimed(store, "second"), 75),
}


@pytest.mark.anyio
@pytest.mark.parametrize("name", LIVES)
async def test_a_claimed_session_is_swept_when_its_life_ends(
    store: Store, clock: ManualClock, name: str
) -> None:
    after_secs, act, ends_secs = LIVES[name]
    await store._waits.register(Registration(encoded(), None, "scope"), MEMORY)
    claim = await claimed(store)
    clock.advance(after_secs)
    assert await store.sweep() == 0
    await act(store, claim)
    clock.advance(ends_secs - after_secs - 0.001)
    assert await store.sweep() == 0
    assert store._read(HOLD.scope, KEY, None) is not None
    clock.advance(0.001)
    assert await store.sweep() == 1
    assert store._read(HOLD.scope, KEY, None) is None
    assert not any(sizes(store)[:6])
    clock.advance(60)
    await store.sweep()
    assert not any(sizes(store)), "events are forgotten as well"


@pytest.mark.anyio
async def test_a_swept_session_takes_its_hint_along(store: Store, clock: ManualClock) -> None:
    whose = WaitOwner(HOLD.scope, HOLD.owner)
    paused = await store._waits.register(Registration(encoded(), None, "scope"), MEMORY)
    entered = IndexUpsert("scope", KEY, paused.since_us, 0)
    await store._waits.update_index(whose, IndexChange(upsert=entered), MEMORY)
    await claimed(store)
    clock.advance(39.999)
    assert await store.sweep() == 0
    assert len(await store._waits.all_entries(whose)) == 1
    clock.advance(0.001)
    assert await store.sweep() == 1
    assert not any(sizes(store))


@pytest.mark.anyio
async def test_forgetting_events_lets_other_tasks_run(store: Store, clock: ManualClock) -> None:
    count = 50_000
    for number in range(count):
        name = ("default/acme", f"key-{number}")
        store._waits._events.add(name, [SeenEvent("event", START_MS)], MEMORY, START_MS)
    clock.advance(60)
    seen: list[int] = []
    over = False

    async def tick() -> None:
        while not over:
            seen.append(len(store._waits._events))
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        await checkpoint()
        assert await store.sweep() == 0
        over = True
    assert len({left for left in seen if 0 < left < count}) >= 5
    assert not any(sizes(store))


def forget(log: EventLog, now_ms: int) -> None:
    while log.pop_due(now_ms):
        pass


def test_events_are_forgotten_by_age() -> None:
    log, name = EventLog(), ("a/x", "k")
    log.add(name, [SeenEvent("first", START_MS)], MEMORY, START_MS)
    later_ms = START_MS + 40_000
    log.add(name, [SeenEvent("second", later_ms)], MEMORY, later_ms)
    for at_ms, known in [(0, (1, 1)), (59_999, (1, 1)), (60_000, (0, 1)), (99_999, (0, 1))]:
        now_ms = START_MS + at_ms
        forget(log, now_ms)
        assert (
            log.knows(name, "first", MEMORY, now_ms),
            log.knows(name, "second", MEMORY, now_ms),
        ) == known
        assert log.of(name, now_ms)[-1] == SeenEvent("second", later_ms)
    # A registry with a shorter memory knows less.
    assert not log.knows(name, "second", EventMemory(3, 10_000), later_ms + 10_000)
    assert log.knows(name, "second", EventMemory(3, 10_000), later_ms + 9999)
    ends_ms = START_MS + 100_000
    assert not log.knows(name, "second", MEMORY, ends_ms)
    assert log.of(name, ends_ms) == []
    assert len(log) == 1
    forget(log, ends_ms)
    assert (len(log), len(log._ends), len(log._expiry)) == (0, 0, 0)


def test_events_are_forgotten_by_count() -> None:
    log, name, other = EventLog(), ("a/x", "k"), ("b/x", "k")
    now_ms = START_MS + 9
    for number, at_ms in enumerate(range(START_MS, now_ms + 1)):
        log.add(name, [SeenEvent(f"event {number}", at_ms)], MEMORY, at_ms)
        log.add(other, [SeenEvent("the same", at_ms)], MEMORY, at_ms)
    assert [event.digest for event in log.of(name, now_ms)] == ["event 7", "event 8", "event 9"]
    assert log.of(other, now_ms) == [SeenEvent("the same", now_ms)]
    # An event that is reported too late replaces no other, and one that is too old leaves no trace.
    log.add(name, [SeenEvent("late", now_ms - 5)], MEMORY, now_ms)
    log.add(("c/x", "k"), [SeenEvent("old", now_ms - 60_000)], MEMORY, now_ms)
    assert not log.knows(name, "late", MEMORY, now_ms)
    assert (len(log), len(log._expiry)) == (2, 2)
    log.discard(name)
    log.discard(name)
    assert (len(log), len(log._expiry)) == (1, 1)
    log.clear()
    assert (len(log), len(log._ends), len(log._expiry)) == (0, 0, 0)
