"""The structs of an inbox's public methods, and their stored forms."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final, cast

import msgspec

from ..._core import tenancy
from ..._core.times import datetime_of, ms_of
from ..._validation import (
    Seconds,
    check_key,
    default_secs,
    require_clean_text,
    require_int,
    timedeltas_to_secs,
)
from ...abc.inbox import MailboxRef, StoredDeadLetter, StoredMessage
from ...errors import InvalidInputError
from ...model import SessionKey, TenantCtx  # noqa: TC001 - msgspec reads them

__all__ = [
    "MAX_ID_CHARS",
    "Admitted",
    "DeadLetter",
    "InboxDepth",
    "InboxLimits",
    "InboxStatistics",
    "Mail",
    "check_limits",
    "dead_letter_of",
    "encode_headers",
    "message_of",
    "require_bytes",
    "stored_dead_letter_of",
]

MAX_ID_CHARS: Final = 512
"""Limit on the id of an event."""
_MOST: Final = 100_000


class InboxLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of an inbox. All objects that share an inbox should agree on them.

    Durations are in seconds. A ``timedelta`` is accepted and becomes seconds.

    :ivar mail: limit on the messages of a mailbox. At most ``events``, because the event id of a
        stored message must be known.
    :ivar payload_bytes: limit on the payload of one message.
    :ivar events: how many event ids of one session are known.
    :ivar events_ttl_secs: how long event ids are known, in seconds.
    :ivar dead_ttl_secs: how long dead letters are stored, in seconds.
    :ivar early: limit on the early events of one reply scope.
    :ivar early_ttl_secs: how long early events are stored, in seconds.
    :ivar dead_letters: limit on the stored dead letters of one session. If there are more, the
        oldest ones are dropped. :meth:`SessionInbox.statistics` counts them.
    :raises InvalidInputError: naming the invalid field, when an inbox is made.
    """

    mail: int = 1000
    payload_bytes: int = 65_536
    events: int = 2000
    events_ttl_secs: Seconds = default_secs(86_400)
    dead_ttl_secs: Seconds = default_secs(30 * 86_400)
    early: int = 100
    early_ttl_secs: Seconds = default_secs(600)
    dead_letters: int = 1000

    def __post_init__(self) -> None:
        timedeltas_to_secs(self, "events_ttl_secs", "dead_ttl_secs", "early_ttl_secs")


def check_limits(limits: InboxLimits) -> None:
    """Check the numbers of messages, events and bytes. Conversion checks the durations.

    :raises InvalidInputError: naming the invalid field.
    """
    require_int(limits.mail, "mail", 1, _MOST)
    require_int(limits.payload_bytes, "payload_bytes", 1)
    require_int(limits.events, "events", 1, _MOST)
    require_int(limits.early, "early", 1, _MOST)
    require_int(limits.dead_letters, "dead_letters", 1, _MOST)
    if limits.mail > limits.events:
        raise InvalidInputError("mail", "is more than events")


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """The result of admitting a message.

    :ivar is_new: whether this call enqueued it. ``False`` if its event was known.
    :ivar waiting: how many messages the mailbox holds now, including those of a held turn.
    :ivar worker: the worker that has the session's turn now. ``None`` if no worker has it, and then
        the waiting workers were notified.
    """

    is_new: bool
    waiting: int
    worker: str | None


class Mail(msgspec.Struct, frozen=True, kw_only=True):
    """A message in a turn.

    :ivar ctx: the caller that admitted it.
    :ivar event_id: id of the event, as given by that caller.
    :ivar payload: the bytes that were admitted.
    :ivar headers: the headers that were admitted.
    :ivar admitted_at: time of admission, aware UTC, by the store's clock.
    :ivar attempt: number of this attempt at the message as the head of its mailbox, from 1. For
        messages behind the head it is 1.
    """

    ctx: TenantCtx
    event_id: str
    payload: bytes
    admitted_at: datetime
    attempt: int
    headers: dict[str, str] = {}

    def __repr__(self) -> str:
        """Return everything but the payload, because it is private."""
        return (
            f"Mail(event_id={self.event_id!r}, {len(self.payload)} bytes, "
            f"admitted_at={self.admitted_at.isoformat()}, attempt={self.attempt})"
        )


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A message that exhausted its attempts or failed the access check.

    The check fails if the message was admitted before the session was created, and its caller may
    not act on that session.

    :ivar ctx: the caller that admitted it.
    :ivar key: key of its session.
    :ivar event_id: id of the event, as given by that caller.
    :ivar payload: the bytes that were admitted.
    :ivar headers: the headers that were admitted.
    :ivar admitted_at: time of admission, aware UTC, by the store's clock.
    :ivar died_at: time at which it became a dead letter, in the same form.
    :ivar attempts: how many attempts it had, 0 if it failed the access check.
    """

    ctx: TenantCtx
    key: SessionKey
    event_id: str
    payload: bytes
    admitted_at: datetime
    died_at: datetime
    attempts: int
    headers: dict[str, str] = {}

    def __repr__(self) -> str:
        """Return everything but the payload, because it is private."""
        return (
            f"DeadLetter(tenant={self.ctx.env}/{self.ctx.tenant_id}, key={self.key!r}, "
            f"event_id={self.event_id!r}, {len(self.payload)} bytes, "
            f"died_at={self.died_at.isoformat()}, attempts={self.attempts})"
        )


class InboxDepth(msgspec.Struct, frozen=True, kw_only=True):
    """The size of an inbox's index. Index entries may be stale.

    :ivar sessions: how many sessions have messages or a held turn. Some may no longer have either.
    :ivar due: how many of them are due now. These have messages and no held turn, except some whose
        turn has been held for a while. The others have a held turn, or are in backoff.
    """

    sessions: int
    due: int


class InboxStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of a :class:`SessionInbox` since it was made, read without I/O.

    They do not include other objects and processes that share the inbox.

    :ivar turns: turns that this object took.
    :ivar dropped_dead_letters: dead letters that it dropped, because a session exceeded the limit
        ``dead_letters``. A call whose reply was lost may have dropped more.
    """

    turns: int = 0
    dropped_dead_letters: int = 0


class _Headers(msgspec.Struct, frozen=True, omit_defaults=True):
    """The headers of a message as stored.

    :ivar headers: the headers.
    :ivar attributes: the attributes of the caller.
    """

    headers: dict[str, str] = {}
    attributes: dict[str, str] = {}


_ENCODER: Final = msgspec.json.Encoder(order="sorted")
_DECODER: Final = msgspec.json.Decoder(_Headers)


def encode_headers(ctx: TenantCtx, headers: Mapping[str, str] | None) -> bytes:
    """Return headers and the caller's attributes as stored, empty for none.

    :raises InvalidInputError: naming ``headers`` or ``ctx``.
    """
    if not headers and not ctx.attributes:
        return b""
    for field, texts in (("headers", headers or {}), ("ctx", ctx.attributes)):
        given = cast("object", texts)
        if not isinstance(given, Mapping) or not all(
            type(name) is str and type(text) is str for name, text in texts.items()
        ):
            raise InvalidInputError(field, "expected a mapping of str to str")
    try:
        return _ENCODER.encode(_Headers(dict(headers or {}), dict(ctx.attributes)))
    except UnicodeEncodeError:
        raise InvalidInputError("headers", "contain a lone surrogate") from None


def _decode_headers(ctx: TenantCtx, stored: bytes) -> tuple[TenantCtx, dict[str, str]]:
    """Return the caller with its attributes, and the headers of its message."""
    if not stored:
        return ctx, {}
    try:
        found = _DECODER.decode(stored)
    except msgspec.MsgspecError:  # not of this library. The message is worth more than its headers
        return ctx, {}
    return msgspec.structs.replace(ctx, attributes=found.attributes), found.headers


def message_of(scope: str, message: StoredMessage, attempt: int) -> Mail:
    """Return a stored message as its worker sees it."""
    ctx, headers = _decode_headers(tenancy.ctx_of(scope, message.owner), message.headers)
    return Mail(
        ctx=ctx,
        headers=headers,
        event_id=message.event_id,
        payload=message.payload,
        admitted_at=datetime_of(message.at_ms),
        attempt=attempt,
    )


def dead_letter_of(mail: StoredDeadLetter) -> DeadLetter:
    """Return a stored dead letter as an operator sees it."""
    sender = tenancy.ctx_of(mail.mailbox.scope, mail.message.owner)
    ctx, headers = _decode_headers(sender, mail.message.headers)
    return DeadLetter(
        ctx=ctx,
        headers=headers,
        key=mail.mailbox.key,
        event_id=mail.message.event_id,
        payload=mail.message.payload,
        admitted_at=datetime_of(mail.message.at_ms),
        died_at=datetime_of(mail.died_ms),
        attempts=mail.attempts,
    )


def stored_dead_letter_of(letter: DeadLetter) -> StoredDeadLetter:
    """Return the stored form of a dead letter, the inverse of :func:`dead_letter_of`.

    :raises InvalidInputError: naming ``letter``, or its invalid field.
    """
    if not isinstance(cast("object", letter), DeadLetter):
        raise InvalidInputError("letter", f"expected DeadLetter, got {type(letter).__name__}")
    check_key(letter.key)
    require_clean_text(letter.event_id, "event_id", MAX_ID_CHARS)
    require_bytes(letter.payload)
    for field, at in (("admitted_at", letter.admitted_at), ("died_at", letter.died_at)):
        given = cast("object", at)
        if not isinstance(given, datetime) or given.utcoffset() is None:
            raise InvalidInputError(field, "expected an aware datetime")
    require_int(letter.attempts, "attempts", 0)
    tenancy.allowed_owners_of(letter.ctx)
    sender = tenancy.owner_of(letter.ctx)
    return StoredDeadLetter(
        mailbox=MailboxRef(sender.scope, letter.key),
        message=StoredMessage(
            event_id=letter.event_id,
            payload=letter.payload,
            at_ms=ms_of(letter.admitted_at),
            owner=sender.owner,
            headers=encode_headers(letter.ctx, letter.headers),
        ),
        died_ms=ms_of(letter.died_at),
        attempts=letter.attempts,
    )


def require_bytes(payload: object) -> bytes:
    """Return the payload of a message.

    :raises InvalidInputError: if it is not bytes.
    """
    if not isinstance(payload, bytes):
        raise InvalidInputError("payload", f"expected bytes, got {type(payload).__name__}")
    return payload
