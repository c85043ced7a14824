"""The public API of affinity: group membership, and the worker that serves a key."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from datetime import datetime  # noqa: TC003 - msgspec reads it
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, cast, final
from uuid import uuid4

import anyio
import msgspec

from .._compat import override
from .._core import tenancy
from .._core.leases import RELEASE_SECS, LeaseEnd, LeaseHandle
from .._core.tasks import run_to_completion
from .._core.times import datetime_of
from .._validation import MAX_IDENTIFIER_CHARS, check_key, duration_to_ms, require_clean_text
from ..abc.affinity import SupportsAffinity, affinity_key
from ..abc.records import Verdict
from ..errors import (
    DurabilityError,
    InvalidInputError,
    MemberExistsError,
    OutcomeUnknownError,
    SessionError,
)
from ..model import SessionKey
from ..store import AsyncSessionStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from datetime import timedelta

    from ..abc.affinity import AffinityBackend, MembershipOutcome, PlacementPage, PlacementRecord
    from ..model import TenantCtx

__all__ = ["Member", "Membership", "Placement", "SessionAffinity"]

_TTL_SECS: Final = 3600.0
_LEASE_SECS: Final = 15.0


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Which worker serves a key.

    :ivar worker: its name; a member that lives.
    :ivar pinned: whether it serves by a pin.
    :ivar expires_at: when the placement expires unless it is used (aware UTC), by the store's
        clock.
    """

    worker: str
    pinned: bool
    expires_at: datetime


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A worker of the group that lives.

    :ivar worker: its name.
    :ivar fence: as :attr:`Membership.fence`.
    :ivar lease_until: when its lease ends unless renewed (aware UTC), by the store's clock.
    """

    worker: str
    fence: int
    lease_until: datetime


@final
class _Group:
    """A group of workers, on a store.

    :param backend: of the store.
    :param name: of the group.
    :param check_open: raises once the store is closed.
    """

    def __init__(self, backend: AffinityBackend, name: str, check_open: Callable[[], None]) -> None:
        self._backend: Final = backend
        self.check_open: Final = check_open
        self.name: Final = name

    @property
    def backend(self) -> AffinityBackend:
        """The steps.

        :raises StoreUnavailableError: the store is closed.
        """
        self.check_open()
        return self._backend


@final
class Membership(LeaseHandle):
    """A worker's own membership. Made by :meth:`SessionAffinity.member`.

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
        """Number of this membership: higher than that of every earlier one of the same name.

        That is so even if the name had no member in between, unless the server's clock is set back.
        Among the memberships of one store, it is so even then.

        Pass it to other systems that the worker writes to, and let them refuse lower ones.
        """
        return self._fence

    @property
    def lease_until(self) -> datetime:
        """When the lease ends unless renewed: aware UTC, by the store's clock."""
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
    """Says which worker of a group serves a key, so that those who meet it agree on one.

    .. code-block:: python

        affinity = SessionAffinity(store, "connectors")
        async with affinity.member("worker-1"):
            placement = await affinity.worker_for(key, ctx=ctx)

    * **Members.** A worker is a member while its block runs and its lease is renewed. When it dies,
      it is one until its lease has ended.
    * **Sticky.** A key stays with the worker that it was placed at while that one lives, whoever
      joins or leaves meanwhile. A worker that comes back under its name before a key was placed
      anew finds the key still there.
    * **Moving little.** A key that nobody serves is placed by rendezvous hashing over the members
      that live. So the keys of a worker that died go to all others alike, each when it is asked for
      next, and no other key moves.
    * **Lives.** A placement expires when it was not used for its life: :meth:`worker_for` and
      :meth:`touch` begin that anew. It is absent from that instant, and leaves nothing behind.
    * **Tenants.** With ``ctx``, a key is that tenant's: two tenants' keys never meet, though the
      workers are the same. Without, it belongs to no tenant. Team and user make no difference.

    Affinity is a promise of where work goes, not a lock: a worker that is cut off goes on for as
    long as its block takes to hear of it. What must not happen twice is guarded by a fence.

    Any verb may raise :class:`StoreUnavailableError` (nothing written), and those that write
    :class:`OutcomeUnknownError` (written or not: do it again, or look) and, where ``acks`` are
    asked for, :class:`DurabilityError` (written; :meth:`member` gives the name back).

    :param store: any store that can keep affinity.
    :param group: name of the workers' group: 1 to 128 characters, no control characters.
    :param ttl: life of a placement since its last use; a :class:`datetime.timedelta` or seconds.
    :raises InvalidInputError: naming the argument at fault.
    """

    def __init__(
        self,
        store: AsyncSessionStore[Any],  # Any: of whatever context
        group: str = "default",
        *,
        ttl: timedelta | float = _TTL_SECS,
    ) -> None:
        given = cast("object", store)
        if not isinstance(given, AsyncSessionStore) or not isinstance(given, SupportsAffinity):
            raise InvalidInputError("store", f"{type(store).__name__} cannot keep affinity")
        name = require_clean_text(group, "group", MAX_IDENTIFIER_CHARS)
        self._group: Final = _Group(given.affinity_backend(), name, store.check_open)
        self._ttl_ms: Final = duration_to_ms(ttl, "ttl")

    # --- members -----------------------------------------------------------------------------

    @asynccontextmanager
    async def member(
        self, worker: str, *, lease: timedelta | float = _LEASE_SECS
    ) -> AsyncGenerator[Membership]:
        """Be a member of the group for a block, and leave it at the end.

        The lease is renewed at a third of it while the block runs. When it is lost all the same (it
        ended before the store could be asked, and the name may have passed on), the block is
        cancelled, as :meth:`SessionLocks.hold` does it.

        What leaving cannot tell the store, the end of the lease does. If joining fails with an
        unknown outcome, or is cancelled, the name is given back as well as can be.

        :param worker: its name: 1 to 128 characters, no control characters.
        :param lease: how long it counts as a member should it die; a :class:`datetime.timedelta` or
            seconds to 1 ms.
        :raises MemberExistsError: a member of that name lives.
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

            async def give_back() -> None:
                with suppress(SessionError):
                    await backend.leave(group, worker, attempt)

            await run_to_completion(give_back, "greentic_session end of membership", RELEASE_SECS)
            raise
        if outcome.verdict is not Verdict.DONE:
            raise MemberExistsError(worker, datetime_of(outcome.ends_ms))
        membership = Membership(
            self._group, worker, attempt, lease_ms=lease_ms, outcome=outcome, sent_at=sent_at
        )
        async with membership.auto_renew():
            yield membership

    async def members(self) -> tuple[Member, ...]:
        """Return the members that live, by name."""
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
        """Return who serves a key, and place it if nobody does, in one step.

        * The worker that it is pinned to, if that one lives;
        * else the one that it was placed at last, if that one lives;
        * else a member that lives, by rendezvous hashing.

        The placement's life begins anew.

        :param key: 1 to 512 characters, no control characters.
        :param ctx: whose key it is; ``None`` is one of no tenant.
        :returns: ``None`` if no member lives; nothing was written.
        :raises InvalidInputError: naming ``key``, or the field of ``ctx`` at fault.
        """
        backend, group = self._group.backend, self._group.name
        return _placement(await backend.assign(group, _affinity_key(key, ctx), self._ttl_ms))

    async def placement(self, key: SessionKey, *, ctx: TenantCtx | None = None) -> Placement | None:
        """Return who serves a key now, and change nothing.

        :returns: ``None`` if nobody does: it is not placed, its placement has expired, or the
            worker is gone, and :meth:`worker_for` would place it anew.
        :raises InvalidInputError: as :meth:`worker_for`.
        """
        backend, group = self._group.backend, self._group.name
        return _placement(await backend.find(group, _affinity_key(key, ctx)))

    async def pin(
        self,
        key: SessionKey,
        worker: str,
        ttl: timedelta | float | None = None,
        *,
        ctx: TenantCtx | None = None,
    ) -> None:
        """Let a worker serve a key, wherever it was placed.

        The worker need not be a member. While it is none, the key is served as if it were not
        pinned: from when the worker is back, by that one again.

        :param ttl: life of the pinned placement since its last use; a :class:`datetime.timedelta`
            or seconds, ``None`` is that of the group.
        :raises InvalidInputError: naming ``worker`` or ``ttl``, or as :meth:`worker_for`.
        """
        backend, group = self._group.backend, self._group.name
        named, worker = _affinity_key(key, ctx), _worker(worker)
        await backend.pin(group, named, worker, self._ttl(ttl) or self._ttl_ms)

    async def unpin(self, key: SessionKey, *, ctx: TenantCtx | None = None) -> bool:
        """Take a key's pin away.

        The key stays where :meth:`worker_for` placed it last, whoever served it by the pin, for the
        group's life; if it was not placed, it is nowhere.

        :returns: ``False`` if it was not pinned.
        :raises InvalidInputError: as :meth:`worker_for`.
        """
        backend, group = self._group.backend, self._group.name
        return await backend.unpin(group, _affinity_key(key, ctx), self._ttl_ms)

    async def touch(
        self,
        key: SessionKey,
        ttl: timedelta | float | None = None,
        *,
        ctx: TenantCtx | None = None,
    ) -> bool:
        """Begin the life of a key's placement anew, whether or not its worker lives.

        :param ttl: its life from now on; a :class:`datetime.timedelta` or seconds, ``None`` keeps
            the length.
        :returns: ``False`` if the key is neither placed nor pinned.
        :raises InvalidInputError: naming ``ttl``, or as :meth:`worker_for`.
        """
        backend, group = self._group.backend, self._group.name
        return await backend.touch(group, _affinity_key(key, ctx), self._ttl(ttl))

    async def forget(self, key: SessionKey, *, ctx: TenantCtx | None = None) -> bool:
        """Remove a key's placement, and its pin: it is placed anew when it is asked for next.

        :returns: ``False`` if it was neither placed nor pinned.
        :raises InvalidInputError: as :meth:`worker_for`.
        """
        backend, group = self._group.backend, self._group.name
        return await backend.forget(group, _affinity_key(key, ctx))

    def keys_of(self, worker: str, *, ctx: TenantCtx | None = None) -> PlacedKeys:
        """Iterate over the keys that a worker serves, page by page, in no order.

        A key that it serves from first to last is given once, unless the store moves to another
        server meanwhile. All the group's placements are read, so this is for operators.

        :param ctx: whose keys; ``None`` are those of no tenant.
        :raises InvalidInputError: naming ``worker``, or the field of ``ctx`` at fault.
        """
        group = self._group
        group.check_open()
        worker, scope = _worker(worker), "" if ctx is None else tenancy.scope_of(ctx)
        return PlacedKeys(lambda position: group.backend.page(group.name, worker, position), scope)

    # --- shared steps ------------------------------------------------------------------------

    def _ttl(self, ttl: timedelta | float | None) -> int | None:
        return None if ttl is None else duration_to_ms(ttl, "ttl")


@final
class PlacedKeys:
    """The iterator that :meth:`SessionAffinity.keys_of` returns. Left early, it needs no closing.

    :param fetch: returns the page of places at a position; ``None`` is the start.
    :param scope: ``env/tenant`` of the keys; empty for those of no tenant.
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


def _affinity_key(key: SessionKey, ctx: TenantCtx | None) -> str:
    key = check_key(key)
    return affinity_key("" if ctx is None else tenancy.scope_of(ctx), key)


def _worker(worker: str) -> str:
    return require_clean_text(worker, "worker", MAX_IDENTIFIER_CHARS)


def _placement(placed: PlacementRecord | None) -> Placement | None:
    if placed is None:
        return None
    expires_at = datetime_of(placed.expires_ms)
    return Placement(worker=placed.worker, pinned=placed.pinned, expires_at=expires_at)
