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
"""Width of a coarse bucket: a power of two of about a second."""


@final
class _Bucket(set[Name]):
    """Records that the index looks at together; each of them keeps this one ``due``."""

    __slots__ = ("due",)

    def __init__(self, due: int) -> None:
        self.due: Final = due


@final
class ExpiryIndex:
    """A two-level timing wheel over a heap of bucket times.

    A record stands in one bucket, whose time (*due*) is never after the record's expiry: first
    that of its coarse bucket, later, when that has come due, the exact millisecond. So a record is
    visited at most twice in its life, entering costs one set insertion, and the heap holds one
    number per bucket, not per record. A life that is extended leaves the record where it is; the
    visit finds the new expiry and moves it on, so a touch costs nothing here.
    """

    __slots__ = ("_buckets", "_times")

    def __init__(self) -> None:
        self._buckets: dict[int, _Bucket] = {}
        self._times: Final[list[int]] = []

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    @property
    def times(self) -> Sequence[int]:
        """When the index looks at its records, the earliest time first: always the same list."""
        return self._times

    def add(self, name: Name, expires_ms: int, now_ms: int) -> int:
        """Enter a record.

        :param expires_ms: when it expires, milliseconds since the epoch.
        :returns: its due time, to be given back to :meth:`discard`.
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
        """Take a record out of the bucket that :meth:`add` returned."""
        bucket = self._buckets.get(due)
        if bucket is None:
            return
        bucket.discard(name)
        if not bucket:
            del self._buckets[due]
            # Its time stays in the heap until it comes up or most of the heap is such times.
            if not self._buckets:
                self._times.clear()
            elif len(self._times) > 2 * len(self._buckets) + 64:
                self._times[:] = self._buckets
                heapq.heapify(self._times)

    def pop_due(self, now_ms: int) -> Name | None:
        """Take out one record that may have expired, or return ``None`` if nothing is due.

        The caller looks at the record's expiry, and enters the record again if it lies ahead.
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
        """Forget every record."""
        self._buckets.clear()
        self._times.clear()
