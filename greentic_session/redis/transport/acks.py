"""Confirmed writes: how replicas confirm what a call was answered.

``WAIT`` counts from the last write of its own connection. So a call that writes is confirmed on the
connection that it wrote on. An answer that rests on an earlier write is confirmed by a barrier: a
write without a change, behind all that the server wrote before.

* ``DONE`` is confirmed. After a lost reply, the attempt that finds the result in the operation log
  sends the barrier.
* A verdict that says that the request was fulfilled before is confirmed too: an event that is
  known, something to remove that is absent. A caller that retries after :class:`DurabilityError`
  takes it for success. :attr:`.Script.rests_on_earlier` names it.
* A refusal is not confirmed: a conflict, another owner, a session that exists, no room, a lease of
  another holder. It promises nothing. The caller knows that its own write did not happen, and
  :class:`DurabilityError` would say that it did.
* A renewal and a release are not confirmed, because a lease guards nothing by itself. Fencing
  tokens do. See :attr:`.RedisConfig.acks`.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final, final

from redis.exceptions import ResponseError

from ..._compat import override
from ...errors import DurabilityError
from .connection import Connection, ConnectionLostError, PendingRequest, pack
from .script import Script

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .attempts import Call
    from .protocol import Command, Reply

__all__ = ["TOUCH_FOR_WAIT", "Acks", "UnconfirmedError", "barrier"]

_FIRST_ASK_SECS: Final = 0.05
_LAST_ASK_SECS: Final = 0.2
"""Interval at which replicas that have not confirmed are asked again. It doubles each time."""
_SUCCESSOR_SECS: Final = 1.0
"""Interval at which a server whose replicas do not confirm is suspected to have a successor."""
TOUCH_FOR_WAIT: Final = Script("touch_for_wait")
_FINISH_SECS: Final = 0.5
_FINISH_SHARE: Final = 1 / 8
"""Time of a call that its confirmation leaves to the steps that follow the write, at most."""
_ASKING: Final[Command] = ("ASKING",)
_DEPOSED: Final = re.compile(r"UNBLOCKED|(ERR )?WAIT cannot be used with replica")
"""Errors of a server that became a replica while WAIT was under way, or before it."""


class UnconfirmedError(DurabilityError):
    """A write that too few replicas confirmed, with the script's reply.

    It never reaches a caller of the library. The backend finishes the steps that follow the write,
    and raises :meth:`plain`.

    :ivar reply: of the script.
    """

    def __init__(self, confirmed: int, wanted: int, reply: Reply) -> None:
        super().__init__(confirmed, wanted)
        self.reply: Reply = reply

    @property
    def shortfall(self) -> tuple[int, int]:
        """How many replicas confirmed, and how many were wanted."""
        return self.confirmed, self.wanted

    def plain(self) -> DurabilityError:
        """Return the error for the caller."""
        return DurabilityError(self.confirmed, self.wanted)

    @override
    def __reduce__(self) -> Any:  # Any: as pickle takes it
        return self.plain().__reduce__()  # a reply may hold a payload


def barrier(keys: Sequence[str]) -> Command:
    """Return the command that writes without a change.

    :param keys: those of the script that is confirmed.
    """
    return ("EVAL", TOUCH_FOR_WAIT.source, len(keys), *keys)


@final
class Acks:
    """Asks the replicas of one client's servers.

    :param wanted: how many replicas must confirm a write.
    :param deadline_secs: of each call.
    :ivar wanted: the same.
    """

    def __init__(self, wanted: int, deadline_secs: float) -> None:
        self.wanted: Final = wanted
        self._least_secs: Final = min(0.02, deadline_secs / 10)
        self._finish_secs: Final = min(_FINISH_SECS, deadline_secs * _FINISH_SHARE)
        self._suspect_at = 0.0

    async def confirm(
        self,
        call: Call,
        reply: Reply,
        connection: Connection,
        times: tuple[float, float],
        *,
        is_asking: bool,
    ) -> None:
        """Wait until enough replicas have what a call was answered, if it needs to be confirmed.

        :param reply: of the script.
        :param connection: on which it was executed.
        :param times: when the attempt is given up, and the deadline of the call.
        :param is_asking: whether the server was asked by a redirection, for this once.
        :raises UnconfirmedError: too few replicas confirmed it. Some time is left until the
            deadline.
        :raises ConnectionLostError: the number of replicas is unknown.
        :raises ResponseError: the server refused the barrier.
        """
        script = call.script
        if script is None or call.barrier is None:
            return
        if not script.is_done(reply):
            if not script.rests_on_earlier(reply):
                return
            await self._write_barrier(connection, call.barrier, times[0], is_asking=is_asking)
        await self._wait(connection, times[1], reply)

    async def _wait(self, connection: Connection, until: float, reply: Reply) -> None:
        loop = asyncio.get_running_loop()
        until = min(until, max(until - self._finish_secs, loop.time() + 2 * self._least_secs))
        confirmed, interval = 0, _FIRST_ASK_SECS
        while True:
            is_late = False
            try:
                confirmed = await connection.confirmed(self.wanted, until)
            except ResponseError as error:
                if _DEPOSED.match(str(error)):  # its successor may not have the write
                    raise ConnectionLostError(sent=True) from None
                is_late = True  # the account may not ask
            except ConnectionLostError:
                is_late = True
                if loop.time() + self._least_secs < until:
                    raise
            if confirmed >= self.wanted:
                return
            now = loop.time()
            if is_late or now + self._least_secs >= until:
                raise UnconfirmedError(confirmed, self.wanted, reply)
            # All calls ask again at the same moments, so that they share one WAIT. In between, the
            # server executes what is queued behind it on the connection.
            await asyncio.sleep(min(interval - now % interval, until - self._least_secs - now))
            interval = min(2 * interval, _LAST_ASK_SECS)
            if interval == _LAST_ASK_SECS and now >= self._suspect_at:
                self._suspect_at = now + _SUCCESSOR_SECS
                connection.suspect_server()

    async def _write_barrier(
        self, connection: Connection, command: Command, give_up_at: float, *, is_asking: bool
    ) -> None:
        """Write on a connection, behind all that the server wrote before."""
        loop = asyncio.get_running_loop()
        given = (_ASKING, command) if is_asking else (command,)
        packed = b"".join(map(pack, given))
        request = PendingRequest(
            loop.create_future(), len(given), len(packed), loop.time(), give_up_at
        )
        connection.send(request, packed)
        reply: Reply = await request.future
        written = reply[-1] if is_asking else reply
        if isinstance(written, ResponseError):
            raise written
