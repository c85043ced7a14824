"""Tests of many workers on one lock: one holder at a time, under faults of workers and server."""

from __future__ import annotations

import asyncio
import random
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from greentic_session import create_session_store
from greentic_session.ordering import SessionLocks
from greentic_session.testing.harness import MemoryHarness, RedisHarness
from greentic_session.testing.servers import LocalServer, valkey_binary
from greentic_session.testing.topologies import SentinelRig

from ..support.locks import (
    CUT_OFF,
    SHORT_PLACE_SECS,
    STALE,
    STALE_LEASE_SECS,
    Orders,
    Pulse,
    Turn,
    assert_one_at_a_time,
    assert_written_in_turn,
    hired_locker,
    take_turn,
)
from ..support.redis import KEY, SEED, control, session, store_at, until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from greentic_session import AsyncSessionStore, SessionKey
    from greentic_session.redis.transport.client import RedisClient

    from ..support.waits import Worker

    Store = AsyncSessionStore[Any]

pytestmark = pytest.mark.anyio

WORKERS: Final = 4
CONTENDERS: Final = 25


@pytest.fixture
async def harness(valkey_url: str) -> AsyncIterator[RedisHarness]:
    async with RedisHarness(valkey_url) as harness:
        yield harness


async def hear_out(worker: Worker, turns: list[Turn], lost: list[int]) -> None:
    """Read a worker's reports to its end."""
    while (word := (said := await worker.hear()).pop("word", "died")) != "over":
        assert word != "died"
        if word == "lost":
            lost.append(worker.pid)
        else:
            turns.append(Turn(**{**said, "versions": tuple(said["versions"])}))


@asynccontextmanager
async def scripts_flushed(client: RedisClient) -> AsyncIterator[None]:
    """Let the server lose its scripts repeatedly."""

    async def storm() -> None:
        while True:
            await client.read("SCRIPT", "FLUSH")
            await asyncio.sleep(0.005)  # a pause between two of them

    storming = asyncio.create_task(storm())
    try:
        yield
    finally:
        storming.cancel()


async def test_a_hundred_contenders_in_four_processes(harness: RedisHarness) -> None:
    print(f"GREENTIC_SESSION_TEST_SEED={SEED}")  # noqa: T201 - pytest shows it with a failure
    turns: list[Turn] = []
    lost: list[int] = []
    with anyio.fail_after(50):
        async with asyncio.TaskGroup() as tasks, scripts_flushed(harness.client):
            for number in range(WORKERS):
                tasks.create_task(station(harness, number, turns, lost))
    assert len(turns) == 2 * WORKERS * CONTENDERS
    assert lost == []
    assert_one_at_a_time(turns)
    store = await harness.open()
    await store.delete(KEY)
    await until_async(lambda: nothing_is_left(harness))


async def station(harness: RedisHarness, number: int, turns: list[Turn], lost: list[int]) -> None:
    async with hired_locker(harness, "contend") as worker:
        await worker.begin(Orders(contenders=CONTENDERS, turns=2, seed=SEED + number))
        await hear_out(worker, turns, lost)
        assert await worker.ended() == 0


async def nothing_is_left(harness: RedisHarness) -> bool:
    # A delete leaves a trace for as long as an attempt at it may still arrive.
    return not [name for name in await harness.residue() if "lock" in name]


async def test_a_worker_that_stands_still_past_its_lease(harness: RedisHarness) -> None:
    """Its turns may overlap with others' by the clock, but its writes may not."""
    turns: list[Turn] = []
    stopped: list[Turn] = []
    lost: list[int] = []
    orders = Orders(contenders=5, turns=0, lease=STALE_LEASE_SECS, seed=SEED)
    with anyio.fail_after(50):
        async with (
            hired_locker(harness, "contend") as victim,
            hired_locker(harness, "contend") as other,
        ):
            workers = {victim: stopped, other: turns}

            async def stop_and_go() -> None:
                dice = random.Random(SEED)
                for _ in range(3):
                    for heard in workers.values():
                        wanted = len(heard) + 5
                        while len(heard) < wanted:  # noqa: ASYNC110 - a list does not notify
                            await asyncio.sleep(0.002)
                    await asyncio.sleep(dice.uniform(0, 0.02))  # anywhere in a turn, or between two
                    victim.send(signal.SIGSTOP)
                    await asyncio.sleep(2 * STALE_LEASE_SECS)  # a lease expires by time alone
                    victim.send(signal.SIGCONT)
                for worker in workers:
                    worker.send(signal.SIGUSR1)

            async with asyncio.TaskGroup() as tasks:
                for worker, heard in workers.items():
                    await worker.begin(orders)
                    tasks.create_task(hear_out(worker, heard, lost))
                tasks.create_task(stop_and_go())
    assert_one_at_a_time(turns)
    assert_written_in_turn([*turns, *stopped])
    fences = [turn.fence for turn in (*turns, *stopped)]
    assert len(set(fences)) == len(fences)


async def test_a_holder_that_comes_back_too_late(harness: RedisHarness) -> None:
    store = await harness.open()
    locks = SessionLocks(store)
    fences: dict[str, int] = {}
    keys: tuple[Any, ...] = STALE
    with anyio.fail_after(50):
        async with hired_locker(harness, "stale") as worker:
            await worker.begin(Orders(lease=STALE_LEASE_SECS))
            for _ in keys:
                said = await worker.hear()
                assert said["word"] == "holding"
                fences[said["key"]] = said["fence"]
            worker.send(signal.SIGSTOP)
            for key in keys:  # succeeded although the lease had expired
                async with locks.hold(key) as lease:
                    assert lease.fence > fences[key]
                    await store.put(session(key), fence=lease)
            worker.send(signal.SIGUSR1)
            worker.send(signal.SIGCONT)
            ends = {said["key"]: said for said in [await worker.hear() for _ in keys]}
            assert await worker.ended() == 0
    for key in keys:
        assert ends[key]["outcome"] == "LeaseLostError"
        assert ends[key]["went_on"] is False
        assert ends[key]["cancelled"] <= 1
        found = await store.get(key)
        assert found is not None
        assert found.cas.value == 1
    assert ends[STALE[2]]["cancelled"] == 1


async def test_a_waiter_that_is_killed_costs_a_while_and_no_order(harness: RedisHarness) -> None:
    store = await harness.open()
    locks = SessionLocks(store, place=SHORT_PLACE_SECS)
    queue = f"{harness.config.namespace}:lock:{{{KEY}}}:queue"
    served: list[int] = []

    async def is_waiting(count: int) -> bool:
        waiting: int = await harness.client.read("ZCARD", queue)
        return waiting == count

    async def wait(number: int) -> None:
        async with locks.hold(KEY):
            served.append(number)

    pulse = Pulse()
    with anyio.fail_after(50):
        async with (
            hired_locker(harness, "wait") as doomed,
            pulse.beating(),
            asyncio.TaskGroup() as tasks,
            locks.hold(KEY),
        ):
            await doomed.begin(Orders())
            await until_async(lambda: is_waiting(1))
            for number in range(4):
                tasks.create_task(wait(number))
                await until_async(lambda number=number: is_waiting(number + 2))  # type: ignore[misc]
            doomed.kill()
            await doomed.ended()
    assert sorted(served) == [0, 1, 2, 3]
    # Each polls once in a fifth of its position's lifetime, and has a fourth of it before the next.
    if pulse.longest_secs < SHORT_PLACE_SECS / 20:
        assert served == [0, 1, 2, 3]
    await harness.advance(SHORT_PLACE_SECS)
    assert await harness.residue() == []


# --- servers that die -----------------------------------------------------------------------------


class Contention:
    """Tasks of several stores that take turns until they are told to end.

    :ivar turns: the turns that ended well, in order.
    :ivar lost: number of lost leases.
    """

    def __init__(self, stores: list[Store], contenders: int) -> None:
        self._stores = stores
        self._contenders = contenders
        self._dice = random.Random(SEED)
        self._ends = False
        self.turns: list[Turn] = []
        self.lost = 0

    @asynccontextmanager
    async def under_way(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._contenders):
                tasks.create_task(self._work(self._stores[number % len(self._stores)]))
            try:
                yield
            finally:
                self._ends = True

    async def has_taken(self, turns: int) -> None:
        """Wait until this number of further turns has been taken."""
        wanted = len(self.turns) + turns
        while len(self.turns) < wanted:  # noqa: ASYNC110 - tasks do not notify
            await asyncio.sleep(0.002)

    async def _work(self, store: Store) -> None:
        locks = SessionLocks(store)
        while not self._ends:
            try:
                self.turns.append(await take_turn(store, locks, self._dice, 30))
            except CUT_OFF:
                self.lost += 1


async def test_fences_grow_though_the_server_loses_its_data() -> None:
    with anyio.fail_after(50), LocalServer(valkey_binary()) as server:
        async with (
            store_at(server.url, namespace="n") as one,
            store_at(server.url, namespace="n") as two,
        ):
            at_work = Contention([one, two], 10)
            async with at_work.under_way():
                for _ in range(3):
                    await at_work.has_taken(20)
                    server.restart()
            # By their start: a holder during the crash may have left after others came.
            turns = sorted(at_work.turns, key=lambda turn: turn.entered_ns)
            fences = [turn.fence for turn in turns]
            assert len(fences) >= 60
            assert fences == sorted(set(fences))
        async with control(server) as client:
            names: list[bytes] = await client.read("KEYS", "n:*")
            for name in names:
                assert b"lock" not in name or await client.read("HKEYS", name) == [b"fence"]


@pytest.mark.timeout(100)
async def test_a_failover_leaves_the_lock_to_its_holder() -> None:
    """The promoted master knows everything that a replica has confirmed."""
    with anyio.fail_after(90):
        async with SentinelRig(valkey_binary()) as rig:
            url = f"{rig.url}?acks=1&namespace=n"
            async with sentinel_store(url) as one, sentinel_store(url) as two:
                at_work = Contention([one, two], 8)
                async with at_work.under_way():
                    await at_work.has_taken(20)
                    old = await rig.kill_master()
                    await rig.until_stable(other_than=old)
                    await at_work.has_taken(20)
    assert at_work.lost == 0
    assert_one_at_a_time(at_work.turns)


def sentinel_store(url: str) -> Store:
    return create_session_store(f"{url}&deadline=30")


# --- leaks ----------------------------------------------------------------------------------------


async def lock_each(store: Store, count: int) -> int:
    """Lock many keys concurrently, and return how many were held at the same time at most."""
    locks = SessionLocks(store)
    limit = asyncio.Semaphore(500)
    most = 0

    async def once(key: SessionKey) -> None:
        nonlocal most
        async with limit, locks.hold(key):
            most = max(most, len(locks.held()))

    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            tasks.create_task(once(type(KEY)(f"key-{number}")))
    assert locks.held() == ()
    return most


async def test_many_keys_leave_nothing_in_memory(scaled: Callable[[int], int]) -> None:
    async with MemoryHarness() as harness:
        store = await harness.open()
        assert await lock_each(store, scaled(10_000)) > 1
        assert store.statistics().locks == 0
        assert await harness.residue() == []


async def test_many_keys_leave_nothing_on_a_server(
    harness: RedisHarness, scaled: Callable[[int], int]
) -> None:
    assert await lock_each(await harness.open(), scaled(10_000)) > 1
    assert await harness.residue() == []
