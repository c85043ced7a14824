"""The store's clock as a web process sees it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, final

from ..errors import SessionError, StoreUnavailableError

if TYPE_CHECKING:
    from ..abc.clock import SupportsClock
    from ..clock import Clock

__all__ = ["StoreClock"]

_SYNC_SECS: Final = 60.0


@final
class StoreClock:
    """Tells the time by the store's clock, with one call a minute at most.

    In between, it adds the time of the process. A store in this process is asked each time.

    :param store: the store.
    :param clock: a clock to use instead, for tests.
    """

    __slots__ = ("_at", "_clock", "_is_near", "_now_ms", "_store", "_sync_at")

    def __init__(self, store: SupportsClock, clock: Clock | None) -> None:
        self._store: Final = store
        self._clock: Final = clock
        self._is_near = False
        self._now_ms = 0
        self._at = 0.0
        self._sync_at = 0.0

    async def now_ms(self) -> int:
        """Return milliseconds since the epoch.

        :raises StoreUnavailableError: the store has never been asked, and cannot be asked now.
        """
        if self._clock is not None:
            self._now_ms = self._clock.now_ms()
            return self._now_ms
        now = time.monotonic()
        if not self._is_near and now < self._sync_at:
            return self._now_ms + int((now - self._at) * 1000)
        reply = self._store.backend_clock_ms()
        if isinstance(reply, int):
            self._is_near, self._now_ms = True, reply
            return reply
        if self._sync_at:
            self._sync_at = now + _SYNC_SECS  # first, because one caller is enough
        try:
            self._now_ms = await reply
        except SessionError as error:
            if not self._now_ms or not isinstance(error, StoreUnavailableError):
                raise
            return self._now_ms + int((now - self._at) * 1000)
        self._at = time.monotonic()
        self._sync_at = self._at + _SYNC_SECS
        return self._now_ms

    def last_ms(self) -> int:
        """Return the time without a call, from what the store last told."""
        if self._clock is not None:
            return self._clock.now_ms()
        if self._is_near:
            reply = self._store.backend_clock_ms()
            return reply if isinstance(reply, int) else self._now_ms
        return self._now_ms + int((time.monotonic() - self._at) * 1000)
