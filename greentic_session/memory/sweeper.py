"""The background task that removes expired records while a store is open."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import anyio

from .._core.tasks import BackgroundTask, start_background

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["start_sweeper"]

_LOGGER: Final = logging.getLogger(__name__)


def start_sweeper(sweep: Callable[[], Awaitable[object]], interval_secs: float) -> BackgroundTask:
    """Start a background task that calls ``sweep`` every ``interval_secs`` seconds."""

    async def run() -> None:
        while True:
            await anyio.sleep(interval_secs)
            try:
                await sweep()
            except Exception:
                # Only an application's own clock can fail here. Expired sessions stay absent.
                _LOGGER.exception("a sweep of expired sessions failed: the next one runs as usual")

    return start_background(run, "greentic_session memory sweeper")
