"""A call, and its retry state: whether, where and when to retry."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final, cast, final

import msgspec
from redis.exceptions import ResponseError

from ...errors import OutcomeUnknownError, SessionError, StoreFullError, StoreUnavailableError
from .connection import PendingRequest, pack
from .failures import TOO_LARGE, Failure, FailureKind
from .server_clock import server_ms_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .connection import Connection
    from .protocol import Command, Reply
    from .script import Script
    from .server import ConnectionPool, Server
    from .topology import Topology

    _Commands = Sequence[Command] | Callable[[Server, str], Sequence[Command]]

__all__ = ["Attempts", "Call", "attempt_ends_at", "log_retention_ms"]

# Declared there for tuples of one.
_LEAST_RETENTION_MS: Final = 10_000

_FIRST_PAUSE_SECS: Final = 0.005
_LAST_PAUSE_SECS: Final = 0.1
_LEAST_ATTEMPT_SECS: Final = 0.1
_FREE_MOVES: Final = 5
"""So many redirections of one call are followed at once."""


@final
class Call(msgspec.Struct, frozen=True, gc=False):
    """Commands for one server, and the conditions of their attempts.

    :ivar key: a name that selects the server. ``None`` selects any.
    :ivar commands: the commands, or a function that returns them for a server. The function is also
        given since when an earlier attempt may have been executed, as scripts take it in ARGV 2.
    :ivar until: the deadline, on the loop's clock. ``None`` is one that begins now.
    :ivar script: the script that the commands run, if they write.
    :ivar barrier: the command that covers an earlier write, if replicas must confirm the answer.
    :ivar grants: a name for the grant that the call may get; empty without one.
    :ivar attempts: earlier attempts at the same grant.
    :ivar earlier: attempts of another call, which must arrive before this one's, or never.
    :ivar at: the server, whatever the key.
    :ivar is_mixed: whether the commands are of several slots.
    :ivar is_one: whether the result is the first reply, and not a list of all replies.
    :ivar is_large: whether a large reply is expected.
    """

    key: str | None
    commands: _Commands
    until: float | None
    script: Script | None = None
    barrier: Command | None = None
    grants: str = ""
    attempts: Attempts | None = None
    earlier: Attempts | None = None
    at: Server | None = None
    is_mixed: bool = False
    is_one: bool = False
    is_large: bool = False


@final
class Attempts:
    """The failed attempts of one call.

    :param topology: where the call looks for its server.
    :param script: what it runs, if it writes.
    :ivar redirected_to: the server that the next attempt asks, for that one attempt.
    :ivar ambiguous_since: when the first attempt was sent that may have been executed.
    """

    __slots__ = (
        "_failed",
        "_left",
        "_named",
        "_script",
        "_since_ms",
        "_topology",
        "ambiguous_since",
        "redirected_to",
    )

    def __init__(self, topology: Topology, script: Script | None) -> None:
        self._topology: Final = topology
        self._script: Final = script
        self._failed = 0
        self._named: Failure | None = None  # the last failure that says more than "no answer"
        self._left: list[Connection] = []  # on which attempts went that may still arrive
        # When an attempt was sent, by a reading of the server's clock from before.
        self._since_ms: float | None = None
        self.redirected_to: Server | None = None
        self.ambiguous_since: float | None = None

    @property
    def is_ambiguous(self) -> bool:
        """Whether an attempt may have written."""
        return self._script is not None and self.ambiguous_since is not None

    def connection_of(self, owner: Server | ConnectionPool) -> Connection | None:
        """Return the connection on which an ambiguous attempt is still in flight, if it is open.

        The next attempt follows it in the same queue.

        :param owner: of the connections to choose from.
        """
        return next(
            (
                connection
                for connection in self._left
                if not connection.is_lost and owner.has(connection)
            ),
            None,
        )

    def follows_on(self, connection: Connection) -> bool:
        """Return whether the next attempt follows an ambiguous one on a connection."""
        return connection in self._left

    def _kill_commands(self, connection: Connection) -> list[tuple[str | int, ...]]:
        """Return commands after which no doubtful attempt can arrive at the connection's server any
        more: they end the lost connections there.
        """
        here = connection.identity
        lost = (one.identity for one in self._left if one is not connection)
        return [
            ("CLIENT", "KILL", "ID", one.number)
            for one in lost
            if one is not None and here is not None and one.run == here.run
        ]

    async def rule_out_late(
        self, server: Server, connection: Connection, give_up_at: float, retention_ms: int
    ) -> str:
        """Make sure that no ambiguous attempt arrives any more.

        Asks for the server's time in the same round trip, because the next attempt may be slow.

        :param server: the server of the next attempt.
        :param connection: the connection of the next attempt.
        :param give_up_at: on the loop's clock.
        :param retention_ms: milliseconds for which an operation log outlives its record.
        :returns: since when an attempt may have been executed, as scripts take it in ARGV 2. The
            server's clock may have been set between the attempts. So this is the earlier of two
            times: as told by the time from now, and by a reading from before the attempt.
        """
        loop = asyncio.get_running_loop()
        given: list[Command] = [*self._kill_commands(connection), ("TIME",)]
        packed = b"".join(map(pack, given))
        request = PendingRequest(
            loop.create_future(), len(given), len(packed), loop.time(), give_up_at
        )
        connection.send(request, packed)
        reply: Reply = await request.future
        time: Reply = reply if len(given) == 1 else reply[-1]  # whether it may end them, or not
        if isinstance(time, ResponseError):
            raise time
        now = loop.time()
        now_ms = server_ms_of(time)
        server.clock.learn(time, now)
        since_ms = now_ms - (now - cast("float", self.ambiguous_since)) * 1000
        if self._since_ms is not None:
            since_ms = min(since_ms, self._since_ms)
        is_gone = now_ms - since_ms >= retention_ms
        return f"{'+' if is_gone else ''}{since_ms:.3f}"

    def record_in_flight(
        self, connection: Connection | None, started_at: float, server: Server | None
    ) -> None:
        """Take note of an attempt that may still arrive.

        :param connection: on which it left, if it did.
        :param started_at: when it began.
        :param server: of the connection.
        """
        if self.ambiguous_since is None:
            self.ambiguous_since = started_at
        since_ms = None if server is None else server.clock.time_at(started_at)
        if since_ms is not None and (self._since_ms is None or since_ms < self._since_ms):
            self._since_ms = since_ms
        if connection is not None and connection not in self._left:
            self._left.append(connection)

    def record_failure(
        self,
        failure: Failure,
        server: Server | None,
        started_at: float,
        connection: Connection | None,
    ) -> float:
        """Take note of a failed attempt, and return how long to wait before the next, in seconds.

        :param server: the server it was meant for, if that was known.
        :param started_at: when it began.
        :param connection: on which it left, if it did.
        """
        self._failed += 1
        self.redirected_to = None
        if failure.names_cause:
            self._named = failure
        if failure.kind is FailureKind.AMBIGUOUS:
            self.record_in_flight(connection, started_at, server)
        if server is None:
            return _pause(self._failed)
        if failure.code_word == TOO_LARGE and connection is not None:
            connection.close()  # as the server does: what follows there is not executed
        self._topology.report_failure(server, failure)
        if failure.kind is FailureKind.NO_SCRIPT and self._script is not None:
            server.missing.add(self._script)
            return 0.0
        redirect = failure.redirect
        if redirect is None:
            # A slot that moves is whole again as soon as a few names have followed.
            moves = failure.code_word == "TRYAGAIN"
            return _pause(1 if moves else self._failed)
        if redirect.is_ask:
            self.redirected_to = self._topology.server_at(
                redirect.host, redirect.port, reported_by=server
            )
        return 0.0 if self._failed <= _FREE_MOVES else _pause(self._failed)

    def final_error(self, failure: Failure) -> SessionError:
        """Return what the caller is told when there is no next attempt."""
        if isinstance(failure.error, OutcomeUnknownError):
            return failure.error
        if self._named is not None and failure.is_silence:
            failure = self._named
        # Out of memory is a script's own answer, given after it looked for an earlier attempt's
        # trace.
        if self.is_ambiguous and not isinstance(failure.error, StoreFullError):
            return OutcomeUnknownError(failure.reason)
        return failure.error or StoreUnavailableError(failure.reason, code=failure.code)


def log_retention_ms(deadline_secs: float) -> int:
    """Return how long an operation log outlives its record, in milliseconds.

    :param deadline_secs: of a call.
    """
    return max(_LEAST_RETENTION_MS, round(2000 * deadline_secs))


def attempt_ends_at(started_at: float, ends_at: float) -> float:
    """Return when an attempt is given up, so that a dead connection leaves time for a live one."""
    return min(ends_at, max((started_at + ends_at) / 2, started_at + _LEAST_ATTEMPT_SECS))


def _pause(attempt: int) -> float:
    most = min(_LAST_PAUSE_SECS, _FIRST_PAUSE_SECS * 2**attempt)
    return random.uniform(most / 2, most)
