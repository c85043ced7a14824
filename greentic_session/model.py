"""The structs of a session and of the results of reads.

All structs are frozen and keyword-only. Their constructors do not check fields, because reads have
to be fast. The store checks every field before it writes.
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

# A type parameter with a default (PEP 696). Only type checkers use the default.
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import TypeVar

    C = TypeVar("C", default=dict[str, Any])  # Any: the application's JSON values
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
    "UnknownFields",
    "Versioned",
    "new_session_key",
]

SessionKey = NewType("SessionKey", str)
"""Deterministic routing key, 1 to 512 characters, no control characters. Values come from
:mod:`greentic_session.keys` or :func:`new_session_key`."""

SessionId = NewType("SessionId", UUID)
"""Random identity of one incarnation of a session."""

DEFAULT_MAX_OUTBOX: Final = 128
"""Limit on the entries that :meth:`Session.with_outbox` keeps. About 15 kB as JSON."""
_NO_ID: Final = SessionId(UUID(int=0))
MAX_CAS_VALUE: Final = 10**14 - 1
"""The largest integer that Lua's ``%.14g`` writes exactly (Lua 5.1, ``LUA_NUMBER_FMT``)."""
# RFC 9110, 8.8.3: an entity tag is in quotes, and W/ marks a weak one.
_CAS: Final = re.compile(r'(?:(?:W/)?("))?(?:0|([1-9][0-9]{0,13})-([0-9a-f]{32}))(?(1)")')


def new_session_key() -> SessionKey:
    """Return a new random key, for a session that no external id identifies."""
    return SessionKey(str(uuid4()))


def _utc_now() -> datetime:
    return datetime.now(UTC)


class TenantCtx(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The caller of a verb: env and tenant, optionally team and user.

    :ivar tenant_id: ``[A-Za-z0-9._-]{1,128}``.
    :ivar env: deployment environment, same alphabet.
    :ivar team_id: same alphabet. ``None`` is the tenant without a team.
    :ivar user_id: printable text, 1 to 256 characters. ``None`` if no user is known.
    :ivar attributes: the application's own notes about the call. The store ignores them.
    """

    tenant_id: str
    env: str = "default"
    team_id: str | None = None
    user_id: str | None = None
    attributes: dict[str, str] = msgspec.field(default_factory=dict)


class SessionMeta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The owner of a session. While the session is live, only ``labels`` may change.

    :ivar tenant_id: ``[A-Za-z0-9._-]{1,128}``.
    :ivar env: deployment environment, same alphabet.
    :ivar team_id: same alphabet. ``None`` is the tenant without a team.
    :ivar user_id: printable text, 1 to 256 characters. With ``None``, the whole team has access.
    :ivar labels: JSON values for operators.
    """

    tenant_id: str
    env: str = "default"
    team_id: str | None = None
    user_id: str | None = None
    labels: dict[str, Any] = msgspec.field(default_factory=dict)  # Any: JSON values

    @classmethod
    def of(cls, ctx: TenantCtx, labels: dict[str, Any] | None = None) -> Self:
        """Return the owner that corresponds to a caller.

        :param ctx: the caller. Its env, tenant, team and user are copied.
        :param labels: JSON values for operators.
        """
        return cls(
            tenant_id=ctx.tenant_id,
            env=ctx.env,
            team_id=ctx.team_id,
            user_id=ctx.user_id,
            labels={} if labels is None else labels,
        )


class SessionCursor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The position at which a flow resumes.

    :ivar flow_id: the flow.
    :ivar node_id: the node inside the flow.
    :ivar pack_id: the pack that contains the flow, if flows come in packs.
    :ivar wait_reason: why the flow is paused, for people.
    :ivar outbox_seq: number of the current step. Each :meth:`Session.advance` increments it.
    """

    flow_id: str
    node_id: str
    pack_id: str | None = None
    wait_reason: str | None = None
    outbox_seq: int = 0

    @classmethod
    def none(cls) -> SessionCursor:
        """Return the cursor of a session without a flow. Its ``flow_id`` and ``node_id`` are empty.

        Workers of every release can read it. :meth:`Session.advance` accepts it, and then only
        ``node_id`` is set.
        """
        return _NO_CURSOR


_NO_CURSOR: Final = SessionCursor(flow_id="", node_id="")


class OutboxEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An effect recorded with the state, to hand it off once.

    ``(seq, payload_sha256)`` is unique within one incarnation of a session. A receiver that needs
    an idempotency key across incarnations adds :attr:`Session.id`.

    :ivar seq: the step that caused the effect.
    :ivar payload_sha256: SHA-256 of the payload, 32 bytes. The payload itself is not stored.
    :ivar created_at: time of creation, aware UTC.
    """

    seq: int
    payload_sha256: bytes
    created_at: datetime

    @classmethod
    def for_payload(cls, seq: int, payload: bytes) -> Self:
        """Return the entry of a payload, with the current time.

        :param seq: the step that causes the effect.
        :param payload: the bytes to send. They must be the same on every attempt.
        """
        digest = hashlib.sha256(payload).digest()
        return cls(seq=seq, payload_sha256=digest, created_at=_utc_now())


def distinct_entries(outbox: Iterable[OutboxEntry]) -> tuple[OutboxEntry, ...]:
    """Return the first entry of each ``(seq, payload_sha256)``, in order."""
    seen: dict[tuple[int, bytes], OutboxEntry] = {}
    for entry in outbox:
        seen.setdefault((entry.seq, entry.payload_sha256), entry)
    return tuple(seen.values())


class Hidden:
    """Replaces a value in a ``repr`` that must not show the value.

    :param value: the value. Only the name of its type is shown.
    """

    __slots__ = ("_type_name",)

    def __init__(self, value: object) -> None:
        self._type_name = type(value).__name__

    def __repr__(self) -> str:
        return f"<{self._type_name}>"


class UnknownFields(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The part of a stored session that the store's ``context_type`` does not know.

    A store with another type wrote it. A write of the session keeps it.

    :ivar fields: the unknown fields as JSON, at their places in the stored body.
    :ivar unkept: path of a part whose unknown fields a write would lose, empty if there is none.
    :ivar schema_version: version of the stored state if it is higher than the store's, otherwise 0.
    """

    # A factory, because JSON Schema has no form for a raw default.
    fields: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"{}"))
    unkept: str = ""
    schema_version: int = 0

    def __repr__(self) -> str:
        """Return the version and the path without the fields, because they may be secret."""
        return f"UnknownFields(unkept={self.unkept!r}, schema_version={self.schema_version})"


class Session(msgspec.Struct, Generic[C], frozen=True, kw_only=True):
    """The durable state of one conversation or flow.

    :ivar key: routing key, unique per (env, tenant). The default is :func:`new_session_key`.
    :ivar cursor: the position at which the flow resumes. The default is
        :meth:`SessionCursor.none`.
    :ivar meta: the owner.
    :ivar context: the application's own state, of the store's ``context_type``.
    :ivar outbox: effects recorded with the state, oldest first. :meth:`with_outbox` bounds it.
    :ivar ttl_secs: lifetime in seconds from the last write or touch, to 1 ms. 0 never expires. A
        ``timedelta`` is accepted. A session that was read has seconds.
    :ivar id: identity of this incarnation. The store sets it when it creates the record. All zero
        before that.
    :ivar updated_at: time of the last write or touch, to 1 ms, aware UTC. The store sets it.
    :ivar unknown: fields of another release's type, which a write keeps. The store sets it on a
        session that was read. ``UNSET`` if there are none.
    """

    key: SessionKey = msgspec.field(default_factory=new_session_key)
    cursor: SessionCursor = _NO_CURSOR
    meta: SessionMeta
    context: C = msgspec.field(default_factory=cast("Callable[[], C]", dict))
    outbox: tuple[OutboxEntry, ...] = ()
    ttl_secs: Seconds = default_secs(0)
    id: SessionId = _NO_ID
    updated_at: datetime = msgspec.field(default_factory=_utc_now)
    unknown: UnknownFields | msgspec.UnsetType = msgspec.UNSET

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # Any: as msgspec declares it
        """Return the fields for pretty printers, without the application's state."""
        return [
            (name, Hidden(value) if name == "context" else value)
            for name in self.__struct_fields__
            for value in (getattr(self, name),)
            if value is not msgspec.UNSET
        ]

    def __repr__(self) -> str:
        """Return the fields without the application's state, because it may be secret."""
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({fields})"

    @property
    def expires_at(self) -> datetime | None:
        """The time from which the session is absent, or ``None`` if it never expires.

        The session is absent at ``now >= expires_at``. The value is exact on a session that was
        read from a store, with one exception. While a claim on its wait is held, the lifetime
        starts at the end of the claim's lease.
        """
        ttl = cast("object", self.ttl_secs)
        secs = ttl.total_seconds() if isinstance(ttl, timedelta) else self.ttl_secs
        if secs == 0:
            return None
        return self.updated_at + timedelta(milliseconds=round(secs * 1000))

    def with_context(self, context: C) -> Self:
        """Return the session with another state.

        :param context: the new state, of the same type.
        """
        return msgspec.structs.replace(self, context=context)

    def update_context(self, change: Callable[[C], C]) -> Self:
        """Return the session with the state that a function returns for the current one.

        .. code-block:: python

            await store.mutate(key, lambda found: found.update_context(add_item), ctx=ctx)

        :param change: plain function from state to state. A state that it changes in place, it
            must return as well.
        """
        return self.with_context(change(self.context))

    def dedupe_outbox(self) -> Self:
        """Return the session with only the first outbox entry of each ``(seq, payload_sha256)``."""
        outbox = distinct_entries(self.outbox)
        if len(outbox) == len(self.outbox):
            return self
        return msgspec.structs.replace(self, outbox=outbox)

    def with_outbox(
        self, payload: bytes, *, max_outbox: int = DEFAULT_MAX_OUTBOX
    ) -> tuple[Self, bool]:
        """Record an effect of the current step, ``cursor.outbox_seq``.

        Call this before :meth:`advance`, which starts the next step.

        The newest ``max_outbox`` entries are kept, including the new one. The oldest ones are
        dropped. An effect whose entry was dropped is not deduplicated. If it is recorded again, it
        counts as new.

        :param payload: the bytes to send. They must be the same on every attempt.
        :param max_outbox: limit on the entries to keep, at least 1. A store has no such limit. It
            writes all entries except repeated ones.
        :returns: the session with the entry, and whether the entry is new. If not, an earlier
            attempt at this step recorded the effect.
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

        An effect whose entry was dropped is not deduplicated. If it is recorded again, it counts as
        new.

        :param through_seq: the last step to drop. The entries of this step and of earlier ones are
            dropped.
        :raises InvalidInputError: naming ``through_seq``.
        """
        if type(cast("object", through_seq)) is not int:
            raise InvalidInputError("through_seq", "expected an int")
        outbox = tuple(entry for entry in self.outbox if entry.seq > through_seq)
        if len(outbox) == len(self.outbox):
            return self
        return msgspec.structs.replace(self, outbox=outbox)

    def advance(self, node_id: str, wait_reason: str | None = None) -> Self:
        """Return the session at the next node.

        This starts a new step, so ``cursor.outbox_seq`` grows by one.

        :param node_id: the node at which the flow resumes.
        :param wait_reason: why the flow is paused there, for people.
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

    :ivar value: 1 after create, and one more after each successful write, at most 10^14 - 1. 0
        means absent, and only :meth:`none` has it.
    :ivar incarnation: 32 hex digits, random for each new record. Empty if absent.
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

        :param text: ``str(cas)``, or the same text as an entity tag of an ``If-Match`` header. An
            entity tag is in double quotes. It may be marked as weak (``W/"…"``), because caches
            weaken tags.
        :raises InvalidInputError: if ``text`` is neither.
        """
        # A header value comes from outside, so its type is checked too.
        match = _CAS.fullmatch(text) if isinstance(cast("object", text), str) else None
        if match is None:
            raise InvalidInputError("cas", "is not a token")
        value, incarnation = match[2], match[3]
        return _NO_CAS if value is None else cls(value=int(value), incarnation=incarnation)

    def __str__(self) -> str:
        """Return digits, a hyphen and hex digits, or ``0`` if absent. This fits an HTTP ETag."""
        return f"{self.value}-{self.incarnation}" if self.value else "0"


_NO_CAS: Final = Cas(value=0, incarnation="")


class Versioned(NamedTuple, Generic[C]):
    """The result of a read. Unpacks as a pair.

    :ivar session: the session. It belongs to the caller, because the store keeps no reference to
        it.
    :ivar cas: its token, for ``update_cas``.
    """

    session: Session[C]
    cas: Cas


class ReplyScope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The anchor of a reply in a conversation.

    :ivar conversation: chat, channel or mailbox.
    :ivar thread: thread inside it. ``""`` means absent and becomes ``None``, as in the next two.
    :ivar reply_to: the message that is answered.
    :ivar correlation: the application's own correlation id.
    """

    conversation: str
    thread: str | None = None
    reply_to: str | None = None
    correlation: str | None = None

    def __post_init__(self) -> None:
        # Decoding and unpickling run this too. So equal scopes compare and hash as equal.
        if self.thread == "":
            force_setattr(self, "thread", None)
        if self.reply_to == "":
            force_setattr(self, "reply_to", None)
        if self.correlation == "":
            force_setattr(self, "correlation", None)

    def scope_hash(self) -> str:
        """Return the lower-case hex SHA-256 of the four parts joined by a newline.

        :raises InvalidInputError: if ``conversation`` is empty or a part contains a control
            character. A newline in a part would give different scopes the same hash.
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
