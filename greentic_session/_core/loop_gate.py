"""A gate that lets callers pass a few at a time, between iterations of the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
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

    It runs on asyncio only.

    :param on_open: called when no caller waits any more.
    """

    __slots__ = ("_loop", "_on_open", "_waiting")

    def __init__(self, on_open: Callable[[], None]) -> None:
        self._on_open: Final = on_open
        self._waiting: Final[deque[asyncio.Future[None]]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None  # while the gate is shut

    def __bool__(self) -> bool:
        """Return whether callers wait."""
        return bool(self._waiting)

    def shut(self) -> None:
        """Make later callers wait, at least until the next iteration of the running loop."""
        loop = asyncio.get_running_loop()
        if not self._is_used_elsewhere(loop) and loop is not self._loop:
            self._waiting.clear()  # these belong to a loop that was closed
            self._loop = loop
            loop.call_soon(self._let_pass, loop)

    async def turn(self, most_secs: float) -> None:
        """Wait for the caller's turn, first in first out.

        :param most_secs: timeout in seconds. After it, the caller passes out of turn.
        """
        loop = asyncio.get_running_loop()
        if self._is_used_elsewhere(loop):
            return  # the client refuses a second loop
        self.shut()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        with suppress(TimeoutError):
            async with asyncio.timeout(most_secs):
                await turn

    def _is_used_elsewhere(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Return whether the callers that wait belong to another loop, which is not closed."""
        own = self._loop
        return own is not None and own is not loop and not own.is_closed()

    def _let_pass(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:
            return
        waiting = self._waiting
        if not waiting:
            self._loop = None
            self._on_open()
            return
        for _ in range(1 + len(waiting) // _CROWD):
            turn = waiting.popleft()
            if not turn.done():  # its caller may have been cancelled
                turn.set_result(None)
        loop.call_soon(self._let_pass, loop)
