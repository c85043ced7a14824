"""Interleaved rounds: every contender does the same work in turn, and only ratios are compared.

A machine is never as fast in one minute as in the next. So no two figures are compared that were
not taken in the same round, side by side; a figure is the median over rounds, with its spread.
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
"""What one caller does once."""
Preparation = Callable[[], Awaitable[Sequence[Operation]]]
"""Makes ready, outside the clock, what the callers of one round do: one operation per caller."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much to measure.

    :ivar rounds: how often each contender has its turn.
    :ivar callers: how many callers there are at once, one level after the other.
    :ivar operations: of one contender in one round, all callers together.
    :ivar records: how many sessions the subjects hold that need many.
    """

    rounds: int = 5
    callers: tuple[int, ...] = (1, 16, 64, 256, 1024)
    operations: int = 8192
    records: int = 1_000_000

    def each(self, callers: int) -> int:
        """Return how many operations one caller does in a round."""
        return max(1, self.operations // callers)


class Spread(msgspec.Struct, frozen=True):
    """The median of several rounds, and the least and the most of them."""

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
    """What one turn took.

    :ivar count: operations done.
    :ivar secs: on the clock.
    :ivar cpu_secs: of this process, all threads.
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
    """Collect garbage first, so that nobody pays for what another left."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def drive(operations: Sequence[Operation], each: int) -> Round:
    """Let every caller do its operation ``each`` times, one as soon as the last is answered."""

    async def call(operation: Operation) -> None:
        for _ in range(each):
            await operation()

    cpu, started_at = time.process_time(), time.perf_counter()
    await asyncio.gather(*map(call, operations))
    secs, cpu_secs = time.perf_counter() - started_at, time.process_time() - cpu
    return Round(len(operations) * each, secs, cpu_secs)


def timed(operation: Operation, into: list[float]) -> Operation:
    """Return the operation with its latency, in seconds, added to a list."""

    async def operate() -> None:
        started_at = time.perf_counter()
        await operation()
        into.append(time.perf_counter() - started_at)

    return operate


def race(
    entries: dict[str, tuple[asyncio.Runner, Preparation]], rounds: int, each: int
) -> dict[str, list[Round]]:
    """Run a warm-up of every entry, then the rounds.

    A round is dealt out in short turns, one of each entry after the other, so that what disturbs
    the machine for a moment disturbs them all.

    :param entries: by name, the loop it runs on and what its callers do.
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
                names.reverse()  # whoever ran after a slow one runs before it now
        if number:
            for name, some in turns.items():
                taken[name].append(Round(*map(sum, zip(*some, strict=True))))
    return taken


def _shares(each: int) -> list[int]:
    """Return how many operations of a caller belong to each turn of a round."""
    turns = min(_TURNS, each)
    return [each // turns + (number < each % turns) for number in range(turns)]


async def _ready(prepare: Preparation) -> Sequence[Operation]:
    return await prepare()


def ratios(ours: Sequence[Round], theirs: Sequence[Round]) -> Spread:
    """Return how often faster ours was, round by round."""
    return Spread.of([a.rate / b.rate for a, b in zip(ours, theirs, strict=True)])


def percentiles(latencies: Sequence[float]) -> tuple[float, float, float]:
    """Return p50, p99 and p99.9 in microseconds."""
    ranked = sorted(latencies)
    last = len(ranked) - 1
    p50, p99, p999 = (ranked[round(last * part)] * 1e6 for part in (0.5, 0.99, 0.999))
    return p50, p99, p999
