"""Bells: who waits for what others do sleeps until it is rung for.

A ring says that there is something to do, once: so of those in a process who listen to a topic it
wakes one. Were it to wake all of them, each ring would have as many look in vain as there are idle
workers (a thundering herd).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, final

import anyio

from ._compat import override

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextlib import AbstractAsyncContextManager

__all__ = ["Bell", "Listeners", "SupportsBells"]

_SLACK_SECS: Final = 0.05


class Bell(ABC):
    """Wakes one who waits for something that others do.

    A ring is a hint: it may be lost with a connection, or come for nothing. So whoever is woken
    looks, and nobody sleeps for longer than it can bear to miss a ring. A bell rings by itself when
    it begins to be heard, and whenever it is heard again, for what was missed until then.

    Of those in a process who listen to the same topic, each ring wakes one that is not awake yet.
    It may go away with what it found, or without having looked: so whoever goes has another woken.
    """

    @abstractmethod
    async def rung(self, timeout_secs: float, due_secs: float = math.inf) -> bool:
        """Wait until the bell has rung since this returned last, or since it was made.

        :param timeout_secs: how long to wait at most.
        :param due_secs: in how many seconds there will be something to do without a ring, as far as
            the caller knows. It is woken then, but if another who listens here wakes by then
            anyway: one is enough.
        :returns: ``False`` if it has not rung.
        """


class SupportsBells(ABC):
    """A backend at which its users can wait without asking again and again."""

    @abstractmethod
    def listen(self, topic: str) -> AbstractAsyncContextManager[Bell]:
        """Have a bell that rings for a topic while the block runs.

        Entering waits for nothing, and never raises for want of the backend: a bell that cannot be
        heard yet is as one whose rings are lost.
        """


@final
class Listeners:
    """Those in this process who listen to one topic, in the order of their coming."""

    def __init__(self) -> None:
        self._bells: Final[list[_Bell]] = []

    def __len__(self) -> int:
        return len(self._bells)

    @contextmanager
    def joined(self, *, is_rung: bool) -> Generator[Bell]:
        """Have a bell while the block runs.

        :param is_rung: whether it has rung already.
        """
        bell = _Bell(self._bells)
        if is_rung:
            bell.ring()
        self._bells.append(bell)
        try:
            yield bell
        finally:
            self._bells.remove(bell)
            self.ring()

    def ring(self) -> None:
        """Wake the first who is not awake yet."""
        for bell in self._bells:
            if not bell.has_rung:
                bell.ring()
                return

    def ring_all(self) -> None:
        """Wake everybody: to look for what was missed, or to be told of an end."""
        for bell in self._bells:
            bell.ring()


@final
class _Bell(Bell):
    def __init__(self, bells: list[_Bell]) -> None:
        self._bells: Final = bells
        self._event = anyio.Event()
        self.wakes_at = math.inf  # if nobody rings; while it is awake, nobody can tell

    @property
    def has_rung(self) -> bool:
        return self._event.is_set()

    def ring(self) -> None:
        self._event.set()

    @override
    async def rung(self, timeout_secs: float, due_secs: float = math.inf) -> bool:
        now = anyio.current_time()
        # What two have looked up is hardly ever the same to the microsecond.
        about_then = now + due_secs + min(due_secs / 10, _SLACK_SECS)
        if due_secs < timeout_secs and not any(
            bell.wakes_at <= about_then for bell in self._bells if bell is not self
        ):
            timeout_secs = due_secs
        self.wakes_at = now + timeout_secs
        with anyio.move_on_after(timeout_secs):
            await self._event.wait()
        self.wakes_at = math.inf
        if not self._event.is_set():
            return False
        self._event = anyio.Event()
        return True
