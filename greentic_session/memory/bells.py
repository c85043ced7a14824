"""Bells within one process."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, final

import anyio

from .._compat import override
from ..leasing import Bell, SupportsBells

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ["MemoryBells"]


@final
class _MemoryBell(Bell):
    def __init__(self) -> None:
        self._rung = anyio.Event()
        self.ring()  # it is heard from now on

    def ring(self) -> None:
        self._rung.set()

    @override
    async def rung(self, timeout_secs: float) -> bool:
        with anyio.move_on_after(timeout_secs):
            await self._rung.wait()
        if not self._rung.is_set():
            return False
        self._rung = anyio.Event()
        return True


@final
class MemoryBells(SupportsBells):
    """The bells of one store."""

    def __init__(self) -> None:
        self._bells: Final[dict[str, list[_MemoryBell]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._bells.values()))

    @override
    @asynccontextmanager
    async def listen(self, topic: str) -> AsyncGenerator[Bell]:
        """As :meth:`SupportsBells.listen`."""
        bell = _MemoryBell()
        bells = self._bells.setdefault(topic, [])
        bells.append(bell)
        try:
            yield bell
        finally:
            bells.remove(bell)
            if not bells:
                del self._bells[topic]

    def ring(self, topic: str) -> None:
        """Wake all who listen to a topic."""
        for bell in self._bells.get(topic, ()):
            bell.ring()

    def ring_all(self) -> None:
        """Wake all who listen to anything: the store closes."""
        for bells in self._bells.values():
            for bell in bells:
                bell.ring()
