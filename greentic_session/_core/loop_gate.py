"""A gate that lets callers pass a few at a time, between iterations of the event loop."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LoopGate"]

_CROWD: Final = 512
"""One caller passes per iteration, plus one for each of this many that wait.

So a long queue drains before its callers' deadlines."""


@final
class LoopGate:
    """Spreads work that blocks the event loop, such as the encoding of large values.

    It runs on asyncio only, and belongs to one event loop at a time.

    :param on_open: called when no caller waits any more.
    """

    __slots__ = ("_changing", "_loop", "_on_open", "_process", "_waiting")

    def __init__(self, on_open: Callable[[], None]) -> None:
        self._on_open: Final = on_open
        self._waiting: Final[deque[asyncio.Future[bool]]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None  # while the gate is shut
        self._process = 0
        self._changing: Final = threading.Lock()

    def __bool__(self) -> bool:
        """Return whether callers of this process wait."""
        return bool(self._waiting) and self._process == os.getpid()

    @property
    def is_shut(self) -> bool:
        """Whether a caller has to wait."""
        return self._loop is not None

    def shut(self) -> bool:
        """Make later callers wait, at least until the next iteration of the running loop.

        :returns: ``False`` if another running event loop has the gate. Then nothing changes.
        """
        loop = asyncio.get_running_loop()
        with self._changing:
            before = self._loop
            if loop is before and self._process == os.getpid():
                return True
            if before is not None and not before.is_closed() and self._process == os.getpid():
                return False
            self._waiting.clear()  # these belong to a closed loop or to the parent process
            self._loop = loop
            self._process = os.getpid()
        loop.call_soon(self._let_pass, loop)
        return True

    async def turn(self, until: float | None) -> bool:
        """Wait for the caller's turn, first in first out.

        :param until: the loop's time at which the wait ends. ``None`` is no limit.
        :returns: ``False`` if the time ended first.
        """
        if not self.shut():
            return True  # the backend refuses a second event loop
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[bool] = loop.create_future()
        self._waiting.append(turn)
        timer = None if until is None else loop.call_at(until, _end, turn, False)
        try:
            return await turn
        finally:
            if timer is not None:
                timer.cancel()

    def _let_pass(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop or self._process != os.getpid():
            return
        waiting = self._waiting
        while waiting and waiting[0].done():  # its caller was cancelled, or its time ended
            waiting.popleft()
        if not waiting:
            self._loop = None
            self._on_open()
            return
        for _ in range(min(len(waiting), 1 + len(waiting) // _CROWD)):
            _end(waiting.popleft(), True)
        loop.call_soon(self._let_pass, loop)


def _end(turn: asyncio.Future[bool], has_come: bool) -> None:
    if not turn.done():
        turn.set_result(has_come)
