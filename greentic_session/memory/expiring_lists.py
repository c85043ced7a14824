"""Ordered values by name, where each value expires at its own time."""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING, Final, Generic, TypeVar, final

from .expiry import ExpiryIndex

if TYPE_CHECKING:
    from collections.abc import Hashable

    from .expiry import Name

__all__ = ["ExpiringLists"]

K = TypeVar("K", bound="Hashable")
T = TypeVar("T")


@final
class ExpiringLists(Generic[K, T]):
    """Stores values by name and key, in the order of arrival. Each expires at its own time.

    The cost of a call does not grow with the number of values.
    """

    def __init__(self) -> None:
        # An ordered dict finds its first value fast, even after many were removed before it.
        self._lists: Final[dict[Name, OrderedDict[K, tuple[int, T]]]] = {}
        self._due: Final[dict[Name, int]] = {}
        self._expiry: Final = ExpiryIndex()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def names(self) -> list[Name]:
        """Return the names that may have values."""
        return list(self._lists)

    def count(self, name: Name) -> int:
        """Return the number of a name's values, including expired ones."""
        return len(self._lists.get(name, ()))

    def get(self, name: Name, key: K, now_ms: int) -> T | None:
        """Return the value of a key, ``None`` if it is absent or has expired."""
        entries = self._lists.get(name)
        entry = None if entries is None else entries.get(key)
        return None if entry is None or now_ms >= entry[0] else entry[1]

    def page(self, name: Name, start: int, stop: int | None, now_ms: int) -> list[T]:
        """Return a name's values from ``start`` to ``stop``, without expired ones."""
        entries = self._lists.get(name)
        if entries is None:
            return []
        found = islice(entries.values(), start, stop)
        return [value for ends_ms, value in found if now_ms < ends_ms]

    def add(self, name: Name, key: K, value: T, ends_ms: int, now_ms: int) -> None:
        """Append a value to a name. It replaces a value with the same key."""
        entries = self._lists.get(name)
        if entries is None:
            entries = self._lists[name] = OrderedDict()
            self._due[name] = self._expiry.add(name, ends_ms, now_ms)
        self._size += entries.pop(key, None) is None
        entries[key] = (ends_ms, value)

    def remove(self, name: Name, key: K) -> None:
        """Remove a value, if it is present."""
        entries = self._lists.get(name)
        if entries is not None and entries.pop(key, None) is not None:
            self._size -= 1
            if not entries:
                self._forget(name)

    def remove_first(self, name: Name) -> None:
        """Remove the oldest value of a name. The name must have one."""
        self.remove(name, next(iter(self._lists[name])))

    def remove_expired_first(self, name: Name, most: int, now_ms: int) -> None:
        """Remove up to ``most`` expired values from the start of a name's list."""
        for _ in range(most):
            entries = self._lists.get(name)
            if entries is None or now_ms < next(iter(entries.values()))[0]:
                return
            self.remove_first(name)

    def pop_due(self, now_ms: int) -> bool:
        """Remove the oldest value of a name if it has expired.

        :returns: ``False`` if nothing is due.
        """
        name = self._expiry.pop_due(now_ms)
        if name is None:
            return False
        # Values arrive in the order of their ends, unless the clock was set back. So only the first
        # value is checked. Every read skips another value that has expired earlier.
        entries = self._lists[name]
        key, (ends_ms, _) = next(iter(entries.items()))
        if now_ms >= ends_ms:
            del entries[key]
            self._size -= 1
            if not entries:
                del self._lists[name], self._due[name]
                return True
            _, (ends_ms, _) = next(iter(entries.items()))
        self._due[name] = self._expiry.add(name, ends_ms, now_ms)
        return True

    def clear(self) -> None:
        """Forget everything."""
        self._lists.clear()
        self._due.clear()
        self._expiry.clear()
        self._size = 0

    def _forget(self, name: Name) -> None:
        del self._lists[name]
        self._expiry.discard(name, self._due.pop(name))
