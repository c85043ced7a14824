"""Interleaved rounds: all contenders do the same work in turn, and only ratios are compared.

A machine's speed varies from minute to minute. Figures are therefore compared only within a round.
A figure is the median over the rounds, with its spread.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Operation",
    "Plan",
    "Preparation",
    "Round",
    "Spread",
    "drive",
    "percentiles",
    "quiet",
    "race",
    "ratios",
    "timed",
]

_TURNS = 8

Operation = Callable[[], Awaitable[object]]
"""One operation of one caller."""
Preparation = Callable[[], Awaitable[Sequence[Operation]]]
"""Prepares the operations of one round outside the measured time, one per caller."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The extent of a measurement.

    :ivar rounds: number of turns of each contender.
    :ivar callers: numbers of concurrent callers, one level after the other.
    :ivar operations: operations of one contender in one round, of all callers together.
    :ivar records: number of sessions for subjects that need many.
    """

    rounds: int = 5
    callers: tuple[int, ...] = (1, 16, 64, 256, 1024)
    operations: int = 8192
    records: int = 1_000_000

    def each(self, callers: int) -> int:
        """Return the number of operations of one caller in a round."""
        return max(1, self.operations // callers)


class Spread(msgspec.Struct, frozen=True):
    """The median of several rounds, with the minimum and the maximum."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of some values."""
        return cls(statistics.median(values), min(values), max(values))

    def text(self, unit: str = "x") -> str:
        """Return ``median (least..most)``."""
        return f"{short(self.median)}{unit} ({short(self.least)}..{short(self.most)})"


def short(value: float) -> str:
    """Return a figure with the digits that a reader needs."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


class Round(NamedTuple):
    """The cost of one turn.

    :ivar count: number of operations.
    :ivar secs: wall-clock time in seconds.
    :ivar cpu_secs: CPU time of this process in seconds, all threads.
    """

    count: int
    secs: float
    cpu_secs: float

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.count / self.secs

    @property
    def cpu_us(self) -> float:
        """Microseconds of this process's CPU per operation."""
        return self.cpu_secs / self.count * 1e6


@contextmanager
def quiet() -> Iterator[None]:
    """Collect garbage first, so that no contender pays for another one's."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def drive(operations: Sequence[Operation], each: int) -> Round:
    """Let every caller do its operation ``each`` times, one after the other."""

    async def call(operation: Operation) -> None:
        for _ in range(each):
            await operation()

    cpu, started_at = time.process_time(), time.perf_counter()
    await asyncio.gather(*map(call, operations))
    secs, cpu_secs = time.perf_counter() - started_at, time.process_time() - cpu
    return Round(len(operations) * each, secs, cpu_secs)


def timed(operation: Operation, into: list[float]) -> Operation:
    """Return the operation, which also adds its latency in seconds to a list."""

    async def operate() -> None:
        started_at = time.perf_counter()
        await operation()
        into.append(time.perf_counter() - started_at)

    return operate


def race(
    entries: dict[str, tuple[asyncio.Runner, Preparation]], rounds: int, each: int
) -> dict[str, list[Round]]:
    """Run a warm-up of every entry, then the rounds.

    A round consists of short turns of all entries. A short disturbance of the machine then affects
    all of them.

    :param entries: by name, the loop of an entry and the operations of its callers.
    :param each: operations of one caller in one round.
    """
    taken: dict[str, list[Round]] = {name: [] for name in entries}
    names = list(entries)
    for number in range(rounds + 1):
        operations = {
            name: runner.run(_ready(prepare)) for name, (runner, prepare) in entries.items()
        }
        turns: dict[str, list[Round]] = {name: [] for name in names}
        with quiet():
            for count in _shares(each):
                for name in names:
                    turns[name].append(entries[name][0].run(drive(operations[name], count)))
                names.reverse()  # not always after the same entry
        if number:
            for name, some in turns.items():
                taken[name].append(Round(*map(sum, zip(*some, strict=True))))
    return taken


def _shares(each: int) -> list[int]:
    """Return the number of operations of a caller in each turn of a round."""
    turns = min(_TURNS, each)
    return [each // turns + (number < each % turns) for number in range(turns)]


async def _ready(prepare: Preparation) -> Sequence[Operation]:
    return await prepare()


def ratios(ours: Sequence[Round], theirs: Sequence[Round]) -> Spread:
    """Return the speed of this library relative to another, round by round."""
    return Spread.of([a.rate / b.rate for a, b in zip(ours, theirs, strict=True)])


def percentiles(latencies: Sequence[float]) -> tuple[float, float, float]:
    """Return p50, p99 and p99.9 in microseconds."""
    ranked = sorted(latencies)
    last = len(ranked) - 1
    p50, p99, p999 = (ranked[round(last * part)] * 1e6 for part in (0.5, 0.99, 0.999))
    return p50, p99, p999
