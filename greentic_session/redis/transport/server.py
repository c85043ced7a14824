"""Servers, and their pools of connections that callers share."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, final

from .connection import Connection, ConnectionId
from .driver import ask_all, connect, disconnect, new_connection
from .server_clock import ServerClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis.asyncio.connection import AbstractConnection

    from ...config import Address, RedisConfig
    from .script import Script
    from .server_process import ServerProcess

__all__ = ["LARGE_BYTES", "ClosedError", "ConnectionPool", "Server"]

_LOG: Final = logging.getLogger("greentic_session")

LARGE_BYTES: Final = 64 << 10
"""Size in bytes above which a request or reply is large. Large requests have separate connections.

On a shared connection, small requests would wait until the large ones were transferred."""
_LARGE_CONNECTIONS: Final = 2
"""Maximum number of connections for large requests, each with one request in flight.

A large request keeps the server and the event loop busy. Small requests run between them."""
_MOST_IN_FLIGHT: Final = 4096
"""Requests in flight on one connection before another is opened, or a caller waits."""
_MOST_BYTES_IN_FLIGHT: Final = 8 << 20
_SPARE_CONNECTIONS: Final = 4
_STALLED_SECS: Final = 0.025
"""If a connection's oldest request has waited longer, another connection is preferred."""
_RENEW_SECS: Final = 0.05
_POLICY: Final = re.compile(r"maxmemory_policy:([a-z-]+)")
_RUN: Final = re.compile(r"run_id:([0-9a-f]+)")


class ClosedError(OSError):
    """The client was closed, or the server is no longer part of its topology."""


@final
class Server:
    """One server, and the connections to it, within one event loop.

    :param config: the checked configuration.
    :param address: address of the server. ``None`` takes the address of ``config``.
    :param greet: runs on each new connection before callers use it. It may raise.
    :param on_silence: called repeatedly while callers wait and the server sends nothing.
    :param host: the process of the server, if the store starts the server itself.
    :ivar pool: the connections.
    :ivar ack_pool: the connections for writes that replicas confirm. ``WAIT`` blocks everything
        that follows it on its connection, reads included.
    :ivar clock: the server's clock.
    :ivar missing: scripts that are known to be missing on the server.
    :ivar answered_at: when the server last sent something, on the loop's clock.
    :ivar losses: number of lost connections.
    :ivar closed: whether the server accepts no more calls.
    """

    def __init__(
        self,
        config: RedisConfig,
        address: Address | None,
        greet: Callable[[AbstractConnection], Awaitable[None]] | None = None,
        on_silence: Callable[[Server], None] | None = None,
        *,
        host: ServerProcess | None = None,
    ) -> None:
        self.config: Final = config
        self.address: Final = address
        self.on_silence: Final = None if on_silence is None else partial(on_silence, self)
        self._greet: Final = greet
        self._host: Final = host
        self._loop: Final = asyncio.get_running_loop()
        self._was_reached = False
        self._renewed_at = 0.0
        self.pool: Final = ConnectionPool(self)
        self.ack_pool: Final = ConnectionPool(self)
        self.clock: Final = ServerClock()
        self.missing: Final[set[Script]] = set()
        self.answered_at: float = 0.0
        self.losses = 0
        self.closed: bool = False

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return self.pool.open_count + self.ack_pool.open_count

    def has(self, connection: Connection) -> bool:
        """Return whether a connection leads to this server."""
        return self.pool.has(connection) or self.ack_pool.has(connection)

    def reconnect(self) -> None:
        """Drain all connections and open new ones for later callers."""
        now = self._loop.time()
        if now - self._renewed_at < _RENEW_SECS:
            return  # many callers may request it at the same time
        self._renewed_at = now
        self.pool.drain()
        self.ack_pool.drain()

    def drain(self) -> None:
        """Accept no more calls, and close each connection when its calls have been answered."""
        self.closed = True
        for pool in (self.pool, self.ack_pool):
            pool.refuse()
            pool.drain()

    def close(self) -> list[asyncio.Future[None]]:
        """Close every connection, idle or in use. Return the futures of their ends."""
        self.closed = True
        return [*self.pool.close(), *self.ack_pool.close()]

    def discard(self) -> None:
        """Close every connection after their loop was closed."""
        self.closed = True
        self.pool.discard()
        self.ack_pool.discard()

    async def introduce(self, raw: AbstractConnection) -> ConnectionId | None:
        """Connect, greet the server and return how it identifies the connection.

        Logs a warning on the first connection if the server may evict sessions.
        """
        if self._host is not None:
            await self._host.ensure_running()
        await connect(raw)
        if self._greet is not None:
            await self._greet(raw)
        questions: list[tuple[str, ...]] = [("CLIENT", "ID"), ("INFO", "server"), ("TIME",)]
        if not self._was_reached:
            questions.append(("INFO", "memory"))
        number, server, time, *more = await ask_all(raw, *questions)
        self.clock.learn(time, self._loop.time())
        self._was_reached = True
        policy = _POLICY.search(_text_of(more[0])) if more else None
        if policy is not None and policy[1] != "noeviction":
            _LOG.warning(
                "the server may evict sessions without an error when its memory is full: "
                "maxmemory-policy is %s, expected noeviction",
                policy[1],
            )
        run = _RUN.search(_text_of(server))
        return ConnectionId(run[1], number) if run and isinstance(number, int) else None


@final
class ConnectionPool:
    """Holds the shared connections to one server, and the callers that wait for one.

    :param server: the server.
    :param is_large: whether the pool is for large requests. Such a pool has a few connections, with
        one request in flight on each.
    :ivar queue: the callers that wait, the oldest first.
    """

    def __init__(self, server: Server, *, is_large: bool = False) -> None:
        self._server: Final = server
        most = server.config.max_connections
        self._most_connections: Final = min(_LARGE_CONNECTIONS, most) if is_large else most
        self._most_in_flight: Final = 1 if is_large else _MOST_IN_FLIGHT
        self._large: Final = None if is_large else ConnectionPool(server, is_large=True)
        self._loop: Final = asyncio.get_running_loop()
        self._connections: Final[list[Connection]] = []
        self._draining: Final[set[Connection]] = set()
        self._opening: asyncio.Task[None] | None = None
        self.queue: Final[deque[asyncio.Future[None]]] = deque()

    @property
    def open_count(self) -> int:
        """How many connections are open, those for large requests included."""
        connections = (*self._connections, *self._draining)
        more = 0 if self._large is None else self._large.open_count
        return sum(not connection.is_lost for connection in connections) + more

    def has(self, connection: Connection) -> bool:
        """Return whether a connection belongs to the pool, including those for large requests."""
        if connection in self._connections or connection in self._draining:
            return True
        return self._large is not None and self._large.has(connection)

    def ready_connection(self, now: float) -> Connection | None:
        """Return a connection that accepts a request immediately, ``None`` if there is none."""
        stalled: Connection | None = None
        for connection in self._connections:
            waiting = connection.waiting
            if not waiting:
                return connection
            if (
                connection.is_full
                or len(waiting) >= self._most_in_flight
                or connection.bytes_in_flight >= _MOST_BYTES_IN_FLIGHT
            ):
                continue
            if now - waiting[0].sent_at < _STALLED_SECS:
                return connection
            if stalled is None or len(waiting) < len(stalled.waiting):
                stalled = connection
        if stalled is not None and len(self._connections) < _SPARE_CONNECTIONS:
            self._open_another()
        return stalled

    async def large_connection(self, give_up_at: float) -> Connection:
        """Wait for a connection for a large request, as :meth:`next_connection` does."""
        pool = self if self._large is None else self._large
        if pool is not self:
            self._wake(1)  # a caller that waited here leaves its place to the next one
        # Callers that already wait go first.
        connection = None if pool.queue else pool.ready_connection(self._loop.time())
        return connection or await pool.next_connection(give_up_at)

    async def next_connection(self, give_up_at: float) -> Connection:
        """Wait for a new connection. At the limit of connections, wait for room on an open one.

        :param give_up_at: the end of the wait, on the loop's clock.
        :raises TimeoutError: at that time.
        :raises ClosedError: the server was closed.
        """
        async with asyncio.timeout_at(give_up_at):
            while True:
                if self._server.closed:
                    raise ClosedError
                connection = self.ready_connection(self._loop.time())
                if connection is not None:
                    return connection
                self._open_another()
                turn: asyncio.Future[None] = self._loop.create_future()
                self.queue.append(turn)
                try:
                    await turn
                except asyncio.CancelledError:
                    if turn.cancelled():
                        with suppress(ValueError):
                            self.queue.remove(turn)
                    elif turn.exception() is None:  # the turn came in the same tick
                        self._wake(1)
                    raise

    def drain(self) -> None:
        """Close each connection when its calls have been answered. Later callers get new ones."""
        while self._connections:
            connection = self._connections.pop()
            if connection.waiting:
                self._draining.add(connection)
            else:
                connection.close()
        if self._large is not None:
            self._large.drain()

    def refuse(self) -> list[asyncio.Future[None]]:
        """Stop opening connections, and wake the callers that wait.

        :returns: the future of the end of an opening that is in progress.
        """
        ends: list[asyncio.Future[None]] = [] if self._large is None else self._large.refuse()
        if self._opening is not None:
            self._opening.cancel()
            ends.append(self._opening)
        self._wake(len(self.queue))
        return ends

    def close(self) -> list[asyncio.Future[None]]:
        """Close every connection, idle or in use. Return the futures of their ends."""
        ends = self.refuse() if self._large is None else [*self.refuse(), *self._large.close()]
        connections = [*self._connections, *self._draining]
        for connection in connections:
            connection.close()
        return [*ends, *(connection.ended for connection in connections)]

    def discard(self) -> None:
        """Close every connection after their loop was closed."""
        for connection in (*self._connections, *self._draining):
            connection.discard()
        if self._large is not None:
            self._large.discard()

    def _open_another(self) -> None:
        if self._opening is None and len(self._connections) < self._most_connections:
            self._opening = self._loop.create_task(self._open(), name="greentic_session connection")

    async def _open(self) -> None:
        server = self._server
        raw: AbstractConnection | None = None
        error: BaseException | None = None
        connection: Connection | None = None
        try:
            raw = new_connection(server.config, server.address)
            async with asyncio.timeout(server.config.deadline_secs / 2):
                identity = await server.introduce(raw)
            connection = Connection(raw, self._on_free, server.on_silence, identity)
            self._connections.append(connection)
            server.answered_at = self._loop.time()
        except Exception as caught:  # noqa: BLE001 - callers raise it, a programming error too
            error = caught
        finally:
            self._opening = None
            if connection is None and raw is not None:
                await disconnect(raw)
        self._wake(len(self.queue), None if self._connections else error)

    def _on_free(self, connection: Connection) -> None:
        server = self._server
        if connection.is_lost:
            server.losses += 1
            self._draining.discard(connection)
            with suppress(ValueError):
                self._connections.remove(connection)
            self._wake(len(self.queue))  # a caller opens another connection
            return
        server.answered_at = connection.heard_at
        if self._draining and connection in self._draining:
            if not connection.waiting:
                connection.close()
        elif self.queue and not connection.is_full:
            self._wake(self._most_in_flight - len(connection.waiting))

    def _wake(self, count: int, error: BaseException | None = None) -> None:
        """Wake callers that wait for a connection. With ``error``, they raise it."""
        queue = self.queue
        while queue and count > 0:
            turn = queue.popleft()
            if turn.done():
                continue
            count -= 1
            if error is None:
                turn.set_result(None)
            else:
                turn.set_exception(error)


def _text_of(reply: object) -> str:
    """Return the text of a reply to INFO, empty if the account may not run it."""
    if isinstance(reply, bytes):
        return reply.decode(errors="replace")
    return reply if isinstance(reply, str) else ""
