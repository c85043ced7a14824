"""One server: the wires to it, and the callers who wait for one."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, final

from redis.exceptions import RedisError

from .connection import Connection, ConnectionId
from .driver import ask_all, connect, disconnect, new_connection
from .failures import UnknownServerError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis.asyncio.connection import AbstractConnection

    from ...config import Address, RedisConfig
    from .script import Script
    from .server_process import ServerProcess

__all__ = ["ClosedError", "Server"]

_LOG: Final = logging.getLogger("greentic_session")

_MOST_IN_FLIGHT: Final = 4096
"""Exchanges on one wire before another is opened, or a caller waits."""
_MOST_BYTES_IN_FLIGHT: Final = 8 << 20
_SPARE_WIRES: Final = 4
_STALLED_SECS: Final = 0.025
"""A wire whose oldest exchange has waited longer is passed over for one of a few others."""
_RENEW_SECS: Final = 0.05
_POLICY: Final = re.compile(r"maxmemory_policy:([a-z-]+)")
_RUN: Final = re.compile(r"run_id:([0-9a-f]+)")


class ClosedError(OSError):
    """The client was closed, or the server is none of its own any more."""


@final
class Server:
    """The wires to one server, within one loop.

    :param config: checked configuration.
    :param address: of the server; ``None`` takes that of ``config``.
    :param greet: what is said on each new connection before others use it; may raise.
    :param on_silence: called now and then while callers wait and the server says nothing.
    :param host: has the server run.
    :ivar missing: scripts that the server is known not to have.
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
        self._config: Final = config
        self.address: Final = address
        self._greet: Final = greet
        self._on_silence: Final = None if on_silence is None else partial(on_silence, self)
        self._host: Final = host
        self._loop: Final = asyncio.get_running_loop()
        self._connections: Final[list[Connection]] = []
        self._draining: Final[set[Connection]] = set()
        self._opening: asyncio.Task[None] | None = None
        self._was_reached = False
        self._closed = False
        self._renewed_at = 0.0
        self._ack_connections: Server | None = None
        self._answered_at = 0.0
        self._losses = 0
        self.queue: Final[deque[asyncio.Future[None]]] = deque()
        self.missing: Final[set[Script]] = set()

    @property
    def answered_at(self) -> float:
        """When the server was last heard from, on the loop's clock."""
        beside = self._ack_connections
        return self._answered_at if beside is None else max(self._answered_at, beside.answered_at)

    @property
    def losses(self) -> int:
        """Connections that were lost."""
        return self._losses + (0 if self._ack_connections is None else self._ack_connections.losses)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        own = sum(not connection.is_lost for connection in (*self._connections, *self._draining))
        return own + (0 if self._ack_connections is None else self._ack_connections.connections)

    def ack_connections(self) -> Server:
        """Return further wires to the same server, for what replicas are to confirm.

        WAIT holds up all that follows it on its connection, reads among it.
        """
        if self._ack_connections is None:
            on_silence = self._on_silence
            self._ack_connections = Server(
                self._config,
                self.address,
                self._greet,
                None if on_silence is None else lambda _: on_silence(),
                host=self._host,
            )
            self._ack_connections._was_reached = self._was_reached  # noqa: SLF001 - one's own kind
            if self._closed:
                self._ack_connections.drain()
        return self._ack_connections

    def has(self, connection: Connection) -> bool:
        """Return whether a wire leads to this server."""
        if connection in self._connections or connection in self._draining:
            return True
        return self._ack_connections is not None and self._ack_connections.has(connection)

    def ready_connection(self, now: float) -> Connection | None:
        """Return a wire that takes an exchange at once."""
        stalled: Connection | None = None
        for connection in self._connections:
            waiting = connection.waiting
            if not waiting:
                return connection
            if (
                connection.is_full
                or len(waiting) >= _MOST_IN_FLIGHT
                or connection.bytes_in_flight >= _MOST_BYTES_IN_FLIGHT
            ):
                continue
            if now - waiting[0].sent_at < _STALLED_SECS:
                return connection
            if stalled is None or len(waiting) < len(stalled.waiting):
                stalled = connection
        if stalled is not None and len(self._connections) < _SPARE_WIRES:
            self._open_another()
        return stalled

    async def next_connection(self, give_up_at: float) -> Connection:
        """Wait for a wire: a new one if another may be opened, else for room on one.

        :param give_up_at: on the loop's clock.
        :raises TimeoutError: at that time.
        :raises ClosedError: this node was closed.
        """
        async with asyncio.timeout_at(give_up_at):
            while True:
                if self._closed:
                    raise ClosedError
                connection = self.ready_connection(self._loop.time())
                if connection is not None:
                    return connection
                self._open_another()
                turn: asyncio.Future[None] = self._loop.create_future()
                self.queue.append(turn)
                try:
                    await turn
                finally:
                    if turn.cancelled():
                        with suppress(ValueError):
                            self.queue.remove(turn)

    def reconnect(self) -> None:
        """Let every wire end when its callers have been answered; later callers get new ones."""
        now = self._loop.time()
        if now - self._renewed_at < _RENEW_SECS:
            return  # many callers may ask for it at once
        self._renewed_at = now
        self._drain()
        if self._ack_connections is not None:
            self._ack_connections.reconnect()

    def _drain(self) -> None:
        while self._connections:
            connection = self._connections.pop()
            if connection.waiting:
                self._draining.add(connection)
            else:
                connection.close()

    def drain(self) -> None:
        """Close when whoever is under way has been answered, and take nobody else."""
        self._refuse()
        self._drain()
        if self._ack_connections is not None:
            self._ack_connections.drain()

    def close(self) -> list[asyncio.Future[None]]:
        """Close every connection, idle or in use; return what ends when they have ended."""
        ends = self._refuse()
        connections = [*self._connections, *self._draining]
        for connection in connections:
            connection.close()
        beside = [] if self._ack_connections is None else self._ack_connections.close()
        return [*ends, *(connection.ended for connection in connections), *beside]

    def _refuse(self) -> list[asyncio.Future[None]]:
        self._closed = True
        ends: list[asyncio.Future[None]] = []
        if self._opening is not None:
            self._opening.cancel()
            ends.append(self._opening)
        self._wake(len(self.queue))
        return ends

    def _open_another(self) -> None:
        if self._opening is None and len(self._connections) < self._config.max_connections:
            self._opening = self._loop.create_task(self._open(), name="greentic_session connection")

    async def _open(self) -> None:
        raw = new_connection(self._config, self.address)
        error: BaseException | None = None
        connection: Connection | None = None
        try:
            async with asyncio.timeout(self._config.deadline_secs / 2):
                if self._host is not None:
                    await self._host.ensure_running()
                await connect(raw)
                if self._greet is not None:
                    await self._greet(raw)
                identity = await self._introduce(raw)
            connection = Connection(raw, self._on_free, self._on_silence, identity)
            self._connections.append(connection)
            self._answered_at = self._loop.time()
        except (RedisError, OSError, EOFError) as caught:
            error = caught
        except (TypeError, ValueError, AttributeError):
            error = UnknownServerError("the server's answer to a greeting cannot be read")
        finally:
            self._opening = None
            if connection is None:
                await disconnect(raw)
        self._wake(len(self.queue), None if self._connections else error)

    async def _introduce(self, raw: AbstractConnection) -> ConnectionId | None:
        """Learn how the server calls the connection, and the first time how it treats sessions."""
        questions: list[tuple[str, ...]] = [("CLIENT", "ID"), ("INFO", "server")]
        if not self._was_reached:
            questions.append(("INFO", "memory"))
        number, server, *more = await ask_all(raw, *questions)
        self._was_reached = True
        policy = _POLICY.search(_told(more[0])) if more else None
        if policy is not None and policy[1] != "noeviction":
            _LOG.warning(
                "the server's maxmemory-policy is %s: when its memory is full it drops sessions "
                "without an error; set it to noeviction",
                policy[1],
            )
        run = _RUN.search(_told(server))
        return ConnectionId(run[1], number) if run and isinstance(number, int) else None

    def _on_free(self, connection: Connection) -> None:
        if connection.is_lost:
            self._losses += 1
            self._draining.discard(connection)
            with suppress(ValueError):
                self._connections.remove(connection)
            self._wake(len(self.queue))  # to open another
            return
        self._answered_at = connection.heard_at
        if self._draining and connection in self._draining:
            if not connection.waiting:
                connection.close()
        elif self.queue and not connection.is_full:
            self._wake(_MOST_IN_FLIGHT - len(connection.waiting))

    def _wake(self, count: int, error: BaseException | None = None) -> None:
        """Let callers who wait for a wire look for one, or tell them why there is none."""
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


def _told(reply: object) -> str:
    """Return what INFO says; nothing if the account may not ask."""
    if isinstance(reply, bytes):
        return reply.decode(errors="replace")
    return reply if isinstance(reply, str) else ""
