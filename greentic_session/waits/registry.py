"""The registry of waits: registers, finds and resumes sessions that wait."""

from __future__ import annotations

import warnings
from contextlib import asynccontextmanager
from datetime import timedelta  # noqa: TC003 - hints of public methods can be evaluated
from typing import TYPE_CHECKING, Final, Generic, cast, final
from uuid import uuid4

import anyio

from .._core import tenancy
from .._core.encoding import check_token
from .._core.times import datetime_of
from .._validation import duration_to_ms
from ..abc.records import Verdict, error_for
from ..abc.waits import ClaimRef, EventMemory, Registration, SupportsWaits
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
from ..store import AsyncSessionStore
from .arguments import digest_of_attempt, digest_of_event, hash_of, owner_of, presenting, with_ttl
from .claim import Claim, ClaimTerms
from .index import WaitAddress, WaitIndex, rebuild_index

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ..abc.waits import WaitOutcome

__all__ = ["WaitRegistry"]

_EVENTS: Final = 128
_EVENTS_TTL_SECS: Final = 86_400.0
_LEASE_SECS: Final = 30.0


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

    :param store: a store whose backend has waits, as all stores of this library do.
    :param max_events: limit on the completed events to remember, per session and per user.
    :param events_ttl: how long to remember completed events. A :class:`datetime.timedelta` or
        seconds.
    """

    def __init__(
        self,
        store: AsyncSessionStore[C],
        *,
        max_events: int = _EVENTS,
        events_ttl: timedelta | float = _EVENTS_TTL_SECS,
    ) -> None:
        given = cast("object", store)
        if not isinstance(given, AsyncSessionStore) or not isinstance(given, SupportsWaits):
            raise InvalidInputError("store", f"{type(store).__name__} does not support waits")
        if type(max_events) is not int or not 1 <= max_events <= 10_000:
            raise InvalidInputError("max_events", "expected an int from 1 to 10000")
        self._store: Final = store
        self._backend: Final = given.wait_backend()
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

        :param ctx: the caller.
        :param user_id: the user whose reply is awaited, which is the session's user.
        :param scope: the reply scope.
        :param session: the state to resume from.
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
        """
        self._store.check_open()
        wait_owner = owner_of(ctx, user_id)
        address = WaitAddress(wait_owner, hash_of(scope))
        if expected is not None:
            check_token(expected)
        event = digest_of_event(address, event_id)
        encoded = self._store.encoder.encode(with_ttl(session, ttl))
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
            raise DuplicateEventError(event_id or "")
        outcome = await index.enter(address, encoded, write, event=event)
        if outcome.verdict is Verdict.DONE:
            return outcome.token
        if outcome.verdict is Verdict.SEEN:
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
        self._store.check_open()
        address = WaitAddress(owner_of(ctx, user_id), hash_of(scope))
        return await self._index().find(address)

    async def list_waits_for_user(self, ctx: TenantCtx, user_id: str) -> list[SessionKey]:
        """Return the keys of the user's sessions that wait, claimed or not, the oldest wait first.

        :raises DecodeError: as :meth:`find_wait_by_scope`.
        """
        self._store.check_open()
        wait_owner = owner_of(ctx, user_id)
        return await self._index().find_all(wait_owner)

    async def clear_wait(self, ctx: TenantCtx, user_id: str, scope: ReplyScope) -> bool:
        """Remove the wait and its session, claimed or not.

        :returns: ``False`` if there is none.
        :raises DecodeError: as :meth:`find_wait_by_scope`.
        """
        self._store.check_open()
        address = WaitAddress(owner_of(ctx, user_id), hash_of(scope))
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
        :raises WaitNotFoundError: no session waits there.
        :raises WaitClaimedError: another worker holds the claim.
        :raises DuplicateEventError: the event was completed.
        :raises LeaseLostError: on leaving, if the lease was lost meanwhile.
        :raises DecodeError: as :meth:`AsyncSessionStore.get`. The claim is released.
        :raises DurabilityError: the wait was claimed, on fewer replicas, and released.
        :raises OutcomeUnknownError: if the wait was claimed, it is released or ends with its lease.
        """
        claim = await self.claim(ctx, user_id, scope, event_id=event_id, lease=lease)
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
        self._store.check_open()
        address = WaitAddress(owner_of(ctx, user_id), hash_of(scope))
        event = digest_of_event(address, event_id)
        attempt = digest_of_attempt(uuid4().hex if attempt_id is None else attempt_id)
        lease_ms = duration_to_ms(lease, "lease")
        sent_at = anyio.current_time()
        index = self._index()
        outcome, key = await index.claim(
            address,
            attempt,
            is_named=attempt_id is not None,
            event=event,
            lease_ms=lease_ms,
        )
        if outcome.verdict is Verdict.CLAIMED:
            raise WaitClaimedError(datetime_of(outcome.lease_ms))
        if outcome.verdict is Verdict.SEEN:
            raise DuplicateEventError(event_id or "")
        if key is None:
            raise WaitNotFoundError
        if outcome.verdict is not Verdict.DONE:
            raise error_for(key, outcome)
        scope_of_record, owner = address.wait_owner
        ref = ClaimRef(scope=scope_of_record, key=key, owner=owner, fence=outcome.fence)
        terms = ClaimTerms(
            backend=self._backend,
            events=self._events,
            check_open=self._store.check_open,
            address=address,
            ref=ref,
            event_id=event_id,
            event=event,
            lease_ms=lease_ms,
            sent_at=sent_at,
        )
        try:
            return Claim(terms, self._store.encoder, outcome)
        except DecodeError:
            await index.release(ref)
            raise

    async def rebuild_index(self, ctx: TenantCtx) -> int:
        """Write the index entry of every wait of a tenant. For operators.

        Call this only after indexes were lost. A session without an index entry is not found until
        it is registered again, or until this call. It may run at any time.

        :param ctx: env and tenant.
        :returns: the number of waits.
        """
        self._store.check_open()
        return await rebuild_index(self._backend, self._events, tenancy.scope_of(ctx))

    def _index(self) -> WaitIndex:
        """Return the index for one verb."""
        return WaitIndex(self._backend, self._events)
