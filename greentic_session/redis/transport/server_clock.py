"""The clock of a server, from its replies to ``TIME``."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final, final

from .connection import PendingRequest

if TYPE_CHECKING:
    from .connection import Connection
    from .protocol import Reply

__all__ = ["ServerClock", "server_ms_of"]

_TIME: Final = b"*1\r\n$4\r\nTIME\r\n"
_REFRESH_SECS: Final = 60.0
"""Maximum age of a reading. The clock may drift, so an older one is replaced."""
_SPACING_SECS: Final = 1.0
_KEPT: Final = 64


def server_ms_of(reply: Reply) -> float:
    """Return the milliseconds since the epoch in a reply to ``TIME``.

    :raises TypeError: the reply has another form. It may be a :class:`ValueError` or an
        :class:`IndexError` as well.
    """
    return int(reply[0]) * 1000 + int(reply[1]) / 1000


@final
class ServerClock:
    """Relates the clock of a server to the clock of the loop.

    A server's clock may be set forward or back between two attempts of a call. So a reading from
    before an attempt also tells when that attempt was sent.

    :ivar refresh_at: when the last reading is too old, on the loop's clock.
    """

    __slots__ = ("_readings", "refresh_at")

    def __init__(self) -> None:
        self._readings: Final[deque[tuple[float, float]]] = deque(maxlen=_KEPT)
        self.refresh_at: float = 0.0

    def learn(self, reply: Reply, heard_at: float) -> None:
        """Remember a reading.

        A reading soon after another one is ignored, because the earlier one serves as well.

        :param reply: the reply to ``TIME``. A reply of another form is ignored.
        :param heard_at: when the reply came, on the loop's clock.
        """
        self.refresh_at = heard_at + _REFRESH_SECS
        if self._readings and heard_at < self._readings[-1][0] + _SPACING_SECS:
            return
        try:
            offset_ms = server_ms_of(reply) - heard_at * 1000
        except (TypeError, ValueError, IndexError):
            return
        self._readings.append((heard_at, offset_ms))

    def refresh(self, connection: Connection, give_up_at: float) -> None:
        """Ask for the time, without waiting for the reply."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self.refresh_at = now + _REFRESH_SECS
        request = PendingRequest(loop.create_future(), 1, len(_TIME), now, give_up_at)
        request.future.add_done_callback(partial(self._learn_later, loop))
        connection.send(request, _TIME)

    def time_at(self, moment: float) -> float | None:
        """Return the server's time at a moment, by the last reading before that moment.

        :param moment: the moment, on the loop's clock.
        :returns: milliseconds since the epoch, ``None`` without any reading.
        """
        if not self._readings:
            return None
        for heard_at, offset_ms in reversed(self._readings):
            if heard_at <= moment:
                return moment * 1000 + offset_ms
        return moment * 1000 + min(offset_ms for _, offset_ms in self._readings)

    def _learn_later(
        self,
        loop: asyncio.AbstractEventLoop,
        future: asyncio.Future[Any],  # Any: as in `Reply`
    ) -> None:
        if not future.cancelled() and future.exception() is None:
            self.learn(future.result(), loop.time())
