"""Lists of values by name, where each value expires at its own time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar, final

from .expiry import ExpiryIndex

if TYPE_CHECKING:
    from .expiry import Name

__all__ = ["ExpiringLists"]

T = TypeVar("T")


@final
class ExpiringLists(Generic[T]):
    """Values by name, in the order of arrival. Each expires at its own time."""

    def __init__(self) -> None:
        self._lists: Final[dict[Name, list[tuple[int, T]]]] = {}
        self._due: Final[dict[Name, int]] = {}
        self._expiry: Final = ExpiryIndex()

    def __len__(self) -> int:
        return sum(map(len, self._lists.values()))

    def names(self) -> list[Name]:
        """Return the names that may have values."""
        return list(self._lists)

    def of(self, name: Name, now_ms: int) -> list[T]:
        """Return the values of a name that have not expired."""
        return [value for ends_ms, value in self._lists.get(name, ()) if now_ms < ends_ms]

    def add(self, name: Name, value: T, ends_ms: int, now_ms: int) -> None:
        """Append a value to a name's list."""
        entries = self._lists.get(name)
        if entries is None:
            entries = self._lists[name] = []
            self._due[name] = self._expiry.add(name, ends_ms, now_ms)
        entries.append((ends_ms, value))

    def remove(self, name: Name, value: T, now_ms: int) -> bool:
        """Remove a value.

        :returns: whether it was present and had not expired.
        """
        entries = self._lists.get(name, [])
        for index, (ends_ms, one) in enumerate(entries):
            if one == value and now_ms < ends_ms:
                del entries[index]
                if not entries:
                    del self._lists[name]
                    self._expiry.discard(name, self._due.pop(name))
                return True
        return False

    def pop_due(self, now_ms: int) -> bool:
        """Remove the expired values of one name that may have any.

        :returns: ``False`` if nothing is due.
        """
        name = self._expiry.pop_due(now_ms)
        if name is None:
            return False
        entries = [kept for kept in self._lists[name] if now_ms < kept[0]]
        if entries:
            self._lists[name] = entries
            first_ms = min(ends_ms for ends_ms, _ in entries)
            self._due[name] = self._expiry.add(name, first_ms, now_ms)
        else:
            del self._lists[name], self._due[name]
        return True

    def clear(self) -> None:
        """Forget everything."""
        self._lists.clear()
        self._due.clear()
        self._expiry.clear()
