"""Queues of this process's callers that change one session at the same time."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio import Lock

__all__ = ["KeyQueues"]


@final
class KeyQueues:
    """One first-in-first-out queue per session, which exists while a caller is in it."""

    __slots__ = ("_queues",)

    def __init__(self) -> None:
        self._queues: Final[dict[tuple[str, str], tuple[Lock, list[None]]]] = {}

    def __contains__(self, name: tuple[str, str]) -> bool:
        return name in self._queues

    @asynccontextmanager
    async def turn(self, name: tuple[str, str]) -> AsyncGenerator[None]:
        """Wait for the caller's turn, and keep it while the block runs.

        :param name: scope and key of the session.
        """
        from anyio import Lock  # noqa: PLC0415 - keeps `import greentic_session` free of it

        lock, callers = self._queues.setdefault(name, (Lock(), []))
        callers.append(None)
        try:
            async with lock:
                yield
        finally:
            callers.pop()
            if not callers:
                del self._queues[name]
