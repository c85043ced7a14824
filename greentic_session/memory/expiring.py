"""What is kept for a while under a name, in order: letters, and the ids of events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar, final

from .expiry import ExpiryIndex

if TYPE_CHECKING:
    from .expiry import Name

__all__ = ["ExpiringLists"]

T = TypeVar("T")


@final
class ExpiringLists(Generic[T]):
    """Per name, things in the order in which they came, each forgotten at its own time."""

    def __init__(self) -> None:
        self._shelves: Final[dict[Name, list[tuple[int, T]]]] = {}
        self._due: Final[dict[Name, int]] = {}
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
            self._due[name] = self._expiry.add(name, ends_ms, now_ms)
        shelf.append((ends_ms, thing))

    def remove(self, name: Name, thing: T, now_ms: int) -> bool:
        """Remove something.

        :returns: whether it was there.
        """
        shelf = self._shelves.get(name, [])
        for place, (ends_ms, one) in enumerate(shelf):
            if one == thing and now_ms < ends_ms:
                del shelf[place]
                if not shelf:
                    del self._shelves[name]
                    self._expiry.discard(name, self._due.pop(name))
                return True
        return False

    def pop_due(self, now_ms: int) -> bool:
        """Look at one name under which something may have ended.

        :returns: ``False`` if nothing is due.
        """
        name = self._expiry.pop_due(now_ms)
        if name is None:
            return False
        shelf = [kept for kept in self._shelves[name] if now_ms < kept[0]]
        if shelf:
            self._shelves[name] = shelf
            first_ms = min(ends_ms for ends_ms, _ in shelf)
            self._due[name] = self._expiry.add(name, first_ms, now_ms)
        else:
            del self._shelves[name], self._due[name]
        return True

    def clear(self) -> None:
        """Forget everything."""
        self._shelves.clear()
        self._due.clear()
        self._expiry.clear()
