"""Bells within one process."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, final

from .._compat import override
from .._core.subscribers import Listeners
from ..abc.notifications import Bell, SupportsBells

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ["MemoryBells"]


@final
class MemoryBells(SupportsBells):
    """The bells of one store."""

    def __init__(self) -> None:
        self._topics: Final[dict[str, Listeners]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._topics.values()))

    @override
    @asynccontextmanager
    async def listen(self, topic: str) -> AsyncGenerator[Bell]:
        """As :meth:`SupportsBells.listen`."""
        listeners = self._topics.setdefault(topic, Listeners())
        try:
            with listeners.joined(is_rung=True) as bell:  # it is heard from now on
                yield bell
        finally:
            if not listeners:
                del self._topics[topic]

    def ring(self, topic: str) -> None:
        """Wake one who listens to a topic."""
        if topic in self._topics:
            self._topics[topic].ring()

    def ring_all(self) -> None:
        """Wake all who listen to anything: the store closes."""
        for listeners in self._topics.values():
            listeners.ring_all()
