"""The outcomes of a dispatcher's messages: counters, and callbacks for errors and discards."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Generic, Literal, TypeVar, final

from ..._core.functions import require_async, require_awaitable, require_plain
from ..callables import is_being_cancelled, is_cancellation, leaves_loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Discard", "Outcomes"]

M = TypeVar("M")

Discard = Literal["dropped", "closed", "cancelled"]
"""The reason why a message was discarded:

* ``dropped``: a newer message replaced it.
* ``closed``: it was still queued when the dispatcher was closed.
* ``cancelled``: its handler was cancelled, or ``on_error`` was.
"""

_LOGGER: Final = logging.getLogger(__name__)


@final
class Outcomes(Generic[M]):
    """Counts the outcomes of messages, and reports errors and discards to callbacks.

    :ivar counts: number of messages by outcome.
    :param on_error: called with each error of a handler.
    :param on_discard: called with each discarded message.
    :param is_at_work: returns whether the current task is one of a handler.
    :raises InvalidInputError: naming the invalid function.
    """

    def __init__(
        self,
        on_error: Callable[[str | None, M, BaseException], Awaitable[object]] | None,
        on_discard: Callable[[str | None, M, Discard], object] | None,
        is_at_work: Callable[[], bool],
    ) -> None:
        if on_error is not None:
            require_async(on_error, "on_error")
        if on_discard is not None:
            require_plain(on_discard, "on_discard")
        self._on_error: Final = on_error
        self._on_discard: Final = on_discard
        self._is_at_work: Final = is_at_work
        self.counts: Final[dict[Literal["handled", "failed"] | Discard, int]] = {
            "handled": 0,
            "failed": 0,
            "dropped": 0,
            "closed": 0,
            "cancelled": 0,
        }

    async def raised(self, error: BaseException, key: str | None, message: M) -> None:
        """Report an error of a handler, and raise it again if it has to end the task."""
        if not self._is_at_work():  # the coroutine outlived its event loop: nothing can be awaited
            self.discarded(key, message, "cancelled")
            raise error
        if not is_cancellation(error):
            await self._failed(error, key, message)
        else:
            self.discarded(key, message, "cancelled")
            if is_being_cancelled():
                raise error
        if leaves_loop(error):
            raise error

    def discarded(self, key: str | None, message: M, reason: Discard) -> None:
        """Report a discarded message."""
        self.counts[reason] += 1
        if self._on_discard is None:
            return
        try:
            self._on_discard(key, message, reason)
        except (KeyboardInterrupt, SystemExit) as error:
            if not self._is_at_work() or leaves_loop(error):
                raise
            _LOGGER.exception("on_discard failed for a message that was %s", reason)
        except BaseException:
            _LOGGER.exception("on_discard failed for a message that was %s", reason)

    async def _failed(self, error: BaseException, key: str | None, message: M) -> None:
        if self._on_error is None:
            _LOGGER.error("a handler failed: the next messages of its key continue", exc_info=error)
            self.counts["failed"] += 1
            return
        try:
            await require_awaitable(self._on_error(key, message, error), "on_error")
        except BaseException as second:
            # The log contains the handler's own error, as the context of this one.
            if not self._is_at_work() or is_cancellation(second):
                _LOGGER.exception("on_error was cancelled: the message is discarded")
                await self.raised(second, key, message)
                return
            _LOGGER.exception("on_error failed: the next messages of its key continue")
            self.counts["failed"] += 1
            if leaves_loop(second):
                raise
        else:
            self.counts["failed"] += 1
