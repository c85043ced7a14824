"""Loopback ports that several test processes do not take from one another."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack
from typing import Final, final

__all__ = ["BUS_OFFSET", "PortClaim"]

BUS_OFFSET: Final = 10_000
"""Distance of a cluster node's bus port from its port."""

# Both are below the range that systems use for outgoing connections (32768 and up on Linux). The
# port of a killed server is still free when it starts again.
_FIRST: Final = 12_000
_LAST: Final = 21_999
_DRAWS: Final = 200
_RANDOM: Final = random.Random()  # not seeded, so that processes differ


@final
class PortClaim:
    """A port on 127.0.0.1 with its bus port, claimed until :meth:`release`.

    The claim is the UDP port of the same number, which no server here uses. It is exclusive between
    processes, leaves nothing behind, and ends with its process.

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
                    # As a server does, so that lingering connections do not count as a clash.
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", used))
        except OSError:
            claim.close()
            return False
        self._claim.enter_context(claim)
        return True

    def release(self) -> None:
        """Release the port. Repeated calls do nothing."""
        self._claim.close()
