"""Checks of functions that a caller passes, and of the sessions that they return."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

from ..errors import InvalidInputError, TenantMismatchError
from ..model import C, Session
from . import tenancy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..model import SessionKey, TenantCtx

__all__ = ["changed_session", "made_session", "require_async", "require_awaitable", "require_plain"]

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


def made_session(
    key: SessionKey, make: Callable[[], Session[C]], ctx: TenantCtx | None, field: str
) -> Session[C]:
    """Return the new session that a caller's function makes for a key.

    :param field: name of the function.
    :raises InvalidInputError: ``make`` did not return a session with the key.
    :raises TenantMismatchError: the caller may not write a session of that owner.
    """
    made = make()
    if not isinstance(cast("object", made), Session):
        raise InvalidInputError(field, f"must return a Session, returned {_discarded(made)}")
    if made.key != key:
        raise InvalidInputError(
            field, "returned a session under another key: expected the key of the call"
        )
    if ctx is not None:
        tenancy.check_caller_may_write(ctx, made)
    return made


def changed_session(
    session: Session[C], change: Callable[[Session[C]], Session[C] | None]
) -> Session[C] | None:
    """Return the session that a caller's function returns for a session.

    :returns: ``None`` if the function returned ``None``, which deletes the session.
    :raises InvalidInputError: ``change`` returned neither ``None`` nor a session with the same key.
    :raises TenantMismatchError: the new session has another owner.
    """
    changed = change(session)
    if changed is None:
        return None
    if not isinstance(cast("object", changed), Session):
        raise InvalidInputError(
            "change", f"must return a Session or None, returned {_discarded(changed)}"
        )
    if changed.key != session.key:
        raise InvalidInputError("change", "returned a session under another key")
    if tenancy.owner_of(changed.meta) != tenancy.owner_of(session.meta):
        raise TenantMismatchError(session.key)
    return changed


def _discarded(returned: object) -> str:
    """Return the name of the type of a result that is not used."""
    if inspect.iscoroutine(returned):
        returned.close()  # otherwise Python warns that it was never awaited
    return type(returned).__name__


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
