"""Locks: one holder of a key at a time across processes, with fencing tokens."""

from __future__ import annotations

import os
import secrets
import socket
from contextlib import asynccontextmanager, suppress
from datetime import datetime  # noqa: TC003 - msgspec reads it
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

import anyio
import msgspec

from .._compat import override
from .._core import tenancy
from .._core.leases import RELEASE_SECS, LeaseEnd, LeaseHandle
from .._core.tasks import run_to_completion
from .._core.times import datetime_of
from .._core.verbs.base import services_of
from .._validation import check_key, duration_to_ms, require_clean_text, wait_to_ms
from ..abc.fencing import LeaseKind, LeaseRef
from ..abc.locks import LockOutcome, LockRef, LockRequest, lock_backend_of
from ..abc.records import DONE
from ..errors import (
    LockHeldError,
    OutcomeUnknownError,
    SessionError,
    StoreFullError,
    StoreUnavailableError,
)
from ..scoped import unscoped

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from datetime import timedelta

    from ..abc.locks import LockBackend
    from ..abc.notifications import Subscription
    from ..model import SessionKey, TenantCtx
    from ..scoped import ScopedSessionStore
    from ..store import AsyncSessionStore

__all__ = ["LockHolder", "SessionLease", "SessionLocks"]

_LEASE_SECS: Final = 30.0
_PLACE_SECS: Final = 10.0
_ASKS: Final = 5
"""Number of polls of a waiter during the lifetime of its queue position, in case a notification is
lost. A free lock skips a waiter after a quarter of that time, so the number is more than four."""
_MAX_NAME_CHARS: Final = 256


class LockHolder(msgspec.Struct, frozen=True, kw_only=True):
    """The holder of a lock.

    :ivar name: name of the holder, as given to its :class:`SessionLocks`.
    :ivar fence: fencing token of the grant.
    :ivar until: end of the lease unless renewed: aware UTC, by the store's clock.
    """

    name: str
    fence: int
    until: datetime


@final
class SessionLease(LeaseHandle):
    """A lock that is held, until the block around it ends or its lease is lost.

    :meth:`SessionLocks.hold` and :meth:`SessionLocks.try_hold` make it. ``store.put(…,
    fence=lease)`` and ``store.update_cas(…, fence=lease)`` write only while the lease is held.
    """

    __slots__ = ("_backend", "_left_at", "_ref", "guard")

    _KIND: ClassVar[str] = "lock"
    _SUBJECT: ClassVar[str] = "the lock"

    def __init__(
        self,
        backend: LockBackend,
        check_open: Callable[[], None],
        request: LockRequest,
        outcome: LockOutcome,
        sent_at: float,
    ) -> None:
        end = LeaseEnd(outcome.lease_ms, outcome.left_ms)
        super().__init__(check_open, request.lease_ms, end, sent_at)
        self._backend: Final = backend
        self._ref: Final = request.ref
        self._left_at: float | None = None
        self.guard: Final = LeaseRef(
            kind=LeaseKind.LOCK,
            scope=request.ref.scope,
            key=request.ref.key,
            fence=outcome.fence,
        )

    @property
    def key(self) -> SessionKey:
        """The locked key."""
        return self.guard.key

    @property
    def fence(self) -> int:
        """Fencing token of this grant, higher than that of every earlier grant of the key.

        That holds even if the lock was free in between, unless the server's clock is set back.
        Among the grants of one store object, it always holds.

        Pass the token to other systems that are written to under the lock. They should refuse lower
        tokens.
        """
        return self.guard.fence

    @property
    def until(self) -> datetime:
        """End of the lease unless renewed: aware UTC, by the store's clock."""
        return self._until

    async def renew(self, lease: timedelta | float | None = None) -> datetime:
        """Renew the lease. A renewal never shortens it.

        Replicas need not confirm a renewal: see :attr:`RedisConfig.acks`.

        :param lease: length of the lease from now, in seconds or as a :class:`datetime.timedelta`.
            ``None`` is the length of the first grant.
        :returns: :attr:`until`.
        :raises LeaseLostError: the lease had ended, whether or not the lock has another holder now.
            Or the lock was released.
        :raises StoreUnavailableError: nothing changed.
        :raises OutcomeUnknownError: it is unknown whether the lease was renewed.
        """
        return await self._renew(lease)

    async def release(self) -> bool:
        """Release the lock immediately, before the block ends.

        :returns: ``False`` if the lock was lost.
        :raises StoreUnavailableError: the lock was not released. It ends with its lease.
        :raises OutcomeUnknownError: it is unknown whether the lock was released. It ends with its
            lease.
        """
        return await self._release()

    @override
    async def _send_renew(self, lease_ms: int) -> LeaseEnd | None:
        outcome = await self._backend.call().renew(self._ref, lease_ms)
        if outcome.verdict is not DONE:
            return None
        return LeaseEnd(outcome.lease_ms, outcome.left_ms)

    @override
    async def _send_release(self) -> bool:
        self._check_open()
        left_at = self._left_at  # time of an earlier call whose reply was lost
        if left_at is None:
            self._left_at = anyio.current_time()
        try:
            held = await self._backend.call().release(self._ref, self._ends_ms)
        except StoreUnavailableError:
            self._left_at = left_at
            raise
        if not held and left_at is not None:
            held = left_at < self._renewer.ends_at  # then only that call can have ended the lease
        return held


@final
class SessionLocks:
    """Locks on session keys, each with one holder at a time, on any store of this library.

    The caller opens and closes the store. All objects on the same backend share their locks. A
    holder has a lock for the time of a lease, which is renewed while the block runs. If the holder
    dies, the lock is free when the lease ends.

    A paused process may not know that its lease has ended. So pass the lease's
    :attr:`~SessionLease.fence` with each write under the lock.

    * Waiters get the lock in the order of their arrival. A waiter that died or cannot reach the
      store is skipped after a quarter of ``place``.
    * A lock belongs to the block that holds it. A task that holds a lock and waits for it again
      waits for itself.
    * With ``ctx``, the lock is on the key in that env and tenant. Without ``ctx``, it is on the key
      alone. These are different locks. No session need exist under the key.
    * A key without holder and waiters costs nothing.

    Each verb may raise :class:`InvalidInputError` before any I/O, and
    :class:`StoreUnavailableError`.

    :param store: a store whose backend has locks, as all stores of this library do. With a scoped
        view, all locks are on keys in the caller's env and tenant, and a ``ctx`` of another caller
        raises :class:`TenantMismatchError` before any I/O.
    :param name: name of this holder, for people: see :meth:`holder`. The default is host and
        process.
    :param place: how long a waiter keeps its queue position without polling, in seconds or as a
        :class:`datetime.timedelta`. All objects on the same backend should agree.
    """

    def __init__(
        self,
        # Any: locks do not use contexts
        store: AsyncSessionStore[Any] | ScopedSessionStore[Any],
        *,
        name: str | None = None,
        place: timedelta | float = _PLACE_SECS,
    ) -> None:
        store, self._bound = unscoped(store)
        backend = lock_backend_of(store)
        if name is None:
            name = f"{socket.gethostname()}:{os.getpid()}"[:_MAX_NAME_CHARS]
        self._store: Final = store
        self._services: Final = services_of(store)
        self._backend: Final = backend
        self._name: Final = require_clean_text(name, "name", _MAX_NAME_CHARS)
        self._place_ms: Final = duration_to_ms(place, "place")
        self._held: Final[dict[SessionLease, None]] = {}

    @asynccontextmanager
    async def hold(
        self,
        key: SessionKey,
        lease: timedelta | float = _LEASE_SECS,
        wait: timedelta | float | None = None,
        *,
        ctx: TenantCtx | None = None,
    ) -> AsyncGenerator[SessionLease]:
        """Hold the lock while the block runs, after waiting for the earlier waiters.

        * **Lease.** It is renewed at a third of its length. If it is lost, a cancel scope cancels
          the block. Calls that the block awaits end at once, unless they are shielded. The block is
          left in the task that entered it, inner blocks before outer ones (anyio docs,
          "Cancellation and timeouts").
        * **Release.** Leaving the block releases the lock, also if the task is cancelled.
        * **Cancelled waiters.** A cancelled waiter first gives its queue position back. That takes
          at most 5 s if the store does not reply.
        * **Limit.** Waiting may exceed ``wait`` by the deadline of the last call, and by the time
          to give the queue position back.
        * **Lost connections.** A waiter retries until ``wait`` is over, or ``place`` has passed
          since the last reply. Then the error is raised. It is raised at once if the store refuses
          the call, was closed, or is unavailable from the start.

        :param key: the key to lock.
        :param lease: length of the lease, in seconds or as a :class:`datetime.timedelta`. The lock
            of a dead holder is free after it.
        :param wait: longest time to wait, in the same units. ``None`` waits without a limit. 0, or
            less than 1 ms, does not wait.
        :param ctx: the caller, which gives env and tenant.
        :raises LockHeldError: the lock had another holder for all of ``wait``.
        :raises LeaseLostError: on leaving, if the lease was lost and the block raised nothing else.
        :raises StoreUnavailableError: the lock is not held.
        :raises OutcomeUnknownError: on entering. If the lock was taken, it was released or ends
            with its lease.
        :raises DurabilityError: the lock was taken, on fewer replicas than ``acks``, and released.
        """
        held = await self._take(key, lease, wait, ctx)
        if not isinstance(held, SessionLease):
            raise LockHeldError(check_key(key), datetime_of(held.lease_ms))
        async with self._listed(held):
            yield held

    @asynccontextmanager
    async def try_hold(
        self,
        key: SessionKey,
        lease: timedelta | float = _LEASE_SECS,
        *,
        ctx: TenantCtx | None = None,
    ) -> AsyncGenerator[SessionLease | None]:
        """Hold the lock while the block runs, if it is free and has no waiters.

        :param key: as in :meth:`hold`.
        :param lease: as in :meth:`hold`.
        :param ctx: as in :meth:`hold`.
        :returns: the lease, or ``None`` if the lock has another holder or waiters. A write with
            ``None`` as its ``fence`` is refused.
        :raises: as :meth:`hold`, except for :class:`LockHeldError`.
        """
        held = await self._take(key, lease, 0, ctx)
        if not isinstance(held, SessionLease):
            yield None
            return
        async with self._listed(held):
            yield held

    async def holder(self, key: SessionKey, *, ctx: TenantCtx | None = None) -> LockHolder | None:
        """Return the holder of the lock, or ``None`` if the lock is free.

        :param key: as in :meth:`hold`.
        :param ctx: as in :meth:`hold`.
        """
        self._services.check_open()
        key = check_key(key)
        scope = tenancy.scope_of_key(self._bound, ctx, key)
        found = await self._backend.call().holder(scope, key)
        if found is None:
            return None
        return LockHolder(name=found.name, fence=found.fence, until=datetime_of(found.lease_ms))

    def held(self) -> tuple[SessionLease, ...]:
        """Return the leases that blocks of this object hold, as known locally. No I/O."""
        return tuple(lease for lease in self._held if not lease.ended)

    # --- shared steps ------------------------------------------------------------------------

    async def _take(
        self,
        key: SessionKey,
        lease: timedelta | float,
        wait: timedelta | float | None,
        ctx: TenantCtx | None,
    ) -> SessionLease | LockOutcome:
        """Take the lock, or return its holder's lease when the time is over."""
        self._services.check_open()
        key = check_key(key)
        scope = tenancy.scope_of_key(self._bound, ctx, key)
        ref = LockRef(scope, key, secrets.token_urlsafe(16))
        lease_ms = duration_to_ms(lease, "lease")
        wait_ms = None if wait is None else wait_to_ms(wait, "wait")
        request = LockRequest(ref, self._name, lease_ms, self._place_ms, queues=wait_ms != 0)
        ends_at = None if wait_ms is None else anyio.current_time() + wait_ms / 1000
        must_leave = True
        asked_at = anyio.current_time()
        try:
            try:
                held = await self._ask(request)
            except StoreUnavailableError:
                must_leave = False  # nothing was taken
                raise
            if isinstance(held, LockOutcome) and request.queues:
                # Only now, because a free lock needs no subscription.
                async with self._backend.subscribe(request.ref.token) as subscription:
                    held = await self._wait(request, held, subscription, asked_at, ends_at)
            must_leave = isinstance(held, LockOutcome) and request.queues
            return held
        finally:
            if must_leave:
                await self._leave(request)

    async def _wait(
        self,
        request: LockRequest,
        held: LockOutcome,
        subscription: Subscription,
        asked_at: float,
        ends_at: float | None,
    ) -> SessionLease | LockOutcome:
        """Retry until the lock is taken or the time is over.

        :param held: the last reply.
        :param asked_at: time of the request for that reply, on the loop's clock. The queue position
            is held from then on.
        """
        often_secs = max(1, self._place_ms // _ASKS) / 1000
        next_secs = held.left_ms / 1000
        while True:
            secs = min(next_secs, often_secs)
            if ends_at is not None:
                left_secs = ends_at - anyio.current_time()
                if left_secs <= 0:
                    return held
                secs = min(secs, left_secs)
            await subscription.wait(secs)
            self._services.check_open()
            now = anyio.current_time()
            try:
                found = await self._ask(request)
            except (StoreUnavailableError, OutcomeUnknownError) as error:
                # The request names its token, so a retry is safe whatever the last outcome was.
                if not self._tolerates(error, asked_at, ends_at):
                    raise
                next_secs = often_secs
                continue
            if isinstance(found, SessionLease):
                return found
            held, asked_at, next_secs = found, now, found.left_ms / 1000

    def _tolerates(
        self,
        error: StoreUnavailableError | OutcomeUnknownError,
        asked_at: float,
        ends_at: float | None,
    ) -> bool:
        """Return whether the waiter still has its queue position and time for a retry."""
        now = anyio.current_time()
        return (
            error.code in ("timeout", "unavailable")
            and not isinstance(error, StoreFullError)
            and now - asked_at < self._place_ms / 1000
            and (ends_at is None or now < ends_at)
        )

    async def _ask(self, request: LockRequest) -> SessionLease | LockOutcome:
        self._services.check_open()
        sent_at = anyio.current_time()
        outcome = await self._backend.call().acquire(request)
        if outcome.verdict is not DONE:
            return outcome
        return SessionLease(self._backend, self._services.check_open, request, outcome, sent_at)

    async def _leave(self, request: LockRequest) -> None:
        async def leave() -> None:
            with suppress(SessionError):  # otherwise it ends by itself
                await self._backend.call().release(request.ref, 0)

        await run_to_completion(leave, "greentic_session leaving a lock", RELEASE_SECS)

    @asynccontextmanager
    async def _listed(self, lease: SessionLease) -> AsyncGenerator[None]:
        """Renew a lease while the block runs, and list it as held."""
        self._held[lease] = None
        try:
            async with lease.auto_renew():
                yield
        finally:
            del self._held[lease]
