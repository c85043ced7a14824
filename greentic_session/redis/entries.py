"""The writer of the index entries of sessions, before their records or together with them."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal, cast, final
from uuid import uuid4

from .._core.labels import NOT_COMPARED
from ..abc.records import Verdict
from ..errors import DurabilityError, OutcomeUnknownError, StoreUnavailableError
from .replies import parsing_write_reply, wrong_type_of
from .scripts.finding import (
    ADD,
    END_WRITE,
    REPAIR,
    add_arguments,
    end_write_arguments,
    repair_arguments,
)
from .transport.acks import UnconfirmedError
from .transport.failures import ForeignValueError
from .transport.topology import run_concurrently

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from .key_names import IndexName, KeyNames
    from .transport.client import RedisClient
    from .transport.protocol import Reply

    Held = int | Literal[""]
    Attempt = Callable[[tuple[str, ...], Held], Awaitable[Reply]]
    """Runs the script of a write with the names of the indexes that it writes, and ``held_ms``."""

__all__ = ["SessionEntries", "has_entry", "is_unindexed", "pop_ended"]

MAX_ATTEMPTS: Final = 8
_REPAIR_STEP: Final = 64
_REPAIR_FAILURES: Final = (
    *(StoreUnavailableError, OutcomeUnknownError, DurabilityError),
    *(ForeignValueError, TypeError, ValueError),
)
"""Errors of a repair, malformed replies included. The next reader repairs instead."""
_UNINDEXED: Final = int(Verdict.UNINDEXED)


def is_unindexed(reply: Reply) -> bool:
    """Return whether a script wrote nothing because the session lacks index entries."""
    try:
        return bool(reply[0] == _UNINDEXED)
    except (TypeError, LookupError):  # the parser of the reply refuses it
        return False


def _is_done(reply: Reply) -> bool:
    parts = cast("list[object]", reply) if isinstance(reply, list) else []
    return isinstance(reply, int) or parts[:1] == [int(Verdict.DONE)]


def pop_ended(reply: Reply, length: int) -> object:
    """Remove and return the owner and the labels of a deleted session from a script's reply.

    :param length: length of a reply that ends with them.
    :returns: ``None`` if the reply has no such part.
    """
    parts = cast("list[object]", reply) if isinstance(reply, list) else []
    return parts.pop() if len(parts) == length else None


@final
class SessionEntries:
    """Writes and removes the index entries of sessions.

    * On one server, the script that writes a record writes its entries as well.
    * In a cluster, they are in other slots. So they are written first, with a guard that keeps
      readers from removing them until the record is written.

    :param client: of the store.
    :param names: of the store.
    :param guard_ms: longer than any call may be under way, in milliseconds.
    :param is_cluster: whether the indexes may be on other servers than the record.
    """

    def __init__(
        self, client: RedisClient, names: KeyNames, guard_ms: int, *, is_cluster: bool
    ) -> None:
        self._client: Final = client
        self._names: Final = names
        self._guard_ms: Final = guard_ms
        self.is_cluster: Final = is_cluster

    async def write(
        self,
        attempt: Attempt,
        scope: str,
        key: str,
        owner: str,
        labels: str,
        *,
        until: float,
        hold_ms: int | None = None,
        had_no_end: bool = False,
        keeps: bool = False,
    ) -> Reply:
        """Run the script of a write so that the session has its entries.

        :param attempt: the function that runs the script.
        :param labels: texts of the indexed labels, one a line, or ``"-"``.
        :param until: as in :meth:`.RedisClient.run`.
        :param hold_ms: how long the entries hold if they are known to be missing, 0 without an end.
            ``None`` lets the script decide.
        :param had_no_end: whether the entries had no end, and get one.
        :param keeps: whether the write keeps the owner and the labels. If the session has others
            by now, the refusal of the script is returned, which names them.
        """
        if not self.is_cluster:
            return await attempt(self._names.index_names(scope, key, owner, labels), "")
        indexes = self._names.session_indexes(
            scope, key, owner, "" if labels == NOT_COMPARED else labels
        )
        held: Held = ""
        token = ""
        is_done = False
        # After an error, the record may still be written. Then its guard stays until it expires.
        for _ in range(MAX_ATTEMPTS):
            if hold_ms is not None:
                token = token or uuid4().hex[:16]
                await self._add(indexes, key, token, hold_ms, until)
                held = hold_ms
            reply = await attempt((), held)
            if not is_unindexed(reply):
                is_done = _is_done(reply)
                break
            with parsing_write_reply():
                if keeps and (reply[2].decode(), reply[3].decode()) != (owner, labels):
                    break
                hold_ms = int(reply[1])
                had_no_end = had_no_end or (hold_ms > 0 and reply[4] == b"0")
        else:
            raise StoreUnavailableError(
                "the session changes faster than its index", code="internal"
            )
        if token:
            await self._end_write(indexes, key, token, until)
        if not is_done and token:  # the entries were written for nothing
            for slot in indexes:
                for index in slot:
                    await self.repair(index, scope, [key], until)
        if had_no_end or (not is_done and token and hold_ms == 0):
            await self._lower(indexes, scope, key, until)
        return reply

    async def _add(
        self,
        indexes: Sequence[tuple[IndexName, ...]],
        key: str,
        token: str,
        hold_ms: int,
        until: float,
    ) -> None:
        arguments = add_arguments(self._names.escaped(key), token, hold_ms, self._guard_ms)

        async def add(slot: tuple[IndexName, ...]) -> None:
            guards = self._names.index_guards(slot[0].name)
            names = (guards, *(index.name for index in slot))
            try:
                await self._client.run(ADD, names, arguments, until=until)
            except ForeignValueError:
                raise wrong_type_of("an index of sessions") from None
            except UnconfirmedError as error:
                raise error.plain() from None

        await run_concurrently(add, indexes)

    async def _end_write(
        self, indexes: Sequence[tuple[IndexName, ...]], key: str, token: str, until: float
    ) -> None:
        arguments = end_write_arguments(self._names.escaped(key), token, self._guard_ms)

        async def end(slot: tuple[IndexName, ...]) -> None:
            names = (self._names.index_guards(slot[0].name),)
            with suppress(StoreUnavailableError, OutcomeUnknownError, ForeignValueError):
                await self._client.run(END_WRITE, names, arguments, until=until, skips_acks=True)

        await run_concurrently(end, indexes)

    async def _lower(
        self, indexes: Sequence[tuple[IndexName, ...]], scope: str, key: str, until: float
    ) -> None:
        """Give an end to entries that had none. A failure leaves them to a reader."""
        record = self._names.record(scope, key)

        async def lower(index: IndexName) -> None:
            with suppress(*_REPAIR_FAILURES):
                read_at = await self._clock_us(index.name, until)
                end = await self._client.read("HGET", record, "until", key=record, until=until)
                if end is None:  # the session has expired since
                    await self.repair(index, scope, [key], until)
                if end is None or int(end) == 0:
                    return
                member = self._names.escaped(key)
                score = str(int(end) + self._guard_ms)
                arguments = repair_arguments("lower", score, self._guard_ms, read_at, [member])
                names = (index.name, self._names.index_guards(index.name))
                await self._client.run(REPAIR, names, arguments, until=until, skips_acks=True)

        await run_concurrently(lower, [index for slot in indexes for index in slot])

    async def _clock_us(self, name: str, until: float) -> int:
        secs, us = await self._client.read("TIME", key=name, until=until)
        return int(secs) * 1_000_000 + int(us)

    async def remove(
        self, scope: str, key: str, ended: object, until: float, *, is_replaced: bool = False
    ) -> None:
        """Remove the entries of a session that was deleted. A failure leaves them to a reader.

        :param ended: owner and labels of the session, from the script that deleted it.
        :param is_replaced: whether only its labels have changed.
        """
        if not isinstance(ended, bytes):
            return
        owner, _, labels = ended.decode(errors="replace").partition("\n")
        slots = self._names.session_indexes(scope, key, owner, labels)

        async def remove(index: IndexName) -> None:
            await self.repair(index, scope, [key], until)

        indexes = [index for slot in slots for index in slot]
        if is_replaced:
            indexes = [index for index in indexes if index.kind not in ("all", "user")]
        await run_concurrently(remove, indexes)

    async def repair(self, index: IndexName, scope: str, keys: Sequence[str], until: float) -> None:
        """Remove entries of one index that their records contradict.

        A failure leaves them to another reader.
        """
        with suppress(*_REPAIR_FAILURES):
            for start in range(0, len(keys), _REPAIR_STEP):
                await self._repair(index, scope, keys[start : start + _REPAIR_STEP], until)

    async def _repair(
        self, index: IndexName, scope: str, keys: Sequence[str], until: float
    ) -> None:
        name, kind, value = index
        records = [self._names.record(scope, key) for key in keys]
        read_at = 0
        if self.is_cluster:
            read_at = await self._clock_us(name, until)
            fields = await self._client.read_each(
                [("HMGET", record, "cas", "owner", "labels") for record in records], until=until
            )
            keys = [
                key for key, found in zip(keys, fields, strict=True) if not has_entry(found, index)
            ]
            records = []
        if not keys:
            return
        arguments = repair_arguments(
            kind, value, self._guard_ms, read_at, [self._names.escaped(key) for key in keys]
        )
        names = (name, self._names.index_guards(name), *records)
        await self._client.run(REPAIR, names, arguments, until=until, skips_acks=True)


def has_entry(fields: Reply, index: IndexName) -> bool:
    """Return whether a record with ``cas``, ``owner`` and ``labels`` has an entry in an index."""
    cas, owner, labels = fields
    if cas is None:
        return False
    if index.kind == "user":
        return bool(owner) and owner.partition(b"/")[2] == index.value.encode()
    return index.kind == "all" or index.value.encode() in (labels or b"").split(b"\n")
