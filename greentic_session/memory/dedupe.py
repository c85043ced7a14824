"""Two memories of event ids by name, with different eviction.

Both forget a name as a whole, when its newest event is old enough. If a name is full,
:class:`EventLog` evicts the event with the oldest time, and :class:`DedupeWindow` evicts the first
arrival.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Final, final

from .._compat import override
from ..abc.waits import SeenEvent
from .expiry import ExpiryIndex

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..abc.waits import EventMemory
    from .expiry import Name

__all__ = ["DedupeWindow", "EventLog"]


class _KnownEvents:
    """Stores event ids by name, the time of each event, and when to forget the name."""

    def __init__(self) -> None:
        self._seen: Final[dict[Name, dict[str, int]]] = {}
        self._ends: Final[dict[Name, tuple[int, int]]] = {}  # end, and due time in the expiry index
        self._expiry: Final = ExpiryIndex()

    def __len__(self) -> int:
        return len(self._seen)

    def knows(self, name: Name, event_id: str, memory: EventMemory, now_ms: int) -> bool:
        """Return whether the event happened within the memory's retention."""
        at_ms = self._seen.get(name, {}).get(event_id)
        return at_ms is not None and now_ms < at_ms + memory.ttl_ms

    def pop_due(self, now_ms: int) -> bool:
        """Check one name that may have to be forgotten.

        :returns: ``False`` if nothing is due.
        """
        name = self._expiry.pop_due(now_ms)
        if name is None:
            return False
        ends_ms, _ = self._ends[name]
        if now_ms >= ends_ms:
            del self._seen[name], self._ends[name]
        else:
            self._ends[name] = ends_ms, self._expiry.add(name, ends_ms, now_ms)
        return True

    def clear(self) -> None:
        """Forget everything."""
        self._seen.clear()
        self._ends.clear()
        self._expiry.clear()


@final
class EventLog(_KnownEvents):
    """Stores completed events. If a name is full, evicts the event with the oldest time."""

    @override
    def knows(self, name: Name, event_id: str, memory: EventMemory, now_ms: int) -> bool:
        """Return whether the event was completed within the memory's retention."""
        return super().knows(name, event_id, memory, now_ms) and now_ms < self._ends[name][0]

    def of(self, name: Name, now_ms: int) -> list[SeenEvent]:
        """Return the events under a name."""
        if name not in self._seen or now_ms >= self._ends[name][0]:
            return []
        return [SeenEvent(digest, at_ms) for digest, at_ms in self._seen[name].items()]

    def add(
        self, name: Name, events: Iterable[SeenEvent], memory: EventMemory, now_ms: int
    ) -> None:
        """Add events to a name, and evict its old ones."""
        known = dict(self.of(name, now_ms))
        for digest, at_ms in events:
            known.pop(digest, None)
            known[digest] = at_ms
        fresh = [event for event in known.items() if now_ms < event[1] + memory.ttl_ms]
        # The sort is stable, so the last of several events of one millisecond counts as the newest.
        kept = sorted(fresh, key=itemgetter(1))[-memory.most :]
        self.discard(name)
        if kept:
            ends_ms = now_ms + memory.ttl_ms
            self._seen[name] = dict(kept)
            self._ends[name] = ends_ms, self._expiry.add(name, ends_ms, now_ms)

    def discard(self, name: Name) -> None:
        """Forget a name."""
        if self._seen.pop(name, None) is not None:
            self._expiry.discard(name, self._ends.pop(name)[1])


@final
class DedupeWindow(_KnownEvents):
    """Stores event ids of messages. If a name is full, evicts the first arrival."""

    def add(self, name: Name, event_id: str, memory: EventMemory, now_ms: int) -> None:
        """Add an id to a name, and evict its old ones."""
        ends_ms = now_ms + memory.ttl_ms
        seen = self._seen.get(name)
        if seen is None:
            seen = self._seen[name] = {}
            due = self._expiry.add(name, ends_ms, now_ms)
        else:
            due = self._ends[name][1]
        seen.pop(event_id, None)
        seen[event_id] = now_ms
        self._ends[name] = ends_ms, due
        # The clock may be set back. So the first arrival is evicted first, whatever its time.
        while len(seen) > memory.most or now_ms >= next(iter(seen.values())) + memory.ttl_ms:
            del seen[next(iter(seen))]
