"""Views of a store that are bound to one caller or one tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, Literal, final, overload

from ._core.tenancy import WholeTenant, check_caller_may_write, scope_of
from ._validation import require_sequence
from .abc.fencing import UNFENCED
from .errors import SessionError
from .model import C

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from datetime import timedelta

    from ._core.unreadable import OnError
    from ._core.verbs.mutating import N
    from .abc.fencing import Fenced
    from .abc.records import UnreadableSession
    from .model import Cas, Session, SessionKey, TenantCtx, Versioned
    from .store import AsyncSessionStore

__all__ = ["ScopedSessionStore", "TenantSessionStore", "unscoped"]

_NO_LABELS: Final[Mapping[str, str | int | bool]] = {}


@final
class ScopedSessionStore(Generic[C]):
    """A view of a store that applies the access check of one :class:`TenantCtx` to every call.

    The verbs are those of :class:`AsyncSessionStore` without ``ctx``, with the same results and
    errors. ``create``, ``put`` and ``update_cas`` refuse a session of another env, tenant, team or
    user before any I/O, with :class:`TenantMismatchError`.

    :meth:`AsyncSessionStore.scoped` makes a view. A view does not close the store.

    :ivar ctx: the caller.
    """

    def __init__(self, store: AsyncSessionStore[C], ctx: TenantCtx) -> None:
        self._store: Final = store
        self.ctx: Final = ctx

    async def get(self, key: SessionKey) -> Versioned[C] | None:
        """As :meth:`AsyncSessionStore.get`."""
        return await self._store.get(key, ctx=self.ctx)

    @overload
    async def get_many(
        self, keys: Sequence[SessionKey], *, on_error: Literal["raise", "skip"] = "raise"
    ) -> list[Versioned[C] | None]: ...

    @overload
    async def get_many(
        self, keys: Sequence[SessionKey], *, on_error: Literal["return"]
    ) -> list[Versioned[C] | UnreadableSession | None]: ...

    async def get_many(
        self, keys: Sequence[SessionKey], *, on_error: OnError = "raise"
    ) -> Sequence[Versioned[C] | UnreadableSession | None]:
        """As :meth:`AsyncSessionStore.get_many`."""
        if on_error == "return":
            return await self._store.get_many(keys, ctx=self.ctx, on_error=on_error)
        return await self._store.get_many(keys, ctx=self.ctx, on_error=on_error)

    async def require(self, key: SessionKey) -> Versioned[C]:
        """As :meth:`AsyncSessionStore.require`."""
        return await self._store.require(key, ctx=self.ctx)

    async def exists(self, key: SessionKey) -> bool:
        """As :meth:`AsyncSessionStore.exists`."""
        return await self._store.exists(key, ctx=self.ctx)

    async def create(self, session: Session[C]) -> Cas:
        """As :meth:`AsyncSessionStore.create`."""
        check_caller_may_write(self.ctx, session)
        return await self._store.create(session)

    async def put(
        self,
        session: Session[C],
        *,
        fence: Fenced = UNFENCED,
        ttl: timedelta | float | None = None,
    ) -> Cas:
        """As :meth:`AsyncSessionStore.put`."""
        check_caller_may_write(self.ctx, session)
        return await self._store.put(session, fence=fence, ttl=ttl)

    async def put_many(self, sessions: Sequence[Session[C]]) -> list[Cas | SessionError]:
        """As :meth:`AsyncSessionStore.put_many`.

        In place of a session that this caller may not write, the list has the error.
        """
        require_sequence(sessions, "sessions")
        refused = [self._refusal(session) for session in sessions]
        written = iter(
            await self._store.put_many(
                [one for one, error in zip(sessions, refused, strict=True) if error is None]
            )
        )
        return [next(written) if error is None else error for error in refused]

    def _refusal(self, session: Session[C]) -> SessionError | None:
        try:
            check_caller_may_write(self.ctx, session)
        except SessionError as error:
            return error.with_traceback(None)
        return None

    async def update_cas(
        self,
        session: Session[C],
        expected: Cas,
        *,
        fence: Fenced = UNFENCED,
        ttl: timedelta | float | None = None,
    ) -> Cas:
        """As :meth:`AsyncSessionStore.update_cas`."""
        check_caller_may_write(self.ctx, session)
        return await self._store.update_cas(session, expected, fence=fence, ttl=ttl)

    async def get_or_create(self, key: SessionKey, make: Callable[[], Session[C]]) -> Versioned[C]:
        """As :meth:`AsyncSessionStore.get_or_create`."""
        return await self._store.get_or_create(key, make, ctx=self.ctx)

    async def mutate(
        self,
        key: SessionKey,
        change: Callable[[Session[C]], Session[C] | N],
        *,
        default: Callable[[], Session[C]] | None = None,
        attempts: int = 1000,
    ) -> Versioned[C] | N:
        """As :meth:`AsyncSessionStore.mutate`."""
        return await self._store.mutate(
            key, change, default=default, ctx=self.ctx, attempts=attempts
        )

    async def touch(
        self,
        key: SessionKey,
        ttl_secs: timedelta | float | None = None,
        *,
        ttl: timedelta | float | None = None,
    ) -> bool:
        """As :meth:`AsyncSessionStore.touch`."""
        return await self._store.touch(key, ttl_secs, ctx=self.ctx, ttl=ttl)

    async def delete(self, key: SessionKey, *, expected: Cas | None = None) -> bool:
        """As :meth:`AsyncSessionStore.delete`."""
        return await self._store.delete(key, ctx=self.ctx, expected=expected)

    async def delete_many(self, keys: Sequence[SessionKey]) -> list[bool | SessionError]:
        """As :meth:`AsyncSessionStore.delete_many`."""
        return await self._store.delete_many(keys, ctx=self.ctx)

    def find(
        self,
        *,
        user_id: str | None = None,
        labels: Mapping[str, str | int | bool] = _NO_LABELS,
        limit: int | None = None,
    ) -> AsyncIterator[Versioned[C]]:
        """As :meth:`AsyncSessionStore.find`, for the sessions that :meth:`get` would return."""
        return self._store.find(self.ctx, user_id=user_id, labels=labels, limit=limit, fenced=True)

    def find_keys(
        self,
        *,
        user_id: str | None = None,
        labels: Mapping[str, str | int | bool] = _NO_LABELS,
        limit: int | None = None,
    ) -> AsyncIterator[SessionKey]:
        """As :meth:`AsyncSessionStore.find_keys`, for the sessions of :meth:`find`."""
        return self._store.find_keys(
            self.ctx, user_id=user_id, labels=labels, limit=limit, fenced=True
        )

    async def count(
        self,
        *,
        user_id: str | None = None,
        labels: Mapping[str, str | int | bool] = _NO_LABELS,
    ) -> int:
        """As :meth:`AsyncSessionStore.count`, for the sessions of :meth:`find`."""
        return await self._store.count(self.ctx, user_id=user_id, labels=labels, fenced=True)

    @overload
    def scan(
        self, *, batch_size: int = 256, on_error: Literal["raise", "skip"] = "raise"
    ) -> AsyncIterator[Versioned[C]]: ...

    @overload
    def scan(
        self, *, batch_size: int = 256, on_error: Literal["return"]
    ) -> AsyncIterator[Versioned[C] | UnreadableSession]: ...

    def scan(
        self, *, batch_size: int = 256, on_error: OnError = "raise"
    ) -> AsyncIterator[Versioned[C] | UnreadableSession]:
        """Iterate over the live sessions that :meth:`get` would return to this caller.

        :param on_error: as in :meth:`AsyncSessionStore.scan`.
        """
        if on_error == "return":
            return self._store.scan(self.ctx, batch_size=batch_size, fenced=True, on_error=on_error)
        return self._store.scan(self.ctx, batch_size=batch_size, fenced=True, on_error=on_error)


@final
class TenantSessionStore(Generic[C]):
    """A view of the sessions of one tenant, of every team and user.

    Another tenant's sessions do not exist for it. The view is for a service that proves the caller
    itself. Each verb takes one round trip, as it needs neither the session's owner nor a lookup.
    Results and errors are those of :class:`AsyncSessionStore` with a ``ctx`` that passes the access
    check.

    :meth:`AsyncSessionStore.tenant` makes a view. A view does not close the store.

    :ivar env: deployment environment.
    :ivar tenant_id: the tenant.
    """

    def __init__(self, store: AsyncSessionStore[C], env: str, tenant_id: str) -> None:
        self._store: Final = store
        self._ctx: Final = WholeTenant(tenant_id=tenant_id, env=env)
        scope_of(self._ctx)
        self.env: Final = env
        self.tenant_id: Final = tenant_id

    async def get(self, key: SessionKey) -> Versioned[C] | None:
        """As :meth:`AsyncSessionStore.get`."""
        return await self._store.get(key, ctx=self._ctx)

    @overload
    async def get_many(
        self, keys: Sequence[SessionKey], *, on_error: Literal["raise", "skip"] = "raise"
    ) -> list[Versioned[C] | None]: ...

    @overload
    async def get_many(
        self, keys: Sequence[SessionKey], *, on_error: Literal["return"]
    ) -> list[Versioned[C] | UnreadableSession | None]: ...

    async def get_many(
        self, keys: Sequence[SessionKey], *, on_error: OnError = "raise"
    ) -> Sequence[Versioned[C] | UnreadableSession | None]:
        """As :meth:`AsyncSessionStore.get_many`. Up to 16 small sessions take one round trip."""
        if on_error == "return":
            return await self._store.get_many(keys, ctx=self._ctx, on_error=on_error)
        return await self._store.get_many(keys, ctx=self._ctx, on_error=on_error)

    async def touch(self, key: SessionKey, ttl_secs: timedelta | float | None = None) -> bool:
        """As :meth:`AsyncSessionStore.touch`."""
        return await self._store.touch(key, ttl_secs, ctx=self._ctx)

    async def delete(self, key: SessionKey, *, expected: Cas | None = None) -> bool:
        """As :meth:`AsyncSessionStore.delete`."""
        return await self._store.delete(key, ctx=self._ctx, expected=expected)


def unscoped(
    store: AsyncSessionStore[C] | ScopedSessionStore[C],
) -> tuple[AsyncSessionStore[C], TenantCtx | None]:
    """Return the store that a service works on, and the caller that it is bound to.

    :param store: a store, or a view of one.
    :returns: the caller is ``None`` for a store, which serves all callers.
    """
    if isinstance(store, ScopedSessionStore):
        # The view is of this module.
        return store._store, store.ctx  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    return store, None
