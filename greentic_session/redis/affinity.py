"""Affinity on a Redis or Valkey server: the members of groups, and the placements of keys."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, cast, final

from .._compat import override
from .._core.fencing import FencingCounter
from ..abc.affinity import (
    AffinityBackend,
    MemberRecord,
    MembershipOutcome,
    PlacementPage,
    PlacementRecord,
)
from ..abc.records import Verdict
from ..errors import OutcomeUnknownError
from .replies import clock_ms, parsing_read_reply, parsing_write_reply, wrong_type_of
from .scripts.affinity import (
    AFFINITY_ASSIGN,
    AFFINITY_FORGET,
    AFFINITY_JOIN,
    AFFINITY_LEAVE,
    AFFINITY_PIN,
    AFFINITY_RENEW,
    AFFINITY_TOUCH,
    AFFINITY_UNPIN,
    affinity_assign_arguments,
    affinity_forget_arguments,
    affinity_join_arguments,
    affinity_leave_arguments,
    affinity_pin_arguments,
    affinity_renew_arguments,
    affinity_touch_arguments,
    affinity_unpin_arguments,
)
from .transport.acks import UnconfirmedError
from .transport.failures import ForeignValueError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .key_names import KeyNames
    from .transport.client import RedisClient
    from .transport.protocol import Arguments, Command, Reply
    from .transport.script import Script

__all__ = ["RedisAffinity"]

_MEMBER: Final = re.compile(rb"([0-9]+):([0-9]+):.*", re.DOTALL)
_PLACEMENT: Final = re.compile(rb"([0-9]+):[0-9]+:([^\n]*)\n([^\n]*)")
"""The values of ``lua/lib/affinity.lua``, which also ignores values of another form."""
_PAGE: Final = 512


@final
class RedisAffinity(AffinityBackend):
    """Runs each affinity step that writes as one script. All keys of a group are in one slot.

    :param client: the client of the store.
    :param names: the key names of the store.
    :param grace_ms: a time longer than any call may take, in milliseconds.
    """

    def __init__(self, client: RedisClient, names: KeyNames, grace_ms: int) -> None:
        self._client: Final = client
        self._names: Final = names
        self._grace_ms: Final = grace_ms
        self._fencing: Final = FencingCounter()

    # --- members -----------------------------------------------------------------------------

    @override
    async def join(self, group: str, worker: str, attempt: str, lease_ms: int) -> MembershipOutcome:
        arguments = affinity_join_arguments(
            self._grace_ms, worker, attempt, lease_ms, fence_floor=self._fencing.last
        )
        reply = await self._run(AFFINITY_JOIN, group, arguments, grants=attempt)
        outcome = _membership(reply)
        self._fencing.observe(outcome.fence)
        return outcome

    @override
    async def renew(
        self, group: str, worker: str, attempt: str, lease_ms: int
    ) -> MembershipOutcome:
        arguments = affinity_renew_arguments(self._grace_ms, worker, attempt, lease_ms)
        reply = await self._run(AFFINITY_RENEW, group, arguments)
        return _membership(reply)

    @override
    async def leave(self, group: str, worker: str, attempt: str) -> bool:
        arguments = affinity_leave_arguments(self._grace_ms, worker, attempt)
        reply = await self._run(AFFINITY_LEAVE, group, arguments, ends=attempt)
        return _is_done(reply)

    @override
    async def members(self, group: str) -> list[MemberRecord]:
        time, members = await self._read(group, ("TIME",), ("HGETALL", self._members(group)))
        with parsing_read_reply():
            return list(_member_records(members, _ms(time)))

    # --- placements --------------------------------------------------------------------------

    @override
    async def assign(self, group: str, key: str, ttl_ms: int) -> PlacementRecord | None:
        arguments = affinity_assign_arguments(self._grace_ms, key, ttl_ms)
        reply = await self._run(AFFINITY_ASSIGN, group, arguments)
        with parsing_write_reply():
            if not _is_done(reply):
                return None
            _, worker, pinned, expires_ms = reply
            return PlacementRecord(worker.decode(), pinned == 1, clock_ms(expires_ms))

    @override
    async def pin(self, group: str, key: str, worker: str, ttl_ms: int) -> None:
        arguments = affinity_pin_arguments(self._grace_ms, key, worker, ttl_ms)
        _is_done(await self._run(AFFINITY_PIN, group, arguments))

    @override
    async def unpin(self, group: str, key: str, ttl_ms: int) -> bool:
        arguments = affinity_unpin_arguments(self._grace_ms, key, ttl_ms)
        return _is_done(await self._run(AFFINITY_UNPIN, group, arguments))

    @override
    async def touch(self, group: str, key: str, ttl_ms: int | None) -> bool:
        arguments = affinity_touch_arguments(self._grace_ms, key, ttl_ms)
        return _is_done(await self._run(AFFINITY_TOUCH, group, arguments))

    @override
    async def forget(self, group: str, key: str) -> bool:
        arguments = affinity_forget_arguments(self._grace_ms, key)
        return _is_done(await self._run(AFFINITY_FORGET, group, arguments))

    @override
    async def find(self, group: str, key: str) -> PlacementRecord | None:
        time, line = await self._read(group, ("TIME",), ("HGET", self._placements(group), key))
        with parsing_read_reply():
            now_ms = _ms(time)
            found = _PLACEMENT.fullmatch(line or b"")
        if found is None:
            return None
        # Only these two members are read, because a group may be large.
        workers = list(dict.fromkeys((found[2], found[3])))
        (lines,) = await self._read(group, ("HMGET", self._members(group), *workers))
        with parsing_read_reply():
            members = {
                name: member
                for name, member in zip(workers, lines, strict=True)
                if member is not None
            }
            live = {record.worker for record in _member_records(members, now_ms)}
            return _placement(line, live, now_ms)

    @override
    async def page(self, group: str, worker: str, position: object | None) -> PlacementPage:
        # HSCAN may return a key twice while the server resizes the table. `seen` holds the keys
        # that were returned.
        cursor, seen = (
            (b"0", set[str]()) if position is None else cast("tuple[bytes, set[str]]", position)
        )
        time, members, reply = await self._read(
            group,
            ("TIME",),
            ("HGETALL", self._members(group)),
            ("HSCAN", self._placements(group), cursor, "COUNT", _PAGE),
        )
        keys: list[str] = []
        with parsing_read_reply():
            cursor, found = cast("tuple[bytes, Reply]", reply)
            now_ms = _ms(time)
            live = {record.worker for record in _member_records(members, now_ms)}
            for name, line in _pairs(found):
                key = name.decode(errors="replace")
                placement = _placement(line, live, now_ms) if key not in seen else None
                if placement is not None and placement.worker == worker:
                    keys.append(key)
            seen.update(keys)
            return PlacementPage(keys, (cursor, seen) if int(cursor) else None)

    # --- shared steps ------------------------------------------------------------------------

    def _members(self, group: str) -> str:
        return self._names.affinity(group)[1]

    def _placements(self, group: str) -> str:
        return self._names.affinity(group)[2]

    async def _run(
        self,
        script: Script,
        group: str,
        arguments: Arguments,
        *,
        grants: str = "",
        ends: str = "",
    ) -> Reply:
        try:
            return await self._client.run(
                script,
                self._names.affinity(group),
                arguments,
                # If a failover loses a leave, the lease ends at its time. If it loses a renewal,
                # the lease ends earlier.
                skips_acks=script in (AFFINITY_LEAVE, AFFINITY_RENEW),
                grants=grants,
                ends=ends,
            )
        except ForeignValueError:
            raise wrong_type_of("a group of workers") from None
        except UnconfirmedError as error:
            raise error.plain() from None

    async def _read(self, group: str, *commands: Command) -> list[Reply]:
        try:
            return await self._client.read_many(commands, key=self._members(group))
        except ForeignValueError:
            raise wrong_type_of("a group of workers") from None


def _is_done(reply: Reply) -> bool:
    with parsing_write_reply():
        verdict = Verdict(reply[0])
    if verdict is Verdict.UNKNOWN:
        raise OutcomeUnknownError("an earlier attempt is no longer remembered")
    return verdict is Verdict.DONE


def _membership(reply: Reply) -> MembershipOutcome:
    with parsing_write_reply():
        verdict, *rest = Verdict(reply[0]), *map(int, reply[1:])
        if verdict is Verdict.DONE:
            fence, ends_ms, left_ms = rest
            return MembershipOutcome(verdict, fence, clock_ms(ends_ms), left_ms)
        if verdict is Verdict.CLAIMED:
            return MembershipOutcome(verdict, ends_ms=clock_ms(rest[0]))
        return MembershipOutcome(verdict)


def _ms(time: Reply) -> int:
    return int(time[0]) * 1000 + int(time[1]) // 1000


def _pairs(reply: Reply) -> Iterator[tuple[bytes, bytes]]:
    if isinstance(reply, dict):  # RESP3
        yield from cast("dict[bytes, bytes]", reply).items()
    else:
        yield from zip(reply[::2], reply[1::2], strict=True)


def _member_records(reply: Reply, now_ms: int) -> Iterator[MemberRecord]:
    for worker, line in _pairs(reply):
        found = _MEMBER.fullmatch(line)
        if found is not None and now_ms < (ends_ms := clock_ms(found[1])):
            yield MemberRecord(worker.decode(errors="replace"), int(found[2]), ends_ms)


def _placement(line: bytes, live: set[str], now_ms: int) -> PlacementRecord | None:
    found = _PLACEMENT.fullmatch(line)
    if found is None or now_ms >= (expires_ms := clock_ms(found[1])):
        return None
    worker, pin = found[2].decode(errors="replace"), found[3].decode(errors="replace")
    if pin in live:
        return PlacementRecord(pin, pinned=True, expires_ms=expires_ms)
    return PlacementRecord(worker, pinned=False, expires_ms=expires_ms) if worker in live else None
