"""Clocks of the memory backend: the machine's clock, and a clock for tests."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Protocol, final

from .errors import InvalidInputError

__all__ = ["Clock", "ManualClock", "SystemClock"]


class Clock(Protocol):
    """Returns the wall-clock time. Server backends use the server's clock instead."""

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
    """A clock for tests. Its time changes only by :meth:`advance` and :meth:`set_ms`.

    :param start_ms: the initial time, in milliseconds since 1970-01-01T00:00:00Z.
    """

    __slots__ = ("_now_ms",)

    def __init__(self, start_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = start_ms

    def now_ms(self) -> int:
        """Return the current time of this clock."""
        return self._now_ms

    def advance(self, secs: timedelta | float) -> None:
        """Move the time forward.

        :param secs: seconds or a :class:`datetime.timedelta`, in steps of 1 ms.
        :raises InvalidInputError: if negative.
        """
        if isinstance(secs, timedelta):
            secs = secs.total_seconds()
        if secs < 0:
            raise InvalidInputError("secs", "is negative: use set_ms to set the clock back")
        self._now_ms += round(secs * 1000)

    def set_ms(self, now_ms: int) -> None:
        """Set the time to any value, as a correction of a wall clock does."""
        self._now_ms = now_ms
