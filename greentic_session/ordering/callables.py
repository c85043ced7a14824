"""Checks of functions that a user passes, and classification of the exceptions they raise."""

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
    """Refuse what cannot be called, or would return what cannot be awaited.

    A plain function may return an awaitable; whether it does shows when it is called.

    :raises InvalidInputError: naming ``field``.
    """
    function = _require_callable(value, field)
    if _is_any(function, _is_generator_function, inspect.isasyncgenfunction):
        raise InvalidInputError(field, "is a generator function: it cannot be awaited")


def require_plain(value: object, field: str) -> None:
    """Refuse what cannot be called, or would do nothing until it is awaited or iterated.

    :raises InvalidInputError: naming ``field``.
    """
    function = _require_callable(value, field)
    if _is_any(function, inspect.iscoroutinefunction):
        raise InvalidInputError(field, "is a coroutine function: nobody awaits it")
    if _is_any(function, _is_generator_function, inspect.isasyncgenfunction):
        raise InvalidInputError(field, "is a generator function: nobody iterates it")


def require_awaitable(returned: Awaitable[T], field: str) -> Awaitable[T]:
    """Return what a function returned if it can be awaited.

    :param field: name of the function.
    :raises InvalidInputError: naming ``field``.
    """
    if not inspect.isawaitable(cast("object", returned)):
        raise InvalidInputError(field, f"returned {type(returned).__name__}, not an awaitable")
    return returned


def require_loop() -> None:
    """See to it that a task can be started here.

    :raises RuntimeError: where no event loop runs.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        trio = sys.modules.get("trio")
        if trio is None or not trio.lowlevel.in_trio_task():
            raise


def is_cancellation(error: BaseException) -> bool:
    """Tell whether something ended as cancelled, and by nothing else besides.

    The task that ran it need not be cancelled itself: asyncio raises the same error from whatever
    was cancelled and is awaited.
    """
    cancelled = anyio.get_cancelled_exc_class()
    if isinstance(error, BaseExceptionGroup):  # of several tasks of a trio nursery
        group = cast("BaseExceptionGroup[BaseException]", error)
        return group.split(cancelled)[1] is None
    return isinstance(error, cancelled)


def is_being_cancelled() -> bool:
    """Tell whether the current task, or a scope around the code that asks, is cancelled."""
    if _is_asyncio():
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return anyio.current_effective_deadline() == -math.inf


def is_run_ending() -> bool:
    """Tell whether the event loop ends and so cancels the current task, with all others.

    On trio, whoever starts a task in the background and cancels it has to know it from that.
    """
    if not is_being_cancelled():
        return False
    return not _is_asyncio() or all(task.cancelling() for task in asyncio.all_tasks())


def leaves_loop(error: BaseException) -> bool:
    """Tell whether an error ends the event loop when a task lets it out, as asyncio has it for two.

    On trio, what runs in the background has nobody to raise them to: the run would break.
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
    # `types.coroutine` makes one that can be awaited.
    return not value.__code__.co_flags & inspect.CO_ITERABLE_COROUTINE
