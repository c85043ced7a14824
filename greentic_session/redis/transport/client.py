"""The client that runs a store's commands: attempts, and one deadline per call.

The driver opens connections; it neither pools nor retries here. Its pools raise or starve when
callers outnumber connections, and its blind retries turn a lost reply to a compare-and-set into a
false conflict. Concurrent callers share connections instead (:mod:`.connection`,
:mod:`.server`). The topology selects the server (:mod:`.topology`). What a failure means is decided
here.
"""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast, final

from redis.exceptions import ResponseError

from ...errors import OutcomeUnknownError, StoreUnavailableError
from .acks import Acks, barrier
from .attempts import Attempts, Call, attempt_ends_at, log_retention_ms
from .connection import Connection, PendingRequest, pack
from .discovery import topology_for
from .driver import connect, disconnect, new_connection
from .failures import ForeignValueError, classify, malformed_reply
from .server import LARGE_BYTES, ClosedError, Server
from .topology import FAILURES, ScanPosition, Topology, close_from_any_loop, run_concurrently

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from redis.asyncio.connection import AbstractConnection

    from ...config import RedisConfig
    from .protocol import Argument, Command, Reply
    from .script import Script
    from .server_process import ServerProcess

__all__ = ["RedisClient"]

_MAX_RESTARTS: Final = 3
"""So often a scan starts anew because names may have come to be elsewhere."""
_MAX_UNANSWERED: Final = 256
_ASKING: Final[Command] = ("ASKING",)
_PING: Final[tuple[Command]] = (("PING",),)


@final
class RedisClient:
    """Runs commands and scripts, within one loop. A closed loop gives way to the next one.

    :param config: checked configuration.
    :param host: has the one server run, if it does not by itself.
    """

    def __init__(self, config: RedisConfig, host: ServerProcess | None = None) -> None:
        self._config: Final = config
        self._host: Final = host
        self._acks: Final = Acks(config.acks, config.deadline_secs)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self._changing: Final = threading.Lock()
        self._topology: Topology
        self._least_secs: Final = min(0.02, config.deadline_secs / 10)
        self._retention_ms: Final = log_retention_ms(config.deadline_secs)
        self._operation = 0
        # Of calls for a grant that may have been made.
        self._unanswered_grants: Final[dict[str, Attempts]] = {}
        self._closed = False
        self.in_flight: int = 0
        self.retries: int = 0

    @property
    def connections(self) -> int:
        """How many connections are open."""
        if self._loop is None:
            return 0
        return sum(server.connections for server in self._topology.servers)

    @property
    def confirms(self) -> bool:
        """Whether replicas confirm writes."""
        return self._config.acks > 0

    @property
    def confirms_apart(self) -> bool:
        """Whether replicas confirm writes, and those of different slots may be other replicas."""
        return self._config.acks > 0 and bool(self._config.cluster)

    def deadline(self) -> float:
        """Return the time of the running loop by which a call that begins now must end."""
        return self._enter_loop().time() + self._config.deadline_secs

    def read(
        self,
        *command: Argument,
        key: str | None = None,
        until: float | None = None,
        is_large: bool = False,
    ) -> Coroutine[Any, Any, Reply]:  # Any: what asyncio sends into coroutines
        """Run a command that changes nothing.

        :param key: the name that says which server is asked; any for ``None``.
        :param until: a :meth:`deadline`; ``None`` is one that begins now.
        :param is_large: whether a large reply is expected.
        :raises StoreUnavailableError: by the deadline.
        """
        call = Call(key, (command,), until, is_one=True, is_large=is_large)
        return self._run_attempts(call, self._enter_loop())

    async def read_many(
        self, commands: Sequence[Command], *, key: str, until: float | None = None
    ) -> list[Reply]:
        """Run several commands that change nothing, in one round trip to one server.

        :param key: as in :meth:`read`.
        :param until: as in :meth:`read`.
        :raises StoreUnavailableError: by the deadline.
        """
        call = Call(key, commands, until)
        return await self._run_attempts(call, self._enter_loop()) if commands else []

    async def read_each(
        self, commands: Sequence[Command], *, until: float | None = None, is_large: bool = False
    ) -> list[Reply]:
        """Run commands that change nothing, each on the server of the name that it begins with, in
        one round trip to each server.

        :param until: as in :meth:`read`.
        :param is_large: as in :meth:`read`.
        :raises StoreUnavailableError: by the deadline.
        """
        loop = self._enter_loop()
        until = loop.time() + self._config.deadline_secs if until is None else until
        replies: list[Reply] = [None] * len(commands)

        async def fetch(indexes: Sequence[int]) -> None:
            some = [commands[index] for index in indexes]
            try:
                key, is_mixed = str(some[0][1]), len(some) > 1
                call = Call(key, some, until, is_mixed=is_mixed, is_large=is_large)
                found = await self._run_attempts(call, loop)
            except ForeignValueError as error:
                raise ForeignValueError(indexes[error.index]) from None
            except _MovedOnError:
                await run_concurrently(fetch, [[index] for index in indexes])
                return
            for index, reply in zip(indexes, found, strict=True):
                replies[index] = reply

        parts: dict[Server | None, list[int]] = {}
        for index, command in enumerate(commands):
            parts.setdefault(self._topology.server_of(str(command[1])), []).append(index)
        unknown = parts.pop(None, ())
        groups = [*parts.values(), *([index] for index in unknown)]
        await (fetch(groups[0]) if len(groups) == 1 else run_concurrently(fetch, groups))
        return replies

    async def scan(
        self, pattern: str, count: int, position: ScanPosition | None
    ) -> tuple[list[bytes], ScanPosition | None]:
        """Return some names that match, in all each at least once that is there from first to last.

        Begins anew, a few times at most, when names may have come to be elsewhere meanwhile.

        :param count: about how many names to look at.
        :param position: what the call before returned; ``None`` begins.
        :raises StoreUnavailableError: by the deadline.
        """
        loop = self._enter_loop()
        until = loop.time() + self._config.deadline_secs
        topology = self._topology
        while True:
            starts = 0 if position is None else position.starts
            is_stale = position is None or (
                position.version != topology.version and starts < _MAX_RESTARTS
            )
            if position is None or is_stale:
                await self._run_attempts(Call(None, _PING, until), loop)  # learns the servers
                await self._refresh(until)
                position = ScanPosition(topology.version, starts + 1, (*topology.servers,), 0)
            command: Command = "SCAN", position.cursor, "MATCH", pattern, "COUNT", count
            try:
                cursor, names = await self._scan_at(position.ahead[0], command, until)
                goes_on, names = int(cursor) != 0, list(names)
            except (TypeError, ValueError):
                raise malformed_reply() from None
            except _MovedOnError:
                position = position._replace(version=-1, starts=min(starts, _MAX_RESTARTS - 1))
                continue
            break
        if goes_on:
            return names, position._replace(cursor=cursor)
        if ahead := position.ahead[1:]:
            return names, position._replace(ahead=ahead, cursor=0)
        await self._refresh(until)
        is_stale = position.version != topology.version and position.starts < _MAX_RESTARTS
        return names, position._replace(version=-1) if is_stale else None

    async def ping(self) -> None:
        """Ask every server that holds sessions for a sign of life.

        :raises StoreUnavailableError: by the deadline.
        """
        loop = self._enter_loop()
        until = loop.time() + self._config.deadline_secs
        await self._run_attempts(Call(None, _PING, until), loop)

        async def ping(server: Server) -> None:
            with suppress(_MovedOnError):  # it holds none any more
                await self._run_attempts(Call(None, _PING, until, at=server), loop)

        if len(self._topology.servers) > 1:
            await run_concurrently(ping, self._topology.servers)

    def run(
        self,
        script: Script,
        keys: Sequence[str],
        arguments: Sequence[Argument],
        *,
        until: float | None = None,
        skips_acks: bool = False,
        grants: str = "",
        ends: str = "",
    ) -> Coroutine[Any, Any, Reply]:  # Any: as above
        """Run a script that writes, once, however often it takes to hear of it.

        :param keys: the names it touches, in one slot.
        :param arguments: what it is given beside the operation's id (ARGV 1) and since when an
            earlier attempt may have been executed (ARGV 2).
        :param until: as in :meth:`read`.
        :param skips_acks: whether the write may be lost, so that no replica has to confirm it.
        :param grants: a name of the caller's own for what it is granted. Should nobody hear of the
            grant, as when the caller was cancelled, it reaches the server before what ends it. A
            call for the same grant goes on where the last one, of which nobody heard, gave up.
        :param ends: by that name, what is given back.
        :raises StoreUnavailableError: by the deadline; nothing was written.
        :raises OutcomeUnknownError: by the deadline; it may have been executed.
        :raises UnconfirmedError: it was executed, or had been before, and too few replicas
            confirmed it. Some time is left until the deadline.
        """
        loop = self._enter_loop()
        self._operation = (self._operation + 1) & 0xFFFF_FFFF_FFFF_FFFF
        operation = f"{self._operation:016x}"
        confirms = barrier(keys) if self._acks.wanted and not skips_acks else None

        def commands(server: Server, since: str) -> Sequence[Command]:
            head: Command = (
                ("EVAL", script.source) if script in server.missing else ("EVALSHA", script.sha1)
            )
            command = (*head, len(keys), *keys, operation, since, *arguments)
            if confirms is not None and (since or not script.always_writes):
                # An attempt that is answered from the operation log writes nothing.
                return command, confirms
            return (command,)

        call = Call(
            keys[0],
            commands,
            until,
            script=script,
            barrier=confirms,
            grants=grants,
            attempts=self._unanswered_grants.pop(grants, None),
            earlier=self._unanswered_grants.pop(ends, None),
            is_one=True,
        )
        return self._run_attempts(call, loop)

    def may_still_arrive(self, granting: str) -> bool:
        """Tell whether a call that was to grant something, and ended unheard, may have been sent.

        :param granting: its name, as in :meth:`run`.
        """
        return granting in self._unanswered_grants

    async def dedicated_connection(self) -> AbstractConnection:
        """Open a connection to any server, greetings included, for the caller alone.

        Under the caller's limit of time.

        :raises OSError: nobody knows a server, or it cannot be reached; or an error of the driver.
        """
        until = self.deadline()
        if self._closed:
            raise ClosedError
        server = self._topology.server_of(None) or await self._topology.locate(None, until)
        if self._host is not None:
            await self._host.ensure_running()
        connection = new_connection(self._config, server.address)
        try:
            async with asyncio.timeout(self._config.deadline_secs / 2):
                await connect(connection)
        except BaseException as error:
            if isinstance(error, FAILURES):
                self._topology.report_failure(server, classify(error, sent=False))
            await disconnect(connection)
            raise
        return connection

    async def aclose(self) -> None:
        """Close every connection, idle or in use."""
        self._closed = True
        if self._loop is not None and self._process == os.getpid():
            await close_from_any_loop(self._topology, self._loop)

    async def _run_attempts(  # noqa: PLR0915 - each part of its own would cost every call a coroutine
        self, call: Call, loop: asyncio.AbstractEventLoop
    ) -> Reply:
        """Attempt a call until it succeeds, fails for good, or its deadline has come.

        :raises _MovedOnError: ``at`` holds no sessions any more, or mixed commands were redirected.
        """
        until, commands, script, at = call.until, call.commands, call.script, call.at
        wants_acks, attempts, earlier = call.barrier is not None, call.attempts, call.earlier
        ends_at = loop.time() + self._config.deadline_secs if until is None else until
        topology = self._topology
        request: PendingRequest | None = None
        connection: Connection | None = None
        server: Server | None = None
        self.in_flight += 1
        try:
            while True:
                started_at = loop.time()
                give_up_at = attempt_ends_at(started_at, ends_at)
                request = connection = server = None
                index = 0
                try:
                    if self._closed:
                        raise ClosedError
                    if at is not None and at not in topology.servers:
                        raise _MovedOnError
                    asked: Server | None = None if attempts is None else attempts.redirected_to
                    found = asked or at or topology.server_of(call.key)
                    server = found or await topology.locate(call.key, give_up_at)
                    pool = server.ack_pool if wants_acks else server.pool
                    # Callers that wait for room go first.
                    connection = None if pool.queue else pool.ready_connection(started_at)
                    if connection is None:
                        connection = await pool.next_connection(give_up_at)
                    since = ""
                    if attempts is not None and attempts.is_ambiguous:
                        connection = attempts.connection_of(pool) or connection
                        since = await attempts.rule_out_late(
                            server, connection, give_up_at, self._retention_ms
                        )
                    elif earlier is not None:
                        connection = earlier.connection_of(server) or connection
                        await earlier.rule_out_late(
                            server, connection, give_up_at, self._retention_ms
                        )
                    if started_at >= server.clock.refresh_at:
                        server.clock.refresh(connection, give_up_at)
                    # Only now: time has passed, and another call may have loaded the script.
                    given = commands(server, since) if callable(commands) else commands
                    if asked is not None:
                        given = [part for command in given for part in (_ASKING, command)]
                    count = len(given)
                    packed = pack(given[0]) if count == 1 else b"".join(map(pack, given))
                    size = len(packed)
                    if size > LARGE_BYTES or call.is_large:
                        before = attempts if since else earlier
                        if before is None or not before.follows_on(connection):
                            connection = await pool.large_connection(give_up_at)
                    request = PendingRequest(
                        loop.create_future(), count, size, started_at, give_up_at
                    )
                    connection.send(request, packed)
                    reply: Reply = await request.future
                    if count == 1:
                        if isinstance(reply, ResponseError):
                            raise reply
                        replies: list[Reply] = [reply]
                    else:
                        replies = reply if asked is None else reply[1::2]
                        for index, each in enumerate(replies):  # noqa: B007 - told to `classify`
                            if isinstance(each, ResponseError):
                                raise each
                    if wants_acks:
                        times = give_up_at, ends_at
                        await self._acks.confirm(
                            call, replies[0], connection, times, is_asking=asked is not None
                        )
                except FAILURES as error:
                    sent = request is not None and getattr(error, "sent", True)
                    size = 0 if request is None else request.size
                    failure = classify(error, sent=sent, index=index, size=size)
                    # A server's own words may quote what it was sent, a password among it.
                    cause = None if failure.from_server else error
                else:
                    if script is not None:
                        server.missing.discard(script)
                    return replies[0] if call.is_one else replies
                attempts = attempts or Attempts(topology, script)
                pause = attempts.record_failure(failure, server, started_at, connection)
                if self._closed:
                    failure = failure._replace(reason="the store is closed", code="unavailable")
                elif call.is_mixed and failure.redirect is not None:
                    raise _MovedOnError
                # An attempt cut off as it begins would turn a plain refusal into a doubt.
                too_late = loop.time() + pause + self._least_secs >= ends_at
                if failure.error is not None or self._closed or too_late:
                    raise attempts.final_error(failure) from cause
                await asyncio.sleep(pause)
                if loop.time() >= ends_at:  # a busy loop woke this call late: send nothing more
                    raise attempts.final_error(failure) from cause
                self.retries += 1
        except (asyncio.CancelledError, OutcomeUnknownError):
            if call.grants:
                attempts = attempts or Attempts(topology, script)
                if request is not None:
                    attempts.record_in_flight(connection, request.sent_at, server)
                if attempts.is_ambiguous:
                    unanswered = self._unanswered_grants
                    unanswered[call.grants] = attempts
                    if len(unanswered) > _MAX_UNANSWERED:  # the oldest was not given back
                        del unanswered[next(iter(unanswered))]
            raise
        finally:
            self.in_flight -= 1

    async def _refresh(self, until: float) -> None:
        try:
            await self._topology.refresh(until)
        except TimeoutError:
            raise StoreUnavailableError(
                "the servers are not known in time", code="timeout"
            ) from None

    async def _scan_at(
        self, server: Server, command: Command, until: float
    ) -> tuple[bytes, list[bytes]]:
        call = Call(None, (command,), until, at=server)
        replies = await self._run_attempts(call, self._enter_loop())
        return cast("tuple[bytes, list[bytes]]", replies[0])

    def _enter_loop(self) -> asyncio.AbstractEventLoop:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise StoreUnavailableError("the Redis backend runs on asyncio only") from None
        if loop is not self._loop:
            self._change_loop(loop)
        return loop

    def _change_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve a loop from now on: connections and waiters belong to the loop that made them.

        :raises StoreUnavailableError: the store serves another loop, which is not closed.
        """
        with self._changing:  # loops of several threads may call at once
            before = self._loop
            if before is not None and self._process == os.getpid():
                if not before.is_closed():
                    raise StoreUnavailableError(
                        "a store serves one event loop, and another loop uses this store: "
                        "open a store in each loop"
                    )
                self._topology.discard()
            self._process = os.getpid()
            self._unanswered_grants.clear()
            self._topology = topology_for(self._config, self._host)
            # Counted on from a random start, and so that a forked process has a start of its own.
            self._operation = int.from_bytes(os.urandom(8))
            self._loop = loop


class _MovedOnError(Exception):
    """What was asked of a server has come to be elsewhere."""
