"""Calls, and the retry state of each call: whether, where and when to retry."""

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

_LEAST_RETENTION_MS: Final = 10_000

_FIRST_PAUSE_SECS: Final = 0.005
_LAST_PAUSE_SECS: Final = 0.1
_LEAST_ATTEMPT_SECS: Final = 0.1
_FREE_MOVES: Final = 5
"""How many redirections of one call are followed without a pause."""


@final
class Call(msgspec.Struct, frozen=True, gc=False):
    """Commands for one server, and the conditions of their attempts.

    :ivar key: the key that selects the server. ``None`` selects any server.
    :ivar commands: the commands, or a function that returns them for a server. The function also
        gets the time since which an earlier attempt may have been executed, in the form of ARGV 2.
    :ivar until: the deadline, on the loop's clock. ``None`` starts a new one.
    :ivar script: the script that the commands run, if they write.
    :ivar barrier: the command that covers an earlier write, if replicas must confirm the answer.
    :ivar grants: the name of the grant that the call may get, empty for none.
    :ivar attempts: earlier attempts at the same grant.
    :ivar earlier: attempts of another call, which must arrive before this call or not at all.
    :ivar at: the server, independent of the key.
    :ivar is_mixed: whether the commands belong to several slots.
    :ivar is_one: whether the result is the first reply instead of a list of all replies.
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

    :param topology: selects the server of the call.
    :param script: the script that the call runs, if it writes.
    :ivar redirected_to: the server of the next attempt, after an ASK redirection.
    :ivar ambiguous_since: when the first attempt that may have been executed was sent, on the
        loop's clock.
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
        self._left: list[Connection] = []  # connections of attempts that may still arrive
        # When an attempt was sent, by an earlier reading of the server's clock.
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
        """Return the commands that close the lost connections on the connection's server.

        After these commands, no ambiguous attempt can arrive there.
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
        """Make sure that no ambiguous attempt can still arrive.

        Asks for the server's time in the same round trip, because the next attempt may be slow.

        :param server: the server of the next attempt.
        :param connection: the connection of the next attempt.
        :param give_up_at: the end of this attempt, on the loop's clock.
        :param retention_ms: milliseconds for which an operation log outlives its record.
        :returns: since when an attempt may have been executed, in the form of ARGV 2. The server's
            clock may have been set between the attempts. So this is the earlier of two times. One
            follows from the server's time now, the other from a reading before the attempt.
        """
        loop = asyncio.get_running_loop()
        given: list[Command] = [*self._kill_commands(connection), ("TIME",)]
        packed = b"".join(map(pack, given))
        request = PendingRequest(
            loop.create_future(), len(given), len(packed), loop.time(), give_up_at
        )
        connection.send(request, packed)
        reply: Reply = await request.future
        # An error reply to CLIENT KILL is ignored: the account may lack the permission.
        time: Reply = reply if len(given) == 1 else reply[-1]
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
        """Record an attempt that may still arrive.

        :param connection: the connection that the attempt was sent on, if it was sent.
        :param started_at: when the attempt began, on the loop's clock.
        :param server: the server of the connection.
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
        """Record a failed attempt, and return the pause before the next one, in seconds.

        :param server: the server of the attempt, if it was known.
        :param started_at: when the attempt began, on the loop's clock.
        :param connection: the connection that the attempt was sent on, if it was sent.
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
            connection.close()  # the server closes it too, and executes no later command on it
        self._topology.report_failure(server, failure)
        if failure.kind is FailureKind.NO_SCRIPT and self._script is not None:
            server.missing.add(self._script)
            return 0.0
        redirect = failure.redirect
        if redirect is None:
            # The rest of a moving slot's keys follow soon, so the pause does not grow.
            moves = failure.code_word == "TRYAGAIN"
            return _pause(1 if moves else self._failed)
        if redirect.is_ask:
            self.redirected_to = self._topology.server_at(
                redirect.host, redirect.port, reported_by=server
            )
        return 0.0 if self._failed <= _FREE_MOVES else _pause(self._failed)

    def final_error(self, failure: Failure) -> SessionError:
        """Return the error to raise when there is no next attempt."""
        if isinstance(failure.error, OutcomeUnknownError):
            return failure.error
        if self._named is not None and failure.is_silence:
            failure = self._named
        # A script checks the operation log for an earlier attempt before it can fail with OOM.
        if self.is_ambiguous and not isinstance(failure.error, StoreFullError):
            return OutcomeUnknownError(failure.reason)
        return failure.error or StoreUnavailableError(failure.reason, code=failure.code)


def log_retention_ms(deadline_secs: float) -> int:
    """Return how long an operation log outlives its record, in milliseconds.

    :param deadline_secs: deadline of a call, in seconds.
    """
    return max(_LEAST_RETENTION_MS, round(2000 * deadline_secs))


def attempt_ends_at(started_at: float, ends_at: float) -> float:
    """Return when an attempt times out, so that time is left for another connection."""
    return min(ends_at, max((started_at + ends_at) / 2, started_at + _LEAST_ATTEMPT_SECS))


def _pause(attempt: int) -> float:
    most = min(_LAST_PAUSE_SECS, _FIRST_PAUSE_SECS * 2**attempt)
    return random.uniform(most / 2, most)
