"""Ports of loopback that several test processes do not take from one another."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack
from typing import Final, final

__all__ = ["BUS_OFFSET", "PortClaim"]

BUS_OFFSET: Final = 10_000
"""A cluster node's bus listens this far above its port."""

# Both are below what systems hand out for outgoing connections (32768 and up on Linux), so that
# the port of a killed server is still free when it is started again.
_FIRST: Final = 12_000
_LAST: Final = 21_999
_DRAWS: Final = 200
_RANDOM: Final = random.Random()  # of its own: processes with one seed must not draw the same


@final
class PortClaim:
    """A port of 127.0.0.1, and the one of its bus, claimed until :meth:`release`.

    The claim is the UDP port of the same number, which no server here uses: it is exclusive
    between processes, leaves nothing behind, and ends with the process that made it.

    :ivar port: the TCP port.
    """

    def __init__(self) -> None:
        self._claim: Final = ExitStack()
        draws = (_RANDOM.randint(_FIRST, _LAST) for _ in range(_DRAWS))
        port = next((port for port in draws if self._take(port)), None)
        if port is None:
            raise RuntimeError(f"no free port found in {_DRAWS} draws")
        self.port: Final = port

    def _take(self, port: int) -> bool:
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", port))
            for used in (port, port + BUS_OFFSET):
                with socket.socket() as probe:
                    # What a server does, so that connections that linger do not count as a clash.
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", used))
        except OSError:
            claim.close()
            return False
        self._claim.enter_context(claim)
        return True

    def release(self) -> None:
        """Give the port back. Twice is fine."""
        self._claim.close()
