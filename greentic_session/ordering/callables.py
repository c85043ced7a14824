"""Checks of functions that a caller passes, and classification of their exceptions."""

from __future__ import annotations

import asyncio
import inspect
import math
import sys
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

import anyio

from ..errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = [
    "is_being_cancelled",
    "is_cancellation",
    "is_run_ending",
    "leaves_loop",
    "require_async",
    "require_awaitable",
    "require_loop",
    "require_plain",
]

T = TypeVar("T")


def require_async(value: object, field: str) -> None:
    """Refuse a value that cannot be called, or whose result can never be awaited.

    A plain function is accepted, because it may return an awaitable. Its result is checked at the
    call.

    :raises InvalidInputError: naming ``field``.
    """
    function = _require_callable(value, field)
    if _is_any(function, _is_generator_function, inspect.isasyncgenfunction):
        raise InvalidInputError(field, "must return an awaitable, got a generator function")


def require_plain(value: object, field: str) -> None:
    """Refuse a value that cannot be called, or that only runs when awaited or iterated.

    :raises InvalidInputError: naming ``field``.
    """
    function = _require_callable(value, field)
    if _is_any(function, inspect.iscoroutinefunction):
        raise InvalidInputError(field, "must be a plain function, got a coroutine function")
    if _is_any(function, _is_generator_function, inspect.isasyncgenfunction):
        raise InvalidInputError(field, "must be a plain function, got a generator function")


def require_awaitable(returned: Awaitable[T], field: str) -> Awaitable[T]:
    """Return the result of a function if it can be awaited.

    :param field: name of the function.
    :raises InvalidInputError: naming ``field``.
    """
    if not inspect.isawaitable(cast("object", returned)):
        raise InvalidInputError(field, f"returned {type(returned).__name__}, not an awaitable")
    return returned


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


def _require_callable(value: object, field: str) -> Callable[..., object]:
    if not callable(value):
        raise InvalidInputError(field, f"expected a callable, got {type(value).__name__}")
    while isinstance(value, partial):
        value = cast("partial[object]", value).func
    return value


def _is_any(function: Callable[..., object], *kinds: Callable[[object], bool]) -> bool:
    # A call looks up `__call__` in the class.
    return any(kind(function) or kind(type(function).__call__) for kind in kinds)


def _is_generator_function(value: object) -> bool:
    if not inspect.isgeneratorfunction(value):
        return False
    # `types.coroutine` makes generator functions whose result can be awaited.
    return not value.__code__.co_flags & inspect.CO_ITERABLE_COROUTINE
