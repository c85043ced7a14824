"""The background task that removes expired records while a store is open."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, Final, Protocol, final

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Sweeper", "start_sweeper"]

_LOGGER: Final = logging.getLogger(__name__)


class Sweeper(Protocol):
    """A running background task."""

    async def stop(self) -> None:
        """End it and wait until it has ended."""
        ...


def start_sweeper(sweep: Callable[[], Awaitable[object]], interval_secs: float) -> Sweeper:
    """Start calling ``sweep`` every ``interval_secs`` seconds.

    The task belongs to the event loop, not to a task group of the caller: a task group held open
    from ``__aenter__`` to ``__aexit__`` breaks in fixtures and exit stacks, which enter and leave
    in different tasks or in another order.
    """
    # trio is asked, not the loop: in guest mode it runs inside one of asyncio.
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        return _TrioSweeper(sweep, interval_secs)
    return _AsyncioSweeper(asyncio.get_running_loop(), sweep, interval_secs)


async def _run(sweep: Callable[[], Awaitable[object]], interval_secs: float) -> None:
    while True:
        await anyio.sleep(interval_secs)
        try:
            await sweep()
        except Exception:
            # Only a clock of the caller's can fail here. Expired sessions stay absent meanwhile.
            _LOGGER.exception("a sweep of expired sessions failed; the next is due as usual")


@final
class _AsyncioSweeper:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sweep: Callable[[], Awaitable[object]],
        interval_secs: float,
    ) -> None:
        self._task: Final = loop.create_task(
            _run(sweep, interval_secs), name="greentic_session memory sweeper"
        )

    async def stop(self) -> None:
        if self._task.get_loop().is_closed():
            return  # and so ended with it
        self._task.cancel()
        if self._task.get_loop() is asyncio.get_running_loop():
            # `wait` leaves our own cancellation and the task's apart; awaiting the task would not.
            await asyncio.wait([self._task])


@final
class _TrioSweeper:
    def __init__(self, sweep: Callable[[], Awaitable[object]], interval_secs: float) -> None:
        import trio  # noqa: PLC0415 - only where trio runs, which then is installed

        self._scope: Final = anyio.CancelScope()
        self._ended: Final = anyio.Event()
        trio.lowlevel.spawn_system_task(self._run_until_cancelled, sweep, interval_secs)

    async def _run_until_cancelled(
        self, sweep: Callable[[], Awaitable[object]], interval_secs: float
    ) -> None:
        try:
            with self._scope:
                await _run(sweep, interval_secs)
        finally:
            self._ended.set()

    async def stop(self) -> None:
        self._scope.cancel()
        await self._ended.wait()
