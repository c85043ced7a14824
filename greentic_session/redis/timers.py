"""Timers on a Redis or Valkey server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast, final

from .._compat import override
from ..abc.records import Verdict
from ..abc.timers import (
    EnterOutcome,
    TakenTimers,
    Timer,
    TimerBackend,
    TimerPage,
    TimerShard,
    TimerStatistics,
)
from ..errors import OutcomeUnknownError
from .replies import clock_ms, parsing_read_reply, parsing_write_reply, scored, wrong_type_of
from .scripts.timers import (
    TIMERS_CANCEL,
    TIMERS_DECLARE,
    TIMERS_ENTER,
    TIMERS_FINISH,
    TIMERS_TAKE,
    timers_cancel_arguments,
    timers_declare_arguments,
    timers_enter_arguments,
    timers_finish_arguments,
    timers_take_arguments,
)
from .transport.acks import UnconfirmedError
from .transport.failures import ForeignValueError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from ..abc.notifications import Subscription
    from .key_names import KeyNames
    from .notifications import RedisNotifications
    from .transport.client import RedisClient
    from .transport.protocol import Arguments, Command, Reply
    from .transport.script import Script

__all__ = ["RedisTimers"]

_PAGE: Final = 512


@final
class RedisTimers(TimerBackend):
    """Runs each step that writes as one script. All keys of a shard are in one slot.

    :param client: the client of the store.
    :param names: the key names of the store.
    :param notifications: the notifications of the store.
    :param grace_ms: a time longer than any call may take, in milliseconds.
    """

    def __init__(
        self,
        client: RedisClient,
        names: KeyNames,
        notifications: RedisNotifications,
        grace_ms: int,
    ) -> None:
        self._client: Final = client
        self._names: Final = names
        self._notifications: Final = notifications
        self._grace_ms: Final = grace_ms

    @override
    async def declare(self, name: str, shards: int) -> int:
        keys = (self._names.timer_shards(name),)
        reply = await self._run(TIMERS_DECLARE, keys, timers_declare_arguments(shards))
        with parsing_write_reply():
            return int(reply[1])

    @override
    async def enter(
        self,
        shard: TimerShard,
        timer_id: str,
        payload: bytes | None,
        *,
        at_ms: int | None = None,
        delay_ms: int = 0,
        replaces: bool = False,
    ) -> EnterOutcome:
        channel = self._names.channel(_topic_of(shard.name))
        arguments = timers_enter_arguments(
            self._grace_ms,
            timer_id,
            payload,
            channel,
            at_ms=at_ms,
            delay_ms=delay_ms,
            replaces=replaces,
        )
        reply = await self._run(TIMERS_ENTER, self._names.timers(*shard), arguments)
        verdict = _verdict_of(reply)
        with parsing_write_reply():
            return EnterOutcome(verdict, _ms(reply[1]) if len(reply) > 1 else 0)

    @override
    async def cancel(self, shard: TimerShard, timer_id: str) -> tuple[Verdict, bool]:
        arguments = timers_cancel_arguments(self._grace_ms, timer_id)
        reply = await self._run(TIMERS_CANCEL, self._names.timers(*shard), arguments)
        return _verdict_of(reply), len(reply) > 1 and reply[1] == 1

    @override
    async def take(self, shard: TimerShard, most: int, lease_ms: int, attempt: str) -> TakenTimers:
        arguments = timers_take_arguments(self._grace_ms, attempt, most, lease_ms)
        # If a failover loses it, the timers are due again at once.
        reply = await self._run(TIMERS_TAKE, self._names.timers(*shard), arguments, skips_acks=True)
        with parsing_write_reply():
            next_ms, parts = reply[1], reply[2:]
            timers = [
                Timer(timer_id.decode(errors="replace"), _ms(due), payload)
                for timer_id, due, payload in zip(*[iter(parts)] * 3, strict=True)
            ]
            timers.sort(key=lambda timer: timer.due_ms)
            return TakenTimers(timers, float(next_ms) / 1000 if next_ms else None)

    @override
    async def finish(
        self, shard: TimerShard, attempt: str, timers: Mapping[str, int | None]
    ) -> None:
        channel = self._names.channel(_topic_of(shard.name))
        arguments = timers_finish_arguments(self._grace_ms, attempt, channel, timers)
        # If a failover loses it, the timers are due again when the lease ends.
        await self._run(TIMERS_FINISH, self._names.timers(*shard), arguments, skips_acks=True)

    @override
    async def next_due(self, shard: TimerShard) -> float | None:
        timers = self._names.timers(*shard)[0]
        time, first = await self._read(timers, ("TIME",), ("ZRANGE", timers, 0, 0, "WITHSCORES"))
        with parsing_read_reply():
            found = scored(first)
            return max(0, found[0][1] - _now_ms(time)) / 1000 if found else None

    @override
    async def find(self, shard: TimerShard, timer_id: str) -> Timer | None:
        timers, payloads, taken, _ = self._names.timers(*shard)
        due, payload, held = await self._read(
            timers,
            ("ZSCORE", timers, timer_id),
            ("HGET", payloads, timer_id),
            ("HGET", taken, timer_id),
        )
        if due is None or payload is None:
            return None
        with parsing_read_reply():
            return Timer(timer_id, _ms(held.split(b":", 1)[0] if held else due), payload)

    @override
    async def statistics(self, shard: TimerShard) -> TimerStatistics:
        timers, _, taken, _ = self._names.timers(*shard)
        time, scheduled, held = await self._read(
            timers, ("TIME",), ("ZCARD", timers), ("HKEYS", taken)
        )
        with parsing_read_reply():
            until, held = f"{_now_ms(time):.3f}", set(cast("list[bytes]", held))
        # Timers whose lease has ended are due again, but stay in `taken` until they are taken.
        count, first = await self._read(
            timers,
            ("ZCOUNT", timers, "-inf", until),
            ("ZRANGEBYSCORE", timers, "-inf", until, "WITHSCORES", "LIMIT", 0, len(held) + 1),
        )
        with parsing_read_reply():
            due = [due_ms for timer_id, due_ms in scored(first) if timer_id not in held]
            return TimerStatistics(int(scheduled), int(count), min(due, default=None))

    @override
    async def page(self, shard: TimerShard, position: object | None) -> TimerPage:
        # HSCAN may return a timer twice while the server resizes the table.
        cursor, seen = (
            (b"0", set[bytes]()) if position is None else cast("tuple[bytes, set[bytes]]", position)
        )
        timers, payloads, taken, _ = self._names.timers(*shard)
        (reply,) = await self._read(timers, ("HSCAN", payloads, cursor, "COUNT", _PAGE))
        with parsing_read_reply():
            cursor, found = cast("tuple[bytes, list[bytes]]", reply)
            stored = {
                timer_id: payload
                for timer_id, payload in zip(found[::2], found[1::2], strict=True)
                if timer_id not in seen
            }
        if stored:
            seen.update(stored)
            scores, held = await self._read(
                timers, ("ZMSCORE", timers, *stored), ("HMGET", taken, *stored)
            )
        else:
            scores = held = ()
        page: list[Timer] = []
        with parsing_read_reply():
            for timer_id, score, line in zip(stored, scores, held, strict=True):
                if score is not None:  # otherwise it was removed since
                    due = line.split(b":", 1)[0] if line else score
                    page.append(
                        Timer(timer_id.decode(errors="replace"), _ms(due), stored[timer_id])
                    )
            return TimerPage(page, (cursor, seen) if int(cursor) else None)

    @override
    def subscribe(self, name: str) -> AbstractAsyncContextManager[Subscription]:
        return self._notifications.subscribe(_topic_of(name))

    async def _run(
        self, script: Script, keys: Sequence[str], arguments: Arguments, *, skips_acks: bool = False
    ) -> Reply:
        try:
            return await self._client.run(script, keys, arguments, skips_acks=skips_acks)
        except ForeignValueError:
            raise wrong_type_of("a shard of timers") from None
        except UnconfirmedError as error:
            raise error.plain() from None

    async def _read(self, key: str, *commands: Command) -> list[Reply]:
        try:
            return await self._client.read_many(commands, key=key)
        except ForeignValueError:
            raise wrong_type_of("a shard of timers") from None


def _topic_of(name: str) -> str:
    return f"timers:{name}"


def _verdict_of(reply: Reply) -> Verdict:
    with parsing_write_reply():
        verdict = Verdict(reply[0])
    if verdict is Verdict.UNKNOWN:
        raise OutcomeUnknownError("an earlier attempt is no longer remembered")
    return verdict


def _ms(text: str | bytes | float) -> int:
    return clock_ms(int(float(text)))


def _now_ms(time: Reply) -> float:
    return int(time[0]) * 1000 + int(time[1]) / 1000
