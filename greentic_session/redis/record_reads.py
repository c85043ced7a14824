"""Reads of several records with a limit on the bytes of each reply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast, final

from ..abc.records import Record, UnreadableRecord
from ..errors import DecodeError
from .replies import undecodable_record, wrong_type
from .transport.failures import ForeignValueError, malformed_reply
from .transport.server import LARGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..model import SessionKey
    from .key_names import KeyNames
    from .transport.client import RedisClient
    from .transport.protocol import Command, Reply

__all__ = ["FIELDS", "LargeNames", "read_each", "read_owner", "read_some", "record_of"]

FIELDS: Final = ("cas", "inc", "owner", "ttl", "at", "body")
_MAX_BYTES: Final = 1 << 20
"""Limit on the bytes of the bodies per round trip, unless one body is larger."""
_FEW: Final = 16
"""Number of records that are read without asking for their sizes first."""
_MIN_SIZES: Final = 64
_MAX_SIZES: Final = 1024
_MAX_NAMES: Final = 1024


@final
class LargeNames(dict[str, None]):
    """The keys of records whose bodies were large when this process last saw them.

    A read of such a record probably has a large reply. A wrong guess only costs time.

    :ivar sizes_to_ask: for how many sizes to ask at once. It follows the number of records that
        the last replies had room for, so that few sizes are asked for again in the next step.
    """

    __slots__ = ("sizes_to_ask",)

    def __init__(self) -> None:
        super().__init__()
        self.sizes_to_ask: int = _MAX_SIZES

    def note(self, name: str, size: int) -> None:
        """Record the size of a record's body, in bytes."""
        if size <= LARGE_BYTES:
            self.pop(name, None)
        else:
            self[name] = None
            if len(self) > _MAX_NAMES:
                del self[next(iter(self))]


async def read_some(
    client: RedisClient,
    names: KeyNames,
    large: LargeNames,
    scope: str,
    keys: Sequence[SessionKey],
) -> list[Record | UnreadableRecord | None]:
    """Return the records of at least the first key, within one deadline.

    :param large: the known large records, which this updates.
    """
    until = client.deadline()
    called = [names.record(scope, key) for key in keys]
    is_large = False
    if len(called) > _FEW or any(name in large for name in called):
        count, is_large = await _fitting(client, large, keys, called, until)
        called = called[:count]
    replies = await read_each(
        client, keys, [("HMGET", name, *FIELDS) for name in called], until, is_large=is_large
    )
    records: list[Record | UnreadableRecord | None] = []
    for key, name, reply in zip(keys, called, replies, strict=False):
        if isinstance(reply, DecodeError):
            records.append(UnreadableRecord(None, reply))
            continue
        record = _record_or_error(key, reply)
        if isinstance(record, Record) and (is_large or len(record.body) > LARGE_BYTES):
            large.note(name, len(record.body))
        records.append(record)
    return records


async def _fitting(
    client: RedisClient,
    large: LargeNames,
    keys: Sequence[SessionKey],
    called: Sequence[str],
    until: float,
) -> tuple[int, bool]:
    """Return how many records one reply has room for, and whether that reply is large."""
    total = count = 0
    is_large = False
    asked = large.sizes_to_ask
    while count < min(len(called), _MAX_SIZES):
        commands = [
            ("HSTRLEN", name, "body") for name in called[count : min(count + asked, _MAX_SIZES)]
        ]
        for size in await read_each(client, keys[count:], commands, until):
            if isinstance(size, int):
                total += size
            if count and total > _MAX_BYTES:
                large.sizes_to_ask = max(_MIN_SIZES, min(2 * count, _MAX_SIZES))
                return count, is_large
            count += 1
            is_large = total > LARGE_BYTES
        if count < len(called):  # there was room for more
            large.sizes_to_ask = asked = min(2 * asked, _MAX_SIZES)
    return count, is_large


async def read_each(
    client: RedisClient,
    keys: Sequence[SessionKey],
    commands: Sequence[Command],
    until: float,
    *,
    is_large: bool = False,
) -> list[Reply | DecodeError]:
    """Run a command for each key. If a key holds another type of value, its result is an error."""
    found: list[Reply | DecodeError] = [None] * len(commands)
    left = list(range(len(commands)))
    while left:
        try:
            replies = await client.read_each(
                [commands[index] for index in left], until=until, is_large=is_large
            )
        except ForeignValueError as error:  # of one key, so the others are read again
            index = left.pop(error.index)
            found[index] = wrong_type(keys[index])
            continue
        for index, reply in zip(left, replies, strict=True):
            found[index] = reply
        break
    return found


async def read_owner(
    client: RedisClient, names: KeyNames, scope: str, key: SessionKey, until: float | None
) -> str | None:
    """Return the owner of the live record, ``None`` if there is none.

    :raises DecodeError: the owner cannot be read.
    """
    name = names.record(scope, key)
    try:
        reply = await client.read("HMGET", name, "cas", "owner", key=name, until=until)
    except ForeignValueError:
        raise wrong_type(key) from None
    try:
        value, owner = cast("list[bytes | None]", reply)
    except (TypeError, ValueError):
        raise malformed_reply() from None
    if value is None:
        return None
    if owner is None:
        raise DecodeError(key, "the stored record lacks a field")
    try:
        return owner.decode()
    except UnicodeError:
        raise undecodable_record(key) from None


def record_of(key: str, reply: Reply) -> Record | None:
    """Return the record in a reply with :data:`FIELDS`, ``None`` if it is absent.

    :raises DecodeError: a field is missing or cannot be read.
    """
    try:
        value, incarnation, owner, ttl_ms, at_ms, body = cast("list[bytes | None]", reply)
    except (TypeError, ValueError):
        raise malformed_reply() from None
    if value is None:
        return None
    if incarnation is None or owner is None or ttl_ms is None or at_ms is None or body is None:
        raise DecodeError(key, "the stored record lacks a field")
    try:
        return Record(
            int(value), incarnation.decode(), owner.decode(), int(ttl_ms), int(at_ms), body
        )
    except (TypeError, ValueError, AttributeError):
        raise undecodable_record(key) from None


def _record_or_error(key: str, reply: Reply) -> Record | UnreadableRecord | None:
    try:
        return record_of(key, reply)
    except DecodeError as caught:
        error = caught.with_traceback(None)
    try:
        owner = cast("list[bytes]", reply)[FIELDS.index("owner")].decode()
    except (UnicodeError, AttributeError):
        return UnreadableRecord(None, error)
    return UnreadableRecord(owner, error)
