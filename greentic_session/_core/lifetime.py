"""The lifetime of a store: entries, closing, and the wait for running calls."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final, final

from .._validation import require_secs
from ..abc.store import StorePrimitives
from ..errors import StoreUnavailableError
from .key_queues import KeyQueues
from .loop_gate import LoopGate

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

__all__ = ["StoreLifetime", "wait_until_idle"]

_LOOK_AGAIN_SECS: Final = 0.001


class StoreLifetime(StorePrimitives):
    """Opens and closes a store. The last ``async with`` that is left closes it.

    :param close_secs: how long :meth:`aclose` waits for running calls, in seconds or as a
        ``timedelta``.
    :raises InvalidInputError: naming ``close_secs``.
    """

    def __init__(self, close_secs: timedelta | float) -> None:
        if isinstance(close_secs, timedelta):
            close_secs = close_secs.total_seconds()
        require_secs(close_secs, "close_secs", allow_zero=True)
        self._close_secs: Final = close_secs
        self._queues: Final = KeyQueues()
        self._gate: Final = LoopGate(self._on_gate_open)
        self._entries = 0
        self._closed = False
        self._holds_writes = False  # closed, or the gate is shut: one question for both

    async def __aenter__(self) -> Self:
        self.check_open()
        await self._open()
        self._entries += 1
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._entries -= 1
        if self._entries <= 0:
            await self.aclose()

    @final
    async def aclose(self) -> None:
        """Release what the store holds, however often it was entered. Closing twice is fine.

        Later calls are refused immediately. Waits for locks, messages and turns end immediately.
        Other running calls have ``close_timeout`` to end. Then they fail, and the outcome of a
        write is unknown.
        """
        if self._closed:
            return
        self._closed = self._holds_writes = True
        await self._aclose()

    def check_open(self) -> None:
        """Do nothing, unless the store was closed: for services on top of it.

        :raises StoreUnavailableError: if it was.
        """
        if self._closed:
            raise StoreUnavailableError("the store is closed")

    def _has_waiting_calls(self) -> bool:
        """Return whether calls wait within this process for their turn."""
        return bool(self._queues or self._gate)

    def _slow_writes(self) -> None:
        """Let later writes begin one by one, each in another iteration of the event loop.

        A backend calls this when it writes a large record. Many of them, encoded and packed in one
        iteration, would hold up all other calls.
        """
        self._holds_writes = True
        self._gate.shut()

    async def _enter_write(self) -> None:
        """Wait until a write may begin.

        :raises StoreUnavailableError: the store was closed.
        """
        self.check_open()
        await self._gate.turn()

    def _on_gate_open(self) -> None:
        self._holds_writes = self._closed


async def wait_until_idle(is_busy: Callable[[], bool], timeout_secs: float) -> None:
    """Wait until no call runs, or for a time.

    It polls. An event would cost every call, and a store closes once.
    """
    from anyio import current_time, sleep  # noqa: PLC0415 - keeps `import greentic_session` free

    end_at = current_time() + timeout_secs
    while True:
        # First of all, tasks that were woken by the closing begin the calls of their cleanup.
        await sleep(min(_LOOK_AGAIN_SECS, max(0.0, end_at - current_time())))
        if not is_busy() or current_time() >= end_at:
            return
