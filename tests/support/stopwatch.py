"""Measures the duration of calls without the pauses of a busy machine."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_TICK_SECS: Final = 0.005


class Stopwatch:
    """Times calls on the loop's clock.

    Pauses of the loop that the machine causes do not count. A task that wakes every few
    milliseconds measures them while the stopwatch is :meth:`running`.

    :param deadline_secs: deadline of every call in seconds. A tenth more is allowed. ``None``
        disables the check.
    :ivar late: texts about the calls that exceeded it.
    :ivar took: seconds of each call, without the loop's pauses.
    """

    def __init__(self, deadline_secs: float | None = None) -> None:
        self._deadline_secs: Final = deadline_secs
        self._lost_secs = 0.0
        self._woken_at = 0.0
        self.late: list[str] = []
        self.took: list[float] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self._woken_at = asyncio.get_running_loop().time()
        watch = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.wait([watch])

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Time one call."""
        loop = asyncio.get_running_loop()
        began_at, lost_before = loop.time(), self._lost_secs
        try:
            yield
        finally:
            now = loop.time()
            lost_secs = self._lost_secs - lost_before + max(0.0, now - self._woken_at - _TICK_SECS)
            secs = now - began_at
            self.took.append(max(0.0, secs - lost_secs))
            if self._deadline_secs is not None and secs > 1.1 * self._deadline_secs + lost_secs:
                self.late.append(f"{secs:.3f} s, of which {lost_secs:.3f} were lost")

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._woken_at = loop.time()
            await asyncio.sleep(_TICK_SECS)
            self._lost_secs += max(0.0, loop.time() - self._woken_at - _TICK_SECS)
