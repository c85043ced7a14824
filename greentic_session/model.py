"""The structs of a session and of the results of reads.

All structs are frozen and keyword-only. Constructing one checks nothing, so that reading stays
fast. The store checks every field before it writes.
"""

from __future__ import annotations

import hashlib
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, NewType, Self, cast
from uuid import UUID, uuid4

import msgspec
from msgspec.structs import force_setattr

from ._validation import Seconds, default_secs, require_clean_text, require_int
from .errors import InvalidInputError

# A type parameter with a default (PEP 696): a checker sees it, the run time does not need it.
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import TypeVar

    C = TypeVar("C", default=dict[str, Any])  # Any: a plain dict of JSON values, the app's own
elif sys.version_info >= (3, 13):
    from typing import TypeVar

    C = TypeVar("C", default=dict[str, Any])
else:
    from typing import TypeVar

    C = TypeVar("C")

__all__ = [
    "Cas",
    "OutboxEntry",
    "ReplyScope",
    "Session",
    "SessionCursor",
    "SessionId",
    "SessionKey",
    "SessionMeta",
    "TenantCtx",
    "Versioned",
    "new_session_key",
]

SessionKey = NewType("SessionKey", str)
"""Deterministic routing key, 1 to 512 characters, no control characters. Values come from
:mod:`greentic_session.keys` or :func:`new_session_key`."""

SessionId = NewType("SessionId", UUID)
"""Random identity of one incarnation of a session."""

DEFAULT_MAX_OUTBOX: Final = 128
"""How many entries :meth:`Session.with_outbox` keeps. About 15 kB as JSON."""
_NO_ID: Final = SessionId(UUID(int=0))
MAX_CAS_VALUE: Final = 10**14 - 1
"""Lua's ``%.14g`` writes no larger integer exactly (Lua 5.1 manual, ``LUA_NUMBER_FMT``)."""
# RFC 9110, 8.8.3: a token as an entity tag stands in quotes, a weak one behind W/.
_CAS: Final = re.compile(r'(?:(?:W/)?("))?(?:0|([1-9][0-9]{0,13})-([0-9a-f]{32}))(?(1)")')


def new_session_key() -> SessionKey:
    """Return a fresh random key, for sessions that nothing outside identifies."""
    return SessionKey(str(uuid4()))


def _utc_now() -> datetime:
    return datetime.now(UTC)


class TenantCtx(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who is calling.

    :ivar tenant_id: ``[A-Za-z0-9._-]{1,128}``.
    :ivar env: deployment environment, same alphabet.
    :ivar team_id: same alphabet; ``None`` is the tenant without a team.
    :ivar user_id: printable text, 1 to 256 characters; ``None`` when no user is known.
    :ivar attributes: the application's own notes about the call; the store ignores them.
    """

    tenant_id: str
    env: str = "default"
    team_id: str | None = None
    user_id: str | None = None
    attributes: dict[str, str] = msgspec.field(default_factory=dict)


class SessionMeta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who owns a session. Of a live session only ``labels`` may change.

    :ivar tenant_id: ``[A-Za-z0-9._-]{1,128}``.
    :ivar env: deployment environment, same alphabet.
    :ivar team_id: same alphabet; ``None`` is the tenant without a team.
    :ivar user_id: printable text, 1 to 256 characters; ``None`` is open to the whole team.
    :ivar labels: JSON values for operators.
    """

    tenant_id: str
    env: str = "default"
    team_id: str | None = None
    user_id: str | None = None
    labels: dict[str, Any] = msgspec.field(default_factory=dict)  # Any: JSON values

    @classmethod
    def of(cls, ctx: TenantCtx, labels: dict[str, Any] | None = None) -> Self:
        """Return the ownership that fits a caller.

        :param ctx: the caller; env, tenant, team and user are taken over.
        :param labels: JSON values.
        """
        return cls(
            tenant_id=ctx.tenant_id,
            env=ctx.env,
            team_id=ctx.team_id,
            user_id=ctx.user_id,
            labels={} if labels is None else labels,
        )


class SessionCursor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where to resume.

    :ivar flow_id: the flow.
    :ivar node_id: the node inside it.
    :ivar pack_id: the pack that holds the flow, if flows come in packs.
    :ivar wait_reason: why the flow is paused, for people.
    :ivar outbox_seq: number of the current step; grows with each :meth:`Session.advance`.
    """

    flow_id: str
    node_id: str
    pack_id: str | None = None
    wait_reason: str | None = None
    outbox_seq: int = 0


class OutboxEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An effect recorded with the state, so that it is handed off once.

    ``(seq, payload_sha256)`` is unique within one incarnation of a session. A receiver that wants
    an idempotency key for all time takes :attr:`Session.id` along.

    :ivar seq: the step that caused it.
    :ivar payload_sha256: SHA-256 of the payload, 32 bytes. The payload itself is not stored.
    :ivar created_at: aware UTC.
    """

    seq: int
    payload_sha256: bytes
    created_at: datetime

    @classmethod
    def for_payload(cls, seq: int, payload: bytes) -> Self:
        """Return the entry of a payload, created now.

        :param seq: the step.
        :param payload: the bytes that go out, in the form that is the same on every attempt.
        """
        digest = hashlib.sha256(payload).digest()
        return cls(seq=seq, payload_sha256=digest, created_at=_utc_now())


def distinct_entries(outbox: Iterable[OutboxEntry]) -> tuple[OutboxEntry, ...]:
    """Return the entries in order, the first of each ``(seq, payload_sha256)`` only."""
    seen: dict[tuple[int, bytes], OutboxEntry] = {}
    for entry in outbox:
        seen.setdefault((entry.seq, entry.payload_sha256), entry)
    return tuple(seen.values())


class Hidden:
    """Stands for a value in a ``repr`` that must not show it.

    :param value: shown by the name of its type only.
    """

    __slots__ = ("_type_name",)

    def __init__(self, value: object) -> None:
        self._type_name = type(value).__name__

    def __repr__(self) -> str:
        return f"<{self._type_name}>"


class Session(msgspec.Struct, Generic[C], frozen=True, kw_only=True):
    """The durable state of one conversation or flow.

    :ivar key: routing key, unique per (env, tenant).
    :ivar cursor: where to resume.
    :ivar meta: who owns it.
    :ivar context: the application's own state, of the store's ``context_type``.
    :ivar outbox: effects recorded with the state, oldest first. Bounded by :meth:`with_outbox`.
    :ivar ttl_secs: lifetime in seconds from the last write or touch, to 1 ms. 0 never expires. A
        ``timedelta`` is accepted. A session that was read has seconds.
    :ivar id: identity of this incarnation, stamped by the store when the record comes into
        being; all zero before.
    :ivar updated_at: aware UTC, stamped by the store at each write and touch, to 1 ms.
    """

    key: SessionKey
    cursor: SessionCursor
    meta: SessionMeta
    context: C = msgspec.field(default_factory=cast("Callable[[], C]", dict))
    outbox: tuple[OutboxEntry, ...] = ()
    ttl_secs: Seconds = default_secs(0)
    id: SessionId = _NO_ID
    updated_at: datetime = msgspec.field(default_factory=_utc_now)

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # Any: as msgspec declares it
        """Return the fields for pretty printers, without the application's state."""
        return [
            (name, Hidden(value) if name == "context" else value)
            for name in self.__struct_fields__
            for value in (getattr(self, name),)
        ]

    def __repr__(self) -> str:
        """Return the fields without the application's state, which may be anybody's secret."""
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({fields})"

    @property
    def expires_at(self) -> datetime | None:
        """The instant from which the session is absent (``now >= expires_at``); ``None`` is never.

        Exact on a session that was read from a store, unless a claim on its wait is held: then its
        life counts from the end of the claim's lease.
        """
        ttl = cast("object", self.ttl_secs)
        secs = ttl.total_seconds() if isinstance(ttl, timedelta) else self.ttl_secs
        if secs == 0:
            return None
        return self.updated_at + timedelta(milliseconds=round(secs * 1000))

    def dedupe_outbox(self) -> Self:
        """Return the session with the first of each ``(seq, payload_sha256)`` in its outbox."""
        outbox = distinct_entries(self.outbox)
        if len(outbox) == len(self.outbox):
            return self
        return msgspec.structs.replace(self, outbox=outbox)

    def with_outbox(
        self, payload: bytes, *, max_outbox: int = DEFAULT_MAX_OUTBOX
    ) -> tuple[Self, bool]:
        """Record an effect of the current step (``cursor.outbox_seq``), so before :meth:`advance`.

        Keeps the newest ``max_outbox`` entries, the new one included, and drops the oldest ones. An
        effect whose entry was dropped is not deduplicated: recorded again, it counts as new.

        :param payload: the bytes that go out.
        :param max_outbox: how many entries to keep, at least 1. A store writes the entries that it
            is given and drops none but repeated ones.
        :returns: the session with the entry, and whether the entry is new. When it is not, the
            effect was recorded by an earlier attempt at this step.
        :raises InvalidInputError: naming ``max_outbox``.
        """
        require_int(max_outbox, "max_outbox", 1)
        entry = OutboxEntry.for_payload(self.cursor.outbox_seq, payload)
        for known in self.outbox:
            if known.seq == entry.seq and known.payload_sha256 == entry.payload_sha256:
                return self, False
        kept = self.outbox[1 - max_outbox :] if max_outbox > 1 else ()
        return msgspec.structs.replace(self, outbox=(*kept, entry)), True

    def without_outbox(self, through_seq: int) -> Self:
        """Return the session without the entries that the receiver has confirmed.

        An effect whose entry was dropped is not deduplicated: recorded again, it counts as new.

        :param through_seq: the last step to drop. Entries of this and of earlier steps go.
        :raises InvalidInputError: naming ``through_seq``.
        """
        if type(cast("object", through_seq)) is not int:
            raise InvalidInputError("through_seq", "expected an int")
        outbox = tuple(entry for entry in self.outbox if entry.seq > through_seq)
        if len(outbox) == len(self.outbox):
            return self
        return msgspec.structs.replace(self, outbox=outbox)

    def advance(self, node_id: str, wait_reason: str | None = None) -> Self:
        """Return the session at the next node: a new step, so ``cursor.outbox_seq`` grows by one.

        :param node_id: where the flow resumes.
        :param wait_reason: why it is paused there.
        """
        cursor = msgspec.structs.replace(
            self.cursor,
            node_id=node_id,
            wait_reason=wait_reason,
            outbox_seq=self.cursor.outbox_seq + 1,
        )
        return msgspec.structs.replace(self, cursor=cursor)


class Cas(msgspec.Struct, frozen=True, kw_only=True):
    """Compare-and-set token of one version of one incarnation. Compare for equality only.

    :ivar value: 1 after create, one more after each successful write, at most 10^14 - 1; 0 is
        absent, and that of :meth:`none` only.
    :ivar incarnation: 32 hex digits, random per record that comes into being; empty when absent.
    """

    value: int
    incarnation: str

    @classmethod
    def none(cls) -> Cas:
        """Return the token of an absent session."""
        return _NO_CAS

    @classmethod
    def parse(cls, text: str) -> Cas:
        """Return the token that :func:`str` wrote.

        :param text: ``str(cas)``, or that as an entity tag of an ``If-Match`` header: in double
            quotes, and perhaps marked as weak (``W/"…"``, which caches make of a strong one).
        :raises InvalidInputError: if ``text`` is nothing else.
        """
        # msgspec structs trust their types; a header value may be anything.
        match = _CAS.fullmatch(text) if isinstance(cast("object", text), str) else None
        if match is None:
            raise InvalidInputError("cas", "is not a token")
        value, incarnation = match[2], match[3]
        return _NO_CAS if value is None else cls(value=int(value), incarnation=incarnation)

    def __str__(self) -> str:
        """Return digits, a hyphen and hex digits (``0`` when absent): fit for an HTTP ETag."""
        return f"{self.value}-{self.incarnation}" if self.value else "0"


_NO_CAS: Final = Cas(value=0, incarnation="")


class Versioned(NamedTuple, Generic[C]):
    """What a read returns; unpacks as a pair.

    :ivar session: the session; yours, no copy of it is kept.
    :ivar cas: its token, for ``update_cas``.
    """

    session: Session[C]
    cas: Cas


class ReplyScope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a reply is anchored.

    :ivar conversation: chat, channel or mailbox.
    :ivar thread: thread inside it; ``""`` means absent and becomes ``None``, as in the next two.
    :ivar reply_to: the message that is answered.
    :ivar correlation: the application's own correlation id.
    """

    conversation: str
    thread: str | None = None
    reply_to: str | None = None
    correlation: str | None = None

    def __post_init__(self) -> None:
        # Stored and pickled forms pass here too. So equal places compare and hash as equal.
        if self.thread == "":
            force_setattr(self, "thread", None)
        if self.reply_to == "":
            force_setattr(self, "reply_to", None)
        if self.correlation == "":
            force_setattr(self, "correlation", None)

    def scope_hash(self) -> str:
        """Return the lower-case hex SHA-256 of the four parts joined by a newline.

        :raises InvalidInputError: if ``conversation`` is empty, or a part holds a control
            character (a newline would make two scopes one).
        """
        parts = (
            require_clean_text(self.conversation, "conversation", _MAX_SCOPE_CHARS),
            _scope_part(self.thread, "thread"),
            _scope_part(self.reply_to, "reply_to"),
            _scope_part(self.correlation, "correlation"),
        )
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


_MAX_SCOPE_CHARS: Final = 1024


def _scope_part(value: str | None, field: str) -> str:
    if value is None:
        return ""
    return require_clean_text(value, field, _MAX_SCOPE_CHARS)
