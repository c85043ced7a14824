"""The base class that opens and closes a store, and the wait for running calls."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final, final

from .._validation import require_secs
from ..abc.store import StorePrimitives
from ..errors import StoreUnavailableError
from .key_queues import KeyQueues
from .loop_gate import LoopGate
from .size_estimate import is_surely_small

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

__all__ = ["StoreLifetime", "wait_until_idle"]

_LOOK_AGAIN_SECS: Final = 0.001


class StoreLifetime(StorePrimitives):
    """Opens and closes a store. Leaving the last ``async with`` closes it.

    :param close_secs: limit on the time that :meth:`aclose` waits for running calls, in seconds or
        as a ``timedelta``.
    :raises InvalidInputError: ``close_secs`` is invalid.
    """

    def __init__(self, close_secs: timedelta | float) -> None:
        if isinstance(close_secs, timedelta):
            close_secs = close_secs.total_seconds()
        require_secs(close_secs, "close_secs", allow_zero=True)
        self._close_secs: Final = close_secs
        self._queues: Final = KeyQueues()
        self._gate: Final = LoopGate(self._on_gate_open)
        self._entries = 0
        self._was_left = False
        self._closed = False
        self._holds_writes = False  # closed or the gate is shut, in one flag for speed

    async def __aenter__(self) -> Self:
        self._check_open()
        self._entries += 1  # first, because another block may be left meanwhile
        try:
            await self._open()
        except BaseException:
            self._entries -= 1
            if self._was_left and self._entries <= 0:
                await self.aclose()  # the other block left the closing to this one
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._entries -= 1
        self._was_left = True
        if self._entries <= 0:
            await self.aclose()

    @final
    async def aclose(self) -> None:
        """Close the store, however often it was entered. Closing it twice is fine.

        Later calls are refused immediately. Waits for locks, messages and turns end immediately.
        Other running calls have ``close_timeout`` to end. Then they fail, and the outcome of a
        write is unknown.
        """
        if self._closed:
            return
        self._closed = self._holds_writes = True
        await self._aclose()

    def _check_open(self) -> None:
        """Check that the store was not closed. Services on top of the store call this.

        :raises StoreUnavailableError: the store was closed.
        """
        if self._closed:
            raise StoreUnavailableError("the store is closed")

    def _has_waiting_calls(self) -> bool:
        """Return whether calls of this process wait for their turn."""
        return bool(self._queues or self._gate)

    def _slow_writes(self) -> None:
        """Make later large writes begin one by one, each in another iteration of the event loop.

        A backend calls this when it writes a large record. Encoding and packing many of them in one
        iteration would delay all other calls.
        """
        if self._gate.shut():
            self._holds_writes = True

    async def _enter_write(self, value: object) -> float | None:
        """Wait until a write may begin.

        :param value: the value to write.
        :returns: the deadline of the write, because the wait counts.
        :raises StoreUnavailableError: the store was closed, or the deadline passed.
        """
        self._check_open()
        until = self._deadline()
        await self._pass_gate(value, until)
        return until

    async def _pass_gate(self, value: object, until: float | None) -> None:
        """Wait for the turn of a value that may be large. Small ones do not wait behind it.

        :raises StoreUnavailableError: the deadline passed.
        """
        gate = self._gate
        if gate.is_shut and not is_surely_small(value) and not await gate.turn(until):
            raise StoreUnavailableError(
                "large writes of this store were running until the deadline", code="timeout"
            )

    def _on_gate_open(self) -> None:
        self._holds_writes = self._closed


async def wait_until_idle(is_busy: Callable[[], bool], timeout_secs: float) -> None:
    """Wait until no call runs, or until the timeout.

    The wait polls, because an event would slow down every call.

    :param is_busy: the function that tells whether a call runs.
    :param timeout_secs: timeout in seconds.
    """
    from anyio import current_time, sleep  # noqa: PLC0415 - keeps `import greentic_session` free

    end_at = current_time() + timeout_secs
    while True:
        # The first sleep lets tasks that the closing woke begin the calls of their cleanup.
        await sleep(min(_LOOK_AGAIN_SECS, max(0.0, end_at - current_time())))
        if not is_busy() or current_time() >= end_at:
            return
