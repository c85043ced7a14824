"""The registry of waits: registers, finds and resumes sessions that wait."""

from __future__ import annotations

import math
import warnings
from contextlib import asynccontextmanager
from datetime import datetime, timedelta  # noqa: TC003 - hints of public methods can be evaluated
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, cast, final
from uuid import uuid4

import anyio

from .._core import tenancy
from .._core.encoding import check_token
from .._core.times import datetime_of
from .._core.verbs.base import services_of
from .._validation import duration_to_ms, wait_to_ms
from ..abc.records import Verdict, error_for
from ..abc.waits import ClaimRef, EventMemory, Registration, wait_backend_of
from ..errors import (
    AmbiguousWaitError,
    CasConflictError,
    DecodeError,
    DuplicateEventError,
    InvalidInputError,
    TenantMismatchError,
    WaitClaimedError,
    WaitNotFoundError,
)
from ..model import C, Cas, ReplyScope, Session, SessionKey, TenantCtx, Versioned
from ..scoped import unscoped
from .arguments import (
    digest_of_attempt,
    digest_of_event,
    hash_of,
    owner_of,
    presenting,
    with_ttl,
    with_user,
)
from .claim import Claim, ClaimTerms
from .collecting import SupportsCollect, collect_after_write
from .index import WaitAddress, WaitIndex, rebuild_index

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from ..abc.waits import WaitOutcome, WaitOwner
    from ..scoped import ScopedSessionStore
    from ..store import AsyncSessionStore

__all__ = ["WaitRegistry"]

_EVENTS: Final = 128
_EVENTS_TTL_SECS: Final = 86_400.0
_LEASE_SECS: Final = 30.0
_POLL_SECS: Final = 30.0
"""Limit on the sleep of a waiting worker, because a notification may be lost."""


@final
class WaitRegistry(Generic[C]):
    """Pauses flows under a reply scope, and resumes each of them once, on any worker.

    The caller opens and closes the store. Any number of registries, in any number of processes, may
    use the same backend. They should agree on ``max_events`` and ``events_ttl``, because each
    registry applies its own values.

    A wait belongs to one user of one team, tenant and env. ``ctx`` gives env, tenant and team.
    ``user_id`` gives the user, and ``ctx`` may have the same user. For every other team or user the
    wait does not exist.

    Any verb may raise :class:`InvalidInputError` (before any I/O) and
    :class:`StoreUnavailableError` (nothing written). A verb that writes may also raise
    :class:`StoreFullError` and :class:`OutcomeUnknownError`. With ``acks``, it may raise
    :class:`DurabilityError`: written on fewer replicas, by this call or by an earlier one with the
    same event. The index is then as after success.

    :param store: a store whose backend has waits, as all stores of this library do. With a scoped
        view, each ``ctx`` must be of the view's caller. If that caller has no user, ``user_id`` may
        be any user. Another caller raises :class:`TenantMismatchError` before any I/O.
    :param inbox: an inbox whose early events :meth:`register_wait` and :meth:`Claim.wait_again`
        collect. ``None`` collects none.
    :param max_events: limit on the completed events to remember, per session and per user.
    :param events_ttl: how long to remember completed events. A :class:`datetime.timedelta` or
        seconds.
    """

    def __init__(
        self,
        store: AsyncSessionStore[C] | ScopedSessionStore[C],
        *,
        inbox: SupportsCollect | None = None,
        max_events: int = _EVENTS,
        events_ttl: timedelta | float = _EVENTS_TTL_SECS,
    ) -> None:
        store, self._bound = unscoped(store)
        backend = wait_backend_of(store)
        if type(max_events) is not int or not 1 <= max_events <= 10_000:
            raise InvalidInputError("max_events", "expected an int from 1 to 10000")
        if inbox is not None and not callable(getattr(cast("object", inbox), "collect", None)):
            raise InvalidInputError("inbox", f"{type(inbox).__name__} has no collect()")
        self._store: Final = store
        self._services: Final = services_of(store)
        self._inbox: Final = inbox
        self._backend: Final = backend
        self._events: Final = EventMemory(max_events, duration_to_ms(events_ttl, "events_ttl"))

    async def register_wait(
        self,
        ctx: TenantCtx,
        user_id: str,
        scope: ReplyScope,
        session: Session[C],
        ttl: timedelta | float | None = None,
        *,
        expected: Cas | None = None,
        event_id: str | None = None,
    ) -> Cas:
        """Store a session as waiting for a reply under a reply scope.

        * It supersedes another session that waits there. That session is not found any more, and
          its record stays.
        * A session waits under one reply scope only. Registering it ends its earlier wait.
        * It supersedes a claim on the session. Late endings of that claim are refused.
        * With an ``inbox``, it then collects the early events of the reply scope. If that fails,
          the session waits. Repeat the call or :meth:`SessionInbox.collect`. A repeat that raises
          :class:`DuplicateEventError` collects as well.

        :param ctx: the caller.
        :param user_id: the user whose reply is awaited, which is the session's user.
        :param scope: the reply scope.
        :param session: the state to resume from. If its meta has no user, it gets ``user_id``.
        :param ttl: the session's lifetime from now, a :class:`datetime.timedelta` or seconds to
            1 ms. 0 never expires. ``None`` keeps ``session.ttl_secs``.
        :param expected: token that must be stored, ``Cas.none()`` for an absent session. It does
            not concern the index. If a session exists and is not found by its scope, read it to
            get its token.
        :param event_id: the channel's id of the event that started this flow. The event is
            completed in the same step. So a redelivery neither starts the flow again nor counts as
            its first reply. If two workers pass it concurrently with the same key, one is refused.
            So derive the key from the event's conversation (:mod:`greentic_session.keys`).
        :returns: the session's token.
        :raises TenantMismatchError: the session is not of ``ctx`` and ``user_id``, or a live
            session of another team or user has its key.
        :raises CasConflictError: another token is stored.
        :raises DuplicateEventError: the event was completed, and enough replicas confirmed that.
            After :class:`DurabilityError`, a call with ``event_id`` can be repeated until it raises
            this error.
        :raises DecodeError: the record of this session, or of another one that waits there, was not
            written by this library. Nothing was written.
        :raises PayloadTooLargeError: over the store's limit.
        :raises InboxFullError: the session waits. Its mailbox is full, and other early events stay
            stored.
        """
        self._services.check_open()
        wait_owner = self._owner_of(ctx, user_id)
        address = WaitAddress(wait_owner, hash_of(scope))
        if expected is not None:
            check_token(expected)
        event = digest_of_event(address, event_id)
        session = with_user(with_ttl(session, ttl), user_id)
        encoded = self._services.encoder.encode(session)
        if (encoded.scope, encoded.owner) != wait_owner:
            raise TenantMismatchError(encoded.key)
        index = self._index()

        async def write(floor_us: int) -> WaitOutcome:
            registration = Registration(
                encoded=encoded,
                expected=expected,
                scope_hash=address.scope_hash,
                event=event,
                floor_us=floor_us,
            )
            return await index.call.register(registration, self._events)

        if event and await index.is_seen(address, event):
            await index.call.confirm(wait_owner, [SessionKey(encoded.key)])
            await self._collect(ctx, user_id, scope)
            raise DuplicateEventError(event_id or "")
        outcome = await index.enter(address, encoded, write, event=event)
        if outcome.verdict is Verdict.DONE:
            await self._collect(ctx, user_id, scope)
            return outcome.token
        if outcome.verdict is Verdict.SEEN:
            await self._collect(ctx, user_id, scope)
            raise DuplicateEventError(event_id or "")
        if outcome.verdict is Verdict.CONFLICT and expected is not None:
            raise CasConflictError(encoded.key, expected, outcome.token)
        raise error_for(encoded.key, outcome)

    async def find_wait_by_scope(
        self, ctx: TenantCtx, user_id: str, scope: ReplyScope
    ) -> SessionKey | None:
        """Return the key of the user's session that waits there, claimed or not.

        :raises DecodeError: its record was not written by this library.
        """
        self._services.check_open()
        address = WaitAddress(self._owner_of(ctx, user_id), hash_of(scope))
        return await self._index().find(address)

    async def list_waits_for_user(self, ctx: TenantCtx, user_id: str) -> list[SessionKey]:
        """Return the keys of the user's sessions that wait, claimed or not, the oldest wait first.

        :raises DecodeError: as :meth:`find_wait_by_scope`.
        """
        self._services.check_open()
        wait_owner = self._owner_of(ctx, user_id)
        return await self._index().find_all(wait_owner)

    async def clear_wait(self, ctx: TenantCtx, user_id: str, scope: ReplyScope) -> bool:
        """Remove the wait and its session, claimed or not.

        :returns: ``False`` if there is none.
        :raises DecodeError: as :meth:`find_wait_by_scope`.
        """
        self._services.check_open()
        address = WaitAddress(self._owner_of(ctx, user_id), hash_of(scope))
        return await self._index().clear(address)

    async def find_by_user(self, ctx: TenantCtx, user_id: str) -> Versioned[C] | None:
        """Return the one waiting session of the user.

        .. deprecated:: 0.1
            A user may have several: use :meth:`find_wait_by_scope` or :meth:`list_waits_for_user`.

        :raises AmbiguousWaitError: several sessions of the user wait.
        :raises DecodeError: as :meth:`AsyncSessionStore.get`.
        """
        warnings.warn(
            "find_by_user is deprecated: use find_wait_by_scope or list_waits_for_user",
            DeprecationWarning,
            stacklevel=2,
        )
        keys = await self.list_waits_for_user(ctx, user_id)
        if len(keys) > 1:
            raise AmbiguousWaitError(len(keys))
        if not keys:
            return None
        return await self._store.get(keys[0], ctx=presenting(ctx, user_id))

    @asynccontextmanager
    async def resume(
        self,
        ctx: TenantCtx,
        user_id: str,
        scope: ReplyScope,
        *,
        event_id: str | None = None,
        lease: timedelta | float = _LEASE_SECS,
        wait: timedelta | float | None = 0,
    ) -> AsyncGenerator[Claim[C]]:
        """Claim the wait for the time of a block. Meanwhile no other worker can claim it.

        .. code-block:: python

            async with waits.resume(ctx, user_id, scope, event_id=update_id) as turn:
                await turn.complete(turn.session.advance("done"))

        The block ends the turn by one of :meth:`Claim.complete`, :meth:`Claim.wait_again` and
        :meth:`Claim.finish`. If it leaves without one of them, or by an exception, the claim is
        released immediately. While the block runs, the lease is renewed. If the lease is lost, the
        block is cancelled: see :meth:`Claim.auto_renew`.

        :param event_id: the channel's id of the reply. The event is completed with the turn, in one
            step, and known from then on.
        :param lease: how long the wait stays claimed if this worker dies. A
            :class:`datetime.timedelta` or seconds to 1 ms.
        :param wait: longest time to wait while another worker holds the claim, in the same units.
            0, or less than 1 ms, does not wait. ``None`` waits without a limit. A waiting call
            sleeps until it is notified that the claim is free, or until the lease ends.
        :raises WaitNotFoundError: no session waits there.
        :raises WaitClaimedError: another worker holds the claim, for all of ``wait``.
        :raises DuplicateEventError: the event was completed.
        :raises LeaseLostError: on leaving, if the lease was lost meanwhile.
        :raises DecodeError: as :meth:`AsyncSessionStore.get`. The claim is released.
        :raises DurabilityError: the wait was claimed, on fewer replicas, and released.
        :raises OutcomeUnknownError: if the wait was claimed, it is released or ends with its lease.
        """
        wait_ms = None if wait is None else wait_to_ms(wait, "wait")
        ends_at = math.inf if wait_ms is None else anyio.current_time() + wait_ms / 1000
        attempt = self._attempt(ctx, user_id, scope, event_id=event_id, lease=lease)
        claim = await self._try_claim(attempt)
        if isinstance(claim, _Claimed) and wait_ms != 0:
            claim = await self._wait_for_claim(attempt, claim, ends_at)
        if isinstance(claim, _Claimed):
            raise WaitClaimedError(claim.until)
        async with claim.auto_renew() as turn:
            yield turn

    async def claim(
        self,
        ctx: TenantCtx,
        user_id: str,
        scope: ReplyScope,
        *,
        event_id: str | None = None,
        attempt_id: str | None = None,
        lease: timedelta | float = _LEASE_SECS,
    ) -> Claim[C]:
        """Claim the wait, without a context manager.

        The caller renews the lease, by :meth:`Claim.renew` or :meth:`Claim.auto_renew`.

        :param event_id: as in :meth:`resume`.
        :param attempt_id: name of this attempt of this worker. ``None`` makes a random name. While
            the attempt holds the claim, a repeated call returns the same claim and renews its
            lease. So a named attempt is not released after an error or a cancellation.
        :param lease: as in :meth:`resume`.
        :raises: as :meth:`resume`.
        """
        claim = await self._try_claim(
            self._attempt(
                ctx, user_id, scope, event_id=event_id, lease=lease, attempt_id=attempt_id
            )
        )
        if isinstance(claim, _Claimed):
            raise WaitClaimedError(claim.until)
        return claim

    async def rebuild_index(self, ctx: TenantCtx) -> int:
        """Write the index entry of every wait of a tenant. For operators.

        Call this only after indexes were lost. A session without an index entry is not found until
        it is registered again, or until this call. It may run at any time.

        :param ctx: env and tenant.
        :returns: the number of waits.
        """
        self._services.check_open()
        scope = tenancy.scope_of(ctx)
        tenancy.check_presents(self._bound, ctx)
        return await rebuild_index(self._backend, self._events, scope)

    # --- shared steps ------------------------------------------------------------------------

    def _owner_of(self, ctx: TenantCtx, user_id: str) -> WaitOwner:
        """Return the owner of the waits that a call concerns, if the view's caller may name it."""
        tenancy.check_presents(self._bound, presenting(ctx, user_id))
        return owner_of(ctx, user_id)

    async def _collect(self, ctx: TenantCtx, user_id: str, scope: ReplyScope) -> None:
        await collect_after_write(self._inbox, ctx, user_id, scope)

    def _attempt(
        self,
        ctx: TenantCtx,
        user_id: str,
        scope: ReplyScope,
        *,
        event_id: str | None,
        lease: timedelta | float,
        attempt_id: str | None = None,
    ) -> _Attempt:
        """Check the arguments of a claim."""
        self._services.check_open()
        address = WaitAddress(self._owner_of(ctx, user_id), hash_of(scope))
        return _Attempt(
            address=address,
            event_id=event_id,
            event=digest_of_event(address, event_id),
            digest=digest_of_attempt(uuid4().hex if attempt_id is None else attempt_id),
            is_named=attempt_id is not None,
            lease_ms=duration_to_ms(lease, "lease"),
            scope=scope,
            collect=partial(self._collect, ctx, user_id),
        )

    async def _try_claim(self, attempt: _Attempt) -> Claim[C] | _Claimed:
        """Claim the wait, or return how long another worker holds the claim."""
        sent_at = anyio.current_time()
        index = self._index()
        address, event = attempt.address, attempt.event
        outcome, key = await index.claim(
            address,
            attempt.digest,
            is_named=attempt.is_named,
            event=event,
            lease_ms=attempt.lease_ms,
        )
        if outcome.verdict is Verdict.SEEN:
            raise DuplicateEventError(attempt.event_id or "")
        if key is None:
            raise WaitNotFoundError
        if outcome.verdict is Verdict.CLAIMED:
            return _Claimed(key, datetime_of(outcome.lease_ms), outcome.left_ms / 1000)
        if outcome.verdict is not Verdict.DONE:
            raise error_for(key, outcome)
        scope_of_record, owner = address.wait_owner
        ref = ClaimRef(scope=scope_of_record, key=key, owner=owner, fence=outcome.fence)
        terms = ClaimTerms(
            backend=self._backend,
            events=self._events,
            check_open=self._services.check_open,
            address=address,
            ref=ref,
            event_id=attempt.event_id,
            event=event,
            lease_ms=attempt.lease_ms,
            sent_at=sent_at,
            scope=attempt.scope,
            collect=attempt.collect,
        )
        try:
            return Claim(terms, self._services.encoder, outcome)
        except DecodeError:
            await index.release(ref)
            raise

    async def _wait_for_claim(
        self, attempt: _Attempt, claimed: _Claimed, ends_at: float
    ) -> Claim[C] | _Claimed:
        """Retry when the claim may be free, until the time is over."""
        scope = attempt.address.wait_owner.scope
        while True:
            async with self._backend.subscribe(scope, claimed.key) as subscription:
                key = claimed.key
                while claimed.key == key:  # another session may wait there by now
                    left_secs = ends_at - anyio.current_time()
                    if left_secs <= 0:
                        return claimed
                    # The subscription starts notified, so the first retry is immediate.
                    await subscription.wait(min(left_secs, claimed.left_secs, _POLL_SECS))
                    self._services.check_open()
                    found = await self._try_claim(attempt)
                    if not isinstance(found, _Claimed):
                        return found
                    claimed = found

    def _index(self) -> WaitIndex:
        """Return the index for one verb."""
        return WaitIndex(self._backend, self._events)


class _Attempt(NamedTuple):
    """The arguments of a claim, checked.

    :ivar address: where the session waits.
    :ivar event_id: the event's id, as passed by the caller.
    :ivar event: digest of the event, empty for none.
    :ivar digest: digest of the attempt's id.
    :ivar is_named: whether the caller named the attempt.
    :ivar lease_ms: length of the lease, in milliseconds.
    :ivar scope: the reply scope.
    :ivar collect: collects the early events of a reply scope.
    """

    address: WaitAddress
    event_id: str | None
    event: str
    digest: str
    is_named: bool
    lease_ms: int
    scope: ReplyScope
    collect: Callable[[ReplyScope], Awaitable[None]]


class _Claimed(NamedTuple):
    """A claim that another worker holds.

    :ivar key: the session's key.
    :ivar until: end of its lease.
    :ivar left_secs: seconds until then, when the store replied.
    """

    key: SessionKey
    until: datetime
    left_secs: float
