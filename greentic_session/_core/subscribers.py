"""Those in this process who listen to a topic."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, final

import anyio

from .._compat import override
from ..abc.notifications import Bell

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["Listeners"]

_SLACK_SECS: Final = 0.05


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
