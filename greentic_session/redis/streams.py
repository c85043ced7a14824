"""Streams on a Redis or Valkey server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast, final

from .._compat import override
from ..abc.records import Verdict
from ..abc.streams import (
    EntryId,
    SentEntry,
    StreamBackend,
    StreamEntry,
    StreamHead,
    StreamPage,
    continues,
    is_at_end,
)
from ..errors import OutcomeUnknownError
from .replies import parsing_read_reply, parsing_write_reply, time_ms, wrong_type_of
from .scripts.streams import STREAMS_SEND, STREAMS_SEND_ALL, streams_send_arguments
from .transport.acks import UnconfirmedError
from .transport.failures import ForeignValueError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from ..abc.streams import StreamLimits, StreamRef
    from .key_names import KeyNames
    from .notifications import RedisNotifications
    from .transport.client import RedisClient
    from .transport.protocol import Command, Reply

__all__ = ["RedisStreams"]

_ALL: Final = "all"
"""The epoch of a tenant's stream, which is no incarnation."""


@final
class RedisStreams(StreamBackend):
    """Sends with one script. All keys of a session's stream are in the slot of its record.

    :param client: the client of the store.
    :param names: the key names of the store.
    :param notifications: the notifications of the store.
    """

    def __init__(
        self, client: RedisClient, names: KeyNames, notifications: RedisNotifications
    ) -> None:
        self._client: Final = client
        self._names: Final = names
        self._notifications: Final = notifications

    @override
    async def send(
        self, ref: StreamRef, body: bytes, mark: int, limits: StreamLimits
    ) -> SentEntry | None:
        keys: tuple[str, ...] = self._names.stream(*ref)
        script = STREAMS_SEND_ALL
        if ref.key:
            script, keys = STREAMS_SEND, (self._names.record(*ref), *keys)
        channel = self._names.channel(self._names.stream_topic(*ref))
        arguments = streams_send_arguments(mark, body, limits, channel)
        try:
            reply = await self._client.run(script, keys, arguments)
        except ForeignValueError:
            raise wrong_type_of("a stream") from None
        except UnconfirmedError as error:
            raise error.plain() from None
        with parsing_write_reply():
            verdict = Verdict(reply[0])
            if verdict is Verdict.DONE:
                return SentEntry(_entry_id(reply[1]), reply[2].decode() if ref.key else "")
        if verdict is Verdict.UNKNOWN:
            raise OutcomeUnknownError("an earlier attempt is no longer remembered")
        return None

    @override
    async def read(
        self, ref: StreamRef, incarnation: str, after: EntryId, limits: StreamLimits
    ) -> StreamPage:
        # The commands are not atomic, but no epoch returns. So if the head before and after the
        # entries has the same one, they are of it.
        stream, head = self._names.stream(*ref)
        commands: list[Command] = [
            ("TIME",),
            ("HMGET", head, "epoch", "last"),
            ("XRANGE", stream, f"({after}", "+", "COUNT", limits.length),
            ("HMGET", head, "epoch", "last"),
        ]
        if ref.key:
            commands.append(("HMGET", self._names.record(*ref), "inc"))
        try:
            time, before, found, then, *record = await self._client.read_many(commands, key=stream)
        except ForeignValueError:
            raise wrong_type_of("a stream") from None
        with parsing_read_reply():
            live = _incarnation(record[0]) if ref.key else ""
            now = _head(live, then, time_ms(time))
            if live != incarnation:
                return StreamPage(now, None)
            entries: list[StreamEntry] = []
            if before[0] == then[0] == (incarnation or _ALL).encode():
                entries = [_entry(*one) for one in found]
        if not entries:
            # An entry that was sent between the commands is not an entry after the position.
            earlier = _head(live, before, now.now_ms)
            is_held = is_at_end(after, earlier, limits.keep_ms)
            return StreamPage(earlier, () if is_held else None)
        position = after
        for entry in entries:
            if not continues(position, entry, limits.keep_ms):
                return StreamPage(now, None)
            position = entry.entry_id
        return StreamPage(now, entries)

    @override
    async def heads(self, refs: Sequence[StreamRef]) -> Sequence[StreamHead]:
        if not refs:
            return ()
        now_ms = time_ms(await self._client.read("TIME"))
        commands: list[Command] = []
        for ref in refs:
            commands.append(("HMGET", self._names.stream(*ref)[1], "epoch", "last"))
            if ref.key:
                commands.append(("HMGET", self._names.record(*ref), "inc"))
        try:
            replies = iter(await self._client.read_each(commands))
        except ForeignValueError:
            raise wrong_type_of("a stream") from None
        heads: list[StreamHead] = []
        with parsing_read_reply():
            for ref in refs:
                head = next(replies)
                live = _incarnation(next(replies)) if ref.key else ""
                heads.append(_head(live, head, now_ms))
        return heads

    @override
    def listen(
        self, ref: StreamRef, receive: Callable[[StreamEntry | None], None]
    ) -> AbstractAsyncContextManager[None]:
        def decode(message: bytes | None) -> None:
            receive(None if message is None else StreamEntry.parse(message))

        return self._notifications.listen(self._names.stream_topic(*ref), decode)


def _entry(entry_id: bytes, fields: list[bytes]) -> StreamEntry:
    stored = dict(zip(fields[::2], fields[1::2], strict=True))
    return StreamEntry(_entry_id(entry_id), _entry_id(stored[b"prev"]), stored[b"d"])


def _entry_id(text: bytes) -> EntryId:
    found = EntryId.parse(text.decode())
    if found is None:
        raise ValueError("not an id")
    return found


def _incarnation(reply: Reply) -> str | None:
    (incarnation,) = cast("list[bytes | None]", reply)
    return None if incarnation is None else incarnation.decode()


def _head(live: str | None, reply: Reply, now_ms: int) -> StreamHead:
    epoch, last = cast("list[bytes | None]", reply)
    if last is None or live is None or epoch != (live or _ALL).encode():
        return StreamHead(live, None, now_ms)
    return StreamHead(live, _entry_id(last), now_ms)
