"""Timers in one process."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final, cast, final

import msgspec

from .._compat import override
from ..abc.records import Verdict
from ..abc.timers import (
    EnterOutcome,
    TakenTimers,
    Timer,
    TimerBackend,
    TimerPage,
    TimerShard,
    TimerStatistics,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager

    from ..abc.notifications import Subscription
    from ..clock import Clock
    from .notifications import MemoryNotifications

__all__ = ["MemoryTimers"]

_PAGE: Final = 512


class _Entry(msgspec.Struct, gc=False):
    """A stored timer.

    :ivar payload: its payload.
    :ivar due_ms: when it became or becomes due, in milliseconds since the epoch.
    :ivar at_ms: when it can be taken: when it is due, or when the lease of its forwarder ends.
    :ivar order: number of the change that set ``at_ms``. It breaks ties.
    :ivar attempt: the attempt that took it, empty for none.
    :ivar taken_ms: when it was taken, in milliseconds since the epoch.
    """

    payload: bytes
    due_ms: int
    at_ms: int
    order: int
    attempt: str = ""
    taken_ms: int = 0


class _Shard:
    """The timers of a shard, with a heap of their times.

    The heap may hold outdated items. An item counts if its entry has the same time and order.
    """

    __slots__ = ("entries", "heap", "taken")

    def __init__(self) -> None:
        self.entries: Final[dict[str, _Entry]] = {}
        self.taken: Final[set[str]] = set()
        self.heap: list[tuple[int, int, str]] = []

    def push(self, timer_id: str, entry: _Entry) -> None:
        """Add the present time of an entry to the heap."""
        heapq.heappush(self.heap, (entry.at_ms, entry.order, timer_id))
        if len(self.heap) > 2 * len(self.entries) + 64:
            self.heap = [(one.at_ms, one.order, name) for name, one in self.entries.items()]
            heapq.heapify(self.heap)

    def first(self) -> tuple[int, str] | None:
        """Return the time and the id of the first timer, ``None`` if there is none."""
        while self.heap:
            at_ms, order, timer_id = self.heap[0]
            entry = self.entries.get(timer_id)
            if entry is not None and (entry.at_ms, entry.order) == (at_ms, order):
                return at_ms, timer_id
            heapq.heappop(self.heap)
        return None


@final
class MemoryTimers(TimerBackend):
    """The steps of timers. No step waits for I/O.

    :param clock: the clock of the store.
    :param notifications: the notifications of the store.
    """

    def __init__(self, clock: Clock, notifications: MemoryNotifications) -> None:
        self._clock: Final = clock
        self._notifications: Final = notifications
        self._declared: Final[dict[str, int]] = {}
        self._shards: Final[dict[TimerShard, _Shard]] = {}
        self._order = 0

    def __len__(self) -> int:
        return sum(len(shard.entries) for shard in self._shards.values())

    def forget_all(self) -> None:
        """Forget everything."""
        self._declared.clear()
        self._shards.clear()

    @override
    async def declare(self, name: str, shards: int) -> int:
        return self._declared.setdefault(name, shards)

    @override
    async def enter(
        self,
        shard: TimerShard,
        timer_id: str,
        payload: bytes | None,
        *,
        at_ms: int | None = None,
        delay_ms: int = 0,
        replaces: bool = False,
    ) -> EnterOutcome:
        stored = self._shards.get(shard)
        entry = None if stored is None else stored.entries.get(timer_id)
        if entry is not None and payload is not None and not replaces:
            return EnterOutcome(Verdict.EXISTS, entry.due_ms)
        if payload is None:
            if entry is None:
                return EnterOutcome(Verdict.ABSENT)
            payload = entry.payload
        if stored is None:
            stored = self._shards[shard] = _Shard()
        due_ms = self._clock.now_ms() + delay_ms if at_ms is None else at_ms
        self._set_due(shard, stored, timer_id, payload, due_ms)
        return EnterOutcome(Verdict.DONE, due_ms)

    def _set_due(
        self, shard: TimerShard, stored: _Shard, timer_id: str, payload: bytes, due_ms: int
    ) -> None:
        self._order += 1
        entry = _Entry(payload, due_ms, due_ms, self._order)
        stored.entries[timer_id] = entry
        stored.taken.discard(timer_id)
        stored.push(timer_id, entry)
        first = stored.first()
        if first is not None and first[1] == timer_id:
            self._notifications.notify(_topic_of(shard.name))

    @override
    async def cancel(self, shard: TimerShard, timer_id: str) -> tuple[Verdict, bool]:
        stored = self._shards.get(shard)
        if stored is None or timer_id not in stored.entries:
            return Verdict.ABSENT, False
        was_taken = timer_id in stored.taken
        self._remove(shard, stored, timer_id)
        return Verdict.DONE, was_taken

    def _remove(self, shard: TimerShard, stored: _Shard, timer_id: str) -> None:
        del stored.entries[timer_id]
        stored.taken.discard(timer_id)
        if not stored.entries:
            del self._shards[shard]

    @override
    async def take(self, shard: TimerShard, most: int, lease_ms: int, attempt: str) -> TakenTimers:
        stored = self._shards.get(shard)
        if stored is None:
            return TakenTimers((), None)
        now_ms = self._clock.now_ms()
        self._end_leases_of_a_clock_set_back(stored, now_ms)
        timers: list[Timer] = []
        while len(timers) < most and (first := stored.first()) is not None and first[0] <= now_ms:
            timer_id = first[1]
            entry = stored.entries[timer_id]
            self._order += 1
            entry.at_ms, entry.order = now_ms + lease_ms, self._order
            entry.attempt, entry.taken_ms = attempt, now_ms
            stored.taken.add(timer_id)
            stored.push(timer_id, entry)
            timers.append(Timer(timer_id, entry.due_ms, entry.payload))
        timers.sort(key=lambda timer: timer.due_ms)
        return TakenTimers(timers, self._secs_to_first(stored, now_ms))

    def _end_leases_of_a_clock_set_back(self, stored: _Shard, now_ms: int) -> None:
        """End leases that start in the future earlier, because the clock was set back."""
        for timer_id in stored.taken:
            entry = stored.entries[timer_id]
            if entry.taken_ms > now_ms:
                entry.at_ms -= entry.taken_ms - now_ms
                entry.taken_ms = now_ms
                stored.push(timer_id, entry)

    @override
    async def finish(
        self, shard: TimerShard, attempt: str, timers: Mapping[str, int | None]
    ) -> None:
        for timer_id, again_ms in timers.items():
            stored = self._shards.get(shard)
            if stored is None or timer_id not in stored.taken:
                continue
            entry = stored.entries[timer_id]
            if entry.attempt != attempt:
                continue
            if again_ms is None:
                self._remove(shard, stored, timer_id)
            else:
                self._set_due(shard, stored, timer_id, entry.payload, again_ms)

    @override
    async def next_due(self, shard: TimerShard) -> float | None:
        stored = self._shards.get(shard)
        return None if stored is None else self._secs_to_first(stored, self._clock.now_ms())

    @staticmethod
    def _secs_to_first(stored: _Shard, now_ms: int) -> float | None:
        first = stored.first()
        return None if first is None else max(0, first[0] - now_ms) / 1000

    @override
    async def find(self, shard: TimerShard, timer_id: str) -> Timer | None:
        stored = self._shards.get(shard)
        entry = None if stored is None else stored.entries.get(timer_id)
        return None if entry is None else Timer(timer_id, entry.due_ms, entry.payload)

    @override
    async def statistics(self, shard: TimerShard) -> TimerStatistics:
        stored = self._shards.get(shard)
        if stored is None:
            return TimerStatistics(0, 0, None)
        now_ms = self._clock.now_ms()
        due = [entry for entry in stored.entries.values() if entry.at_ms <= now_ms]
        oldest = min((entry.due_ms for entry in due if not entry.attempt), default=None)
        return TimerStatistics(len(stored.entries), len(due), oldest)

    @override
    async def page(self, shard: TimerShard, position: object | None) -> TimerPage:
        stored = self._shards.get(shard)
        if stored is None:
            return TimerPage((), None)
        left = list(stored.entries)[::-1] if position is None else cast("list[str]", position)
        some, left = left[-_PAGE:][::-1], left[:-_PAGE]
        entries = ((name, stored.entries.get(name)) for name in some)
        timers = [
            Timer(name, entry.due_ms, entry.payload) for name, entry in entries if entry is not None
        ]
        return TimerPage(timers, left or None)

    @override
    def subscribe(self, name: str) -> AbstractAsyncContextManager[Subscription]:
        return self._notifications.subscribe(_topic_of(name))


def _topic_of(name: str) -> str:
    return f"timers:{name}"
