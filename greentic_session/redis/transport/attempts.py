"""What becomes of a call that failed: tried again, where and when, or given up."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final, final

from ...errors import OutcomeUnknownError, SessionError, StoreFullError, StoreUnavailableError
from .failures import Fault, FaultKind

if TYPE_CHECKING:
    from .connection import Wire
    from .script import Script
    from .server import Node
    from .topology import Topology

__all__ = ["Trouble", "attempt_ends_at"]

_FIRST_PAUSE_SECS: Final = 0.005
_LAST_PAUSE_SECS: Final = 0.1
_LEAST_ATTEMPT_SECS: Final = 0.1
_FREE_MOVES: Final = 5
"""So many redirections of one call are followed at once."""


@final
class Trouble:
    """The failed attempts of one call.

    :param topology: where the call looks for its server.
    :param script: what it runs, if it writes.
    :ivar asked: the server that the next attempt asks, for that one attempt.
    :ivar doubtful_since: when the first attempt was sent that may have been executed.
    """

    __slots__ = ("_attempts", "_left", "_script", "_topology", "asked", "doubtful_since")

    def __init__(self, topology: Topology, script: Script | None) -> None:
        self._topology: Final = topology
        self._script: Final = script
        self._attempts = 0
        self._left: list[Wire] = []  # on which attempts went that may still arrive
        self.asked: Node | None = None
        self.doubtful_since: float | None = None

    @property
    def in_doubt(self) -> bool:
        """Whether an attempt may have written."""
        return self._script is not None and self.doubtful_since is not None

    def wire_of(self, node: Node) -> Wire | None:
        """Return the wire to a server on which a doubtful attempt is still under way: behind it, in
        the same queue, is the place for the next.
        """
        return next((wire for wire in self._left if not wire.is_lost and node.has(wire)), None)

    def precautions(self, wire: Wire) -> list[tuple[str | int, ...]]:
        """Return commands after which no doubtful attempt can arrive at the server of a wire any
        more: they end the lost connections there.
        """
        here = wire.identity
        lost = (one.identity for one in self._left if one is not wire)
        return [
            ("CLIENT", "KILL", "ID", one.number)
            for one in lost
            if one is not None and here is not None and one.run == here.run
        ]

    def leave(self, wire: Wire | None, started_at: float) -> None:
        """Take note of an attempt that may still arrive.

        :param wire: on which it left, if it did.
        :param started_at: when it began.
        """
        if self.doubtful_since is None:
            self.doubtful_since = started_at
        if wire is not None and wire not in self._left:
            self._left.append(wire)

    def meet(self, fault: Fault, node: Node | None, started_at: float, wire: Wire | None) -> float:
        """Take note of a failed attempt, and return how long to wait before the next, in seconds.

        :param node: the server it was meant for, if that was known.
        :param started_at: when it began.
        :param wire: on which it left, if it did.
        """
        self._attempts += 1
        self.asked = None
        if fault.kind is FaultKind.AMBIGUOUS:
            self.leave(wire, started_at)
        if node is None:
            return _pause(self._attempts)
        self._topology.blame(node, fault)
        if fault.kind is FaultKind.NO_SCRIPT and self._script is not None:
            node.missing.add(self._script)
            return 0.0
        redirect = fault.redirect
        if redirect is None:
            # A slot that moves is whole again as soon as a few names have followed.
            moves = fault.word == "TRYAGAIN"
            return _pause(1 if moves else self._attempts)
        if redirect.is_ask:
            self.asked = self._topology.node_at(redirect.host, redirect.port, told_by=node)
        return 0.0 if self._attempts <= _FREE_MOVES else _pause(self._attempts)

    def given_up(self, fault: Fault) -> SessionError:
        """Return what the caller is told when there is no next attempt."""
        if isinstance(fault.error, OutcomeUnknownError):
            return fault.error
        # Out of memory is a script's own answer, given after it looked for an earlier attempt's
        # trace.
        if self.in_doubt and not isinstance(fault.error, StoreFullError):
            return OutcomeUnknownError(fault.reason)
        return fault.error or StoreUnavailableError(fault.reason, code=fault.code)


def attempt_ends_at(started_at: float, ends_at: float) -> float:
    """Return when an attempt is given up, so that a dead connection leaves time for a live one."""
    return min(ends_at, max((started_at + ends_at) / 2, started_at + _LEAST_ATTEMPT_SECS))


def _pause(attempt: int) -> float:
    most = min(_LAST_PAUSE_SECS, _FIRST_PAUSE_SECS * 2**attempt)
    return random.uniform(most / 2, most)
