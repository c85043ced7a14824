"""Tables of verbs, so that one test covers a rule for every verb that it applies to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pytest

from ....errors import CasConflictError, SessionError, SessionNotFoundError
from ....model import Cas, Session, SessionKey, TenantCtx, Versioned
from ..samples import evolve, session

if TYPE_CHECKING:
    from ....store import AsyncSessionStore

__all__ = [
    "ABSENCES",
    "CHANGES",
    "KEY_VERBS",
    "LOOKUP_VERBS",
    "READS",
    "REMOVALS",
    "WRITES",
    "nothing",
    "same",
]

_T = TypeVar("_T")

# Any in these: stores of every context type, and arguments of wrong types.
KeyVerb = Callable[["AsyncSessionStore[Any]", Any, Any], Awaitable[object]]
Write = Callable[["AsyncSessionStore[Any]", Any, Cas], Awaitable[Cas]]
Read = Callable[["AsyncSessionStore[Any]", SessionKey, TenantCtx], Awaitable["Versioned[Any]"]]
Absence = Callable[["AsyncSessionStore[Any]", SessionKey, TenantCtx, Cas], Awaitable[None]]


def same(given: Session[Any]) -> Session[Any]:
    """Return the session as it is: a change for ``mutate`` that changes nothing."""
    return given


def nothing(_given: Session[Any]) -> None:
    """Return ``None``: a change for ``mutate`` that deletes the session."""


async def _get(store: AsyncSessionStore[Any], key: Any, caller: Any) -> Versioned[Any]:
    found = await store.get(key, ctx=caller)
    assert found is not None
    return found


async def _get_many(store: AsyncSessionStore[Any], key: Any, caller: Any) -> Versioned[Any]:
    [found] = await store.get_many([key], ctx=caller)
    assert found is not None
    return found


async def _scan(store: AsyncSessionStore[Any], key: Any, caller: Any) -> Versioned[Any]:
    [found] = [found async for found in store.scan(caller) if found.session.key == key]
    return found


async def _mutate(store: AsyncSessionStore[Any], key: Any, caller: Any) -> Versioned[Any]:
    return await store.mutate(key, same, ctx=caller)


def _never() -> Session[Any]:
    pytest.fail("a session was made although one is live")


async def _mutate_or_begin(store: AsyncSessionStore[Any], key: Any, caller: Any) -> Versioned[Any]:
    return await store.mutate(key, same, default=_never, ctx=caller)


async def _mutate_to_nothing(store: AsyncSessionStore[Any], key: Any, caller: Any) -> bool:
    return await store.mutate(key, nothing, ctx=caller) is None


async def _delete_many(store: AsyncSessionStore[Any], key: Any, caller: Any) -> bool:
    [removed] = await store.delete_many([key], ctx=caller)
    return _raised(removed)


async def _put_many(store: AsyncSessionStore[Any], given: Any, _expected: Cas) -> Cas:
    [cas] = await store.put_many([given])
    return _raised(cas)


def _raised(result: _T | SessionError) -> _T:
    if isinstance(result, SessionError):
        raise result
    return result


READS: Final[dict[str, Read]] = {
    "get": _get,
    "get without a caller": lambda store, key, _caller: _get(store, key, None),
    "get_many": _get_many,
    "scan": _scan,
    "mutate": _mutate,
    "require": lambda store, key, caller: store.require(key, ctx=caller),
    "get_or_create": lambda store, key, caller: store.get_or_create(key, _never, ctx=caller),
    "mutate with a default": _mutate_or_begin,
}
"""Verbs that return an existing session."""

KEY_VERBS: Final[dict[str, KeyVerb]] = {
    "get": lambda store, key, caller: store.get(key, ctx=caller),
    "get_many": lambda store, key, caller: store.get_many([key], ctx=caller),
    "mutate": _mutate,
    "touch": lambda store, key, caller: store.touch(key, ctx=caller),
    "touch with a life": lambda store, key, caller: store.touch(key, 777, ctx=caller),
    "delete": lambda store, key, caller: store.delete(key, ctx=caller),
    "require": READS["require"],
    "exists": lambda store, key, caller: store.exists(key, ctx=caller),
    "get_or_create": READS["get_or_create"],
    "mutate with a default": _mutate_or_begin,
    "mutate to nothing": _mutate_to_nothing,
    "delete_many": _delete_many,
}
"""Verbs that take a key and a caller."""

REMOVALS: Final = ("delete", "mutate to nothing", "delete_many")
"""Those of them that remove the session."""

LOOKUP_VERBS: Final = {
    name: verb for name, verb in KEY_VERBS.items() if name not in ("get_many", "delete_many")
}
"""Verbs that take a key and allow to omit the caller."""

WRITES: Final[dict[str, Write]] = {
    "create": lambda store, given, _expected: store.create(given),
    "put": lambda store, given, _expected: store.put(given),
    "put_many": _put_many,
    "update_cas": lambda store, given, expected: store.update_cas(given, expected),
}
"""Verbs that take a session."""


async def _put_by_mutate(store: AsyncSessionStore[Any], given: Any, _expected: Cas) -> Cas:
    def become(_found: Session[Any]) -> Session[Any]:
        return evolve(given)

    return (await store.mutate(given.key, become)).cas


CHANGES: Final[dict[str, Write]] = {
    "put": WRITES["put"],
    "put_many": _put_many,
    "update_cas": WRITES["update_cas"],
    "mutate": _put_by_mutate,
}
"""Verbs that replace a live session."""


async def _absent_get(
    store: AsyncSessionStore[Any], key: SessionKey, caller: TenantCtx, _token: Cas
) -> None:
    assert await store.get(key, ctx=caller) is None


async def _absent_get_many(
    store: AsyncSessionStore[Any], key: SessionKey, caller: TenantCtx, _token: Cas
) -> None:
    assert await store.get_many([key, key], ctx=caller) == [None, None]


async def _absent_scan(
    store: AsyncSessionStore[Any], _key: SessionKey, caller: TenantCtx, _token: Cas
) -> None:
    assert [found async for found in store.scan(caller)] == []


async def _absent_touch(
    store: AsyncSessionStore[Any], key: SessionKey, caller: TenantCtx, _token: Cas
) -> None:
    assert await store.touch(key, ctx=caller) is False


async def _absent_touch_with_a_life(
    store: AsyncSessionStore[Any], key: SessionKey, caller: TenantCtx, _token: Cas
) -> None:
    assert await store.touch(key, 1000, ctx=caller) is False
    assert await store.touch(key, 0, ctx=caller) is False


async def _absent_delete(
    store: AsyncSessionStore[Any], key: SessionKey, caller: TenantCtx, _token: Cas
) -> None:
    assert await store.delete(key, ctx=caller) is False


async def _absent_delete_expected(
    store: AsyncSessionStore[Any], key: SessionKey, caller: TenantCtx, token: Cas
) -> None:
    assert await store.delete(key, ctx=caller, expected=token) is False
    assert await store.delete(key, ctx=caller, expected=Cas.none()) is False


async def _absent_mutate(
    store: AsyncSessionStore[Any], key: SessionKey, caller: TenantCtx, _token: Cas
) -> None:
    with pytest.raises(SessionNotFoundError) as caught:
        await store.mutate(key, same, ctx=caller)
    assert caught.value.key == key
    assert caught.value.code == "not_found"
    assert isinstance(caught.value, LookupError)


async def _absent_require(
    store: AsyncSessionStore[Any], key: SessionKey, caller: TenantCtx, _token: Cas
) -> None:
    with pytest.raises(SessionNotFoundError) as caught:
        await store.require(key, ctx=caller)
    assert caught.value.key == key


async def _absent_exists(
    store: AsyncSessionStore[Any], key: SessionKey, caller: TenantCtx, _token: Cas
) -> None:
    assert await store.exists(key, ctx=caller) is False


async def _absent_delete_many(
    store: AsyncSessionStore[Any], key: SessionKey, caller: TenantCtx, _token: Cas
) -> None:
    assert await store.delete_many([key, key], ctx=caller) == [False, False]


async def _absent_mutate_to_nothing(
    store: AsyncSessionStore[Any], key: SessionKey, caller: TenantCtx, _token: Cas
) -> None:
    with pytest.raises(SessionNotFoundError):
        await store.mutate(key, nothing, ctx=caller)

    def make() -> Session[Any]:
        return session(key, owner=caller)

    assert await store.mutate(key, nothing, default=make, ctx=caller) is None


async def _absent_update_cas(
    store: AsyncSessionStore[Any], key: SessionKey, caller: TenantCtx, token: Cas
) -> None:
    with pytest.raises(CasConflictError) as caught:
        await store.update_cas(session(key, owner=caller), token)
    assert (caught.value.key, caught.value.expected) == (key, token)
    assert caught.value.current == Cas.none()


async def _absent_update_cas_none(
    store: AsyncSessionStore[Any], key: SessionKey, caller: TenantCtx, _token: Cas
) -> None:
    with pytest.raises(CasConflictError) as caught:
        await store.update_cas(session(key, owner=caller), Cas.none())
    assert caught.value.expected == caught.value.current == Cas.none()


ABSENCES: Final[dict[str, Absence]] = {
    "get": _absent_get,
    "get_many": _absent_get_many,
    "scan": _absent_scan,
    "touch": _absent_touch,
    "touch with a life": _absent_touch_with_a_life,
    "delete": _absent_delete,
    "delete with a token": _absent_delete_expected,
    "mutate": _absent_mutate,
    "mutate to nothing": _absent_mutate_to_nothing,
    "require": _absent_require,
    "exists": _absent_exists,
    "delete_many": _absent_delete_many,
    "update_cas": _absent_update_cas,
    "update_cas with the token of nothing": _absent_update_cas_none,
}
"""Results of each verb, other than create, for an absent session."""
