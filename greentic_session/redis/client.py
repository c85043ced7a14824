"""Commands to one server: wires, attempts, one deadline per call.

The driver opens connections; it neither pools nor retries here. Its pools raise or starve when
callers outnumber connections, and its blind retries turn a lost reply to a compare-and-set into a
false conflict. Concurrent callers share wires instead (:mod:`.wire`), and what a failure means is
decided here.
"""

from __future__ import annotations

import asyncio
import os
import random
import ssl
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast, final

import hiredis
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
from .wire import Exchange, Wire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ..config import RedisConfig
    from .scripts import Script

__all__ = ["Command", "RedisClient", "Reply"]

Argument = str | bytes | int
Command = tuple[Argument, ...]
Reply = Any  # Any: whatever RESP carries; each caller knows the type of its command's reply

# Declared there for tuples of one.
_pack: Final = cast("Callable[[Command], bytes]", getattr(hiredis, "pack_command"))  # noqa: B009

_MOST_IN_FLIGHT: Final = 4096
"""Exchanges on one wire before another is opened, or a caller waits."""
_MOST_BYTES_IN_FLIGHT: Final = 8 << 20
_SPARE_WIRES: Final = 4
_STALLED_SECS: Final = 0.025
"""A wire whose oldest exchange has waited longer is passed over for one of a few others."""
_CLOSE_SECS: Final = 1.0
"""How long closing waits for the sockets to be closed, which takes the loop a tick or two."""
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
        self._wires: Final[list[Wire]] = []
        self._opening: asyncio.Task[None] | None = None
        self._queue: Final[deque[asyncio.Future[None]]] = deque()
        self._missing: Final[set[Script]] = set()
        self._least_secs: Final = min(0.02, config.deadline_secs / 10)
        self._operation = 0
        self._closed = False
        self.in_flight = 0
        self.retries = 0

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return sum(not wire.is_lost for wire in self._wires)

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
        return await self._attempts(self._enter_loop(), lambda _age: commands, until, None)

    async def run(
        self,
        script: Script,
        keys: Sequence[str],
        arguments: Sequence[Argument],
        *,
        until: float | None = None,
    ) -> Reply:
        """Run a script that writes, once, however often it takes to hear of it.

        :param keys: the names it touches.
        :param arguments: what it is given beside operation id and age (ARGV 1 and 2).
        :param until: as in :meth:`read`.
        :raises StoreUnavailableError: by the deadline; nothing was written.
        :raises OutcomeUnknownError: by the deadline; it may have been executed.
        """
        loop = self._enter_loop()
        self._operation = (self._operation + 1) & 0xFFFF_FFFF_FFFF_FFFF
        operation = f"{self._operation:016x}"

        def command(age_ms: float | None) -> Sequence[Command]:
            missing = script in self._missing
            head: Command = ("EVAL", script.source) if missing else ("EVALSHA", script.sha1)
            age = "" if age_ms is None else f"{age_ms:.3f}"
            return [(*head, len(keys), *keys, operation, age, *arguments)]

        return (await self._attempts(loop, command, until, script))[0]

    async def aclose(self) -> None:
        """Close every connection, idle or in use."""
        self._closed = True
        with suppress(StoreUnavailableError):
            self._enter_loop()  # those of another loop went with it
        wires = [*self._wires]
        for wire in wires:
            wire.close()
        self._wake(len(self._queue))
        ends: list[asyncio.Future[None]] = [wire.ended for wire in wires]
        if self._opening is not None:
            self._opening.cancel()
            ends.append(self._opening)
        if ends:
            await asyncio.wait(ends, timeout=_CLOSE_SECS)

    async def _attempts(
        self,
        loop: asyncio.AbstractEventLoop,
        commands: Callable[[float | None], Sequence[Command]],
        until: float | None,
        script: Script | None,
    ) -> list[Reply]:
        ends_at = loop.time() + self._config.deadline_secs if until is None else until
        doubtful_since: float | None = None  # when the first attempt was sent that may have run
        attempt = 0
        self.in_flight += 1
        try:
            while True:
                attempt += 1
                started_at = loop.time()
                give_up_at = _attempt_ends_at(started_at, ends_at)
                exchange: Exchange | None = None
                index = 0
                try:
                    # Whoever waits for room goes first.
                    wire = None if self._queue else self._ready_wire(started_at)
                    if wire is None:
                        wire = await self._next_wire(give_up_at)
                    # Only now: time has passed, and another call may have loaded the script.
                    age = None if doubtful_since is None else _age_ms(doubtful_since)
                    given = commands(age)
                    count = len(given)
                    packed = _pack(given[0]) if count == 1 else b"".join(map(_pack, given))
                    exchange = Exchange(
                        loop.create_future(), count, len(packed), started_at, give_up_at
                    )
                    wire.send(exchange, packed)
                    reply: Reply = await exchange.future
                    replies: list[Reply] = [reply] if count == 1 else reply
                    for index, reply in enumerate(replies):  # noqa: B007 - told to `classify`
                        if isinstance(reply, ResponseError):
                            raise reply
                except (RedisError, OSError, EOFError) as error:  # TimeoutError is an OSError
                    sent = exchange is not None and getattr(error, "sent", True)
                    fault = classify(error, sent=sent, index=index)
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
            # Wires and waiters belong to the loop that made them.
            self._loop = loop
            self._wires.clear()
            self._queue.clear()
            self._opening = None
            # Counted on from a random start, and so that a forked process has a start of its own.
            self._operation = int.from_bytes(os.urandom(8))
        return loop

    def _ready_wire(self, now: float) -> Wire | None:
        """Return a wire that takes an exchange at once."""
        if self._closed:
            return None
        stalled: Wire | None = None
        for wire in self._wires:
            if (
                wire.is_full
                or wire.in_flight >= _MOST_IN_FLIGHT
                or wire.bytes_in_flight >= _MOST_BYTES_IN_FLIGHT
            ):
                continue
            if now - wire.waits_since < _STALLED_SECS:
                return wire
            if stalled is None or wire.in_flight < stalled.in_flight:
                stalled = wire
        if stalled is not None and len(self._wires) < _SPARE_WIRES:
            self._open_another()
        return stalled

    async def _next_wire(self, give_up_at: float) -> Wire:
        """Wait for a wire: a new one if another may be opened, else for room on one."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout_at(give_up_at):
            while True:
                if self._closed:
                    raise _ClosedError
                wire = self._ready_wire(loop.time())
                if wire is not None:
                    return wire
                self._open_another()
                turn: asyncio.Future[None] = loop.create_future()
                self._queue.append(turn)
                try:
                    await turn
                finally:
                    if turn.cancelled():
                        with suppress(ValueError):
                            self._queue.remove(turn)

    def _open_another(self) -> None:
        if self._opening is None and len(self._wires) < self._config.max_connections:
            self._opening = asyncio.get_running_loop().create_task(
                self._open(), name="greentic_session connection"
            )

    async def _open(self) -> None:
        connection = _connection(self._config)
        error: BaseException | None = None
        wire: Wire | None = None
        try:
            async with asyncio.timeout(self._config.deadline_secs / 2):
                await cast("Callable[[], Awaitable[None]]", connection.connect)()  # untyped there
            wire = Wire(connection, self._on_free)
            self._wires.append(wire)
        except (RedisError, OSError, EOFError) as caught:
            error = caught
        finally:
            self._opening = None
            if wire is None:
                await connection.disconnect(nowait=True)
        self._wake(len(self._queue), None if self._wires else error)

    def _on_free(self, wire: Wire) -> None:
        if wire.is_lost:
            with suppress(ValueError):
                self._wires.remove(wire)
            self._wake(len(self._queue))  # to open another
        elif self._queue and not wire.is_full:
            self._wake(_MOST_IN_FLIGHT - wire.in_flight)

    def _wake(self, count: int, error: BaseException | None = None) -> None:
        """Let callers who wait for a wire look for one, or tell them why there is none."""
        queue = self._queue
        while queue and count > 0:
            turn = queue.popleft()
            if turn.done():
                continue
            count -= 1
            if error is None:
                turn.set_result(None)
            else:
                turn.set_exception(error)


class _ClosedError(OSError):
    """The client was closed: there will be no connection any more."""


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
