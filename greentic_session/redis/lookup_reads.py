"""Reads of the lookup, which maps a key to the tenants that hold it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from .transport.failures import malformed_reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..model import SessionKey
    from .key_names import KeyNames
    from .transport.client import RedisClient
    from .transport.protocol import Command, Reply

__all__ = ["read_holders"]

_PAGE: Final = 512
_STEP: Final = 16
"""Number of fields of a lookup whose records a call checks in one round trip."""


async def read_holders(
    client: RedisClient, names: KeyNames, key: SessionKey, until: float | None
) -> Sequence[str]:
    """Return the scopes that hold a live record under a key. Two of them are enough.

    :raises ForeignValueError: the key of the lookup holds another type of value.
    """
    lookup = names.lookup(key)
    found = await client.read("HRANDFIELD", lookup, 2, key=lookup, until=until)
    scopes = _scopes(found)
    if len(scopes) < 2:
        return scopes
    holders = await _live(client, names, key, scopes, until)
    return holders if len(holders) > 1 else await _walk(client, names, key, until)


async def _walk(
    client: RedisClient, names: KeyNames, key: SessionKey, until: float | None
) -> list[str]:
    """Return up to two holders, although some fields of the lookup are of expired records."""
    lookup = names.lookup(key)
    holders: dict[str, None] = {}  # HSCAN may return a field twice
    cursor: bytes = b"0"
    while True:
        commands: list[Command] = [("HSCAN", lookup, cursor, "COUNT", _PAGE), ("TIME",)]
        page, time = await client.read_many(commands, key=lookup, until=until)
        try:
            cursor, fields = page
            now_ms = int(time[0]) * 1000 + int(time[1]) // 1000
            scopes = [
                scope
                for scope, end in zip(_scopes(fields[::2]), fields[1::2], strict=True)
                if not (end.isdigit() and 0 < int(end) < now_ms)
            ]
            is_last = int(cursor) == 0
        except (TypeError, ValueError, AttributeError):
            raise malformed_reply() from None
        while scopes and len(holders) < 2:
            some, scopes = scopes[:_STEP], scopes[_STEP:]
            holders.update(dict.fromkeys(await _live(client, names, key, some, until)))
        if is_last or len(holders) > 1:
            return list(holders)


async def _live(
    client: RedisClient,
    names: KeyNames,
    key: SessionKey,
    scopes: Sequence[str],
    until: float | None,
) -> list[str]:
    """Return the scopes that hold a live record, by the server's clock."""
    alive: list[int] = await client.read_many(
        [("HEXISTS", names.record(scope, key), "cas") for scope in scopes],
        key=names.lookup(key),
        until=until,
    )
    return [scope for scope, exists in zip(scopes, alive, strict=True) if exists]


def _scopes(reply: Reply) -> list[str]:
    try:
        return [scope.decode(errors="replace") for scope in cast("list[bytes]", reply)]
    except (TypeError, AttributeError):
        raise malformed_reply() from None
