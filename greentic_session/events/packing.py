"""The stored form of events, and their ids.

A timer has the public id of its event. A message in a mailbox has the part before ``@``. If one
timer becomes several messages, ``#`` and the due time follow.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

import msgspec

from .._validation import check_key, require_clean_text
from ..errors import InvalidInputError
from ..model import SessionKey

__all__ = [
    "EventName",
    "StoredEvent",
    "given_name",
    "name_of",
    "name_of_message",
    "pack",
    "unpack",
]

_MAGIC: Final = b"GSE1"
_MAX_ID_CHARS: Final = 256
_OWN_MAILBOX: Final = "greentic.event:"


class StoredEvent(msgspec.Struct, array_like=True, frozen=True):
    """An event as stored. Fields are only added at the end, with a default.

    :ivar payload: the encoded payload.
    :ivar owner: ``team/user`` of its caller.
    :ivar incarnation: the session's incarnation, 16 bytes. Empty for any.
    :ivar scheduled_ms: when it was scheduled, in milliseconds since the epoch. If it is not
        positive, it is relative to the due time.
    :ivar every_ms: the period of a recurring event, in milliseconds. 0 for another event.
    :ivar attributes: the attributes of its caller.
    :ivar key: key of its session, in a message. Empty for none.
    :ivar due_ms: when it became due, in a message.
    """

    payload: bytes
    owner: str = "/"
    incarnation: bytes = b""
    scheduled_ms: int = 0
    every_ms: int = 0
    attributes: dict[str, str] = {}
    key: str = ""
    due_ms: int = 0

    @property
    def has_several_messages(self) -> bool:
        """Whether its timer may become several messages."""
        return self.every_ms > 0

    def message_id(self, token: str, due_ms: int) -> str:
        """Return the id of its message."""
        return f"{token}#{due_ms}" if self.has_several_messages else token


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(StoredEvent)


def pack(stored: StoredEvent) -> bytes:
    """Return an event as bytes."""
    return _MAGIC + _ENCODER.encode(stored)


def unpack(data: bytes) -> StoredEvent | None:
    """Return the event of bytes that :func:`pack` wrote, ``None`` for other bytes."""
    if not data.startswith(_MAGIC):
        return None
    try:
        return _DECODER.decode(memoryview(data)[len(_MAGIC) :])
    except msgspec.MsgspecError:
        return None


class EventName(NamedTuple):
    """The parts of an event's id.

    :ivar token: the part that is unique within the session.
    :ivar session: key of the session, ``None`` for an event without a session.
    """

    token: str
    session: SessionKey | None

    @property
    def id(self) -> str:
        """The id, as callers see it."""
        return self.token if self.session is None else f"{self.token}@{self.session}"

    @property
    def own_mailbox(self) -> SessionKey:
        """Key of the event's own mailbox."""
        name = self.id
        if len(name) > _MAX_ID_CHARS:
            name = hashlib.sha256(name.encode()).hexdigest()
        return SessionKey(f"{_OWN_MAILBOX}{name}")

    @property
    def mailbox(self) -> SessionKey:
        """Key of the mailbox that gets the event."""
        return self.own_mailbox if self.session is None else self.session


def given_name(event_id: str, session: SessionKey | None) -> EventName:
    """Return the name of an event whose id the caller chose.

    :raises InvalidInputError: naming ``event_id``.
    """
    event_id = require_clean_text(event_id, "event_id", _MAX_ID_CHARS)
    if "@" in event_id or "#" in event_id:
        raise InvalidInputError("event_id", "may not contain @ or #")
    return EventName(event_id, session)


def name_of(event_id: str) -> EventName:
    """Return the name of an id that :meth:`SessionEvents.schedule` returned.

    :raises InvalidInputError: naming ``event_id``.
    """
    event_id = require_clean_text(event_id, "event_id", 1024)
    token, at, key = event_id.partition("@")
    return EventName(token, check_key(SessionKey(key)) if at else None)


def name_of_message(message_id: str, stored: StoredEvent) -> EventName:
    """Return the name of the event of a message."""
    token = message_id.rpartition("#")[0] if stored.has_several_messages else message_id
    return EventName(token, SessionKey(stored.key) if stored.key else None)
