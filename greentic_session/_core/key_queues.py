"""Queues of callers in this process that change the same session."""

from __future__ import annotations

import os
import random
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar, final

from ..errors import CasConflictError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from anyio import Event

    from ..model import Cas

    _Name = tuple[str, str]

__all__ = ["Conflict", "KeyQueues"]

T = TypeVar("T")

_FIRST_BACKOFF_SECS: Final = 0.001
_LAST_BACKOFF_SECS: Final = 0.016


class Conflict(NamedTuple):
    """An attempt that wrote nothing, because another writer came first.

    :ivar scope: the session's ``env/tenant``.
    :ivar expected: the token that the attempt read.
    :ivar current: the token that the write found.
    """

    scope: str
    expected: Cas
    current: Cas

    def error(self, key: str) -> CasConflictError:
        """Return the error for a caller that makes no further attempt."""
        return CasConflictError(key, self.expected, self.current)


@final
class KeyQueues:
    """Holds one FIFO queue per session, while callers are in it."""

    __slots__ = ("_owner", "_queues")

    def __init__(self) -> None:
        self._queues: Final[dict[_Name, deque[Event]]] = {}
        self._owner: tuple[int, object] | None = None

    def __bool__(self) -> bool:
        return bool(self._queues)

    def __contains__(self, name: _Name) -> bool:
        return name in self._queues

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
        from anyio.lowlevel import current_token  # noqa: PLC0415 - as above

        owner = os.getpid(), current_token()
        if self._owner != owner:
            self._queues.clear()  # these callers are in the parent process, or in a closed loop
            self._owner = owner
        queue = self._queues.setdefault(name, deque())
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
                if queue:
                    queue[0].set()
                elif self._queues.get(name) is queue:
                    del self._queues[name]
