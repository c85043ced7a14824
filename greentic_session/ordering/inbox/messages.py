"""The structs of an inbox's public methods, and their stored forms."""

from __future__ import annotations

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
    "Mail",
    "check_limits",
    "dead_letter_of",
    "message_of",
    "require_bytes",
    "stored_dead_letter_of",
]

MAX_ID_CHARS: Final = 512
"""Limit on the id of an event."""
_MOST: Final = 100_000


class InboxLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much an inbox keeps, and for how long. Let all who share an inbox agree on it.

    :ivar mail: how many messages of one session may wait; at most ``events``, so that none that
        waits is forgotten and admitted again.
    :ivar payload_bytes: limit on one message.
    :ivar events: how many event ids are known of one session,
    :ivar events_ttl_secs: and for how long: seconds, or a ``timedelta``, which becomes seconds, as
        in the next two.
    :ivar dead_ttl_secs: how long dead letters are kept, in seconds.
    :ivar early: how many events may be kept for the next wait under one reply scope,
    :ivar early_ttl_secs: and for how long, in seconds.
    :raises InvalidInputError: naming the field at fault, where an inbox is made.
    """

    mail: int = 1000
    payload_bytes: int = 65_536
    events: int = 2000
    events_ttl_secs: Seconds = default_secs(86_400)
    dead_ttl_secs: Seconds = default_secs(30 * 86_400)
    early: int = 100
    early_ttl_secs: Seconds = default_secs(600)

    def __post_init__(self) -> None:
        timedeltas_to_secs(self, "events_ttl_secs", "dead_ttl_secs", "early_ttl_secs")


def check_limits(limits: InboxLimits) -> None:
    """Check the numbers of messages, events and bytes. Conversion checks the durations.

    :raises InvalidInputError: naming the field at fault.
    """
    require_int(limits.mail, "mail", 1, _MOST)
    require_int(limits.payload_bytes, "payload_bytes", 1)
    require_int(limits.events, "events", 1, _MOST)
    require_int(limits.early, "early", 1, _MOST)
    if limits.mail > limits.events:
        raise InvalidInputError("mail", "is more than events")


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a message that was admitted.

    :ivar is_new: whether it came into the mailbox by this; ``False`` if its event was known.
    :ivar waiting: how many messages the mailbox holds now, those in hand included.
    :ivar worker: who works on the session now; ``None`` for nobody, so that takers were woken.
    """

    is_new: bool
    waiting: int
    worker: str | None


class Mail(msgspec.Struct, frozen=True, kw_only=True):
    """A message in a turn.

    :ivar ctx: who admitted it, without attributes.
    :ivar event_id: names it, as its admitter did.
    :ivar payload: as it was admitted.
    :ivar admitted_at: when, aware UTC, by the store's clock.
    :ivar attempt: which attempt at it as the head of its mailbox this is; 1 is the first, and what
        every message behind the head has.
    """

    ctx: TenantCtx
    event_id: str
    payload: bytes
    admitted_at: datetime
    attempt: int

    def __repr__(self) -> str:
        """Return everything but the payload, which is somebody's message."""
        return (
            f"Mail(event_id={self.event_id!r}, {len(self.payload)} bytes, "
            f"admitted_at={self.admitted_at.isoformat()}, attempt={self.attempt})"
        )


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A message that was tried as often as it may be, or that came too soon: before a session that
    is not open to who admitted it.

    :ivar ctx: who admitted it, without attributes.
    :ivar key: of its session.
    :ivar event_id: names it, as its admitter did.
    :ivar payload: as it was admitted.
    :ivar admitted_at: when, aware UTC, by the store's clock.
    :ivar died_at: when it was given up.
    :ivar attempts: how often it was tried; 0 if it came too soon.
    """

    ctx: TenantCtx
    key: SessionKey
    event_id: str
    payload: bytes
    admitted_at: datetime
    died_at: datetime
    attempts: int

    def __repr__(self) -> str:
        """Return everything but the payload, which is somebody's message."""
        return (
            f"DeadLetter(tenant={self.ctx.env}/{self.ctx.tenant_id}, key={self.key!r}, "
            f"event_id={self.event_id!r}, {len(self.payload)} bytes, "
            f"died_at={self.died_at.isoformat()}, attempts={self.attempts})"
        )


class InboxDepth(msgspec.Struct, frozen=True, kw_only=True):
    """The size of an inbox's index, whose entries may be stale.

    :ivar sessions: how many sessions have mail or are in hand; some may have neither any more.
    :ivar due: how many of them a taker would look at now: those with mail that nobody works on, and
        some that have been in hand for a while. The others are in hand, or rest after a failure.
    """

    sessions: int
    due: int


def message_of(scope: str, message: StoredMessage, attempt: int) -> Mail:
    """Return a stored message as its worker sees it."""
    return Mail(
        ctx=tenancy.ctx_of(scope, message.owner),
        event_id=message.event_id,
        payload=message.payload,
        admitted_at=datetime_of(message.at_ms),
        attempt=attempt,
    )


def dead_letter_of(mail: StoredDeadLetter) -> DeadLetter:
    """Return a stored dead letter as an operator sees it."""
    return DeadLetter(
        ctx=tenancy.ctx_of(mail.mailbox.scope, mail.message.owner),
        key=mail.mailbox.key,
        event_id=mail.message.event_id,
        payload=mail.message.payload,
        admitted_at=datetime_of(mail.message.at_ms),
        died_at=datetime_of(mail.died_ms),
        attempts=mail.attempts,
    )


def stored_dead_letter_of(letter: DeadLetter) -> StoredDeadLetter:
    """Return the stored form of a dead letter, which :func:`dead_letter_of` was given.

    :raises InvalidInputError: naming ``letter``, or its field at fault.
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
