"""Bells: who waits for what others do sleeps until it is rung for.

A ring says that there is something to do, once: so of those in a process who listen to a topic it
wakes one. Were it to wake all of them, each ring would have as many look in vain as there are idle
workers (a thundering herd).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, final

import anyio

from ._compat import override

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextlib import AbstractAsyncContextManager

__all__ = ["Bell", "Listeners", "SupportsBells"]


class Bell(ABC):
    """Wakes one who waits for something that others do.

    A ring is a hint: it may be lost with a connection, or come for nothing. So whoever is woken
    looks, and nobody sleeps for longer than it can bear to miss a ring. A bell rings by itself when
    it begins to be heard, and whenever it is heard again, for what was missed until then.

    Of those in a process who listen to the same topic, each ring wakes one that is not awake yet,
    the first of them before any other. It may go away with what it found, or without having looked:
    so whoever goes has the first of the others woken.
    """

    @property
    @abstractmethod
    def is_first(self) -> bool:
        """Whether nobody else here has listened to the topic for longer.

        After each ring the first one looks, so it is enough that the first one keeps the time of
        what comes due by itself.
        """

    @abstractmethod
    async def rung(self, timeout_secs: float) -> bool:
        """Wait until the bell has rung since this returned last, or since it was made.

        :returns: ``False`` if it has not within the time.
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

    @property
    @override
    def is_first(self) -> bool:
        return self._bells[0] is self

    @property
    def has_rung(self) -> bool:
        return self._event.is_set()

    def ring(self) -> None:
        self._event.set()

    @override
    async def rung(self, timeout_secs: float) -> bool:
        with anyio.move_on_after(timeout_secs):
            await self._event.wait()
        if not self._event.is_set():
            return False
        self._event = anyio.Event()
        return True
