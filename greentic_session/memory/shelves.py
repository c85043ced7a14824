"""What is kept for a while under a name, in order: letters, and the ids of events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar, final

from .expiry import ExpiryIndex

if TYPE_CHECKING:
    from ..waiting import EventMemory
    from .expiry import Name

__all__ = ["SeenIds", "Shelves"]

T = TypeVar("T")


@final
class Shelves(Generic[T]):
    """Per name, things in the order in which they came, each forgotten at its own time."""

    def __init__(self) -> None:
        self._shelves: Final[dict[Name, list[tuple[int, T]]]] = {}
        self._expiry: Final = ExpiryIndex()

    def __len__(self) -> int:
        return sum(map(len, self._shelves.values()))

    def names(self) -> list[Name]:
        """Return the names under which something may be."""
        return list(self._shelves)

    def of(self, name: Name, now_ms: int) -> list[T]:
        """Return what is under a name."""
        return [thing for ends_ms, thing in self._shelves.get(name, ()) if now_ms < ends_ms]

    def add(self, name: Name, thing: T, ends_ms: int, now_ms: int) -> None:
        """Put something at the end of what is under a name."""
        shelf = self._shelves.get(name)
        if shelf is None:
            shelf = self._shelves[name] = []
            self._expiry.add(name, ends_ms, now_ms)
        shelf.append((ends_ms, thing))

    def remove(self, name: Name, thing: T, now_ms: int) -> bool:
        """Remove something.

        :returns: whether it was there.
        """
        for place, (ends_ms, one) in enumerate(self._shelves.get(name, ())):
            if one == thing and now_ms < ends_ms:
                del self._shelves[name][place]
                if not self._shelves[name]:
                    del self._shelves[name]  # the index finds that out when it looks
                return True
        return False

    def pop_due(self, now_ms: int) -> bool:
        """Look at one name under which something may have ended.

        :returns: ``False`` if nothing is due.
        """
        name = self._expiry.pop_due(now_ms)
        if name is None:
            return False
        shelf = [kept for kept in self._shelves.get(name, ()) if now_ms < kept[0]]
        if shelf:
            self._shelves[name] = shelf
            self._expiry.add(name, min(ends_ms for ends_ms, _ in shelf), now_ms)
        else:
            self._shelves.pop(name, None)
        return True

    def clear(self) -> None:
        """Forget everything."""
        self._shelves.clear()
        self._expiry.clear()


@final
class SeenIds:
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
