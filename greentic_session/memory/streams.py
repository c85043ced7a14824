"""Streams in one process."""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING, Final, final

from .._compat import override
from ..abc.streams import (
    START,
    SentEntry,
    StreamBackend,
    StreamEntry,
    StreamHead,
    StreamPage,
    continues,
    is_at_end,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from ..abc.streams import EntryId, StreamLimits, StreamRef
    from .notifications import MemoryNotifications
    from .records import Records

__all__ = ["MemoryStreams"]


class _Stream:
    """The entries of one incarnation.

    :ivar epoch: the incarnation, empty for the stream of a tenant.
    :ivar entries: the newest entries.
    :ivar last: id of the newest entry.
    :ivar expires_ms: when the stream is forgotten, in milliseconds since the epoch.
    """

    __slots__ = ("entries", "epoch", "expires_ms", "last")

    def __init__(self, epoch: str) -> None:
        self.epoch: Final = epoch
        self.entries: Final[deque[StreamEntry]] = deque()
        self.last = START
        self.expires_ms = 0


@final
class MemoryStreams(StreamBackend):
    """The steps of streams. No step waits for I/O.

    :param records: the records of the store.
    :param notifications: the notifications of the store.
    :param check_open: raises an error if the store was closed.
    """

    def __init__(
        self,
        records: Records,
        notifications: MemoryNotifications,
        check_open: Callable[[], None],
    ) -> None:
        self._records: Final = records
        self._notifications: Final = notifications
        self._check_open: Final = check_open
        self._streams: Final[dict[StreamRef, _Stream]] = {}
        self._due: Final[list[tuple[int, StreamRef]]] = []

    def __len__(self) -> int:
        return len(self._streams)

    def forget_all(self) -> None:
        """Forget everything."""
        self._streams.clear()
        self._due.clear()

    def pop_due(self, now_ms: int) -> bool:
        """Forget one stream that has expired.

        :returns: whether one was due.
        """
        if not self._due or self._due[0][0] > now_ms:
            return False
        _, ref = heapq.heappop(self._due)
        stream = self._streams[ref]
        if stream.expires_ms <= now_ms:
            del self._streams[ref]
        else:
            heapq.heappush(self._due, (stream.expires_ms, ref))
        return True

    @override
    async def send(
        self, ref: StreamRef, body: bytes, mark: int, limits: StreamLimits
    ) -> SentEntry | None:
        self._check_open()
        now_ms = self._records.clock.now_ms()
        epoch = self._incarnation(ref, now_ms)
        if epoch is None:
            return None
        stream = self._live(ref, epoch, now_ms)
        if stream is None:
            if ref not in self._streams:
                heapq.heappush(self._due, (now_ms + limits.keep_ms, ref))
            stream = self._streams[ref] = _Stream(epoch)
        entry = StreamEntry(stream.last.following(now_ms, mark), stream.last, body)
        stream.entries.append(entry)
        stream.last, stream.expires_ms = entry.entry_id, now_ms + limits.keep_ms
        least_ms = now_ms - limits.keep_ms
        while len(stream.entries) > limits.length or stream.entries[0].entry_id.ms < least_ms:
            stream.entries.popleft()
        self._notifications.publish(_topic_of(ref), entry.published())
        return SentEntry(entry.entry_id, epoch)

    @override
    async def read(
        self, ref: StreamRef, incarnation: str, after: EntryId, limits: StreamLimits
    ) -> StreamPage:
        (head,) = await self.heads((ref,))
        if head.incarnation != incarnation:
            return StreamPage(head, None)
        stream = self._live(ref, incarnation, head.now_ms)
        entries = [one for one in stream.entries if one.entry_id > after] if stream else []
        if not entries:
            return StreamPage(head, () if is_at_end(after, head, limits.keep_ms) else None)
        is_held = continues(after, entries[0], limits.keep_ms)
        return StreamPage(head, entries if is_held else None)

    @override
    async def heads(self, refs: Sequence[StreamRef]) -> Sequence[StreamHead]:
        self._check_open()
        now_ms = self._records.clock.now_ms()
        heads: list[StreamHead] = []
        for ref in refs:
            epoch = self._incarnation(ref, now_ms)
            stream = None if epoch is None else self._live(ref, epoch, now_ms)
            heads.append(StreamHead(epoch, None if stream is None else stream.last, now_ms))
        return heads

    @override
    def listen(
        self, ref: StreamRef, receive: Callable[[StreamEntry | None], None]
    ) -> AbstractAsyncContextManager[None]:
        def decode(message: bytes | None) -> None:
            receive(None if message is None else StreamEntry.parse(message))

        return self._notifications.listen(_topic_of(ref), decode)

    def _incarnation(self, ref: StreamRef, now_ms: int) -> str | None:
        if not ref.key:
            return ""
        record = self._records.live(ref.scope, ref.key, now_ms)
        return None if record is None else record.incarnation

    def _live(self, ref: StreamRef, epoch: str, now_ms: int) -> _Stream | None:
        stream = self._streams.get(ref)
        is_live = stream is not None and stream.epoch == epoch and now_ms < stream.expires_ms
        return stream if is_live else None


def _topic_of(ref: StreamRef) -> str:
    return f"out:{ref.scope}/{ref.key}"
