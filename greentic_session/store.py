"""The base class of every store, :class:`AsyncSessionStore`.

It contains every public verb once: argument checks, access check, encoding and errors. A backend
implements the small steps of :class:`.abc.store.StorePrimitives` on encoded records. A backend's
tests inherit those of :mod:`greentic_session.testing.contract`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, Literal, cast, final, overload

from ._core import tenancy
from ._core.encoding import SessionEncoder, apply_change, as_versioned, check_token
from ._core.key_queues import Conflict
from ._core.lifetime import StoreLifetime
from ._core.scan import SessionScan
from ._core.unreadable import OnError, decoder_of
from ._validation import check_key, ttl_to_ms
from .abc.fencing import UNFENCED, Fenced, SupportsFencing, lease_ref_of
from .abc.records import DONE, AllowedOwners, Outcome, Page, Record, Verdict, error_for
from .codec import CodecFactory, JsonCodec
from .config import DEFAULT_CLOSE_SECS, DEFAULT_MAX_PAYLOAD_BYTES
from .errors import (
    AmbiguousKeyError,
    CasConflictError,
    InvalidInputError,
    SessionExistsError,
    SessionNotFoundError,
    TenantMismatchError,
)
from .model import C, Cas, Session, SessionKey, TenantCtx, Versioned
from .scoped import ScopedSessionStore, TenantSessionStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import timedelta

    from .abc.fencing import LeaseRef
    from .abc.records import EncodedSession, UnreadableSession
    from .statistics import StoreStatistics

__all__ = ["AsyncSessionStore"]


class AsyncSessionStore(StoreLifetime, Generic[C]):
    """Stores sessions of many tenants.

    Use a store on one event loop at a time, from one thread, with ``async with``. The block may be
    entered several times, also concurrently. The last one that is left closes the store.

    Each write is one atomic step:

    * It makes the access check before it changes anything.
    * It sets ``updated_at`` from the store's clock, and computes the expiry from it.
    * It drops repeated outbox pairs.
    * It gives the lookup entry the same lifetime.

    A session is absent from the time ``now >= expires_at``.

    Any verb may raise :class:`InvalidInputError` (before any I/O) and
    :class:`StoreUnavailableError` (nothing written). A verb that writes may also raise
    :class:`StoreFullError` (nothing written) and :class:`OutcomeUnknownError` (written or not: read
    again). If the task of a write is cancelled, it is unknown whether the write happened.

    :param context_type: type of :attr:`Session.context`: a msgspec struct, dataclass, TypedDict,
        tagged union or ``dict``.
    :param codec: factory of the codec of that type.
    :param max_payload_bytes: size limit of one encoded session.
    :param verify: whether to check before each write that the session can be read back unchanged.
        The check refuses a wrong type inside the context. It also refuses values that would be read
        as different ones: in labels, in a ``dict`` state, or in an untyped part of a state. A tuple
        may be read as a list, and a value as an equal one of another class. The check costs up to
        one decoding per write.
    :param close_secs: how long :meth:`aclose` waits for running calls, in seconds or as a
        ``timedelta``.
    :ivar encoder: checks, encodes and decodes the store's sessions. For services on top of a store.
    """

    def __init__(
        self,
        context_type: type[C] = cast("type[C]", dict),  # noqa: B008 - a cast has no effect
        *,
        codec: CodecFactory = JsonCodec,
        max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
        verify: bool = True,
        close_secs: timedelta | float = DEFAULT_CLOSE_SECS,
    ) -> None:
        super().__init__(close_secs)
        self.context_type: Final = context_type
        self.encoder: Final = SessionEncoder(context_type, codec, max_payload_bytes, verify=verify)

    # --- reading -----------------------------------------------------------------------------

    @final
    async def get(self, key: SessionKey, *, ctx: TenantCtx | None = None) -> Versioned[C] | None:
        """Return the live session and its token.

        :param key: the session's key.
        :param ctx: the caller. Only a session of its tenant is found, and the access check applies.
            ``None`` finds the tenant by lookup, without an access check.
        :returns: ``None`` if absent or expired.
        :raises TenantMismatchError: wrong team or user in the right tenant.
        :raises AmbiguousKeyError: several tenants have the key, and there is no ``ctx``.
        :raises DecodeError: the stored bytes are not of the store's session type.
        """
        if self._closed:
            self.check_open()
        key = check_key(key)
        until = self._deadline()
        scope, allowed = (
            tenancy.allowed_owners_of(ctx) if ctx is not None else await self._sole(key, until)
        )
        record = None if scope is None else self._read(scope, key, until)
        if record is not None and not isinstance(record, Record):
            record = await record
        return None if record is None else self._opened(key, record, allowed)

    def _opened(
        self, key: SessionKey, record: Record, allowed: AllowedOwners | None
    ) -> Versioned[C]:
        if not tenancy.allows(allowed, record.owner):
            raise TenantMismatchError(key)
        return self.encoder.decode(key, record)

    @overload
    async def get_many(
        self,
        keys: Sequence[SessionKey],
        *,
        ctx: TenantCtx,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> list[Versioned[C] | None]: ...

    @overload
    async def get_many(
        self, keys: Sequence[SessionKey], *, ctx: TenantCtx, on_error: Literal["return"]
    ) -> list[Versioned[C] | UnreadableSession | None]: ...

    @final
    async def get_many(
        self, keys: Sequence[SessionKey], *, ctx: TenantCtx, on_error: OnError = "raise"
    ) -> Sequence[Versioned[C] | UnreadableSession | None]:
        """Return several sessions of one tenant, in as few round trips as their size allows.

        Up to 16 small sessions take one request to the server. For more, the store first requests
        their sizes, and then about 1 MiB at a time. The deadline applies to each of these steps.

        :param keys: the keys, which may repeat.
        :param ctx: the caller.
        :param on_error: what to return for a session that cannot be read. ``"raise"`` raises its
            error, ``"skip"`` returns ``None``, ``"return"`` returns an :class:`UnreadableSession`.
        :returns: the sessions in the order of ``keys``, ``None`` for each absent or expired one.
        :raises TenantMismatchError: wrong team or user for one of them.
        :raises DecodeError: as :meth:`get`, with ``on_error="raise"``.
        """
        self.check_open()
        given = cast("object", keys)
        if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
            raise InvalidInputError("keys", f"expected a sequence, got {type(given).__name__}")
        keys = [check_key(key) for key in keys]
        scope, allowed = tenancy.allowed_owners_of(ctx)
        decode = decoder_of(self.encoder.decode, on_error)
        found: list[Versioned[C] | UnreadableSession | None] = []
        while len(found) < len(keys):
            left = keys[len(found) :]
            some = list(zip(left, await self._read_many(scope, left), strict=False))
            for key, record in some:
                owner = None if record is None else record.owner
                if owner is not None and not tenancy.allows(allowed, owner):
                    raise TenantMismatchError(key)
            found += [None if record is None else decode(key, record) for key, record in some]
        return found

    @overload
    def scan(
        self,
        ctx: TenantCtx,
        *,
        batch_size: int = 256,
        fenced: bool = False,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> AsyncIterator[Versioned[C]]: ...

    @overload
    def scan(
        self,
        ctx: TenantCtx,
        *,
        batch_size: int = 256,
        fenced: bool = False,
        on_error: Literal["return"],
    ) -> AsyncIterator[Versioned[C] | UnreadableSession]: ...

    @final
    def scan(
        self,
        ctx: TenantCtx,
        *,
        batch_size: int = 256,
        fenced: bool = False,
        on_error: OnError = "raise",
    ) -> AsyncIterator[Versioned[C] | UnreadableSession]:
        """Iterate over a tenant's live sessions, for operators.

        The order is undefined. A session that is live during the whole scan is returned exactly
        once. A session that is created or becomes absent during the scan may or may not be
        returned. A loop may end early, and needs no cleanup.

        :param ctx: env and tenant. If it has a team or user, only sessions that are accessible to
            that team or user are returned. Otherwise all of the tenant are.
        :param batch_size: number of records to examine in one step, 1 to 10000. A step returns
            about 1 MiB at most, and has a deadline of its own.
        :param fenced: return only sessions that :meth:`get` with this ``ctx`` would return.
        :param on_error: as in :meth:`get_many`, but ``"skip"`` leaves the session out. The
            iteration can continue after an error.
        :raises DecodeError: while iterating, as :meth:`get`, with ``on_error="raise"``.
        """
        self.check_open()
        scope, allowed = tenancy.allowed_owners_of(ctx)
        if type(batch_size) is not int or not 1 <= batch_size <= 10_000:
            raise InvalidInputError("batch_size", "expected an int from 1 to 10000")
        decode = decoder_of(self.encoder.decode, on_error)

        async def fetch(position: object | None) -> Page:
            self.check_open()
            return await self._page(scope, position, batch_size)

        def visible(owner: str) -> bool:
            if fenced or ctx.user_id is not None:
                return tenancy.allows(allowed, owner)
            return ctx.team_id is None or owner.startswith(allowed.shared)

        return SessionScan(fetch, visible, decode)

    # --- writing -----------------------------------------------------------------------------

    @final
    async def create(self, session: Session[C]) -> Cas:
        """Store a new session.

        :returns: its token, with value 1.
        :raises SessionExistsError: a live session of the same owner has the key.
        :raises TenantMismatchError: a live session of another team or user has the key.
        :raises PayloadTooLargeError: over the store's limit.
        """
        until = await self._enter_write(session) if self._holds_writes else None
        encoded = self.encoder.encode(session)
        outcome = await (
            self._create(encoded) if until is None else self._create(encoded, until=until)
        )
        if outcome.verdict is Verdict.EXISTS:
            raise SessionExistsError(encoded.key)
        return self._token(encoded.key, outcome)

    @final
    async def put(self, session: Session[C], *, fence: Fenced = UNFENCED) -> Cas:
        """Create a session, or replace the live one regardless of its token.

        :param session: the new state.
        :param fence: a lease of this key. The session is written only while the lease is held.
            ``None`` is refused, because it is not a lease.
        :returns: the new token. If the session was absent or expired, a token of a new incarnation.
        :raises LeaseLostError: the lease has ended, whether or not there is a newer one.
        :raises TenantMismatchError: the live session has another team or user.
        :raises PayloadTooLargeError: over the store's limit.
        """
        until = await self._enter_write(session) if self._holds_writes else None
        encoded = self.encoder.encode(session)
        lease = None if fence is UNFENCED else self._lease(fence, encoded)
        outcome = (
            self._put(encoded, lease) if until is None else self._put(encoded, lease, until=until)
        )
        if not isinstance(outcome, Outcome):
            outcome = await outcome
        if outcome.verdict is DONE:
            return Cas(value=outcome.value, incarnation=outcome.incarnation)
        raise error_for(encoded.key, outcome)

    @final
    async def update_cas(
        self, session: Session[C], expected: Cas, *, fence: Fenced = UNFENCED
    ) -> Cas:
        """Replace the session if its token is the expected one. This never creates a session.

        :param session: the new state.
        :param expected: the token that the last read or write returned.
        :param fence: a lease of this key. The session is written only while the lease is held.
            ``None`` is refused, because it is not a lease.
        :returns: the new token.
        :raises LeaseLostError: the lease has ended, whether or not there is a newer one.
        :raises CasConflictError: another token is stored, or ``Cas.none()`` because the session is
            absent or expired.
        :raises TenantMismatchError: the live session has another team or user.
        :raises PayloadTooLargeError: over the store's limit.
        """
        until = await self._enter_write(session) if self._holds_writes else None
        check_token(expected)
        encoded = self.encoder.encode(session)
        lease = None if fence is UNFENCED else self._lease(fence, encoded)
        outcome = self._update_cas(encoded, expected, until, lease)
        if not isinstance(outcome, Outcome):
            outcome = await outcome
        if outcome.verdict is DONE:
            return Cas(value=outcome.value, incarnation=outcome.incarnation)
        if outcome.verdict is Verdict.CONFLICT:
            raise CasConflictError(encoded.key, expected, outcome.token)
        raise error_for(encoded.key, outcome)

    @final
    async def mutate(
        self,
        key: SessionKey,
        change: Callable[[Session[C]], Session[C]],
        *,
        ctx: TenantCtx | None = None,
        attempts: int = 1000,
    ) -> Versioned[C]:
        """Read the session, change it and write it back. Retry on conflict.

        Callers of one store with a conflict on the same session queue up, first in first out. One
        deadline covers the time in the queue and all attempts.

        :param key: the session's key.
        :param change: function that returns the new state. It runs once per attempt, so it must not
            have side effects.
        :param ctx: the caller, as in :meth:`get`.
        :param attempts: limit on the attempts. A jittered pause of up to 16 ms precedes each retry.
            The time in the queue does not count as an attempt.
        :returns: the written session and its token, as a read would return them.
        :raises SessionNotFoundError: absent or expired.
        :raises CasConflictError: each attempt, up to ``attempts`` or the deadline, had a conflict.
        :raises StoreUnavailableError: also if the call was still queued at the deadline.
        :raises TenantMismatchError: as :meth:`get`, or if ``change`` changed the owner.
        """
        self.check_open()
        key = check_key(key)
        if not callable(cast("object", change)):
            raise InvalidInputError("change", f"expected a function, got {type(change).__name__}")
        if type(attempts) is not int or attempts < 1:
            raise InvalidInputError("attempts", "expected an int of at least 1")
        until = self._deadline()
        scope = tenancy.allowed_owners_of(ctx)[0] if ctx is not None and self._queues else None
        if scope is None or (scope, key) not in self._queues:
            found = await self._try_mutate(key, change, ctx, until)
            if not isinstance(found, Conflict):
                return found
            attempts -= 1
            if not attempts or self._secs_left(until) <= 0:
                raise found.error(key)
            scope = found.scope
        return await self._queues.attempt_in_turn(
            scope,
            key,
            partial(self._try_mutate, key, change, ctx, until),
            attempts,
            partial(self._secs_left, until),
        )

    async def _try_mutate(
        self,
        key: SessionKey,
        change: Callable[[Session[C]], Session[C]],
        ctx: TenantCtx | None,
        until: float | None,
    ) -> Versioned[C] | Conflict:
        """Read the session, change it and write it back, once."""
        scope, allowed = (
            tenancy.allowed_owners_of(ctx) if ctx is not None else await self._sole(key, until)
        )
        record = None if scope is None else self._read(scope, key, until)
        if record is not None and not isinstance(record, Record):
            record = await record
        if scope is None or record is None:
            raise SessionNotFoundError(key)
        found = self._opened(key, record, allowed)
        # The body is decoded first, because a session that cannot be read must not be written.
        changed = apply_change(found.session, change)
        if self._holds_writes:
            await self._pass_gate(changed, until)
        encoded, body = self.encoder.encode_with_body(changed)
        outcome = self._update_cas(encoded, found.cas, until, None)
        if not isinstance(outcome, Outcome):
            outcome = await outcome
        if outcome.verdict is Verdict.CONFLICT:
            return Conflict(scope, found.cas, outcome.token)
        cas = self._token(key, outcome)
        return as_versioned(key, body, cas, encoded.ttl_ms, outcome.at_ms)

    @final
    async def touch(
        self,
        key: SessionKey,
        ttl_secs: timedelta | float | None = None,
        *,
        ctx: TenantCtx | None = None,
    ) -> bool:
        """Restart the session's lifetime. Token and payload stay the same.

        :param key: the session's key.
        :param ttl_secs: the new lifetime, in seconds or as a :class:`datetime.timedelta`. ``0``
            makes the session permanent. ``None`` keeps the stored lifetime. A later write stores
            the lifetime of the session that it writes.
        :param ctx: the caller, as in :meth:`get`.
        :returns: ``False`` if absent or expired.
        :raises TenantMismatchError: wrong team or user in the right tenant.
        :raises AmbiguousKeyError: several tenants have the key, and there is no ``ctx``.
        """
        if self._closed:
            self.check_open()
        key = check_key(key)
        ttl_ms = None if ttl_secs is None else ttl_to_ms(ttl_secs)
        until = self._deadline()
        scope, allowed = (
            tenancy.allowed_owners_of(ctx) if ctx is not None else await self._sole(key, until)
        )
        if scope is None:
            return False
        outcome = self._touch(scope, key, ttl_ms, allowed, until)
        if not isinstance(outcome, Outcome):
            outcome = await outcome
        if outcome.verdict is not DONE and outcome.verdict is not Verdict.ABSENT:
            raise error_for(key, outcome)
        return outcome.verdict is DONE

    @final
    async def delete(
        self, key: SessionKey, *, ctx: TenantCtx | None = None, expected: Cas | None = None
    ) -> bool:
        """Remove the session, its wait and its completed events.

        Messages, locks and placements belong to the key. They stay.

        :param key: the session's key.
        :param ctx: the caller, as in :meth:`get`.
        :param expected: token that must be stored. ``None`` removes the session regardless of its
            token.
        :returns: ``False`` if absent or expired, also with ``expected``.
        :raises CasConflictError: a live session has another token.
        :raises TenantMismatchError: wrong team or user in the right tenant.
        :raises AmbiguousKeyError: several tenants have the key, and there is no ``ctx``.
        :raises DecodeError: a field of the stored record cannot be read. With ``ctx``, the record
            is removed if its owner can be read and passes the access check.
        """
        self.check_open()
        key = check_key(key)
        if expected is not None:
            check_token(expected)
        until = self._deadline()
        scope, allowed = (
            tenancy.allowed_owners_of(ctx) if ctx is not None else await self._sole(key, until)
        )
        if scope is None:
            return False
        outcome = await self._delete(scope, key, allowed, expected, until)
        if outcome.verdict is Verdict.ABSENT:
            return False
        if outcome.verdict is Verdict.CONFLICT and expected is not None:
            raise CasConflictError(key, expected, outcome.token)
        self._token(key, outcome)
        return True

    @final
    async def replace_incarnation(self, session: Session[C], expected: Cas) -> Cas:
        """End the live session and begin a new one under its key, in one step.

        It is a delete and a create, so the new session has another :attr:`Session.id` and no token
        of the old one fits. The wait, its claim and the completed events of the old one end. A
        claim that ends late gets :class:`LeaseLostError`. Messages, locks and placements belong to
        the key. They stay.

        :param session: the new session. Env, tenant and team are the stored ones. The user may
            differ, and no other verb allows that. The outbox is the given one.
        :param expected: token that must be stored.
        :returns: the token of the new session, with value 1.
        :raises CasConflictError: another token is stored, or ``Cas.none()`` because the session is
            absent or expired.
        :raises TenantMismatchError: the live session has another team.
        :raises PayloadTooLargeError: over the store's limit.
        """
        until = await self._enter_write(session) if self._holds_writes else None
        check_token(expected)
        encoded = self.encoder.encode(session)
        outcome = await self._replace(encoded, expected, until=until)
        if outcome.verdict is Verdict.CONFLICT:
            raise CasConflictError(encoded.key, expected, outcome.token)
        return self._token(encoded.key, outcome)

    # --- the store itself --------------------------------------------------------------------

    @final
    def scoped(self, ctx: TenantCtx) -> ScopedSessionStore[C]:
        """Return a view that applies the access check of ``ctx`` to every call.

        Give such a view to connector code, instead of the store.

        :raises InvalidInputError: if a field of ``ctx`` is invalid.
        """
        tenancy.allowed_owners_of(ctx)
        return ScopedSessionStore(self, ctx)

    @final
    def tenant(self, env: str, tenant_id: str) -> TenantSessionStore[C]:
        """Return a view of a tenant's sessions without the check of team and user.

        Use it in a service that proves the caller itself, such as one that compares a secret with
        the session.

        :raises InvalidInputError: if ``env`` or ``tenant_id`` is invalid.
        """
        return TenantSessionStore(self, env, tenant_id)

    @abstractmethod
    def statistics(self) -> StoreStatistics:
        """Return the store's counters, without I/O."""

    @final
    async def ping(self) -> bool:
        """Check that the backend can serve calls.

        :returns: ``True``.
        :raises StoreUnavailableError: if it cannot.
        """
        self.check_open()
        await self._ping()
        return True

    # --- shared steps ------------------------------------------------------------------------

    def _lease(self, fence: Fenced, encoded: EncodedSession) -> LeaseRef:
        if not isinstance(self, SupportsFencing):
            raise InvalidInputError("fence", f"{type(self).__name__} does not support leases")
        return lease_ref_of(fence, encoded)

    async def _sole(self, key: SessionKey, until: float | None) -> tuple[str | None, None]:
        """Return the one scope that has the key. Without a caller, there is no access check."""
        scopes = await self._holders(key, until)
        if len(scopes) > 1:
            raise AmbiguousKeyError(key)
        return (scopes[0] if scopes else None), None

    @staticmethod
    def _token(key: str, outcome: Outcome) -> Cas:
        if outcome.verdict is DONE:
            return Cas(value=outcome.value, incarnation=outcome.incarnation)
        raise error_for(key, outcome)
