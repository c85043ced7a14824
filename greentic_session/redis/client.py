"""Commands to one server: connections, attempts, one deadline per call.

The driver opens connections and speaks the protocol; it neither pools nor retries here. Its pools
raise or starve when callers outnumber connections, and its blind retries turn a lost reply to a
compare-and-set into a false conflict.
"""

from __future__ import annotations

import asyncio
import os
import random
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast, final

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from ..errors import OutcomeUnknownError, SessionError, StoreFullError, StoreUnavailableError
from .faults import Fault, FaultKind, classify

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ..config import RedisConfig
    from .scripts import Script

__all__ = ["Command", "RedisClient", "Reply"]

Argument = str | bytes | int
Command = tuple[Argument, ...]
Reply = Any  # Any: whatever RESP carries; each caller knows the type of its command's reply

_FIRST_PAUSE_SECS: Final = 0.005
_LAST_PAUSE_SECS: Final = 0.1
_LEAST_ATTEMPT_SECS: Final = 0.1
_IN_TRANSIT_MS: Final = 0.5
"""How long an attempt may take from here to where it is executed, for its age there."""


@final
class RedisClient:
    """Runs commands and scripts on one server, within the loop that first used it.

    :param config: checked configuration.
    """

    def __init__(self, config: RedisConfig) -> None:
        self._config: Final = config
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots = asyncio.Semaphore(config.max_connections)
        self._idle: list[AbstractConnection] = []
        self._open: Final[set[AbstractConnection]] = set()
        self._missing: Final[set[Script]] = set()
        self._least_secs: Final = min(0.02, config.deadline_secs / 10)
        self._closed = False
        self.in_flight = 0
        self.retries = 0

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._open)

    def deadline(self) -> float:
        """Return the time of the running loop by which a call that begins now must end."""
        return self._enter_loop().time() + self._config.deadline_secs

    async def read(self, *command: Argument, until: float | None = None) -> Reply:
        """Run a command that changes nothing.

        :param until: a :meth:`deadline`; ``None`` is one that begins now.
        :raises StoreUnavailableError: by the deadline.
        """
        return (await self.read_many([command], until=until))[0]

    async def read_many(
        self, commands: Sequence[Command], *, until: float | None = None
    ) -> list[Reply]:
        """Run several commands that change nothing, in one round trip.

        :param until: as in :meth:`read`.
        :raises StoreUnavailableError: by the deadline.
        """
        return await self._attempts(lambda _age: commands, until, None)

    async def run(
        self,
        script: Script,
        keys: Sequence[str],
        field: str,
        arguments: Sequence[Argument],
        *,
        until: float | None = None,
    ) -> Reply:
        """Run a script that writes, once, however often it takes to hear of it.

        :param keys: the names it touches.
        :param field: the record's field in the lookup (ARGV 3 of every script).
        :param arguments: the rest, from ARGV 4 on.
        :param until: as in :meth:`read`.
        :raises StoreUnavailableError: by the deadline; nothing was written.
        :raises OutcomeUnknownError: by the deadline; it may have been executed.
        """
        operation = os.urandom(8).hex()

        def command(age_ms: float | None) -> Sequence[Command]:
            missing = script in self._missing
            head: Command = ("EVAL", script.source) if missing else ("EVALSHA", script.sha1)
            age = "" if age_ms is None else f"{age_ms:.3f}"
            return [(*head, len(keys), *keys, operation, age, field, *arguments)]

        return (await self._attempts(command, until, script))[0]

    async def aclose(self) -> None:
        """Close every connection, idle or in use."""
        self._closed = True
        with suppress(StoreUnavailableError):
            self._enter_loop()  # those of another loop went with it
        connections, self._idle = [*self._open], []
        for connection in connections:
            await self._discard(connection)

    async def _attempts(
        self,
        commands: Callable[[float | None], Sequence[Command]],
        until: float | None,
        script: Script | None,
    ) -> list[Reply]:
        loop = self._enter_loop()
        ends_at = loop.time() + self._config.deadline_secs if until is None else until
        doubtful_since: float | None = None  # when the first attempt was sent that may have run
        attempt = 0
        self.in_flight += 1
        try:
            while True:
                attempt += 1
                started_at = loop.time()
                trial = _Trial()
                try:
                    async with asyncio.timeout_at(_attempt_ends_at(started_at, ends_at)):
                        replies = await self._exchange(commands, doubtful_since, trial)
                except (RedisError, OSError, EOFError) as error:  # TimeoutError is an OSError
                    fault = classify(error, sent=trial.sent, index=trial.index)
                    # A server's own words may quote what it was sent, a password among it.
                    cause = None if fault.told else error
                else:
                    if script is not None:
                        self._missing.discard(script)
                    return replies
                if self._closed:
                    fault = fault._replace(reason="the store is closed", code="unavailable")
                if fault.kind is FaultKind.AMBIGUOUS and doubtful_since is None:
                    doubtful_since = started_at
                if fault.kind is FaultKind.NO_SCRIPT and script is not None:
                    self._missing.add(script)
                in_doubt = script is not None and doubtful_since is not None
                pause = 0.0 if fault.kind is FaultKind.NO_SCRIPT else _pause(attempt)
                # An attempt cut off as it begins would turn a plain refusal into a doubt.
                too_late = loop.time() + pause + self._least_secs >= ends_at
                if fault.error is not None or self._closed or too_late:
                    raise _given_up(fault, in_doubt=in_doubt) from cause
                await asyncio.sleep(pause)
                if loop.time() >= ends_at:  # a busy loop woke this call late: send nothing more
                    raise _given_up(fault, in_doubt=in_doubt) from cause
                self.retries += 1
        finally:
            self.in_flight -= 1

    def _enter_loop(self) -> asyncio.AbstractEventLoop:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise StoreUnavailableError("the Redis backend runs on asyncio only") from None
        if loop is not self._loop:
            # Connections and waiters belong to the loop that made them.
            self._loop = loop
            self._slots = asyncio.Semaphore(self._config.max_connections)
            self._idle.clear()
            self._open.clear()
        return loop

    async def _connected(self) -> AbstractConnection:
        if self._closed:
            raise _ClosedError
        while self._idle:
            connection = self._idle.pop()
            if connection.is_connected and not await _is_stale(connection):
                return connection
            await self._discard(connection)
        connection = _connection(self._config)
        self._open.add(connection)
        try:
            await cast("Callable[[], Awaitable[None]]", connection.connect)()  # untyped there
        except BaseException:
            await self._discard(connection)
            raise
        return connection

    async def _discard(self, connection: AbstractConnection) -> None:
        self._open.discard(connection)
        await connection.disconnect(nowait=True)

    async def _exchange(
        self,
        commands: Callable[[float | None], Sequence[Command]],
        doubtful_since: float | None,
        trial: _Trial,
    ) -> list[Reply]:
        async with self._slots:
            connection = await self._connected()
            answered = False
            try:
                # Only now: time has passed, and another call may have loaded the script.
                given = commands(None if doubtful_since is None else _age_ms(doubtful_since))
                packed = connection.pack_commands(given)
                trial.sent = True
                await connection.send_packed_command(packed, check_health=False)
                replies = [await _reply(connection) for _ in given]
                answered = True
            finally:
                # A connection that owes a reply would give it to the next caller.
                if answered and not self._closed:
                    self._idle.append(connection)
                else:
                    await self._discard(connection)
        for index, reply in enumerate(replies):
            if isinstance(reply, ResponseError):
                trial.index = index
                raise reply
        return replies


@final
class _Trial:
    """One attempt at a call.

    :ivar sent: whether bytes of it may have left.
    :ivar index: which of its commands the server refused.
    """

    __slots__ = ("index", "sent")

    def __init__(self) -> None:
        self.sent = False
        self.index = 0


class _ClosedError(OSError):
    """The client was closed: there will be no connection any more."""


async def _reply(connection: AbstractConnection) -> Reply:
    try:
        return cast("Reply", await connection.read_response())
    except ResponseError as error:
        return error  # one command's answer: those after it are still to be read


async def _is_stale(connection: AbstractConnection) -> bool:
    # Closed by the server, or holding bytes that nobody asked for.
    try:
        return bool(await connection.can_read())
    except (RedisError, OSError):
        return True


def _attempt_ends_at(started_at: float, ends_at: float) -> float:
    # Half of what is left, so that a dead connection leaves time for a live one.
    return min(ends_at, max((started_at + ends_at) / 2, started_at + _LEAST_ATTEMPT_SECS))


def _age_ms(since: float) -> float:
    return (asyncio.get_running_loop().time() - since) * 1000 + _IN_TRANSIT_MS


def _pause(attempt: int) -> float:
    most = min(_LAST_PAUSE_SECS, _FIRST_PAUSE_SECS * 2**attempt)
    return random.uniform(most / 2, most)


def _given_up(fault: Fault, *, in_doubt: bool) -> SessionError:
    if isinstance(fault.error, OutcomeUnknownError):
        return fault.error
    # Out of memory is a script's own answer, given after it looked for an earlier attempt's trace.
    if in_doubt and not isinstance(fault.error, StoreFullError):
        return OutcomeUnknownError(fault.reason)
    return fault.error or StoreUnavailableError(fault.reason, code=fault.code)


def _connection(config: RedisConfig) -> AbstractConnection:
    fields: dict[str, Any] = {  # Any: keyword arguments of differing types
        "db": config.db,
        "username": config.username,
        "password": config.password,
        "protocol": config.protocol,
        # Attempts, deadlines and time-outs are this module's.
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": None,
        "socket_connect_timeout": None,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    if config.unix_path is not None:
        return UnixDomainSocketConnection(path=config.unix_path, **fields)
    fields |= {"host": config.host, "port": config.port, "socket_keepalive": True}
    tls = config.tls
    if tls is None:
        return Connection(**fields)
    return SSLConnection(
        ssl_ca_certs=tls.ca_file,
        ssl_certfile=tls.cert_file,
        ssl_keyfile=tls.key_file,
        ssl_cert_reqs=ssl.CERT_REQUIRED if tls.verify else ssl.CERT_NONE,
        ssl_check_hostname=tls.verify,
        **fields,
    )
