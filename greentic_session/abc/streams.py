"""The steps of streams that a backend implements: the messages that are sent to a session.

Streams are an optional capability of a store. A session has one stream, and a tenant has one for
all of its sessions. A stream holds the newest entries of one incarnation. Each entry names its
predecessor, so a reader detects every gap.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, NamedTuple

from ..errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

__all__ = [
    "START",
    "EntryId",
    "SentEntry",
    "StreamBackend",
    "StreamEntry",
    "StreamHead",
    "StreamLimits",
    "StreamPage",
    "StreamRef",
    "SupportsStreams",
    "continues",
    "is_at_end",
    "stream_backend_of",
]

_ID: Final = re.compile(r"([0-9]{1,15})-([0-9]{1,16})")


class EntryId(NamedTuple):
    """The id of an entry, or a position in a stream.

    :ivar ms: milliseconds since the epoch by the store's clock.
    :ivar mark: a random number, so no failover gives a known id to another entry. 0 in the position
        of a reader that has received nothing: it read an empty stream at ``ms``.
    """

    ms: int
    mark: int

    def __str__(self) -> str:
        return f"{self.ms}-{self.mark}"

    @classmethod
    def parse(cls, text: str) -> EntryId | None:
        """Return the id in a text, ``None`` if it has another form."""
        found = _ID.fullmatch(text)
        return None if found is None else cls(int(found[1]), int(found[2]))

    def following(self, now_ms: int, mark: int) -> EntryId:
        """Return the id of the next entry.

        :param mark: a random number from 1.
        """
        if now_ms > self.ms:
            return EntryId(now_ms, mark)
        return EntryId(self.ms, self.mark + mark)


START: Final = EntryId(0, 0)
"""The predecessor of the first entry of a stream."""


class StreamRef(NamedTuple):
    """A stream.

    :ivar scope: ``env/tenant``.
    :ivar key: the session. Empty for the stream of the tenant.
    """

    scope: str
    key: str


class StreamLimits(NamedTuple):
    """The history that a stream keeps. All processes should use the same limits.

    :ivar length: limit on the number of entries.
    :ivar keep_ms: milliseconds after which an entry is removed.
    """

    length: int = 100
    keep_ms: int = 300_000


class StreamEntry(NamedTuple):
    """An entry of a stream.

    :ivar entry_id: its id. It is higher than that of its predecessor.
    :ivar previous: id of its predecessor, :data:`START` for the first entry.
    :ivar body: the message.
    """

    entry_id: EntryId
    previous: EntryId
    body: bytes

    def published(self) -> bytes:
        """Return the notification that carries the entry, ``previous|id|body``."""
        return f"{self.previous}|{self.entry_id}|".encode() + self.body

    @classmethod
    def parse(cls, notification: bytes) -> StreamEntry | None:
        """Return the entry in a notification, ``None`` if this library did not publish it."""
        try:
            previous, entry_id, body = notification.split(b"|", 2)
            ids = EntryId.parse(entry_id.decode()), EntryId.parse(previous.decode())
        except ValueError:
            return None
        return None if ids[0] is None or ids[1] is None else cls(ids[0], ids[1], body)


class SentEntry(NamedTuple):
    """The outcome of sending.

    :ivar entry_id: id of the entry.
    :ivar incarnation: incarnation of the session, empty for the stream of a tenant.
    """

    entry_id: EntryId
    incarnation: str


class StreamHead(NamedTuple):
    """The end of a stream.

    :ivar incarnation: incarnation of the live session. Empty for the stream of a tenant. ``None``
        if the session has ended.
    :ivar last: id of the newest entry, ``None`` if the stream is empty.
    :ivar now_ms: the time of the store before the head was read, in milliseconds since the epoch.
    """

    incarnation: str | None
    last: EntryId | None
    now_ms: int

    @property
    def position(self) -> EntryId:
        """The position of a reader that begins here."""
        return EntryId(self.now_ms, 0) if self.last is None else self.last


class StreamPage(NamedTuple):
    """Entries after a position.

    :ivar head: the end of the stream, read after the entries.
    :ivar entries: the entries, in order. ``None`` if the stream does not hold the position, so
        entries may be missing.
    """

    head: StreamHead
    entries: Sequence[StreamEntry] | None


def continues(position: EntryId, entry: StreamEntry, keep_ms: int) -> bool:
    """Return whether an entry is the next one after a position.

    A stream is forgotten ``keep_ms`` after its last entry. So a stream that begins within half of
    this time after an empty one was read is the first one since, even if the clocks of two servers
    differ.
    """
    if entry.previous == position:
        return True
    is_first = entry.previous == START and position.mark == 0
    return is_first and 0 <= entry.entry_id.ms - position.ms <= keep_ms // 2


def is_at_end(position: EntryId, head: StreamHead, keep_ms: int) -> bool:
    """Return whether a stream has no entry after a position, as far as its head can tell."""
    if head.last is not None:
        return head.last == position
    return position.mark == 0 and head.now_ms - position.ms <= keep_ms // 2


class StreamBackend(ABC):
    """The steps of streams.

    The arguments have been checked. Each step that writes is atomic and uses the store's clock. Any
    step may raise :class:`StoreUnavailableError`. Sending may also raise
    :class:`OutcomeUnknownError`.
    """

    @abstractmethod
    async def send(
        self, ref: StreamRef, body: bytes, mark: int, limits: StreamLimits
    ) -> SentEntry | None:
        """Append an entry, and publish it to the listeners of the stream.

        The entries of an earlier incarnation are removed.

        :param mark: a random number from 1 to 2**31.
        :returns: ``None`` if the session is not live.
        """

    @abstractmethod
    async def read(
        self, ref: StreamRef, incarnation: str, after: EntryId, limits: StreamLimits
    ) -> StreamPage:
        """Read the entries of an incarnation after a position.

        :param incarnation: the incarnation. If it has ended, no entry is returned. Empty for the
            stream of a tenant.
        :param after: id of an entry, or :attr:`StreamHead.position`.
        """

    @abstractmethod
    async def heads(self, refs: Sequence[StreamRef]) -> Sequence[StreamHead]:
        """Return the heads of streams, in one round trip to each server."""

    @abstractmethod
    def listen(
        self, ref: StreamRef, receive: Callable[[StreamEntry | None], None]
    ) -> AbstractAsyncContextManager[None]:
        """Call a function for each entry that is sent while the block runs.

        :param receive: called with the entry. It is called with ``None`` when entries may have been
            lost: when the subscription becomes active, and after each reconnect.
        """


class SupportsStreams(ABC):
    """A store with streams."""

    @abstractmethod
    def _stream_backend(self) -> StreamBackend:
        """Return the steps of streams."""


def stream_backend_of(store: object) -> StreamBackend:
    """Return the backend of streams of a store.

    :raises InvalidInputError: the store does not support streams.
    """
    if not isinstance(store, SupportsStreams):
        raise InvalidInputError("store", f"{type(store).__name__} does not support streams")
    return store._stream_backend()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
