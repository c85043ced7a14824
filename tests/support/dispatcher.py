"""Handlers and checks for the tests of dispatchers."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, final

import anyio
import pytest
from anyio.lowlevel import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sized

    from greentic_session.ordering import Discard, SessionDispatcher

both = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])


@final
class Desk:
    """A handler that holds its messages until they are released, and records events."""

    def __init__(self) -> None:
        self.begun: list[tuple[str | None, int]] = []
        self.done: list[tuple[str | None, int]] = []
        self.errors: list[tuple[str | None, int, BaseException]] = []
        self.discards: list[tuple[str | None, int, Discard]] = []
        self.most = 0
        self._in_hand = 0
        self._open = False
        self._let_go: defaultdict[int, anyio.Event] = defaultdict(anyio.Event)

    async def handle(self, key: str | None, message: int) -> None:
        self.begun.append((key, message))
        self._in_hand += 1
        self.most = max(self.most, self._in_hand)
        try:
            if not self._open:
                await self._let_go[message].wait()
        finally:
            self._in_hand -= 1
        self.done.append((key, message))

    async def note_error(self, key: str | None, message: int, error: BaseException) -> None:
        self.errors.append((key, message, error))

    def note_discard(self, key: str | None, message: int, reason: Discard) -> None:
        self.discards.append((key, message, reason))

    def let_go(self, *messages: int) -> None:
        for message in messages:
            self._let_go[message].set()

    def let_all_go(self) -> None:
        self._open = True
        for event in self._let_go.values():
            event.set()


async def until(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    with anyio.fail_after(20):
        while not holds():
            await checkpoint()


def check_empty(dispatcher: SessionDispatcher[int]) -> None:
    """Check that no lane, task or submitter is left of any message."""
    told = dispatcher.statistics()
    assert (told.lanes, told.waiting, told.running, told.blocked, told.workers) == (0, 0, 0, 0, 0)
    ended = told.handled + told.failed + told.dropped + told.cancelled + told.closed
    assert told.accepted == ended
    lanes = dispatcher._lanes
    left: list[Sized] = [lanes._by_key, lanes._loose, lanes._starved, lanes.ready]
    if lanes._ages is not None:
        left += [lanes._ages._lane_of, lanes._ages._numbers]
    assert [*map(len, left)] == [0] * len(left)
