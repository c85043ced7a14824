"""The outcomes of a dispatcher's messages: counters, and the callbacks for errors and discards."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Generic, Literal, TypeVar, final

from ..callables import (
    is_being_cancelled,
    is_cancellation,
    leaves_loop,
    require_async,
    require_awaitable,
    require_plain,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Discard", "Outcomes"]

M = TypeVar("M")

Discard = Literal["dropped", "closed", "cancelled"]
"""Why a message was not handled to its end: a newer one took its room; the dispatcher was closed
before its turn; its handler was cancelled, or ``on_error`` after it."""

_LOGGER: Final = logging.getLogger(__name__)


@final
class Outcomes(Generic[M]):
    """Counts how messages end, and tells of those that were not handled.

    :ivar counts: of messages, by how they ended.
    :param on_error: told of what a handler raised.
    :param on_discard: told of what is discarded.
    :param is_at_work: whether the caller is a task of a handler.
    :raises InvalidInputError: naming the function at fault.
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
        """Tell of what a handler raised. What has to end its task is raised again."""
        if not self._is_at_work():  # left over from a loop that is gone: nothing can be awaited
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
        """Tell of a message that is not handled to its end."""
        self.counts[reason] += 1
        if self._on_discard is None:
            return
        try:
            self._on_discard(key, message, reason)
        except (KeyboardInterrupt, SystemExit) as error:
            if not self._is_at_work() or leaves_loop(error):
                raise
            _LOGGER.exception("on_discard failed; the message was %s", reason)
        except BaseException:
            _LOGGER.exception("on_discard failed; the message was %s", reason)

    async def _failed(self, error: BaseException, key: str | None, message: M) -> None:
        if self._on_error is None:
            _LOGGER.error("a handler failed; what waits behind its message goes on", exc_info=error)
            self.counts["failed"] += 1
            return
        try:
            await require_awaitable(self._on_error(key, message, error), "on_error")
        except BaseException as second:
            # The handler's own error is in the chain.
            if not self._is_at_work() or is_cancellation(second):
                _LOGGER.exception("on_error was cancelled; the message is discarded")
                await self.raised(second, key, message)
                return
            _LOGGER.exception("on_error failed; what waits behind the message goes on")
            self.counts["failed"] += 1
            if leaves_loop(second):
                raise
        else:
            self.counts["failed"] += 1
