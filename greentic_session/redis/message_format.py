"""Stored forms of messages and turns: see ``lua/lib/mailbox.lua`` and ``lib/inbox_index.lua``."""

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
    """Return a session as an index names it."""
    return f"{mailbox.scope}/{mailbox.key}"


def mailbox_from_member(member: bytes) -> MailboxRef | None:
    """Return whom an index names; ``None`` if that is nobody."""
    try:
        env, tenant_id, key = member.decode().split("/", 2)
    except ValueError:
        return None
    return MailboxRef(f"{env}/{tenant_id}", SessionKey(key))


def encode_new(owner: str, event_id: str, payload: bytes) -> bytes:
    """Return a letter without its time."""
    admitter, name = owner.encode(), event_id.encode()
    return b"%d:%b%d:%b%b" % (len(admitter), admitter, len(name), name, payload)


def encode(message: StoredMessage) -> bytes:
    """Return a letter as it is stored."""
    return b"%d:%b" % (message.at_ms, encode_new(message.owner, message.event_id, message.payload))


def decode(reply: bytes) -> StoredMessage:
    """Return a stored letter.

    :raises ValueError: it is none.
    """
    at_ms, length, rest = reply.split(b":", 2)
    owner, rest = rest[: int(length)].decode(), rest[int(length) :]
    length, rest = rest.split(b":", 1)
    event_id, payload = rest[: int(length)].decode(), rest[int(length) :]
    return StoredMessage(event_id, payload, int(at_ms), owner)


def encode_dead_letter(mail: StoredDeadLetter) -> bytes:
    """Return a dead letter as it is stored."""
    return b"%d:%d:%b" % (mail.died_ms, mail.attempts, encode(mail.message))


def decode_dead_letter(mailbox: MailboxRef, entry: bytes) -> StoredDeadLetter:
    """Return a stored dead letter.

    :raises DecodeError: it is none.
    """
    try:
        died_ms, attempts, reply = entry.split(b":", 2)
        return StoredDeadLetter(mailbox, decode(reply), int(died_ms), int(attempts))
    except (ValueError, AttributeError):
        raise undecodable_record(mailbox.key) from None


def decode_turn(inbox: str, mailbox: MailboxRef, mark: str, reply: list[bytes]) -> GrantedTurn:
    """Return what the end of ``lua/inbox/take_turn.lua`` tells, after its verdict.

    :raises DecodeError: a field of the record, or a letter, is not of this library's making.
    """
    try:
        fence, lease, left, tries, version, incarnation, owner, life, at, body, *messages = reply
        record = None
        if version:
            record = Record(
                int(version), incarnation.decode(), owner.decode(), int(life), int(at), body
            )
        return GrantedTurn(
            TurnRef(inbox, mailbox, int(fence), mark),
            int(lease),
            int(left),
            tuple(map(decode, messages)),
            int(tries),
            record,
        )
    except (TypeError, ValueError, AttributeError):
        raise undecodable_record(mailbox.key) from None
