"""Completed events, remembered for a while."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Final, final

from ..abc.waits import SeenEvent
from .expiry import ExpiryIndex

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..abc.waits import EventMemory
    from .expiry import Name

__all__ = ["DedupeWindow", "EventLog"]


@final
class EventLog:
    """Per name, the newest events; forgotten in one piece when the last of them is old enough."""

    def __init__(self) -> None:
        self._seen: Final[dict[Name, dict[str, int]]] = {}
        self._ends: Final[dict[Name, tuple[int, int]]] = {}
        self._expiry: Final = ExpiryIndex()

    def __len__(self) -> int:
        return len(self._seen)

    def knows(self, name: Name, digest: str, memory: EventMemory, now_ms: int) -> bool:
        """Tell whether the event was completed within the memory's time."""
        at_ms = self._seen.get(name, {}).get(digest)
        return at_ms is not None and now_ms < at_ms + memory.ttl_ms and now_ms < self._ends[name][0]

    def of(self, name: Name, now_ms: int) -> list[SeenEvent]:
        """Return what is remembered under a name."""
        if name not in self._seen or now_ms >= self._ends[name][0]:
            return []
        return [SeenEvent(digest, at_ms) for digest, at_ms in self._seen[name].items()]

    def add(
        self, name: Name, events: Iterable[SeenEvent], memory: EventMemory, now_ms: int
    ) -> None:
        """Remember events under a name, and forget the old ones there."""
        known = dict(self.of(name, now_ms))
        for digest, at_ms in events:
            known.pop(digest, None)
            known[digest] = at_ms
        fresh = [event for event in known.items() if now_ms < event[1] + memory.ttl_ms]
        # Of those of one millisecond the last is the newest: sorting keeps their order.
        kept = sorted(fresh, key=itemgetter(1))[-memory.most :]
        self.discard(name)
        if kept:
            ends_ms = now_ms + memory.ttl_ms
            self._seen[name] = dict(kept)
            self._ends[name] = ends_ms, self._expiry.add(name, ends_ms, now_ms)

    def discard(self, name: Name) -> None:
        """Forget what is remembered under a name."""
        if self._seen.pop(name, None) is not None:
            self._expiry.discard(name, self._ends.pop(name)[1])

    def pop_due(self, now_ms: int) -> bool:
        """Look at one name whose last event may be old enough.

        :returns: ``False`` if nothing is due.
        """
        name = self._expiry.pop_due(now_ms)
        if name is None:
            return False
        ends_ms, _ = self._ends.pop(name)
        if now_ms >= ends_ms:
            del self._seen[name]
        else:
            self._ends[name] = ends_ms, self._expiry.add(name, ends_ms, now_ms)
        return True

    def clear(self) -> None:
        """Forget everything."""
        self._seen.clear()
        self._ends.clear()
        self._expiry.clear()


@final
class DedupeWindow:
    """Per name, the newest ids; forgotten in one piece when the last of them is old enough."""

    def __init__(self) -> None:
        self._seen: Final[dict[Name, dict[str, int]]] = {}
        self._ends: Final[dict[Name, int]] = {}
        self._expiry: Final = ExpiryIndex()

    def __len__(self) -> int:
        return len(self._seen)

    def knows(self, name: Name, event_id: str, memory: EventMemory, now_ms: int) -> bool:
        """Tell whether an id came within the memory's time."""
        at_ms = self._seen.get(name, {}).get(event_id)
        return at_ms is not None and now_ms < at_ms + memory.ttl_ms

    def add(self, name: Name, event_id: str, memory: EventMemory, now_ms: int) -> None:
        """Remember an id, and forget old ones there: as many as came, so that none piles up."""
        seen = self._seen.get(name)
        if seen is None:
            seen = self._seen[name] = {}
            self._expiry.add(name, now_ms + memory.ttl_ms, now_ms)
        seen.pop(event_id, None)
        seen[event_id] = now_ms
        self._ends[name] = now_ms + memory.ttl_ms
        # A server's clock may be set back: what came first goes first, whatever its time.
        while len(seen) > memory.most or now_ms >= next(iter(seen.values())) + memory.ttl_ms:
            del seen[next(iter(seen))]

    def pop_due(self, now_ms: int) -> bool:
        """Look at one name whose last id may be old enough.

        :returns: ``False`` if nothing is due.
        """
        name = self._expiry.pop_due(now_ms)
        if name is None:
            return False
        ends_ms = self._ends[name]
        if now_ms >= ends_ms:
            del self._seen[name], self._ends[name]
        else:
            self._expiry.add(name, ends_ms, now_ms)
        return True

    def clear(self) -> None:
        """Forget everything."""
        self._seen.clear()
        self._ends.clear()
        self._expiry.clear()
