"""Hooks for the tests of lifecycles."""

from __future__ import annotations

from typing import Any

import anyio.lowlevel

from greentic_session import ManualClock, SessionKey
from greentic_session.ordering import (
    LifecycleHooks,
    LifecycleLimits,
    SessionLifecycle,
    SessionMetrics,
)

A, B = SessionKey("a"), SessionKey("b")


class Diary:
    """Hooks that record their arguments."""

    def __init__(self) -> None:
        self.told: list[tuple[str, SessionMetrics]] = []
        self.hooks = LifecycleHooks(
            on_start=self._note("start"),
            on_idle=self._note("idle"),
            on_stalled=self._note("stalled"),
            on_expire=self._note("expire"),
            on_close=self._note("close"),
        )

    def _note(self, name: str) -> Any:  # Any: a hook, whose type is not exported
        async def note(told: SessionMetrics) -> None:
            await anyio.lowlevel.checkpoint()
            self.told.append((name, told))

        return note

    def names(self) -> list[str]:
        return [f"{name} {told.key}" for name, told in self.told]


def make(diary: Diary | None = None, **limits: Any) -> tuple[SessionLifecycle, ManualClock]:
    clock = ManualClock()
    hooks = diary.hooks if diary else None
    return SessionLifecycle(LifecycleLimits(**limits), hooks=hooks, clock=clock), clock
