"""One process of ``scripts/bench neighbours``: a burst of large calls, and another tenant's reads.

Usage: ``python -m benchmarks.neighbour_probe URL CASE CALLS``. Prints the median and the longest
time of the neighbour's ``get``, and the time of the burst, in milliseconds.

The neighbour's reads are due at a fixed rate, and their times count from then. Otherwise a blocked
event loop would delay the very reads that should detect it.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from typing import TYPE_CHECKING, Any, Final

from greentic_session import (
    Session,
    SessionCursor,
    SessionKey,
    SessionMeta,
    TenantCtx,
    create_session_store,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from greentic_session import AsyncSessionStore

    Store = AsyncSessionStore[dict[str, Any]]

CASES: Final = ("put", "get", "get_many")
_TEXT: Final = "x" * (1 << 20)
_LARGE: Final = TenantCtx(tenant_id="large")
_SMALL: Final = TenantCtx(tenant_id="small")
_KEY: Final = SessionKey("small")
_EVERY_SECS: Final = 0.005


def _session(key: SessionKey, owner: TenantCtx, text: str) -> Session[dict[str, Any]]:
    return Session(
        key=key,
        cursor=SessionCursor(flow_id="flow", node_id="node"),
        meta=SessionMeta.of(owner),
        context={"text": text},
    )


def _burst(store: Store, case: str, keys: Sequence[SessionKey]) -> Callable[[], Awaitable[object]]:
    if case == "put":
        sessions = [_session(key, _LARGE, _TEXT) for key in keys]
        return lambda: asyncio.gather(*map(store.put, sessions))
    if case == "get":
        return lambda: asyncio.gather(*(store.get(key, ctx=_LARGE) for key in keys))
    return lambda: store.get_many(keys, ctx=_LARGE)


async def main() -> None:
    """Measure one case."""
    url, case, calls = sys.argv[1:]
    keys = [SessionKey(f"large-{number}") for number in range(int(calls))]
    loop = asyncio.get_running_loop()
    async with create_session_store(f"{url}&deadline=60&max_payload=2000000") as store:
        await store.put(_session(_KEY, _SMALL, "text"))
        for _ in range(200):
            await store.get(_KEY, ctx=_SMALL)
        if case != "put":
            for key in keys:
                await store.put(_session(key, _LARGE, _TEXT))
        times: list[float] = []

        async def read(due_at: float) -> None:
            await store.get(_KEY, ctx=_SMALL)
            times.append(loop.time() - due_at)

        burst = _burst(store, case, keys)
        began_at = due_at = loop.time()
        running = asyncio.ensure_future(burst())
        reads: list[asyncio.Task[None]] = []
        while not running.done():
            await asyncio.sleep(max(0.0, due_at - loop.time()))
            while due_at <= loop.time():
                reads.append(loop.create_task(read(due_at)))
                due_at += _EVERY_SECS
        await running
        took = loop.time() - began_at
        await asyncio.gather(*reads)
        for key in keys:
            await store.delete(key, ctx=_LARGE)
    figures = (statistics.median(times), max(times), took)
    print(*(f"{secs * 1000:.3f}" for secs in figures))


if __name__ == "__main__":
    asyncio.run(main())
