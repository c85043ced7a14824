"""The base class of every store, :class:`AsyncSessionStore`.

It holds every public verb, written once: checks, access check, encoding, error naming. A backend
implements the small steps of :class:`.abc.store.StorePrimitives` on encoded records, and inherits
the contract's tests from :mod:`greentic_session.testing.contract`.
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
from .scoped import ScopedSessionStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import timedelta

    from .abc.fencing import LeaseRef
    from .abc.records import EncodedSession, UnreadableSession
    from .statistics import StoreStatistics

__all__ = ["AsyncSessionStore"]


class AsyncSessionStore(StoreLifetime, Generic[C]):
    """Keeps sessions for many tenants. One event loop at a time; not for use across threads.

    Hold it with ``async with``. The block may be entered several times, also at the same time. The
    last one that is left closes the store.

    Each write, in one atomic step: checks the fence before it changes anything, stamps
    ``updated_at`` from the store's clock, recomputes the expiry, drops repeated outbox pairs, and
    gives the lookup entry the same life. A session is absent from the instant
    ``now >= expires_at``.

    Any verb may raise :class:`InvalidInputError` (before any I/O), :class:`StoreUnavailableError`
    and, if it writes, :class:`StoreFullError` (nothing written) and :class:`OutcomeUnknownError`
    (written or not: read again). A write whose task was cancelled may or may not have happened.

    :param context_type: type of :attr:`Session.context`: a msgspec struct, dataclass, TypedDict,
        tagged union or ``dict``.
    :param codec: makes the codec of that type.
    :param max_payload_bytes: limit on one encoded session.
    :param verify: whether a session is checked before it is written to come back as it is. A wrong
        type inside its context is refused, and so is a value in labels, a ``dict`` state or an
        untyped part of a state that would come back as another. A tuple may come back as a list,
        and an equal value as one of another class. Costs up to one decoding per write.
    :param close_secs: how long :meth:`aclose` waits for running calls, in seconds or as
        a ``timedelta``.
    :ivar encoder: checks, encodes and decodes the store's sessions: for services on top of it.
    """

    def __init__(
        self,
        context_type: type[C] = cast("type[C]", dict),  # noqa: B008 - a cast is no call
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
        :param ctx: the caller; only its tenant's session is seen, and the fence holds. Without
            it, the tenant is looked up.
        :returns: ``None`` if absent or expired.
        :raises TenantMismatchError: wrong team or user in the right tenant.
        :raises AmbiguousKeyError: without ``ctx``, if several tenants hold the key.
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
        """Return several sessions of one tenant, in as few round trips as their bytes allow.

        A server is asked once for up to 16 small sessions. For more, it is first asked for their
        sizes, and then for about 1 MiB at a time. The deadline applies to each such step.

        :param keys: the keys; repetition is fine.
        :param ctx: the caller.
        :param on_error: what stands for a session that cannot be read. ``"raise"`` raises its
            error, ``"skip"`` gives ``None``, ``"return"`` gives an :class:`UnreadableSession`.
        :returns: in the order of ``keys``, ``None`` for each that is absent or expired.
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

        No order. A session that lives during the whole scan is given exactly once; one that comes
        or goes meanwhile may be given or not. Leaving the iteration early leaves nothing behind.

        :param ctx: env and tenant. A team or user in it narrows the scan to what that team or
            user may see; without them the whole tenant is given.
        :param batch_size: how many records are looked at in one step, 1 to 10000. A step returns
            about 1 MiB at most, and has a deadline of its own.
        :param fenced: give only what :meth:`get` with this ``ctx`` would return.
        :param on_error: as in :meth:`get_many`, but ``"skip"`` leaves the session out. After an
            error, the iteration may go on.
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
        :raises SessionExistsError: a live session of the same owner stands under the key.
        :raises TenantMismatchError: a live session of another team or user does.
        :raises PayloadTooLargeError: over the store's limit.
        """
        self.check_open()
        if self._holds_writes:
            await self._enter_write()
        encoded = self.encoder.encode(session)
        outcome = await self._create(encoded)
        if outcome.verdict is Verdict.EXISTS:
            raise SessionExistsError(encoded.key)
        return self._token(encoded.key, outcome)

    @final
    async def put(self, session: Session[C], *, fence: Fenced = UNFENCED) -> Cas:
        """Create a session, or replace the live one whatever its token.

        :param session: the new state.
        :param fence: a lease of this key: write only while it holds. ``None`` is none, and refused.
        :returns: the new token; over an absent or expired session that of a new incarnation.
        :raises LeaseLostError: the lease has ended, whether or not another holds one.
        :raises TenantMismatchError: the live session is another team's or user's.
        :raises PayloadTooLargeError: over the store's limit.
        """
        if self._holds_writes:
            await self._enter_write()
        encoded = self.encoder.encode(session)
        outcome = self._put(encoded, None if fence is UNFENCED else self._lease(fence, encoded))
        if not isinstance(outcome, Outcome):
            outcome = await outcome
        if outcome.verdict is DONE:
            return Cas(value=outcome.value, incarnation=outcome.incarnation)
        raise error_for(encoded.key, outcome)

    @final
    async def update_cas(
        self, session: Session[C], expected: Cas, *, fence: Fenced = UNFENCED
    ) -> Cas:
        """Replace the session if its token is the expected one. Never creates.

        :param session: the new state.
        :param expected: the token that the last read or write returned.
        :param fence: a lease of this key: write only while it holds. ``None`` is none, and refused.
        :returns: the new token.
        :raises LeaseLostError: the lease has ended, whether or not another holds one.
        :raises CasConflictError: another token is stored; ``Cas.none()`` when the session is
            absent or expired.
        :raises TenantMismatchError: the live session is another team's or user's.
        :raises PayloadTooLargeError: over the store's limit.
        """
        if self._holds_writes:
            await self._enter_write()
        check_token(expected)
        encoded = self.encoder.encode(session)
        lease = None if fence is UNFENCED else self._lease(fence, encoded)
        outcome = self._update_cas(encoded, expected, None, lease)
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
        """Read, change and write back, again on conflict.

        Callers of one store that meet a conflict on one session queue up, first in first out. One
        deadline covers the time in the queue and all attempts.

        :param key: the session's key.
        :param change: returns the new state. Runs once per attempt, so it must have no effects.
        :param ctx: the caller, as in :meth:`get`.
        :param attempts: how often to try, with a jittered pause of up to 16 ms between. The time
            in the queue is no attempt.
        :returns: what was written, as a read would return it.
        :raises SessionNotFoundError: absent or expired.
        :raises CasConflictError: every attempt until the deadline met another writer.
        :raises StoreUnavailableError: also if the caller's turn did not come by the deadline.
        :raises TenantMismatchError: as :meth:`get`; or ``change`` changed the owner.
        """
        self.check_open()
        key = check_key(key)
        if not callable(cast("object", change)):
            raise InvalidInputError("change", f"expected a function, got {type(change).__name__}")
        if type(attempts) is not int or attempts < 1:
            raise InvalidInputError("attempts", "expected an int of at least 1")
        if self._holds_writes:
            await self._enter_write()
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
        """Read, change and write back once."""
        scope, allowed = (
            tenancy.allowed_owners_of(ctx) if ctx is not None else await self._sole(key, until)
        )
        record = None if scope is None else self._read(scope, key, until)
        if record is not None and not isinstance(record, Record):
            record = await record
        if scope is None or record is None:
            raise SessionNotFoundError(key)
        found = self._opened(key, record, allowed)
        # A session that a read could not return is not written.
        encoded, body = self.encoder.encode_with_body(apply_change(found.session, change))
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
        """Start the session's life anew. Moves neither token nor payload.

        :param key: the session's key.
        :param ttl_secs: the new life, seconds or a :class:`datetime.timedelta`, kept by later
            writes of the same session only if they carry it; ``0`` makes the session permanent,
            ``None`` keeps the stored life.
        :param ctx: the caller, as in :meth:`get`.
        :returns: ``False`` if absent or expired.
        :raises TenantMismatchError: wrong team or user in the right tenant.
        :raises AmbiguousKeyError: without ``ctx``, if several tenants hold the key.
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
        """Remove the session and everything that hangs on it.

        :param key: the session's key.
        :param ctx: the caller, as in :meth:`get`.
        :param expected: remove only if this is the stored token.
        :returns: ``False`` if absent or expired, also with ``expected``.
        :raises CasConflictError: a live session has another token.
        :raises TenantMismatchError: wrong team or user in the right tenant.
        :raises AmbiguousKeyError: without ``ctx``, if several tenants hold the key.
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

    # --- the store itself --------------------------------------------------------------------

    @final
    def scoped(self, ctx: TenantCtx) -> ScopedSessionStore[C]:
        """Return a view in which every call is fenced by ``ctx``: what connector code should hold.

        :raises InvalidInputError: if ``ctx`` breaks a rule of its fields.
        """
        tenancy.allowed_owners_of(ctx)
        return ScopedSessionStore(self, ctx)

    @abstractmethod
    def statistics(self) -> StoreStatistics:
        """Return what the store knows about itself. No I/O."""

    @final
    async def ping(self) -> bool:
        """Ask the backend whether it serves.

        :returns: ``True``.
        :raises StoreUnavailableError: if it does not.
        """
        self.check_open()
        await self._ping()
        return True

    # --- shared steps ------------------------------------------------------------------------

    def _lease(self, fence: Fenced, encoded: EncodedSession) -> LeaseRef:
        if not isinstance(self, SupportsFencing):
            raise InvalidInputError("fence", f"{type(self).__name__} keeps no leases")
        return lease_ref_of(fence, encoded)

    async def _sole(self, key: SessionKey, until: float | None) -> tuple[str | None, None]:
        """Return the one scope that holds the key, for calls without a caller: no fence then."""
        scopes = await self._holders(key, until)
        if len(scopes) > 1:
            raise AmbiguousKeyError(key)
        return (scopes[0] if scopes else None), None

    @staticmethod
    def _token(key: str, outcome: Outcome) -> Cas:
        if outcome.verdict is DONE:
            return Cas(value=outcome.value, incarnation=outcome.incarnation)
        raise error_for(key, outcome)
