"""Classification of the exceptions of a caller's functions."""

from __future__ import annotations

import asyncio
import math
import sys
from typing import cast

import anyio

__all__ = [
    "is_being_cancelled",
    "is_cancellation",
    "is_run_ending",
    "leaves_loop",
    "require_loop",
]


def require_loop() -> None:
    """Check that a task can be started here.

    :raises RuntimeError: where no event loop runs.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        trio = sys.modules.get("trio")
        if trio is None or not trio.lowlevel.in_trio_task():
            raise


def is_cancellation(error: BaseException) -> bool:
    """Return whether an error is a cancellation, and nothing else.

    The current task need not be cancelled itself. On asyncio, a call that it awaits may have been
    cancelled, and raises the same error.
    """
    cancelled = anyio.get_cancelled_exc_class()
    if isinstance(error, BaseExceptionGroup):  # from several tasks of a trio nursery
        group = cast("BaseExceptionGroup[BaseException]", error)
        return group.split(cancelled)[1] is None
    return isinstance(error, cancelled)


def is_being_cancelled() -> bool:
    """Return whether the current task, or a scope around the calling code, is cancelled."""
    if _is_asyncio():
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return anyio.current_effective_deadline() == -math.inf


def is_run_ending() -> bool:
    """Return whether the event loop ends, and therefore cancels all tasks.

    On trio, this returns whether the current task is cancelled. So it is only valid there in
    background tasks that no other code cancels while the loop runs.
    """
    if not is_being_cancelled():
        return False
    return not _is_asyncio() or all(task.cancelling() for task in asyncio.all_tasks())


def leaves_loop(error: BaseException) -> bool:
    """Return whether an error ends the event loop when a task raises it.

    On asyncio, ``KeyboardInterrupt`` and ``SystemExit`` do. On trio, no error does. There, such an
    error must not leave a background task, because it would break the run.
    """
    return isinstance(error, (KeyboardInterrupt, SystemExit)) and _is_asyncio()


def _is_asyncio() -> bool:
    return anyio.get_cancelled_exc_class() is asyncio.CancelledError
