"""The store's contract.

:class:`AsyncSessionStore` holds every public verb, written once: checks, fence, encoding, error
naming. A backend implements the small primitives at the end of the class on encoded records, and
inherits the contract's tests from :mod:`greentic_session.testing.contract`.
"""

from __future__ import annotations

import inspect
import random
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Generic, cast, final
from uuid import UUID

import msgspec

from . import fence
from .codec import Codec, CodecFactory, JsonCodec, SessionBody, context_classes
from .config import DEFAULT_MAX_PAYLOAD_BYTES
from .errors import (
    AmbiguousKeyError,
    CasConflictError,
    DecodeError,
    InvalidInputError,
    OutcomeUnknownError,
    PayloadTooLargeError,
    SessionError,
    SessionExistsError,
    SessionNotFoundError,
    StoreUnavailableError,
    TenantMismatchError,
)
from .model import (
    C,
    Cas,
    OutboxEntry,
    Session,
    SessionCursor,
    SessionId,
    SessionKey,
    SessionMeta,
    TenantCtx,
    Versioned,
    distinct_entries,
)
from .record import Admission, Draft, Outcome, Record, Verdict
from .scoped import ScopedSessionStore
from .validation import check_key, ttl_to_ms

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from types import TracebackType
    from typing import Self

__all__ = ["AsyncSessionStore", "StoreStatistics"]

_FIRST_BACKOFF_SECS: Final = 0.001
_LAST_BACKOFF_SECS: Final = 0.05


class StoreStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a store knows about itself without asking anybody.

    :ivar backend: ``memory`` or ``redis``.
    :ivar closed: whether ``aclose`` was called.
    :ivar sessions: records held in this process, expired and not yet swept ones included;
        ``None`` where a server holds them.
    :ivar expiring: how many of these have a limited life.
    :ivar tenants: how many (env, tenant) pairs have records in this process.
    :ivar lookups: how many keys the lookup mirror holds in this process.
    :ivar swept: records that sweeps removed since the store was made.
    :ivar in_flight: calls that wait for a server now.
    :ivar connections: connections to a server that are open now.
    :ivar retries: attempts after the first of each call, since the store was made.
    """

    backend: str
    closed: bool = False
    sessions: int | None = None
    expiring: int | None = None
    tenants: int | None = None
    lookups: int | None = None
    swept: int = 0
    in_flight: int = 0
    connections: int = 0
    retries: int = 0


class AsyncSessionStore(ABC, Generic[C]):
    """Keeps sessions for many tenants. One event loop at a time; not for use across threads.

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
    """

    def __init__(
        self,
        context_type: type[C] = cast("type[C]", dict),  # noqa: B008 - a cast is no call
        *,
        codec: CodecFactory = JsonCodec,
        max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
    ) -> None:
        self.context_type: Final = context_type
        try:
            self._codec: Final[Codec[C]] = codec(context_type)
        except TypeError as error:
            raise InvalidInputError("context_type", str(error)) from error
        self._context_classes: Final = context_classes(context_type)
        self._max_payload_bytes: Final = max_payload_bytes
        self._closed = False

    async def __aenter__(self) -> Self:
        self._check_open()
        await self._open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

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
        self._check_open()
        check_key(key)
        admission: Admission | None = None
        scope: str | None
        if ctx is None:
            scope = await self._sole_scope(key)
            if scope is None:
                return None
        else:
            scope, admission = fence.admit(ctx)
        record = await self._read(scope, key)
        if record is None:
            return None
        if not fence.admits(admission, record.owner):
            raise TenantMismatchError(key)
        return self._versioned(key, record)

    @final
    async def get_many(
        self, keys: Sequence[SessionKey], *, ctx: TenantCtx
    ) -> list[Versioned[C] | None]:
        """Return several sessions of one tenant in one round trip.

        :param keys: the keys; repetition is fine.
        :param ctx: the caller.
        :returns: in the order of ``keys``, ``None`` for each that is absent or expired.
        :raises TenantMismatchError: wrong team or user for one of them.
        :raises DecodeError: as :meth:`get`.
        """
        self._check_open()
        if isinstance(keys, str):
            raise InvalidInputError("keys", "expected a sequence of keys, got one str")
        for key in keys:
            check_key(key)
        scope, admission = fence.admit(ctx)
        if not keys:
            return []
        records = await self._read_many(scope, keys)
        for key, record in zip(keys, records, strict=True):
            if record is not None and not fence.admits(admission, record.owner):
                raise TenantMismatchError(key)
        return [
            None if record is None else self._versioned(key, record)
            for key, record in zip(keys, records, strict=True)
        ]

    @final
    def scan(self, ctx: TenantCtx, *, batch_size: int = 256) -> AsyncIterator[Versioned[C]]:
        """Iterate over a tenant's live sessions, for operators.

        No order. A session that lives during the whole scan is given exactly once; one that comes
        or goes meanwhile may be given or not.

        :param ctx: env and tenant. A team or user in it narrows the scan to what that team or
            user may see; without them the whole tenant is given.
        :param batch_size: how many records are looked at in one step, 1 to 10000.
        :raises DecodeError: while iterating, as :meth:`get`.
        """
        self._check_open()
        scope, admission = fence.admit(ctx)
        if type(batch_size) is not int or not 1 <= batch_size <= 10_000:
            raise InvalidInputError("batch_size", "expected an int from 1 to 10000")
        if ctx.user_id is not None:
            return self._scan_versions(scope, batch_size, lambda owner: owner in admission)
        if ctx.team_id is not None:
            return self._scan_versions(
                scope, batch_size, lambda owner: owner.startswith(admission.shared)
            )
        return self._scan_versions(scope, batch_size, lambda _owner: True)

    async def _scan_versions(
        self, scope: str, batch_size: int, visible: Callable[[str], bool]
    ) -> AsyncIterator[Versioned[C]]:
        async for batch in self._scan(scope, batch_size):
            for key, record in batch:
                if visible(record.owner):
                    yield self._versioned(key, record)

    # --- writing -----------------------------------------------------------------------------

    @final
    async def create(self, session: Session[C]) -> Cas:
        """Store a new session.

        :returns: its token, with value 1.
        :raises SessionExistsError: a live session of the same owner stands under the key.
        :raises TenantMismatchError: a live session of another team or user does.
        :raises PayloadTooLargeError: over the store's limit.
        """
        self._check_open()
        draft = self._draft(session)
        outcome = await self._create(draft)
        if outcome.verdict is Verdict.EXISTS:
            raise SessionExistsError(draft.key)
        return self._token(draft.key, outcome)

    @final
    async def put(self, session: Session[C]) -> Cas:
        """Create a session, or replace the live one whatever its token.

        :returns: the new token; over an absent or expired session that of a new incarnation.
        :raises TenantMismatchError: the live session is another team's or user's.
        :raises PayloadTooLargeError: over the store's limit.
        """
        self._check_open()
        draft = self._draft(session)
        return self._token(draft.key, await self._put(draft))

    @final
    async def update_cas(self, session: Session[C], expected: Cas) -> Cas:
        """Replace the session if its token is the expected one. Never creates.

        :param session: the new state.
        :param expected: the token that the last read or write returned.
        :returns: the new token.
        :raises CasConflictError: another token is stored; ``Cas.none()`` when the session is
            absent or expired.
        :raises TenantMismatchError: the live session is another team's or user's.
        :raises PayloadTooLargeError: over the store's limit.
        """
        self._check_open()
        _check_token(expected)
        draft = self._draft(session)
        outcome = await self._update_cas(draft, expected)
        if outcome.verdict is Verdict.CONFLICT:
            raise CasConflictError(draft.key, expected, _current(outcome))
        return self._token(draft.key, outcome)

    @final
    async def mutate(
        self,
        key: SessionKey,
        change: Callable[[Session[C]], Session[C]],
        *,
        ctx: TenantCtx | None = None,
        attempts: int = 16,
    ) -> Versioned[C]:
        """Read, change and write back, again on conflict.

        :param key: the session's key.
        :param change: returns the new state. Runs once per attempt, so it must have no effects.
        :param ctx: the caller, as in :meth:`get`.
        :param attempts: how often to try, with a jittered pause of up to 50 ms between.
        :returns: what was written, as a read would return it.
        :raises SessionNotFoundError: absent or expired.
        :raises CasConflictError: every attempt met another writer.
        :raises TenantMismatchError: as :meth:`get`; or ``change`` changed the owner.
        """
        self._check_open()
        check_key(key)
        if type(attempts) is not int or attempts < 1:
            raise InvalidInputError("attempts", "expected an int of at least 1")
        attempt = 0
        while True:
            found = await self.get(key, ctx=ctx)
            if found is None:
                raise SessionNotFoundError(key)
            draft = self._draft(_changed(found.session, change))
            outcome = await self._update_cas(draft, found.cas)
            if outcome.verdict is not Verdict.CONFLICT:
                cas = self._token(key, outcome)
                return self._versioned(
                    key,
                    Record(
                        cas.value,
                        cas.incarnation,
                        draft.owner,
                        draft.ttl_ms,
                        outcome.at_ms,
                        draft.body,
                    ),
                )
            attempt += 1
            if attempt >= attempts:
                raise CasConflictError(key, found.cas, _current(outcome))
            await _back_off(attempt)

    @final
    async def touch(
        self,
        key: SessionKey,
        ttl_secs: float | None = None,
        *,
        ctx: TenantCtx | None = None,
    ) -> bool:
        """Start the session's life anew. Moves neither token nor payload.

        :param key: the session's key.
        :param ttl_secs: the new life in seconds, kept by later writes of the same session only
            if they carry it; ``0`` makes the session permanent, ``None`` keeps the stored life.
        :param ctx: the caller, as in :meth:`get`.
        :returns: ``False`` if absent or expired.
        :raises TenantMismatchError: wrong team or user in the right tenant.
        :raises AmbiguousKeyError: without ``ctx``, if several tenants hold the key.
        """
        self._check_open()
        check_key(key)
        ttl_ms = None if ttl_secs is None else ttl_to_ms(ttl_secs)
        address = await self._address(key, ctx)
        if address is None:
            return False
        scope, admission = address
        outcome = await self._touch(scope, key, ttl_ms, admission)
        if outcome.verdict is Verdict.ABSENT:
            return False
        self._token(key, outcome)
        return True

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
        """
        self._check_open()
        check_key(key)
        if expected is not None:
            _check_token(expected)
        address = await self._address(key, ctx)
        if address is None:
            return False
        scope, admission = address
        outcome = await self._delete(scope, key, admission, expected)
        if outcome.verdict is Verdict.ABSENT:
            return False
        if outcome.verdict is Verdict.CONFLICT and expected is not None:
            raise CasConflictError(key, expected, _current(outcome))
        self._token(key, outcome)
        return True

    # --- the store itself --------------------------------------------------------------------

    @final
    def scoped(self, ctx: TenantCtx) -> ScopedSessionStore[C]:
        """Return a view in which every call is fenced by ``ctx``: what connector code should hold.

        :raises InvalidInputError: if ``ctx`` breaks a rule of its fields.
        """
        fence.admit(ctx)
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
        self._check_open()
        await self._ping()
        return True

    @final
    async def aclose(self) -> None:
        """Release what the store holds. Every later call raises. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        await self._aclose()

    # --- shared steps ------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailableError("the store is closed")

    async def _sole_scope(self, key: SessionKey) -> str | None:
        scopes = await self._holders(key)
        if len(scopes) > 1:
            raise AmbiguousKeyError(key)
        return scopes[0] if scopes else None

    async def _address(
        self, key: SessionKey, ctx: TenantCtx | None
    ) -> tuple[str, Admission | None] | None:
        if ctx is not None:
            return fence.admit(ctx)
        scope = await self._sole_scope(key)
        return None if scope is None else (scope, None)

    def _draft(self, session: Session[C]) -> Draft:
        # Structs trust their types; what was built by hand is checked here, before any I/O, so
        # that nothing is stored which no reader could decode.
        if not isinstance(cast("object", session), Session):
            raise InvalidInputError("session", f"expected Session, got {type(session).__name__}")
        check_key(session.key)
        meta, cursor, outbox, context = (
            session.meta,
            session.cursor,
            session.outbox,
            session.context,
        )
        if type(meta) is not SessionMeta:
            raise InvalidInputError("meta", f"expected SessionMeta, got {type(meta).__name__}")
        scope, owner = fence.owner_of(meta)
        _check_cursor(cursor)
        if outbox != ():
            _check_outbox(outbox)
            outbox = distinct_entries(outbox)
        classes = self._context_classes
        if classes is not None and not isinstance(context, classes):
            raise InvalidInputError(
                "context", f"expected {_names(classes)}, got {type(context).__name__}"
            )
        ttl_ms = ttl_to_ms(session.ttl_secs)
        try:
            body = self._codec.encode(
                SessionBody(cursor=cursor, meta=meta, context=context, outbox=outbox)
            )
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            # `from None`: some of these carry the value they failed on.
            raise InvalidInputError("session", _unwritable(error)) from None
        if len(body) > self._max_payload_bytes:
            raise PayloadTooLargeError(len(body), self._max_payload_bytes)
        return Draft(scope, session.key, owner, ttl_ms, body)

    def _versioned(self, key: SessionKey, record: Record) -> Versioned[C]:
        try:
            body = self._codec.decode(record.body)
            session_id = msgspec.convert(record.incarnation, UUID)
        except (msgspec.DecodeError, ValueError) as error:
            # `from None`: msgspec may quote the stored value.
            raise DecodeError(key, _unreadable(error)) from None
        session: Session[C] = Session(
            key=key,
            cursor=body.cursor,
            meta=body.meta,
            context=body.context,
            outbox=body.outbox,
            ttl_secs=record.ttl_ms / 1000,
            id=SessionId(session_id),
            updated_at=datetime.fromtimestamp(record.at_ms / 1000, UTC),
        )
        return Versioned(session, Cas(value=record.value, incarnation=record.incarnation))

    @staticmethod
    def _token(key: str, outcome: Outcome) -> Cas:
        if outcome.verdict is Verdict.DONE:
            return Cas(value=outcome.value, incarnation=outcome.incarnation)
        if outcome.verdict is Verdict.MISMATCH:
            raise TenantMismatchError(key)
        if outcome.verdict is Verdict.AMBIGUOUS:
            raise AmbiguousKeyError(key)
        if outcome.verdict is Verdict.UNKNOWN:
            raise OutcomeUnknownError("the record has seen too many writes since to tell")
        raise SessionError(f"key {key!r}: the backend answered {outcome.verdict.name}")

    # --- primitives: what a backend implements -----------------------------------------------
    # Arguments are checked, fenced and encoded. Each primitive that writes is one atomic step,
    # judges in this order (absent or expired, fence, exists or token), and changes nothing unless
    # its verdict is DONE.

    async def _open(self) -> None:
        """Start what runs while the store is held by ``async with``."""

    @abstractmethod
    async def _aclose(self) -> None:
        """Release everything. Called once."""

    @abstractmethod
    async def _ping(self) -> None:
        """Return if the backend serves, else raise :class:`StoreUnavailableError`."""

    @abstractmethod
    async def _read(self, scope: str, key: SessionKey) -> Record | None:
        """Return the live record."""

    @abstractmethod
    async def _read_many(self, scope: str, keys: Sequence[SessionKey]) -> Sequence[Record | None]:
        """Return the live records in the order of ``keys``, which are at least one."""

    @abstractmethod
    async def _holders(self, key: SessionKey) -> Sequence[str]:
        """Return the scopes that hold a live record under ``key``."""

    @abstractmethod
    def _scan(
        self, scope: str, batch_size: int
    ) -> AsyncIterator[Sequence[tuple[SessionKey, Record]]]:
        """Yield the live records of a scope in batches, each once."""

    @abstractmethod
    async def _create(self, draft: Draft) -> Outcome:
        """Write if absent, with a new incarnation; else ``MISMATCH`` or ``EXISTS``."""

    @abstractmethod
    async def _put(self, draft: Draft) -> Outcome:
        """Write; over a live record of the same owner the version grows by one."""

    @abstractmethod
    async def _update_cas(self, draft: Draft, expected: Cas) -> Outcome:
        """Write if the token is ``expected``; else ``MISMATCH`` or ``CONFLICT``."""

    @abstractmethod
    async def _touch(
        self, scope: str, key: SessionKey, ttl_ms: int | None, admission: Admission | None
    ) -> Outcome:
        """Restart the life; ``None`` keeps its length.

        Without ``admission`` there is no fence, but ``AMBIGUOUS`` if another scope holds a live
        record under the key.
        """

    @abstractmethod
    async def _delete(
        self, scope: str, key: SessionKey, admission: Admission | None, expected: Cas | None
    ) -> Outcome:
        """Remove; ``admission`` as in :meth:`_touch`."""


def _check_token(expected: object) -> None:
    if (
        not isinstance(expected, Cas)
        or type(expected.value) is not int
        or type(expected.incarnation) is not str
        or not expected.incarnation.isascii()
    ):
        raise InvalidInputError("expected", "is not a token of this library")


def _check_cursor(cursor: object) -> None:
    if type(cursor) is not SessionCursor:
        raise InvalidInputError("cursor", f"expected SessionCursor, got {type(cursor).__name__}")
    if type(cursor.outbox_seq) is not int:
        raise InvalidInputError("cursor", "outbox_seq is not an int")
    if (
        type(cursor.flow_id) is not str
        or type(cursor.node_id) is not str
        or not (cursor.pack_id is None or type(cursor.pack_id) is str)
        or not (cursor.wait_reason is None or type(cursor.wait_reason) is str)
    ):
        raise InvalidInputError("cursor", "flow_id, node_id, pack_id or wait_reason is not text")


def _check_outbox(outbox: object) -> None:
    if type(outbox) is not tuple:
        raise InvalidInputError("outbox", f"expected a tuple, got {type(outbox).__name__}")
    for entry in cast("tuple[object, ...]", outbox):
        if (
            type(entry) is not OutboxEntry
            or type(entry.seq) is not int
            or type(entry.payload_sha256) is not bytes
            or len(entry.payload_sha256) != 32
            or not isinstance(cast("object", entry.created_at), datetime)
            or entry.created_at.tzinfo is None
        ):
            raise InvalidInputError(
                "outbox", "an entry is not an OutboxEntry of an int, 32 bytes and an aware time"
            )


def _changed(session: Session[C], change: Callable[[Session[C]], Session[C]]) -> Session[C]:
    changed = change(session)
    if not isinstance(cast("object", changed), Session):
        if inspect.iscoroutine(changed):
            changed.close()  # else Python warns that it was never awaited
        raise InvalidInputError(
            "change", f"must return a Session, returned {type(changed).__name__}"
        )
    if changed.key != session.key:
        raise InvalidInputError("change", "returned a session under another key")
    if fence.owner_of(changed.meta) != fence.owner_of(session.meta):
        raise TenantMismatchError(session.key)
    return changed


async def _back_off(attempt: int) -> None:
    from anyio import sleep  # noqa: PLC0415 - keeps `import greentic_session` free of it

    most = min(_LAST_BACKOFF_SECS, _FIRST_BACKOFF_SECS * 2**attempt)
    await sleep(random.uniform(0, most))


def _current(outcome: Outcome) -> Cas:
    if not outcome.value:
        return Cas.none()
    return Cas(value=outcome.value, incarnation=outcome.incarnation)


def _names(classes: tuple[type, ...]) -> str:
    return " or ".join(cls.__name__ for cls in classes)


def _unwritable(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "refers to itself, or is nested too deeply, to be encoded"
    if isinstance(error, UnicodeError):
        return "holds text with a lone surrogate, which has no UTF-8 form"
    if isinstance(error, (OverflowError, ValueError)):
        return "holds a value out of range for the codec"
    return f"cannot be encoded: {error}"


def _unreadable(error: Exception) -> str:
    if isinstance(error, msgspec.ValidationError):
        _, found, path = str(error).rpartition(" - at `")
        where = f" at `{path}" if found else ""
        return f"the stored session does not fit the store's context_type{where}"
    return "the stored bytes are not of the store's codec"
