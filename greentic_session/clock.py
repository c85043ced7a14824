"""Clocks of the memory backend: the machine's, and one that tests set."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Protocol, final

from .errors import InvalidInputError

__all__ = ["Clock", "ManualClock", "SystemClock"]


class Clock(Protocol):
    """Tells the wall-clock time. A server-side backend uses its server's clock instead."""

    def now_ms(self) -> int:
        """Return milliseconds since 1970-01-01T00:00:00Z."""
        ...


@final
class SystemClock:
    """The machine's clock."""

    __slots__ = ()

    def now_ms(self) -> int:
        """Return milliseconds since 1970-01-01T00:00:00Z, by :func:`time.time_ns`."""
        return time.time_ns() // 1_000_000


@final
class ManualClock:
    """A clock that moves only by hand, for tests.

    :param start_ms: milliseconds since 1970-01-01T00:00:00Z to start at.
    """

    __slots__ = ("_now_ms",)

    def __init__(self, start_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = start_ms

    def now_ms(self) -> int:
        """Return the time that was set."""
        return self._now_ms

    def advance(self, secs: timedelta | float) -> None:
        """Move forward.

        :param secs: seconds or a :class:`datetime.timedelta`, in steps of 1 ms.
        :raises InvalidInputError: if negative.
        """
        if isinstance(secs, timedelta):
            secs = secs.total_seconds()
        if secs < 0:
            raise InvalidInputError("secs", "time moves forward; use set_ms for a clock jump")
        self._now_ms += round(secs * 1000)

    def set_ms(self, now_ms: int) -> None:
        """Jump to a time, in either direction, as a wall clock does when it is corrected."""
        self._now_ms = now_ms
