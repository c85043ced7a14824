"""A block that a signal cancels, so that it releases all leases that it holds."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

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
      loop (``loop.add_signal_handler``) also runs. The SIGINT handlers of Python and of
      :class:`asyncio.Runner` are not called, because they would interrupt the release.
    * Several blocks may be active. A signal cancels all of them.
    * A child process that was forked inside the block has the earlier handler.
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
    block = _Block(termination, deferred(scope.cancel))
    numbers = (signal.SIGTERM, signal.SIGINT) if sigint else (signal.SIGTERM,)
    try:
        for number in numbers:
            _enter(number, block)
        with scope:
            yield termination
    finally:
        for number in numbers:
            _leave(number, block)


class _Block(NamedTuple):
    """A block that a signal cancels.

    :ivar termination: receives the first signal.
    :ivar cancel: cancels the block. Safe in a signal handler.
    """

    termination: Termination
    cancel: Callable[[], None]


# Of the process, because a signal has one handler. Blocks of several tasks may end in any order.
_blocks: Final[dict[int, list[_Block]]] = {}
_earlier: Final[dict[int, _Handler]] = {}
_process: Final[list[int]] = []


def _enter(number: int, block: _Block) -> None:
    _process[:] = [os.getpid()]
    _blocks.setdefault(number, []).append(block)
    current = signal.getsignal(number)
    if current != _handle:
        _earlier[number] = current
        signal.signal(number, _handle)


def _leave(number: int, block: _Block) -> None:
    blocks = _blocks.get(number, [])
    if block in blocks:
        blocks.remove(block)
    if not blocks and _blocks.pop(number, None) is not None:
        earlier = _earlier.pop(number, None)
        if signal.getsignal(number) == _handle:
            # Python cannot install a handler of C code again.
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)


def _handle(number: int, frame: FrameType | None) -> None:
    earlier = _earlier.get(number)
    if _process != [os.getpid()]:  # a forked child, whose parent has the blocks
        signal.signal(number, signal.SIG_DFL if earlier is None else earlier)
        os.kill(os.getpid(), number)
        return
    for block in _blocks.get(number, ()):
        if block.termination.signal is None:
            block.termination.signal = signal.Signals(number)
            block.cancel()
    if callable(earlier) and not _interrupts(earlier):
        _earlier[number] = None  # a handler that calls this one again is not called twice
        try:
            earlier(number, frame)
        finally:
            if number in _earlier:
                _earlier[number] = earlier


def _interrupts(handler: Callable[..., Any]) -> bool:
    """Return whether a handler is one of Python that raises in the middle of a release."""
    if handler is signal.default_int_handler:
        return True
    # `asyncio.Runner` cancels the main task, and raises KeyboardInterrupt at the second signal.
    return isinstance(getattr(getattr(handler, "func", None), "__self__", None), asyncio.Runner)
