"""The end of a session, for sockets and streams that last longer than a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, final

import anyio

from ..errors import SessionError
from ..model import C

if TYPE_CHECKING:
    from collections.abc import Generator

    from .bound import BoundSession

__all__ = ["SessionEnd"]

_LOOK_SECS: Final = 5.0
"""Interval of the looks at the record. With the deadline of a call, the end is seen within 10 s."""


@final
class SessionEnd(Generic[C]):
    """Can be awaited: returns when the incarnation of the session has ended.

    It was deleted, it expired, or a login or regeneration replaced it.
    """

    __slots__ = ("_bound", "_look_secs")

    def __init__(self, bound: BoundSession[C], look_secs: float = _LOOK_SECS) -> None:
        self._bound: Final = bound
        self._look_secs: Final = look_secs

    def __await__(self) -> Generator[Any, None, None]:  # Any: what the loop yields
        return self.wait().__await__()

    async def wait(self) -> None:
        """Wait until the session has ended. While the store is down, this goes on waiting."""
        record = self._bound.record
        if record is None:
            return
        key, incarnation = record.session.key, record.cas.incarnation
        sessions, ctx = self._bound.sessions, self._bound.ctx
        while not self._bound.is_over:
            try:
                found = await sessions.view(ctx).get(key)
                if found is None or found.cas.incarnation != incarnation:
                    break
                if self._bound.exchange.is_socket and sessions.policy.sockets_are_activity:
                    await self._touch()
            except SessionError:
                if sessions.is_closed:
                    raise
            await anyio.sleep(self._look_secs)
        self._bound.is_over = True

    async def _touch(self) -> None:
        bound = self._bound
        if bound.stamp is None or bound.record is None:
            return
        now_ms = await bound.sessions.clock.now_ms()
        ends_ms = bound.end_after(bound.stamp, now_ms)
        if ends_ms - bound.ends_ms >= max(1, bound.sessions.policy.touch_every_ms):
            key = bound.record.session.key
            await bound.sessions.view(bound.ctx).touch(key, (ends_ms - now_ms) / 1000)
            bound.ends_ms = ends_ms
