"""Reads of an inbox's dead letters on a Redis or Valkey server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from .message_format import decode_dead_letter, mailbox_from_member
from .replies import scored, wrong_type, wrong_type_of
from .transport.failures import ForeignValueError, malformed_reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..abc.inbox import StoredDeadLetter
    from .key_names import KeyNames
    from .transport.client import RedisClient

__all__ = ["read_dead_letters"]

_PAGE: Final = 64


async def read_dead_letters(
    client: RedisClient, names: KeyNames, inbox: str, dead_ms: int, position: object | None
) -> tuple[Sequence[StoredDeadLetter], object | None]:
    """Return a page of dead letters, and where the next one starts.

    :param dead_ms: how long they are kept, in milliseconds.
    :param position: as returned, ``None`` for the first page.
    :raises StoreUnavailableError: the index holds another type of value, or no server answers.
    :raises DecodeError: a dead letter was not written by this library.
    """
    index = f"{names.inbox_index(inbox)}:dead"
    # A session that gets another dead letter moves to the end of the index. So the next page
    # starts by time, not by rank, and `seen` are the returned members of that time.
    start, seen = cast("tuple[int, frozenset[bytes]]", position or (0, frozenset()))
    most = len(seen) + _PAGE
    page = "ZRANGEBYSCORE", index, start, "+inf", "WITHSCORES", "LIMIT", 0, most
    try:
        reply, (secs, us) = await client.read_many([page, ("TIME",)], key=index)
        since_ms = int(secs) * 1000 + int(us) // 1000 - dead_ms
        entries = scored(reply)
        mailboxes = [
            mailbox
            for member, _ in entries
            if member not in seen and (mailbox := mailbox_from_member(member)) is not None
        ]
    except ForeignValueError:
        raise wrong_type_of("an inbox's index") from None
    except (TypeError, ValueError, AttributeError):
        raise malformed_reply() from None
    lists = [f"{names.inbox(*mailbox)}:dead" for mailbox in mailboxes]
    try:
        replies = await client.read_each([("LRANGE", name, 0, -1) for name in lists])
    except ForeignValueError as error:
        raise wrong_type(mailboxes[error.index].key) from None
    letters = [
        letter
        for mailbox, reply in zip(mailboxes, replies, strict=True)
        for entry in reply
        if (letter := decode_dead_letter(mailbox, entry)).died_ms > since_ms
    ]
    if len(entries) < most:
        return letters, None
    last = entries[-1][1]
    return letters, (last, frozenset(member for member, at in entries if at == last))
