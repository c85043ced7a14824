"""Queues of callers in this process that change the same session."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar, final

from ..errors import CasConflictError, SessionExistsError, StoreUnavailableError
from ..model import Cas

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from anyio import Event

    _Name = tuple[str, str]

__all__ = ["Conflict", "KeyQueues"]

T = TypeVar("T")

_FIRST_BACKOFF_SECS: Final = 0.001
_LAST_BACKOFF_SECS: Final = 0.016


class Conflict(NamedTuple):
    """An attempt that wrote nothing, because another writer came first.

    :ivar scope: the session's ``env/tenant``.
    :ivar expected: the token that the attempt read, ``Cas.none()`` if it read none.
    :ivar current: the token that the write found, if the attempt read one.
    """

    scope: str
    expected: Cas
    current: Cas

    def error(self, key: str) -> CasConflictError | SessionExistsError:
        """Return the error for a caller that makes no further attempt."""
        if self.expected == Cas.none():
            return SessionExistsError(key)
        return CasConflictError(key, self.expected, self.current)


@final
class KeyQueues:
    """Holds one FIFO queue per session, while callers are in it."""

    __slots__ = ("_loop", "_process", "_queues")

    def __init__(self) -> None:
        self._queues: dict[_Name, deque[Event]] = {}
        self._loop: object = None  # of the callers in the queues
        self._process = 0

    def __bool__(self) -> bool:
        return bool(self._queues) and not self._is_stale()

    def __contains__(self, name: _Name) -> bool:
        return name in self._queues and not self._is_stale()

    def _is_stale(self) -> bool:
        """Return whether the callers in the queues never end.

        Their event loop was closed, or they are callers of the parent process.
        """
        if self._process != os.getpid():
            return True
        loop = self._loop
        if isinstance(loop, asyncio.AbstractEventLoop):
            return loop.is_closed()
        return loop is not _running_loop()

    async def attempt_in_turn(
        self,
        scope: str,
        key: str,
        attempt: Callable[[], Awaitable[T | Conflict]],
        attempts: int,
        secs_left: Callable[[], float],
    ) -> T:
        """Wait for the caller's turn, and attempt a change with retries on conflict.

        Only one caller of this process attempts at a time. So a writer competes with at most one
        writer of each other process.

        :param scope: the session's ``env/tenant``.
        :param key: the session's key.
        :param attempt: the function that attempts the change once.
        :param attempts: maximum number of attempts.
        :param secs_left: the function that returns the seconds in which an attempt may still begin.
        :raises CasConflictError: every attempt conflicted with another writer, or no time is left.
        :raises SessionExistsError: the same, if the last attempt was to create the session.
        :raises StoreUnavailableError: the time ended before the caller's turn.
        """
        from anyio import sleep  # noqa: PLC0415 - keeps `import greentic_session` free of it

        async with self._turn((scope, key), secs_left()):
            number = 0
            while True:
                found = await attempt()
                if not isinstance(found, Conflict):
                    return found
                number += 1
                most = min(_LAST_BACKOFF_SECS, _FIRST_BACKOFF_SECS * 2 ** min(number, 5))
                pause_secs = random.uniform(0, most)
                if number >= attempts or pause_secs >= secs_left():
                    raise found.error(key)
                await sleep(pause_secs)
                if secs_left() <= 0:  # a busy event loop woke this task late
                    raise found.error(key)

    @asynccontextmanager
    async def _turn(self, name: _Name, timeout_secs: float) -> AsyncGenerator[None]:
        """Wait for the caller's turn, and keep it while the block runs."""
        from anyio import Event, move_on_after  # noqa: PLC0415 - as above

        if not self._queues or self._is_stale():
            self._queues = {}
            self._loop = _running_loop()
            self._process = os.getpid()
        queues = self._queues
        queue = queues.setdefault(name, deque())
        turn = Event()
        queue.append(turn)
        try:
            if queue[0] is not turn:
                with move_on_after(timeout_secs):
                    await turn.wait()
            if queue[0] is not turn or timeout_secs <= 0:
                raise StoreUnavailableError(
                    "other callers of this store were changing the session until the deadline",
                    code="timeout",
                )
            yield
        finally:
            if queue[0] is not turn:
                queue.remove(turn)
            else:
                queue.popleft()
                if not queue:
                    del queues[name]
                elif queues is self._queues and not self._is_stale():
                    queue[0].set()


def _running_loop() -> object:
    """Return the event loop of asyncio, or the token that trio has for its own."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        return trio.lowlevel.current_trio_token()
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None  # Python destroys a coroutine of a closed loop
