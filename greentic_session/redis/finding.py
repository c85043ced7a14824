"""Searches on a Redis or Valkey server: pages of the indexes, and their rebuild."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, cast, final

from .._compat import override
from .._core.labels import NOT_COMPARED
from ..abc.finding import FindingBackend, Match, MatchPage, RebuildPage, SessionQuery
from ..abc.records import Record, Verdict
from ..errors import DecodeError
from .entries import has_entry
from .key_names import IndexName
from .record_reads import LargeNames, read_each, read_some
from .replies import parsing_read_reply, scored, wrong_type_of
from .scripts.finding import (
    INDEX_SESSION,
    MARK_COMPLETE,
    index_session_arguments,
    mark_complete_arguments,
)
from .transport.acks import UnconfirmedError
from .transport.failures import ForeignValueError
from .transport.topology import run_concurrently

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..model import SessionKey
    from .entries import Held, SessionEntries
    from .key_names import KeyNames
    from .transport.client import RedisClient
    from .transport.protocol import Command, Reply
    from .transport.topology import ScanPosition

__all__ = ["RedisFinding"]

_MIN_ROWS: Final = 8
"""Least number of entries to read from an index in one step."""
_REBUILD_PAGE: Final = 256
_MAX_CHANGES: Final = 16
"""How often a rebuild reads a session again that changes meanwhile."""
_EVERY_SCOPE: Final = "*"
_LOWEST: Final = "-inf"
_ENDLESS: Final = "1e15"
"""Lowest score of an entry without an end."""
_COMPLETE: Final = 1024
"""Number of complete tenants that a store remembers."""


class _Head(NamedTuple):
    """The position in an index, which is read in the order of the scores.

    Entries without an end have the highest scores. In an index that takes several steps, they are
    read first, then all entries from the start. So no entry is missed that gets or loses an end
    meanwhile.

    :ivar place: the index.
    :ivar score: the score to go on with.
    :ivar known: number of entries with that score that were read.
    :ivar is_first: whether nothing of the index was read.
    :ivar is_endless: whether the entries without an end are read for the first time.
    """

    place: IndexName
    score: str = _LOWEST
    known: int = 0
    is_first: bool = True
    is_endless: bool = False

    def after(self, entries: Sequence[tuple[bytes, int]], rows: int) -> _Head | None:
        """Return the position after the entries that were read, ``None`` at the end.

        :param rows: the number of entries that were asked for.
        """
        if len(entries) < rows:  # all there were
            return None if not self.is_endless else _Head(self.place, is_first=False)
        if self.is_first:
            return _Head(self.place, _ENDLESS, is_first=False, is_endless=True)
        score = entries[-1][1]
        known = sum(each == score for _, each in entries)
        return self._replace(score=str(score), known=known)


@final
class RedisFinding(FindingBackend):
    """Finds sessions by the indexes on a server.

    :param client: of the store.
    :param names: of the store.
    :param entries: of the store.
    :param large_names: of the store.
    """

    def __init__(
        self,
        client: RedisClient,
        names: KeyNames,
        entries: SessionEntries,
        large_names: LargeNames,
    ) -> None:
        self._client: Final = client
        self._names: Final = names
        self._entries: Final = entries
        self._large_names: Final = large_names
        # An index that was complete stays so.
        self._complete: Final[dict[tuple[str, tuple[str, ...]], None]] = {}

    @override
    async def has_index(self, query: SessionQuery, names: Sequence[str]) -> bool:
        """As :meth:`FindingBackend.has_index`."""
        scope = query.scope
        wanted = scope, tuple(names)
        if wanted in self._complete:
            return True
        key = self._names.complete_indexes()
        members = [
            _complete_member(place, name)
            for place in (scope, _EVERY_SCOPE)
            for name in ("", *names)
        ]
        try:
            found: list[object] = await self._client.read("ZMSCORE", key, *members, key=key)
        except ForeignValueError:
            raise wrong_type_of("the list of complete indexes") from None
        with parsing_read_reply():
            half = len(found) // 2
            is_complete = all(
                here is not None or everywhere is not None
                for here, everywhere in zip(found[:half], found[half:], strict=True)
            )
        if is_complete:
            if len(self._complete) >= _COMPLETE:
                del self._complete[next(iter(self._complete))]
            self._complete[wanted] = None
        return is_complete

    @override
    async def mark_complete(self, scope: str | None, names: Sequence[str]) -> None:
        """As :meth:`FindingBackend.mark_complete`."""
        place = _EVERY_SCOPE if scope is None else scope
        members = [_complete_member(place, name) for name in ("", *names)]
        try:
            await self._client.run(
                MARK_COMPLETE, (self._names.complete_indexes(),), mark_complete_arguments(members)
            )
        except ForeignValueError:
            raise wrong_type_of("the list of complete indexes") from None
        except UnconfirmedError as error:
            raise error.plain() from None

    @override
    async def page(self, query: SessionQuery, position: object | None, size: int) -> MatchPage:
        """As :meth:`FindingBackend.page`."""
        until = self._client.deadline()
        heads: Sequence[_Head]
        seen: set[bytes]
        if position is None:
            heads, seen = [_Head(index) for index in await self._smallest(query, until)], set()
        else:
            heads, seen = cast("tuple[Sequence[_Head], set[bytes]]", position)
        rows = max(_MIN_ROWS, -(-size // len(heads)))
        found, heads = await self._read_heads(heads, rows, until)
        matches: list[Match] = []
        stale: dict[IndexName, list[str]] = {}
        # A write raises the score of an entry. So an entry may be read again further on.
        fresh = [(index, member) for index, member in found if member not in seen]
        seen.update(member for _, member in fresh)
        keys = [self._names.unescaped(query.scope, member) for _, member in fresh]
        wanted = _wanted(query)
        replies = await read_each(
            self._client,
            keys,
            [
                ("HMGET", self._names.record(query.scope, key), "cas", "owner", "labels")
                for key in keys
            ],
            until,
        )
        for (index, _), key, fields in zip(fresh, keys, replies, strict=True):
            if isinstance(fields, DecodeError):
                matches.append(Match(key, None))
                continue
            with parsing_read_reply():
                if not has_entry(fields, index):
                    stale.setdefault(index, []).append(key)
                elif all(has_entry(fields, each) for each in wanted):
                    matches.append(Match(key, None if fields[1] is None else fields[1].decode()))
        for index, some in stale.items():
            await self._entries.repair(index, query.scope, some, until)
        return MatchPage(matches, (heads, seen) if heads else None)

    async def _smallest(self, query: SessionQuery, until: float) -> Sequence[IndexName]:
        """Return the indexes of the condition that has the fewest entries."""
        scope, user, labels = query
        choices = [self._names.tenant_indexes(scope, label) for label in labels]
        if user is not None:
            choices.append([IndexName(self._names.user_index(scope, user), "user", user)])
        if len(choices) < 2:
            return choices[0] if choices else self._names.tenant_indexes(scope)
        commands: list[Command] = [
            ("ZCARD", index.name) for indexes in choices for index in indexes
        ]
        with parsing_read_reply():
            sizes = iter([int(size) for size in await self._read(commands, until)])
            totals = [sum(next(sizes) for _ in indexes) for indexes in choices]
        return choices[totals.index(min(totals))]

    async def _read_heads(
        self, heads: Sequence[_Head], rows: int, until: float
    ) -> tuple[list[tuple[IndexName, bytes]], list[_Head]]:
        """Return the next entries of some indexes, and where to go on."""
        commands: list[Command] = [
            (
                *("ZRANGEBYSCORE", head.place.name, head.score, "+inf", "WITHSCORES"),
                *("LIMIT", 0, rows + head.known),
            )
            for head in heads
        ]
        replies = await self._read(commands, until)
        found: list[tuple[IndexName, bytes]] = []
        ahead: list[_Head] = []
        with parsing_read_reply():
            for head, reply in zip(heads, replies, strict=True):
                entries = scored(reply)
                found += [(head.place, member) for member, _ in entries]
                following = head.after(entries, rows + head.known)
                if following is not None:
                    ahead.append(following)
        return found, ahead

    async def _read(self, commands: Sequence[Command], until: float) -> list[Reply]:
        try:
            return await self._client.read_each(commands, until=until)
        except ForeignValueError:
            raise wrong_type_of("an index of sessions") from None

    # --- rebuilding --------------------------------------------------------------------------

    @override
    async def rebuild(
        self,
        scope: str | None,
        position: object | None,
        labels_of: Callable[[SessionKey, Record], str],
    ) -> RebuildPage:
        """As :meth:`FindingBackend.rebuild`."""
        pattern = self._names.all_records() if scope is None else self._names.pattern(scope)
        found, following = await self._client.scan(
            pattern, _REBUILD_PAGE, cast("ScanPosition | None", position)
        )
        by_scope: dict[str, list[SessionKey]] = {}
        for name in dict.fromkeys(found):
            place = scope or self._names.scope_of(name)
            if place is not None:
                by_scope.setdefault(place, []).append(self._names.key_of(place, name))
        indexed = 0
        for place, keys in by_scope.items():
            indexed += await self._index(place, keys, labels_of)
        return RebuildPage(indexed, following)

    async def _index(
        self,
        scope: str,
        keys: Sequence[SessionKey],
        labels_of: Callable[[SessionKey, Record], str],
    ) -> int:
        """Write the missing entries of sessions, and return how many lacked some."""
        indexed = 0
        for _ in range(_MAX_CHANGES):
            again: list[SessionKey] = []

            async def index(pair: tuple[SessionKey, Record], changed: list[SessionKey]) -> None:
                nonlocal indexed
                is_new = await self._index_one(scope, *pair, labels_of)
                indexed += is_new is True
                if is_new is None:
                    changed.append(pair[0])

            while keys:
                records = await read_some(self._client, self._names, self._large_names, scope, keys)
                some = [
                    (key, record)
                    for key, record in zip(keys, records, strict=False)
                    if isinstance(record, Record)
                ]
                await run_concurrently(partial(index, changed=again), some)
                keys = keys[len(records) :]
            keys = again
        return indexed

    async def _index_one(
        self,
        scope: str,
        key: SessionKey,
        record: Record,
        labels_of: Callable[[SessionKey, Record], str],
    ) -> bool | None:
        """Write the entries of a session.

        :returns: whether it lacked some. ``None`` if it has changed since it was read.
        """
        try:
            labels = labels_of(key, record)
        except DecodeError:
            labels = NOT_COMPARED
        until = self._client.deadline()

        async def attempt(indexes: tuple[str, ...], held: Held) -> Reply:
            names = (*self._names.session_keys(scope, key), *indexes)
            arguments = index_session_arguments(record.incarnation, record.value, held, labels)
            return await self._client.run(INDEX_SESSION, names, (scope, *arguments), until=until)

        try:
            reply = await self._entries.write(
                attempt, scope, key, record.owner, labels, until=until
            )
        except ForeignValueError:
            return False
        except UnconfirmedError as error:
            raise error.plain() from None
        if reply[0] == Verdict.CONFLICT:
            return None
        return bool(reply[0] == Verdict.DONE and reply[1] == b"1")


def _complete_member(place: str, name: str) -> str:
    return f"{place}\n{name}"


def _wanted(query: SessionQuery) -> list[IndexName]:
    """Return what a record must have, as indexes without a name."""
    wanted = [IndexName("", "label", label) for label in query.labels]
    return wanted if query.user_id is None else [*wanted, IndexName("", "user", query.user_id)]
