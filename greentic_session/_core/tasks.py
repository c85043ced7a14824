"""Background tasks that need no task group of the caller."""

from __future__ import annotations

import asyncio
import logging
import sys
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, final

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    Run = Callable[[], Coroutine[Any, Any, None]]  # Any: what a coroutine yields and is sent

__all__ = ["BackgroundTask", "deferred", "run_to_completion", "start_background"]


_LOGGER: Final = logging.getLogger(__name__)
_RUNNING: Final[set[asyncio.Task[None]]] = set()


class BackgroundTask(Protocol):
    """A running background task."""

    async def stop(self) -> None:
        """End it and wait until it has ended."""
        ...


def start_background(run: Run, name: str, at: float | None = None) -> BackgroundTask:
    """Run a coroutine function in a background task. Log its exception, if any.

    The task belongs to the event loop instead of a task group of the caller. A task group that is
    open from ``__aenter__`` to ``__aexit__`` breaks in fixtures and exit stacks. These may enter
    and leave in different tasks, or in another order.

    :param run: the function to run.
    :param name: name of the task, for people.
    :param at: when to begin, on the clock of ``anyio.current_time``. ``None`` begins immediately.
        On asyncio, no task is created if it is stopped before that time.
    """
    if _on_trio():
        return _TrioTask(run if at is None else partial(_later, run, at), name)
    loop = asyncio.get_running_loop()
    return _AsyncioTask(loop, run, name) if at is None else _AsyncioTimer(loop, run, name, at)


async def _later(run: Run, at: float) -> None:
    await anyio.sleep_until(at)
    await run()


async def _logged(run: Run, name: str) -> None:
    try:
        await run()
    except Exception:
        _LOGGER.exception("%s failed", name)


async def run_to_completion(run: Run, name: str, limit_secs: float) -> None:
    """Run a coroutine function to its end, even if the caller is cancelled while it waits.

    A shielded scope alone is not enough, because asyncio's ``Task.cancel`` and ``timeout`` ignore
    it.

    :param run: the function to run.
    :param name: name of the task, for people.
    :param limit_secs: timeout in seconds, after which the function is cancelled.
    """
    if _on_trio():
        ended = anyio.Event()

        async def limited() -> None:
            try:
                with anyio.move_on_after(limit_secs):
                    await run()
            finally:
                ended.set()

        _TrioTask(limited, name)
        with anyio.CancelScope(shield=True):
            await ended.wait()
        return
    loop = asyncio.get_running_loop()
    task = _started(loop, run, name)
    timer = loop.call_later(limit_secs, task.cancel)
    task.add_done_callback(lambda _: timer.cancel())
    with anyio.CancelScope(shield=True):
        await asyncio.wait((task,))


def deferred(call: Callable[[], object]) -> Callable[[], None]:
    """Return a function that makes the running event loop call ``call`` soon.

    The returned function may run in a signal handler and in any thread.
    """
    if _on_trio():
        import trio  # noqa: PLC0415 - only where trio runs, which then is installed

        return partial(trio.lowlevel.current_trio_token().run_sync_soon, call)
    loop = asyncio.get_running_loop()

    def call_soon() -> None:
        loop.call_soon_threadsafe(call)

    return call_soon


def _on_trio() -> bool:
    # A running asyncio loop does not exclude trio, which may run inside it in guest mode.
    trio = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_task()


def _started(loop: asyncio.AbstractEventLoop, run: Run, name: str) -> asyncio.Task[None]:
    task = loop.create_task(_logged(run, name), name=name)
    _RUNNING.add(task)  # the loop holds only weak references to its tasks
    task.add_done_callback(_RUNNING.discard)
    return task


@final
class _AsyncioTask:
    def __init__(self, loop: asyncio.AbstractEventLoop, run: Run, name: str) -> None:
        self._task: Final = _started(loop, run, name)

    async def stop(self) -> None:
        if self._task.get_loop().is_closed():
            return  # the task ended with its loop
        self._task.cancel()
        if self._task.get_loop() is asyncio.get_running_loop():
            # `wait` does not raise the task's cancellation, which would look like the caller's own.
            await asyncio.wait([self._task])


@final
class _AsyncioTimer:
    def __init__(self, loop: asyncio.AbstractEventLoop, run: Run, name: str, at: float) -> None:
        self._task: _AsyncioTask | None = None
        self._timer: Final = loop.call_at(at, self._start, loop, run, name)

    def _start(self, loop: asyncio.AbstractEventLoop, run: Run, name: str) -> None:
        self._task = _AsyncioTask(loop, run, name)

    async def stop(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            await self._task.stop()


@final
class _TrioTask:
    def __init__(self, run: Run, name: str) -> None:
        import trio  # noqa: PLC0415 - only where trio runs, which then is installed

        self._scope: Final = anyio.CancelScope()
        self._ended: Final = anyio.Event()
        trio.lowlevel.spawn_system_task(self._run_until_cancelled, run, name, name=name)

    async def _run_until_cancelled(self, run: Run, name: str) -> None:
        try:
            with self._scope:
                await _logged(run, name)
        finally:
            self._ended.set()

    async def stop(self) -> None:
        self._scope.cancel()
        await self._ended.wait()
