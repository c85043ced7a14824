"""A block that a signal cancels, so that it releases all leases that it holds."""

from __future__ import annotations

import asyncio
import functools
import os
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
    * When the last active block is left, the earlier handler is installed again.
    * Only a handler that would interrupt the release is not called: that of Python, of
      ``asyncio.run`` and of ``trio.run`` for SIGINT.
    * A child process that is forked in the block ends on the signal, as without the block.

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
    numbers = (signal.SIGTERM, signal.SIGINT) if sigint else (signal.SIGTERM,)
    block = _Block(termination, deferred(scope.cancel))
    handlings: list[_Handling] = []
    try:
        for number in numbers:
            handlings.append(_handling_with(number, block))  # noqa: PERF401 - each is removed
        with scope:
            yield termination
    finally:
        for handling in handlings:
            handling.remove(block)


@final
class _Block:
    """An active block.

    :ivar termination: receives the first signal.
    :ivar cancel: cancels the block. Safe in a signal handler.
    """

    __slots__ = ("cancel", "termination")

    def __init__(self, termination: Termination, cancel: Callable[[], None]) -> None:
        self.termination: Final = termination
        self.cancel: Final = cancel


@final
class _Handling:
    """The handler of one signal, for all active blocks of this process.

    Blocks of concurrent tasks are left in any order. So no block restores a handler by itself.

    :ivar process: the id of the process that has the blocks.
    """

    def __init__(self, number: signal.Signals, first: _Block) -> None:
        self._number: Final = number
        self.process: Final = os.getpid()
        earlier = signal.getsignal(number)
        of = getattr(earlier, "__self__", None)
        if isinstance(of, _Handling) and of.process != self.process:
            earlier = of.default_in_child()
        self._earlier: Final[_Handler] = earlier
        self._blocks: Final = [first]
        signal.signal(number, self._handle)

    @property
    def is_installed(self) -> bool:
        return self.process == os.getpid() and signal.getsignal(self._number) == self._handle

    def add(self, block: _Block) -> None:
        self._blocks.append(block)

    def remove(self, block: _Block) -> None:
        """Remove a block. Restore the earlier handler if no block is left."""
        if (
            self._blocks == [block] and self.is_installed
        ):  # first, so that no signal finds a handler without blocks
            # Python cannot install a handler of C code again.
            earlier = signal.SIG_DFL if self._earlier is None else self._earlier
            signal.signal(self._number, earlier)
        self._blocks.remove(block)

    def default_in_child(self) -> _Handler:
        """Return the handler for a child process, which has none of the blocks."""
        if self._earlier == signal.SIG_IGN:
            return signal.SIG_IGN
        is_interrupt = self._number is signal.SIGINT
        return signal.default_int_handler if is_interrupt else signal.SIG_DFL

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.process != os.getpid():
            # The blocks belong to the parent process, so this child has none to release.
            signal.signal(number, self.default_in_child())
            os.kill(os.getpid(), number)
            return
        for block in self._blocks:
            if block.termination.signal is None:
                block.termination.signal = signal.Signals(number)
                block.cancel()
        earlier = self._earlier
        if callable(earlier) and not _interrupts(earlier):
            earlier(number, frame)


_LATEST: Final[dict[signal.Signals, _Handling]] = {}


def _handling_with(number: signal.Signals, block: _Block) -> _Handling:
    """Return the installed handling, after it has added the block."""
    latest = _LATEST.get(number)
    if latest is not None and latest.is_installed:
        latest.add(block)
        return latest
    # There is none, or the program has replaced its handler, or this process is a child.
    latest = _LATEST[number] = _Handling(number, block)
    return latest


def _interrupts(handler: Callable[[int, FrameType | None], Any]) -> bool:
    """Return whether a handler would interrupt the release.

    Python's default raises ``KeyboardInterrupt``. That of ``asyncio.run`` cancels the main task,
    and raises ``KeyboardInterrupt`` the second time. That of ``trio.run`` raises it in a task.
    """
    inner = handler.func if isinstance(handler, functools.partial) else handler
    return (
        inner is signal.default_int_handler
        or isinstance(getattr(inner, "__self__", None), asyncio.Runner)
        or getattr(inner, "__module__", None) == "trio._core._ki"
    )
