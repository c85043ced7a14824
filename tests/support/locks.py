"""Workers and checks for the tests of locks under faults.

Run as a program (``python -m tests.support.locks URL JOB``), this is a worker. It prints ``ready``,
reads its orders from a line of standard input, and reports events as lines of JSON.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import anyio
import msgspec

from greentic_session import LeaseLostError, OutcomeUnknownError, SessionError, create_session_store
from greentic_session.ordering import SessionLocks

from .redis import KEY, session
from .waits import hired, say

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from contextlib import AbstractAsyncContextManager

    from greentic_session import AsyncSessionStore
    from greentic_session.ordering import SessionLease
    from greentic_session.testing.harness import RedisHarness

    from .waits import Worker

    Store = AsyncSessionStore[Any]

CUT_OFF: Final = (LeaseLostError, OutcomeUnknownError)
"""Errors that end a turn which was too slow.

The outcome is unknown if a write's reply was late, the write was retried, and many other writes
came between.
"""
STALE_LEASE_SECS: Final = 0.4
SHORT_PLACE_SECS: Final = 4.0


class Turn(NamedTuple):
    """The record of one holder.

    :ivar fence: fencing token of its lease.
    :ivar entered_ns: start of its block, on a clock that all processes share.
    :ivar left_ns: end of its block.
    :ivar versions: versions of the session that its writes made.
    """

    fence: int
    entered_ns: int
    left_ns: int
    versions: tuple[int, ...]


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """The orders of a worker.

    :ivar contenders: number of tasks that want the lock.
    :ivar turns: number of times each must hold it. With 0, until the worker gets SIGUSR1.
    :ivar lease: lease in seconds.
    :ivar seed: seed of its random choices.
    """

    contenders: int = 1
    turns: int = 1
    lease: float = 30
    seed: int = 0


async def take_turn(store: Store, locks: SessionLocks, dice: random.Random, secs: float) -> Turn:
    """Hold the lock, and write under it a few times."""
    async with locks.hold(KEY, secs) as lease:
        entered_ns = time.monotonic_ns()
        writes = dice.randint(1, 3)
        versions = [(await store.put(session(), fence=lease)).value for _ in range(writes)]
        left_ns = time.monotonic_ns()
    return Turn(lease.fence, entered_ns, left_ns, tuple(versions))


# --- the worker's side ----------------------------------------------------------------------------


async def contend(store: Store, orders: Orders) -> None:
    """Run many tasks that want the lock."""
    locks = SessionLocks(store)
    dice = random.Random(orders.seed)
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, told.set)

    async def work() -> None:
        turns = 0
        while turns < orders.turns or (orders.turns == 0 and not told.is_set()):
            try:
                turn = await take_turn(store, locks, dice, orders.lease)
            except CUT_OFF:
                say("lost")
                continue
            say("turn", **turn._asdict())
            turns += 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(orders.contenders):
            tasks.create_task(work())
    say("over")


async def stale(store: Store, orders: Orders) -> None:
    """Hold some locks, and continue on a signal, after the leases were lost."""
    locks = SessionLocks(store)
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, told.set)

    async def write(lease: SessionLease) -> None:
        await told.wait()
        await store.put(session(STALE[0]), fence=lease)

    async def renew(lease: SessionLease) -> None:
        await told.wait()
        await lease.renew()

    async def sleep(_lease: SessionLease) -> None:
        await anyio.sleep_forever()

    async def hold(key: Any, act: Any) -> None:
        cancelled = 0
        went_on = False
        outcome = "left in silence"
        try:
            async with locks.hold(key, orders.lease) as lease:
                say("holding", key=key, fence=lease.fence)
                try:
                    await act(lease)
                    went_on = True
                except asyncio.CancelledError:
                    cancelled += 1
                    raise
        except SessionError as error:
            outcome = type(error).__name__
        say("ended", key=key, outcome=outcome, cancelled=cancelled, went_on=went_on)

    async with asyncio.TaskGroup() as tasks:
        for key, act in zip(STALE, (write, renew, sleep), strict=True):
            tasks.create_task(hold(key, act))


async def wait(store: Store, _orders: Orders) -> None:
    """Wait for the lock."""
    async with SessionLocks(store, place=SHORT_PLACE_SECS).hold(KEY) as lease:
        say("holding", fence=lease.fence)


STALE: Final = ("written under", "renewed", "slept under")
JOBS: Final = {"contend": contend, "stale": stale, "wait": wait}


async def work(url: str, job: str) -> None:
    async with create_session_store(url) as store:
        await store.ping()  # connected before the start
        say("ready")
        orders = msgspec.json.decode(sys.stdin.readline(), type=Orders)
        await JOBS[job](store, orders)


if __name__ == "__main__":
    asyncio.run(work(*sys.argv[1:]))


# --- the tests' side ------------------------------------------------------------------------------


class Pulse:
    """Measures the longest pause of the event loop on a busy machine.

    :ivar longest_secs: the longest pause, in seconds.
    """

    def __init__(self) -> None:
        self.longest_secs = 0.0

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        beat = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            beat.cancel()

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began_at = loop.time()
            await asyncio.sleep(0.01)  # an arbitrary interval
            self.longest_secs = max(self.longest_secs, loop.time() - began_at)


def hired_locker(harness: RedisHarness, job: str) -> AbstractAsyncContextManager[Worker]:
    """Return a worker on the harness's namespace. It does not outlive the block."""
    return hired(harness, job, program="tests.support.locks")


def assert_one_at_a_time(turns: Iterable[Turn]) -> None:
    """Check that no two turns overlap, by the clock and by their writes."""
    ordered = sorted(turns, key=lambda turn: turn.fence)
    fences = [turn.fence for turn in ordered]
    assert len(set(fences)) == len(fences), "a fence was granted twice"
    for one, following in pairwise(ordered):
        assert one.left_ns <= following.entered_ns, "two were inside"
    assert_written_in_turn(ordered)


def assert_written_in_turn(turns: Iterable[Turn]) -> None:
    """Check that no holder wrote after a later holder did."""
    written = [version for turn in sorted(turns) for version in turn.versions]
    assert written == sorted(set(written)), "one wrote while another was inside"
