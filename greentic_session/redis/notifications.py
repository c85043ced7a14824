"""Notifications from a server over one subscribed connection per store.

If the connection is lost, notifications are lost (Redis docs, "Pub/sub: delivery semantics"). So
each new connection notifies all waiters, and each waiter checks for work itself. A cluster forwards
notifications between its servers, so the connection may lead to any of them (``PUBLISH`` in the
Redis docs).
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final, cast, final

import hiredis
from redis.exceptions import ConnectionError as DriverConnectionError
from redis.exceptions import RedisError, ResponseError

from .._compat import override
from .._core.subscribers import Subscribers
from ..abc.notifications import Subscription, SupportsNotifications
from .transport.driver import take_over

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from redis.asyncio.connection import AbstractConnection

    from .key_names import KeyNames
    from .transport.client import RedisClient

__all__ = ["RedisNotifications"]

_LOG: Final = logging.getLogger("greentic_session")
_FAILURES: Final = (RedisError, OSError, EOFError, TypeError, ValueError, AttributeError)
"""The driver raises the last three if a reply during the handshake has an unexpected form."""
_HEARTBEAT_SECS: Final = 5.0
"""Interval of a connection's heartbeats. If the server does not reply, the connection is closed."""
_LINGER_SECS: Final = 10.0
"""How long the connection stays open without subscribers."""
_FIRST_PAUSE_SECS: Final = 0.02
_LAST_PAUSE_SECS: Final = 1.0
_CLOSE_SECS: Final = 1.0

_pack: Final = cast("Callable[[tuple[str, ...]], bytes]", getattr(hiredis, "pack_command"))  # noqa: B009


@final
class _Topic:
    """The subscribers of a topic, and whether the server has confirmed the subscription."""

    def __init__(self) -> None:
        self.subscribers: Final = Subscribers()
        self.listeners: Final[list[Callable[[bytes | None], None]]] = []
        self.is_confirmed = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing uses the topic."""
        return not self.subscribers and not self.listeners

    def notify_all(self) -> None:
        """Wake every subscriber and listener, because notifications may have been lost."""
        self.subscribers.notify_all()
        self.publish(None)

    def publish(self, message: bytes | None) -> None:
        """Pass a message to every listener."""
        for receive in tuple(self.listeners):
            receive(message)


@final
class _PubSubConnection(asyncio.Protocol):
    """A subscribed connection, taken over from the driver.

    :param on_message: called with the kind, the channel and the content of each message.
    :param on_refused: called when the server refuses a command.
    :ivar lost: a future that is done when the connection has ended.
    :ivar heard_at: when the server last sent anything, on the loop's clock.
    """

    def __init__(
        self,
        connection: AbstractConnection,
        on_message: Callable[[bytes, bytes, object], None],
        on_refused: Callable[[], None],
    ) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._on_message: Final = on_message
        self._on_refused: Final = on_refused
        self.lost: Final[asyncio.Future[None]] = self._loop.create_future()
        self.heard_at = self._loop.time()
        self._reader: Final = hiredis.Reader(
            protocolError=DriverConnectionError,
            replyError=ResponseError,
            notEnoughData=_PubSubConnection,
        )
        self._stream, early = take_over(connection)
        self._transport: Final = self._stream.transport
        self._transport.set_protocol(self)
        if early:
            self.data_received(early)

    def send(self, *words: str) -> None:
        if not self._transport.is_closing():
            self._transport.write(_pack(words))

    def close(self) -> None:
        self._transport.abort()

    @override
    def data_received(self, data: bytes) -> None:
        self.heard_at = self._loop.time()
        self._reader.feed(data)
        try:
            while (reply := cast("object", self._reader.gets())) is not _PubSubConnection:
                if isinstance(reply, ResponseError):
                    self._on_refused()
                elif isinstance(reply, list):  # a push, or an array in RESP2
                    match cast("list[object]", reply):
                        case [bytes() as kind, bytes() as channel, content]:
                            self._on_message(kind, channel, content)
                        case _:
                            pass
        except DriverConnectionError:
            self.close()

    @override
    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's
        if not self.lost.done():
            self.lost.set_result(None)


@final
class RedisNotifications(SupportsNotifications):
    """The notifications of one store, within the event loop that uses the store.

    :param client: the client that opens the connections.
    :param names: the key names of the store.
    :param secs: timeout for opening a connection, in seconds.
    """

    def __init__(self, client: RedisClient, names: KeyNames, secs: float) -> None:
        self._client: Final = client
        self._names: Final = names
        self._secs: Final = secs
        self._loop: asyncio.AbstractEventLoop | None = None
        self._topics: dict[str, _Topic] = {}
        self._task: asyncio.Task[None] | None = None
        self._connection: _PubSubConnection | None = None
        self._was_refused = False
        self._closed = False

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return 0 if self._connection is None or self._connection.lost.done() else 1

    @override
    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncGenerator[Subscription]:
        """As :meth:`SupportsNotifications.subscribe`."""
        with self._joined(topic) as listened:
            is_notified = listened.is_confirmed or self._closed
            with listened.subscribers.subscribed(is_notified=is_notified) as subscription:
                yield subscription

    @override
    @asynccontextmanager
    async def listen(
        self, topic: str, receive: Callable[[bytes | None], None]
    ) -> AsyncGenerator[None]:
        """As :meth:`SupportsNotifications.listen`."""
        with self._joined(topic) as listened:
            listened.listeners.append(receive)
            try:
                if listened.is_confirmed or self._closed:
                    receive(None)
                yield
            finally:
                listened.listeners.remove(receive)

    @contextmanager
    def _joined(self, topic: str) -> Generator[_Topic]:
        """Keep the server's subscription to a topic while the block runs."""
        self._enter_loop()
        channel = self._names.channel(topic)
        topics = self._topics
        listened = topics.get(channel)
        if listened is None:
            listened = topics[channel] = _Topic()
            if self._connection is not None:
                self._connection.send("SUBSCRIBE", channel)
        is_notified = listened.is_confirmed or self._closed
        if not is_notified and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(
                self._keep_subscribed(), name="greentic_session notifications"
            )
        try:
            yield listened
        finally:
            if listened.is_idle and topics.get(channel) is listened:
                del topics[channel]
                if self._connection is not None and topics is self._topics:
                    self._connection.send("UNSUBSCRIBE", channel)

    async def aclose(self) -> None:
        """Close the connection, and notify all subscribers."""
        self._closed = True
        for topic in self._topics.values():
            topic.notify_all()
        task, self._task = self._task, None
        loop = self._loop
        if task is None or loop is None:
            return
        if loop is asyncio.get_running_loop():
            task.cancel()
            await asyncio.wait((task,), timeout=_CLOSE_SECS)
        elif not loop.is_closed():
            loop.call_soon_threadsafe(task.cancel)

    def _enter_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._client.deadline()  # raises if another loop uses the store
            self._loop, self._topics, self._task, self._connection = loop, {}, None, None

    async def _keep_subscribed(self) -> None:
        """Keep a connection open while there are subscribers, and for a while afterwards."""
        pause_secs = _FIRST_PAUSE_SECS
        loop = asyncio.get_running_loop()
        idle_since = loop.time()
        while True:
            if self._topics:
                idle_since = loop.time()
            elif loop.time() - idle_since >= _LINGER_SECS:
                return
            try:
                connection = await self._open()
            except _FAILURES:
                pass
            else:
                heard_from = loop.time()
                if not await self._receive_until_lost(connection):
                    return
                if loop.time() - heard_from > _LAST_PAUSE_SECS:
                    pause_secs = _FIRST_PAUSE_SECS
            # The pause limits the rate if a proxy closes every connection that subscribes. It is
            # random because all processes reconnect at the same time.
            await asyncio.sleep(random.uniform(pause_secs / 2, pause_secs))
            pause_secs = min(2 * pause_secs, _LAST_PAUSE_SECS)

    async def _open(self) -> _PubSubConnection:
        async with asyncio.timeout(self._secs):
            connection = await self._client.dedicated_connection()
        return _PubSubConnection(connection, self._on_message, self._on_refused)

    async def _receive_until_lost(self, connection: _PubSubConnection) -> bool:
        """Subscribe on a connection, run :meth:`_receive_until_idle`, and close the connection."""
        self._connection = connection
        try:
            if self._topics:
                connection.send("SUBSCRIBE", *self._topics)
            return await self._receive_until_idle(connection)
        finally:
            self._connection = None
            connection.close()
            for topic in self._topics.values():
                topic.is_confirmed = False

    async def _receive_until_idle(self, connection: _PubSubConnection) -> bool:
        """Wait until the connection has ended, the server is silent, or there are no subscribers.

        :returns: ``False`` in the last case.
        """
        loop = asyncio.get_running_loop()
        idle_since = loop.time()
        while True:
            await asyncio.wait((connection.lost,), timeout=_HEARTBEAT_SECS)
            if connection.lost.done() or loop.time() - connection.heard_at > 2.5 * _HEARTBEAT_SECS:
                return True
            if self._topics:
                idle_since = loop.time()
            elif loop.time() - idle_since >= _LINGER_SECS:
                return False
            connection.send("PING")

    def _on_message(self, kind: bytes, channel: bytes, content: object) -> None:
        topic = self._topics.get(channel.decode(errors="replace"))
        if topic is None:
            return
        if kind == b"subscribe":
            topic.is_confirmed = True
            topic.notify_all()  # notifications may have been lost until now
        elif kind == b"message":
            topic.subscribers.notify()
            if isinstance(content, bytes):
                topic.publish(content)

    def _on_refused(self) -> None:
        if not self._was_refused:
            self._was_refused = True
            _LOG.warning(
                "the server does not let this account subscribe to channels: waiters fall back to "
                "polling"
            )
