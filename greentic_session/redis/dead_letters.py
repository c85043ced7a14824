"""Paged reads of an inbox's dead letters on a Redis or Valkey server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, cast

from .message_format import decode_dead_letter, mailbox_from_member
from .replies import scored, time_ms, wrong_type, wrong_type_of
from .transport.failures import ForeignValueError, malformed_reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..abc.inbox import MailboxRef, StoredDeadLetter
    from .key_names import KeyNames
    from .transport.client import RedisClient
    from .transport.protocol import Command

__all__ = ["read_dead_letters"]

_SESSIONS: Final = 64
"""How many sessions of the index a call reads at a time."""
_LETTERS: Final = 16
"""How many dead letters a page has at most, because each may be large."""
_FIRST: Final = 2
"""How many dead letters of each session are read first. Most sessions have one."""


class _Position(NamedTuple):
    """The position of the next page.

    :ivar start: time of the next index entry, in milliseconds since the epoch.
    :ivar seen: the members of the index with that time that were read.
    :ivar is_last: whether the index has no further entries.
    :ivar mailboxes: sessions from the index whose dead letters were not read yet.
    :ivar long: sessions with several dead letters. The first one is next.
    :ivar offset: number of dead letters of the first long session before the next page.
    :ivar returned: hashes of the dead letters of that session that were returned.
    """

    start: int = 0
    seen: frozenset[bytes] = frozenset()
    is_last: bool = False
    mailboxes: tuple[MailboxRef, ...] = ()
    long: tuple[MailboxRef, ...] = ()
    offset: int = 0
    returned: frozenset[int] = frozenset()


async def read_dead_letters(
    client: RedisClient,
    names: KeyNames,
    inbox: str,
    *,
    scope: str,
    dead_ms: int,
    position: object | None,
) -> tuple[Sequence[StoredDeadLetter], object | None]:
    """Return a page of dead letters, and the position of the next page.

    :param scope: ``env/tenant`` of the sessions, empty for those of all tenants.
    :param dead_ms: retention of dead letters, in milliseconds.
    :param position: the position that the previous page returned, ``None`` for the first page.
    :raises StoreUnavailableError: the index holds another type of value, or no server answers.
    :raises DecodeError: a dead letter was not written by this library.
    """
    at = cast("_Position", position or _Position())
    if at.long:
        mailbox = at.long[0]
        try:
            entries, offset, now_ms = await _read_list(client, f"{names.inbox(*mailbox)}:dead", at)
        except ForeignValueError:
            raise wrong_type(mailbox.key) from None
        found = [(mailbox, entry) for entry in entries]
        if len(entries) < _LETTERS:
            at = at._replace(long=at.long[1:], offset=0, returned=frozenset())
        else:
            at = at._replace(offset=offset, returned=at.returned.union(map(hash, entries)))
    else:
        if not at.mailboxes:
            at = await _read_index(client, f"{names.inbox_index(inbox)}:dead", scope, at)
        mailboxes = at.mailboxes[:_LETTERS]
        lists = [f"{names.inbox(*mailbox)}:dead" for mailbox in mailboxes]
        try:
            replies = await client.read_each([("LRANGE", name, 0, _FIRST - 1) for name in lists])
        except ForeignValueError as error:
            raise wrong_type(mailboxes[error.index].key) from None
        read = list(zip(mailboxes, cast("list[list[bytes]]", replies), strict=True))
        found = [(mailbox, entry) for mailbox, some in read if len(some) < _FIRST for entry in some]
        at = at._replace(
            mailboxes=at.mailboxes[_LETTERS:],
            long=tuple(mailbox for mailbox, some in read if len(some) == _FIRST),
        )
        index = names.inbox_index(inbox)
        now_ms = time_ms(await client.read("TIME", key=index))
    letters = [
        letter
        for mailbox, entry in found
        if (letter := decode_dead_letter(mailbox, entry)).died_ms > now_ms - dead_ms
    ]
    headers = await client.read_each(
        [
            ("HGET", f"{names.inbox(*letter.mailbox)}:headers", letter.message.event_id)
            for letter in letters
        ]
    )
    letters = [
        letter._replace(message=letter.message._replace(headers=cast("bytes | None", one) or b""))
        for letter, one in zip(letters, headers, strict=True)
    ]
    is_end = at.is_last and not at.mailboxes and not at.long
    return letters, None if is_end else at


async def _read_index(client: RedisClient, index: str, scope: str, at: _Position) -> _Position:
    # A session that gets another dead letter moves to the end of the index. So the next page starts
    # at a time instead of a rank.
    most = len(at.seen) + _SESSIONS
    page = "ZRANGEBYSCORE", index, at.start, "+inf", "WITHSCORES", "LIMIT", 0, most
    try:
        entries = scored(await client.read(*page, key=index))
        mailboxes = [
            mailbox
            for member, _ in entries
            if member not in at.seen
            and (mailbox := mailbox_from_member(member)) is not None
            and scope in ("", mailbox.scope)
        ]
    except ForeignValueError:
        raise wrong_type_of("an inbox's index") from None
    except (TypeError, ValueError, AttributeError):
        raise malformed_reply() from None
    last = entries[-1][1] if entries else at.start
    seen = frozenset(member for member, at_ms in entries if at_ms == last)
    return _Position(last, seen, len(entries) < most, tuple(mailboxes))


async def _read_list(client: RedisClient, name: str, at: _Position) -> tuple[list[bytes], int, int]:
    """Return a session's next entries, the offset after them, and the time in milliseconds."""
    # Entries are appended at the end and may be removed anywhere, for example by a replay of each
    # returned entry. So the returned entries that remain precede the others, in unknown number.
    start, stop = max(0, at.offset - 1), at.offset + _LETTERS - 1
    entries: list[bytes] = []
    while True:
        commands: list[Command] = [("LRANGE", name, start, stop), ("TIME",)]
        reply, time = await client.read_many(commands, key=name)
        try:
            entries = [*cast("list[bytes]", reply), *entries]
            preceding = max(
                (i for i, entry in enumerate(reply, 1) if hash(entry) in at.returned), default=0
            )
        except TypeError:
            raise malformed_reply() from None
        if preceding or start == 0:
            found = entries[preceding:][:_LETTERS]
            return found, start + preceding + len(found), time_ms(time)
        start, stop = max(0, start - _LETTERS), start - 1
