"""An index of expiry times. Its cost is proportional to the number of entries that expire."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ExpiryIndex", "Name"]

Name = tuple[str, str]
"""Scope and key of a record."""

_SPAN_MS: Final = 1024
"""Width of a coarse bucket in milliseconds: a power of two, about a second."""


@final
class _Bucket(set[Name]):
    """Records that the index checks together. All of them store the same ``due`` object."""

    __slots__ = ("due",)

    def __init__(self, due: int) -> None:
        self.due: Final = due


@final
class ExpiryIndex:
    """A two-level timing wheel over a heap of bucket times.

    Each record is in one bucket, whose time (*due*) is never after the record's expiry. At first
    that is a coarse bucket. When the coarse bucket is due, the record moves to the bucket of its
    exact millisecond. So the index checks a record at most twice in its lifetime. An addition costs
    one set insertion, and the heap holds one number per bucket instead of per record.

    A touch costs nothing here, because the record stays in its bucket. The next check finds the new
    expiry, and moves the record to a later bucket.
    """

    __slots__ = ("_buckets", "_times")

    def __init__(self) -> None:
        self._buckets: dict[int, _Bucket] = {}
        self._times: Final[list[int]] = []

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    @property
    def times(self) -> Sequence[int]:
        """The times at which the index checks records, the earliest first. Always the same list."""
        return self._times

    def add(self, name: Name, expires_ms: int, now_ms: int) -> int:
        """Add a record.

        :param expires_ms: when the record expires, in milliseconds since the epoch.
        :returns: the due time of the record, which :meth:`discard` needs.
        """
        due = expires_ms & -_SPAN_MS
        if due <= now_ms:
            due = expires_ms
        bucket = self._buckets.get(due)
        if bucket is None:
            bucket = self._buckets[due] = _Bucket(due)
            heapq.heappush(self._times, due)
        bucket.add(name)
        return bucket.due

    def discard(self, name: Name, due: int) -> None:
        """Remove a record from the bucket with the due time that :meth:`add` returned."""
        bucket = self._buckets.get(due)
        if bucket is None:
            return
        bucket.discard(name)
        if not bucket:
            del self._buckets[due]
            # The bucket's time stays in the heap until it is due, or until most of the heap
            # consists of such times.
            if not self._buckets:
                self._times.clear()
            elif len(self._times) > 2 * len(self._buckets) + 64:
                self._times[:] = self._buckets
                heapq.heapify(self._times)

    def pop_due(self, now_ms: int) -> Name | None:
        """Remove and return one record that may have expired, ``None`` if nothing is due.

        The caller checks the record's expiry. If the record has not expired, the caller adds it
        again.
        """
        while self._times and self._times[0] <= now_ms:
            due = self._times[0]
            bucket = self._buckets.get(due)
            if bucket is None:
                heapq.heappop(self._times)
                continue
            name = bucket.pop()
            if not bucket:
                del self._buckets[due]
            return name
        return None

    def clear(self) -> None:
        """Remove every record."""
        self._buckets.clear()
        self._times.clear()
