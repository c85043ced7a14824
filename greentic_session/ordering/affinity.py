"""The public API of affinity: group membership, and the worker that serves a key."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from datetime import datetime  # noqa: TC003 - msgspec reads it
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, final
from uuid import uuid4

import anyio
import msgspec

from .._compat import override
from .._core import tenancy
from .._core.leases import RELEASE_SECS, LeaseEnd, LeaseHandle
from .._core.tasks import run_to_completion
from .._core.times import datetime_of
from .._core.verbs.base import services_of
from .._validation import MAX_IDENTIFIER_CHARS, check_key, duration_to_ms, require_clean_text
from ..abc.affinity import affinity_backend_of, affinity_key
from ..abc.records import Verdict
from ..errors import (
    DurabilityError,
    MemberExistsError,
    OutcomeUnknownError,
    SessionError,
)
from ..model import SessionKey
from ..scoped import unscoped

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from datetime import timedelta

    from ..abc.affinity import AffinityBackend, MembershipOutcome, PlacementPage, PlacementRecord
    from ..model import TenantCtx
    from ..scoped import ScopedSessionStore
    from ..store import AsyncSessionStore

__all__ = ["Member", "Membership", "Placement", "SessionAffinity"]

_TTL_SECS: Final = 3600.0
_LEASE_SECS: Final = 15.0


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """The placement of a key: the worker that serves it.

    :ivar worker: name of the worker, which is a live member.
    :ivar pinned: whether the key is pinned to this worker.
    :ivar expires_at: when the placement expires unless it is used (aware UTC), by the store's
        clock.
    """

    worker: str
    pinned: bool
    expires_at: datetime


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A live member of the group.

    :ivar worker: name of the worker.
    :ivar fence: as :attr:`Membership.fence`.
    :ivar lease_until: end of its lease unless renewed (aware UTC), by the store's clock.
    """

    worker: str
    fence: int
    lease_until: datetime


@final
class _Group:
    """A group of workers on a store.

    :param backend: the store's affinity backend.
    :param name: name of the group.
    :param check_open: raises :class:`StoreUnavailableError` if the store was closed.
    """

    def __init__(self, backend: AffinityBackend, name: str, check_open: Callable[[], None]) -> None:
        self._backend: Final = backend
        self.check_open: Final = check_open
        self.name: Final = name

    @property
    def backend(self) -> AffinityBackend:
        """The affinity backend.

        :raises StoreUnavailableError: the store is closed.
        """
        self.check_open()
        return self._backend


@final
class Membership(LeaseHandle):
    """A worker's own membership. :meth:`SessionAffinity.member` makes it.

    :ivar worker: the worker's name.
    """

    _KIND: ClassVar[str] = "membership"
    _SUBJECT: ClassVar[str] = "the membership"

    def __init__(
        self,
        group: _Group,
        worker: str,
        attempt: str,
        *,
        lease_ms: int,
        outcome: MembershipOutcome,
        sent_at: float,
    ) -> None:
        end = LeaseEnd(outcome.ends_ms, outcome.left_ms)
        super().__init__(group.check_open, lease_ms, end, sent_at)
        self.worker: Final = worker
        self._attempt: Final = attempt
        self._group: Final = group
        self._fence: Final = outcome.fence

    @property
    def fence(self) -> int:
        """Fencing token of this membership, higher than every earlier one of the same name.

        That holds even if the name had no member in between, unless the server's clock is set back.
        Among the memberships of one store object, it always holds.

        Pass the token to other systems that the worker writes to. They should refuse lower tokens.
        """
        return self._fence

    @property
    def lease_until(self) -> datetime:
        """End of the lease unless renewed: aware UTC, by the store's clock."""
        return self._until

    @override
    async def _send_renew(self, lease_ms: int) -> LeaseEnd | None:
        group = self._group
        outcome = await group.backend.renew(group.name, self.worker, self._attempt, lease_ms)
        if outcome.verdict is not Verdict.DONE:
            return None
        return LeaseEnd(outcome.ends_ms, outcome.left_ms)

    @override
    async def _send_release(self) -> bool:
        group = self._group
        return await group.backend.leave(group.name, self.worker, self._attempt)


@final
class SessionAffinity:
    """Returns which worker of a group serves a key, so that all callers use the same worker.

    .. code-block:: python

        affinity = SessionAffinity(store, "connectors")
        async with affinity.member("worker-1"):
            placement = await affinity.worker_for(key, ctx=ctx)

    * **Members.** A worker is a member while its block runs and its lease is renewed. If it dies,
      it stays a member until its lease ends.
    * **Sticky.** A key stays with its worker while that worker is live, even if other workers join
      or leave. A worker that returns under its name gets its keys back, except those that were
      assigned again meanwhile.
    * **Few moves.** A key without a live worker is assigned by rendezvous hashing over the live
      members. So the keys of a dead worker spread evenly over the others, each at its next use. No
      other key moves.
    * **Lifetimes.** A placement expires if it is not used for its lifetime. :meth:`worker_for` and
      :meth:`touch` restart the lifetime. An expired placement is absent, and leaves nothing behind.
    * **Tenants.** With ``ctx``, a key belongs to that tenant. Equal keys of two tenants are
      different keys, served by the same workers. Without ``ctx``, a key belongs to no tenant. Team
      and user make no difference.

    Affinity routes work. It is not a lock: a partitioned worker continues until its block learns
    that the lease is lost. Use a fencing token to protect work that must not happen twice.

    Any verb may raise :class:`StoreUnavailableError` (nothing written). A verb that writes may also
    raise :class:`OutcomeUnknownError` (repeat it, or read). With ``acks``, it may raise
    :class:`DurabilityError` (written, but :meth:`member` releases the name).

    :param store: a store whose backend has affinity, as all stores of this library do. With a
        scoped view, all keys are of the caller's tenant, and a ``ctx`` of another caller raises
        :class:`TenantMismatchError` before any I/O.
    :param group: name of the workers' group: 1 to 128 characters, no control characters.
    :param ttl: lifetime of a placement since its last use. A :class:`datetime.timedelta` or
        seconds.
    :raises InvalidInputError: naming the invalid argument.
    """

    def __init__(
        self,
        # Any: affinity does not use contexts
        store: AsyncSessionStore[Any] | ScopedSessionStore[Any],
        group: str = "default",
        *,
        ttl: timedelta | float = _TTL_SECS,
    ) -> None:
        store, self._bound = unscoped(store)
        backend = affinity_backend_of(store)
        name = require_clean_text(group, "group", MAX_IDENTIFIER_CHARS)
        self._group: Final = _Group(backend, name, services_of(store).check_open)
        self._ttl_ms: Final = duration_to_ms(ttl, "ttl")

    # --- members -----------------------------------------------------------------------------

    @asynccontextmanager
    async def member(
        self, worker: str, *, lease: timedelta | float = _LEASE_SECS
    ) -> AsyncGenerator[Membership]:
        """Join the group for a block, and leave it at the end.

        While the block runs, the lease is renewed after each third of its length. The lease is lost
        if it ends before a renewal. Then another worker may get the name, and the block is
        cancelled as by :meth:`SessionLocks.hold`.

        If leaving does not reach the store, the membership ends with its lease. If joining has an
        unknown outcome or is cancelled, the name is released if the store can be reached.

        :param worker: name of the worker: 1 to 128 characters, no control characters.
        :param lease: how long the worker stays a member if it dies. A :class:`datetime.timedelta`
            or seconds to 1 ms.
        :raises MemberExistsError: a live member has that name.
        :raises LeaseLostError: on leaving, if the lease was lost meanwhile.
        :raises InvalidInputError: naming ``worker`` or ``lease``.
        """
        backend, group = self._group.backend, self._group.name
        worker = _worker(worker)
        lease_ms = duration_to_ms(lease, "lease")
        attempt = uuid4().hex
        sent_at = anyio.current_time()
        try:
            outcome = await backend.join(group, worker, attempt, lease_ms)
        except (OutcomeUnknownError, DurabilityError, anyio.get_cancelled_exc_class()):

            async def leave() -> None:
                with suppress(SessionError):
                    await backend.leave(group, worker, attempt)

            await run_to_completion(leave, "greentic_session end of membership", RELEASE_SECS)
            raise
        if outcome.verdict is not Verdict.DONE:
            raise MemberExistsError(worker, datetime_of(outcome.ends_ms))
        membership = Membership(
            self._group, worker, attempt, lease_ms=lease_ms, outcome=outcome, sent_at=sent_at
        )
        async with membership.auto_renew():
            yield membership

    async def members(self) -> tuple[Member, ...]:
        """Return the live members, sorted by name."""
        backend, group = self._group.backend, self._group.name
        return tuple(
            Member(
                worker=record.worker, fence=record.fence, lease_until=datetime_of(record.ends_ms)
            )
            for record in sorted(await backend.members(group))
        )

    # --- keys --------------------------------------------------------------------------------

    async def worker_for(
        self, key: SessionKey, *, ctx: TenantCtx | None = None
    ) -> Placement | None:
        """Return the worker that serves a key, and assign one if there is none, in one step.

        The worker is the first of these that is a live member:

        * the worker that the key is pinned to,
        * the worker that the key was last assigned to,
        * a member chosen by rendezvous hashing.

        The placement's lifetime restarts.

        :param key: 1 to 512 characters, no control characters.
        :param ctx: the tenant of the key, ``None`` for a key of no tenant.
        :returns: ``None`` if there is no live member. Then nothing was written.
        :raises InvalidInputError: naming ``key``, or the invalid field of ``ctx``.
        """
        backend, group = self._group.backend, self._group.name
        return _placement(await backend.assign(group, self._named(key, ctx), self._ttl_ms))

    async def placement(self, key: SessionKey, *, ctx: TenantCtx | None = None) -> Placement | None:
        """Return the worker that serves a key now, and change nothing.

        :returns: ``None`` if no live worker serves it. Then :meth:`worker_for` would assign one.
        :raises InvalidInputError: as :meth:`worker_for`.
        """
        backend, group = self._group.backend, self._group.name
        return _placement(await backend.find(group, self._named(key, ctx)))

    async def pin(
        self,
        key: SessionKey,
        worker: str,
        ttl: timedelta | float | None = None,
        *,
        ctx: TenantCtx | None = None,
    ) -> None:
        """Pin a key to a worker, whatever worker it was assigned to.

        The worker need not be a member. While it is not a member, the key is served as if it were
        not pinned. When the worker joins, it serves the key.

        :param ttl: lifetime of the pinned placement since its last use. A
            :class:`datetime.timedelta` or seconds. ``None`` is that of the group.
        :raises InvalidInputError: naming ``worker`` or ``ttl``, or as :meth:`worker_for`.
        """
        backend, group = self._group.backend, self._group.name
        named, worker = self._named(key, ctx), _worker(worker)
        await backend.pin(group, named, worker, self._ttl(ttl) or self._ttl_ms)

    async def unpin(self, key: SessionKey, *, ctx: TenantCtx | None = None) -> bool:
        """Remove the pin of a key.

        The key stays with the worker that :meth:`worker_for` assigned last, not with the one of the
        pin, for the group's lifetime of placements. If none was assigned, no worker serves the key.

        :returns: ``False`` if the key was not pinned.
        :raises InvalidInputError: as :meth:`worker_for`.
        """
        backend, group = self._group.backend, self._group.name
        return await backend.unpin(group, self._named(key, ctx), self._ttl_ms)

    async def touch(
        self,
        key: SessionKey,
        ttl: timedelta | float | None = None,
        *,
        ctx: TenantCtx | None = None,
    ) -> bool:
        """Restart the lifetime of a key's placement, whether or not its worker is live.

        :param ttl: the new lifetime. A :class:`datetime.timedelta` or seconds. ``None`` keeps the
            stored one.
        :returns: ``False`` if the key is neither assigned nor pinned.
        :raises InvalidInputError: naming ``ttl``, or as :meth:`worker_for`.
        """
        backend, group = self._group.backend, self._group.name
        return await backend.touch(group, self._named(key, ctx), self._ttl(ttl))

    async def forget(self, key: SessionKey, *, ctx: TenantCtx | None = None) -> bool:
        """Remove a key's placement and its pin. The next use assigns the key again.

        :returns: ``False`` if the key was neither assigned nor pinned.
        :raises InvalidInputError: as :meth:`worker_for`.
        """
        backend, group = self._group.backend, self._group.name
        return await backend.forget(group, self._named(key, ctx))

    def keys_of(self, worker: str, *, ctx: TenantCtx | None = None) -> PlacedKeys:
        """Iterate over the keys that a worker serves, page by page, in no order.

        A key that the worker serves during the whole iteration is returned once, unless the store
        moves to another server meanwhile. This reads all placements of the group, so it is for
        operators.

        :param ctx: the tenant of the keys, ``None`` for the keys of no tenant.
        :raises InvalidInputError: naming ``worker``, or the invalid field of ``ctx``.
        """
        group = self._group
        group.check_open()
        worker, scope = _worker(worker), tenancy.scope_of_key(self._bound, ctx)
        return PlacedKeys(lambda position: group.backend.page(group.name, worker, position), scope)

    # --- shared steps ------------------------------------------------------------------------

    def _named(self, key: SessionKey, ctx: TenantCtx | None) -> str:
        key = check_key(key)
        return affinity_key(tenancy.scope_of_key(self._bound, ctx, key), key)

    def _ttl(self, ttl: timedelta | float | None) -> int | None:
        return None if ttl is None else duration_to_ms(ttl, "ttl")


@final
class PlacedKeys:
    """The iterator that :meth:`SessionAffinity.keys_of` returns. It needs no closing.

    :param fetch: returns the page of keys at a position, ``None`` for the first one.
    :param scope: ``env/tenant`` of the keys, empty for keys of no tenant.
    """

    def __init__(
        self, fetch: Callable[[object | None], Awaitable[PlacementPage]], scope: str
    ) -> None:
        self._fetch: Final = fetch
        self._scope: Final = scope
        self._pending: list[SessionKey] = []
        self._position: object | None = None
        self._at_end = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionKey:
        while not self._pending:
            if self._at_end:
                raise StopAsyncIteration
            keys, self._position = await self._fetch(self._position)
            for name in keys:
                scope, _, key = name.rpartition("\n")
                if scope == self._scope:
                    self._pending.append(SessionKey(key))
            self._at_end = self._position is None
        return self._pending.pop()


def _worker(worker: str) -> str:
    return require_clean_text(worker, "worker", MAX_IDENTIFIER_CHARS)


def _placement(placed: PlacementRecord | None) -> Placement | None:
    if placed is None:
        return None
    expires_at = datetime_of(placed.expires_ms)
    return Placement(worker=placed.worker, pinned=placed.pinned, expires_at=expires_at)
