"""A block that a signal cancels, so that it releases all leases that it holds."""

from __future__ import annotations

import signal
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, final

import anyio

from .._core.tasks import deferred
from ..errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from types import FrameType

    _Handler = Callable[[int, FrameType | None], Any] | int | None  # Any: what `getsignal` returns

__all__ = ["Termination", "release_on_sigterm"]


@final
class Termination:
    """Whether a signal has ended the block of :func:`release_on_sigterm`.

    :ivar signal: the first signal that arrived. ``None`` before that.
    """

    __slots__ = ("signal",)

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __repr__(self) -> str:
        return f"Termination(signal={self.signal!r})"


@asynccontextmanager
async def release_on_sigterm(*, sigint: bool = False) -> AsyncGenerator[Termination]:
    """Cancel the block on SIGTERM, so that it releases its locks, claims, turns and memberships.

    Without it, SIGTERM ends the process at once, and other workers wait for the leases to end.

    .. code-block:: python

        async with create_session_store(url) as store, release_on_sigterm() as termination:
            await work(store)
        if termination.signal is not None:
            sys.exit(128 + termination.signal)

    * The block is cancelled by a cancel scope, in the task that entered it (anyio docs,
      "Cancellation and timeouts"). Enter the store before this block. Then it closes afterwards.
    * The cancellation ends with the block. The code after the block runs.
    * A handler that was installed earlier is called too, for each signal. A handler of the event
      loop (``loop.add_signal_handler``) also runs.
    * Later signals do not interrupt the release, which takes at most 5 s per lease.
    * When the block is left, the earlier handler is installed again.

    :param sigint: whether SIGINT (Ctrl-C) has the same effect. It then raises no
        ``KeyboardInterrupt`` by itself.
    :returns: an object that contains the signal after one has arrived.
    :raises InvalidInputError: entered outside the main thread. Only that thread handles signals.
    """
    if threading.current_thread() is not threading.main_thread():
        raise InvalidInputError(
            "thread", "release_on_sigterm must be entered in the main thread, which handles signals"
        )
    termination = Termination()
    scope = anyio.CancelScope()
    handler = _Handling(termination, deferred(scope.cancel))
    try:
        handler.install(signal.SIGTERM)
        if sigint:
            handler.install(signal.SIGINT)
        with scope:
            yield termination
    finally:
        handler.restore()


@final
class _Handling:
    """A signal handler, and the earlier handlers of its signals.

    :param termination: receives the first signal.
    :param cancel: cancels the block. Safe in a signal handler.
    """

    def __init__(self, termination: Termination, cancel: Callable[[], None]) -> None:
        self._termination: Final = termination
        self._cancel: Final = cancel
        self._earlier: Final[dict[int, _Handler]] = {}
        self._is_active = True

    def install(self, number: signal.Signals) -> None:
        self._earlier[number] = signal.getsignal(number)
        signal.signal(number, self._handle)

    def restore(self) -> None:
        self._is_active = False  # a handler that was installed later may still call this one
        for number, earlier in self._earlier.items():
            if signal.getsignal(number) == self._handle:
                # Python cannot install a handler of C code again.
                signal.signal(number, signal.SIG_DFL if earlier is None else earlier)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._is_active and self._termination.signal is None:
            self._termination.signal = signal.Signals(number)
            self._cancel()
        earlier = self._earlier[number]
        # The default handler would raise KeyboardInterrupt in the middle of a release.
        if callable(earlier) and earlier is not signal.default_int_handler:
            earlier(number, frame)
