"""Letters and turns as they stand in Redis: see ``lua/mailbox.lua``, ``take`` and ``agenda``."""

from __future__ import annotations

from ..abc.inbox import DeadMail, Grant, Letter, Mailbox, TurnHold
from ..abc.records import Record
from ..model import SessionKey
from .replies import unreadable

__all__ = [
    "dead_mail_of",
    "entry_of",
    "grant_of",
    "letter_of",
    "mailbox_of",
    "member_of",
    "packed",
    "stored",
]


def member_of(box: Mailbox) -> str:
    """Return a session as an index names it."""
    return f"{box.scope}/{box.key}"


def mailbox_of(member: bytes) -> Mailbox | None:
    """Return whom an index names; ``None`` if that is nobody."""
    try:
        env, tenant_id, key = member.decode().split("/", 2)
    except ValueError:
        return None
    return Mailbox(f"{env}/{tenant_id}", SessionKey(key))


def packed(owner: str, event_id: str, payload: bytes) -> bytes:
    """Return a letter without its time."""
    whose, name = owner.encode(), event_id.encode()
    return b"%d:%b%d:%b%b" % (len(whose), whose, len(name), name, payload)


def stored(letter: Letter) -> bytes:
    """Return a letter as it is stored."""
    return b"%d:%b" % (letter.at_ms, packed(letter.owner, letter.event_id, letter.payload))


def letter_of(told: bytes) -> Letter:
    """Return a stored letter.

    :raises ValueError: it is none.
    """
    at_ms, length, rest = told.split(b":", 2)
    owner, rest = rest[: int(length)].decode(), rest[int(length) :]
    length, rest = rest.split(b":", 1)
    event_id, payload = rest[: int(length)].decode(), rest[int(length) :]
    return Letter(event_id, payload, int(at_ms), owner)


def entry_of(mail: DeadMail) -> bytes:
    """Return a dead letter as it is stored."""
    return b"%d:%d:%b" % (mail.died_ms, mail.attempts, stored(mail.letter))


def dead_mail_of(box: Mailbox, entry: bytes) -> DeadMail:
    """Return a stored dead letter.

    :raises DecodeError: it is none.
    """
    try:
        died_ms, attempts, told = entry.split(b":", 2)
        return DeadMail(box, letter_of(told), int(died_ms), int(attempts))
    except (ValueError, AttributeError):
        raise unreadable(box.key) from None


def grant_of(inbox: str, box: Mailbox, mark: str, told: list[bytes]) -> Grant:
    """Return what the end of ``lua/take.lua`` tells, after its verdict.

    :raises DecodeError: a field of the record, or a letter, is not of this library's making.
    """
    try:
        fence, lease, left, tries, version, incarnation, owner, life, at, body, *letters = told
        record = None
        if version:
            record = Record(
                int(version), incarnation.decode(), owner.decode(), int(life), int(at), body
            )
        return Grant(
            TurnHold(inbox, box, int(fence), mark),
            int(lease),
            int(left),
            tuple(map(letter_of, letters)),
            int(tries),
            record,
        )
    except (TypeError, ValueError, AttributeError):
        raise unreadable(box.key) from None
