"""Parsers and writers of stored messages and turns.

``lua/lib/mailbox.lua`` and ``lua/lib/inbox_index.lua`` describe the stored forms.
"""

from __future__ import annotations

from ..abc.inbox import GrantedTurn, MailboxRef, StoredDeadLetter, StoredMessage, TurnRef
from ..abc.records import Record
from ..model import SessionKey
from .replies import undecodable_record

__all__ = [
    "decode",
    "decode_dead_letter",
    "decode_turn",
    "encode",
    "encode_dead_letter",
    "encode_new",
    "mailbox_from_member",
    "member_of",
]


def member_of(mailbox: MailboxRef) -> str:
    """Return a session's member of an inbox index."""
    return f"{mailbox.scope}/{mailbox.key}"


def mailbox_from_member(member: bytes) -> MailboxRef | None:
    """Return the session of an index member, ``None`` if the member has another form."""
    try:
        env, tenant_id, key = member.decode().split("/", 2)
    except ValueError:
        return None
    return MailboxRef(f"{env}/{tenant_id}", SessionKey(key))


def encode_new(owner: str, event_id: str, payload: bytes) -> bytes:
    """Return a message as stored, without its time."""
    owner_bytes, id_bytes = owner.encode(), event_id.encode()
    return b"%d:%b%d:%b%b" % (
        len(owner_bytes),
        owner_bytes,
        len(id_bytes),
        id_bytes,
        payload,
    )


def encode(message: StoredMessage) -> bytes:
    """Return a message as stored."""
    return b"%d:%b" % (message.at_ms, encode_new(message.owner, message.event_id, message.payload))


def decode(reply: bytes) -> StoredMessage:
    """Parse a stored message.

    :raises ValueError: the message has another form.
    """
    at_ms, length, rest = reply.split(b":", 2)
    owner, rest = rest[: int(length)].decode(), rest[int(length) :]
    length, rest = rest.split(b":", 1)
    event_id, payload = rest[: int(length)].decode(), rest[int(length) :]
    return StoredMessage(event_id, payload, int(at_ms), owner)


def encode_dead_letter(mail: StoredDeadLetter) -> bytes:
    """Return a dead letter as stored."""
    return b"%d:%d:%b" % (mail.died_ms, mail.attempts, encode(mail.message))


def decode_dead_letter(mailbox: MailboxRef, entry: bytes) -> StoredDeadLetter:
    """Parse a stored dead letter.

    :raises DecodeError: the dead letter has another form.
    """
    try:
        died_ms, attempts, reply = entry.split(b":", 2)
        return StoredDeadLetter(mailbox, decode(reply), int(died_ms), int(attempts))
    except (ValueError, AttributeError):
        raise undecodable_record(mailbox.key) from None


def decode_turn(inbox: str, mailbox: MailboxRef, score: str, reply: list[bytes]) -> GrantedTurn:
    """Parse the parts after the verdict in a reply of ``lua/inbox/take_turn.lua``.

    :param score: the score of the turn's index entry.
    :param reply: the parts.
    :raises DecodeError: this library did not write a field of the record or a message.
    """
    try:
        fence, lease, left, attempt, dropped, *rest = reply
        version, incarnation, owner, ttl, at, body, *messages = rest
        record = None
        if version:
            record = Record(
                int(version), incarnation.decode(), owner.decode(), int(ttl), int(at), body
            )
        return GrantedTurn(
            TurnRef(inbox, mailbox, int(fence), score),
            int(lease),
            int(left),
            tuple(
                decode(message)._replace(headers=headers)
                for message, headers in zip(messages[::2], messages[1::2], strict=True)
            ),
            int(attempt),
            record,
            int(dropped),
        )
    except (TypeError, ValueError, AttributeError):
        raise undecodable_record(mailbox.key) from None
