"""The client that runs a store's commands: attempts, and one deadline per call.

The driver only opens connections. It neither pools nor retries here:

* Its pools raise or starve when callers outnumber connections. Here concurrent callers share
  connections (:mod:`.connection`, :mod:`.server`).
* Its retries repeat a command without checking whether the server executed it. A lost reply to a
  compare-and-set then becomes a false conflict. Here the client decides what follows a failure.

The topology selects the server (:mod:`.topology`).
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

_MAX_RESTARTS: Final = 16
"""How often a scan starts again because keys may have moved to another server."""
_MAX_UNANSWERED: Final = 256
_ASKING: Final[Command] = ("ASKING",)
_PING: Final[tuple[Command]] = (("PING",),)


@final
class RedisClient:
    """Runs commands and scripts, within one event loop at a time.

    When that loop is closed, another loop may use the client.

    :param config: the checked configuration.
    :param host: the process of the server, if the store starts the server itself.
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
        # The attempts of calls whose grant may have been made without a reply, by grant name.
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
        """Whether replicas confirm writes, and different slots may have different replicas."""
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

        :param key: the key that selects the server. ``None`` selects any server.
        :param until: the result of :meth:`deadline`. ``None`` starts a new deadline.
        :param is_large: whether a large reply is expected.
        :raises StoreUnavailableError: no reply came by the deadline, or the command failed.
        """
        call = Call(key, (command,), until, is_one=True, is_large=is_large)
        return self._run_attempts(call, self._enter_loop())

    async def read_many(
        self, commands: Sequence[Command], *, key: str, until: float | None = None
    ) -> list[Reply]:
        """Run several commands that change nothing, in one round trip to one server.

        :param key: as in :meth:`read`.
        :param until: as in :meth:`read`.
        :raises StoreUnavailableError: as :meth:`read`.
        """
        call = Call(key, commands, until)
        return await self._run_attempts(call, self._enter_loop()) if commands else []

    async def read_each(
        self, commands: Sequence[Command], *, until: float | None = None, is_large: bool = False
    ) -> list[Reply]:
        """Run commands that change nothing, in one round trip to each server.

        The first argument of a command is the key that selects its server.

        :param until: as in :meth:`read`.
        :param is_large: as in :meth:`read`.
        :raises StoreUnavailableError: as :meth:`read`.
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
        """Return a page of matching keys, and the position of the next page.

        Over all pages, each key that exists from the first page to the last is returned at least
        once. The scan starts again, a few times at most, if keys may have moved to another server.

        :param count: about how many keys of the server to check.
        :param position: the position that the previous page returned. ``None`` starts a scan.
        :returns: the keys, and ``None`` in place of the position after the last page.
        :raises StoreUnavailableError: as :meth:`read`.
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
        """Ping every server that holds sessions.

        :raises StoreUnavailableError: a server did not reply by the deadline.
        """
        loop = self._enter_loop()
        until = loop.time() + self._config.deadline_secs
        await self._run_attempts(Call(None, _PING, until), loop)

        async def ping(server: Server) -> None:
            with suppress(_MovedOnError):  # it no longer holds sessions
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
        """Run a script that writes, with retries. The server executes it at most once.

        :param keys: the keys that the script uses, all in one slot.
        :param arguments: the arguments after ARGV 2. The client adds the operation id as ARGV 1,
            and as ARGV 2 the time since which an earlier attempt may have been executed.
        :param until: as in :meth:`read`.
        :param skips_acks: whether the write may be lost in a failover. Replicas then need not
            confirm it.
        :param grants: the caller's name for the grant that the script may make. If the reply is
            lost, for example because the caller was cancelled, the release of the grant is
            guaranteed to arrive after it. A later call for the same grant continues the attempts.
        :param ends: the name of the grant that the script releases.
        :raises StoreUnavailableError: the deadline has passed, and nothing was written.
        :raises OutcomeUnknownError: the deadline has passed, and it may have been executed.
        :raises UnconfirmedError: it was executed, now or before, and too few replicas confirmed it.
            Some time is left until the deadline.
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
        """Return whether a request for a grant was sent, and ended without a reply.

        :param granting: the name of the grant, as in :meth:`run`.
        """
        return granting in self._unanswered_grants

    async def dedicated_connection(self) -> AbstractConnection:
        """Open a connection to any server for this caller alone, and complete its handshake.

        The caller sets the timeout.

        :raises OSError: no server is known, or it cannot be reached. An error of the driver may be
            raised as well.
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

    async def _run_attempts(  # noqa: PLR0915 - a split would cost each call another coroutine
        self, call: Call, loop: asyncio.AbstractEventLoop
    ) -> Reply:
        """Attempt a call until it succeeds, fails permanently, or its deadline passes.

        :raises _MovedOnError: ``at`` no longer holds sessions, or mixed commands were redirected.
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
                    # Callers that already wait for a connection go first.
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
                    # Built only now, because another call may have loaded the script meanwhile.
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
                        for index, each in enumerate(replies):  # noqa: B007 - used below
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
                    # The text of a server's error may quote the request, passwords included.
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
                # A new attempt that times out at once would turn a known failure into an unknown
                # outcome.
                too_late = loop.time() + pause + self._least_secs >= ends_at
                if failure.error is not None or self._closed or too_late:
                    raise attempts.final_error(failure) from cause
                await asyncio.sleep(pause)
                if loop.time() >= ends_at:  # a busy loop woke this call late, so it sends nothing
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
                    if len(unanswered) > _MAX_UNANSWERED:  # the oldest one was never released
                        del unanswered[next(iter(unanswered))]
            raise
        finally:
            self.in_flight -= 1

    async def _refresh(self, until: float) -> None:
        try:
            await self._topology.refresh(until)
        except TimeoutError:
            raise StoreUnavailableError(
                "the servers could not be discovered before the deadline", code="timeout"
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
        """Start with an event loop. Connections and waiters belong to the loop that created them.

        :raises StoreUnavailableError: another loop uses the store, and it is not closed.
        """
        with self._changing:  # loops of several threads may call at the same time
            before = self._loop
            if before is not None and self._process == os.getpid():
                if not before.is_closed():
                    raise StoreUnavailableError(
                        "another event loop uses this store: open one store in each event loop"
                    )
                self._topology.discard()
            self._process = os.getpid()
            self._unanswered_grants.clear()
            self._topology = topology_for(self._config, self._host)
            # Ids count from a random start, and a forked process gets a new start.
            self._operation = int.from_bytes(os.urandom(8))
            self._loop = loop


class _MovedOnError(Exception):
    """The keys of the request moved to another server."""
