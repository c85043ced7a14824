"""Another worker whose step comes between two steps of a verb."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ....store import AsyncSessionStore
    from ...harness import StoreHarness

    Work = Callable[[AsyncSessionStore[Any]], Awaitable[object]]

__all__ = ["rival"]


def rival(harness: StoreHarness, store: AsyncSessionStore[Any], work: Work) -> None:
    """Run another worker's step to its end while this thread's event loop is blocked."""

    async def act() -> None:
        if store.statistics().sessions is not None:
            await work(store)  # sessions are in this process, so another worker cannot have them
            return
        async with aclosing(await harness.open()) as other:
            await work(other)

    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(asyncio.run, act()).result()
