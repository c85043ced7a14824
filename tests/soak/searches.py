"""Searches cost the same among many sessions as among few, and leave no entries."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from greentic_session.testing.contract.samples import ctx, session
from greentic_session.testing.harness import RedisHarness
from greentic_session.testing.servers import LocalServer, valkey_binary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from greentic_session import AsyncSessionStore

    from .report import Report

    Store = AsyncSessionStore[Any]

FEW: Final = 1000
"""Number of other sessions in the namespace to compare with."""
WANTED: Final = 20
AT_ONCE: Final = 250
ROUNDS: Final = 60
MAX_RATIO: Final = 1.5
LIFE_SECS: Final = 36_000.0
OWNER: Final = ctx(user_id="ann")
TENANT: Final = ctx()

SEARCHES: Final[dict[str, Callable[[Store], AsyncIterator[object]]]] = {
    "by user": lambda store: store.find(TENANT, user_id="ann"),
    "by label": lambda store: store.find(TENANT, labels={"channel": "web"}),
    "scan of an empty tenant": lambda store: store.scan(ctx("empty")),
}


async def on_valkey(report: Report) -> None:
    """Time searches among few and many other sessions, in turn."""
    with LocalServer(valkey_binary()) as server:
        async with RedisHarness(server.url) as few, RedisHarness(server.url) as many:
            stores = [await _filled(few, min(FEW, report.wanted))]
            stores.append(await _filled(many, report.wanted))
            for name, search in SEARCHES.items():
                expected = 0 if "empty" in name else WANTED
                best = [float("inf"), float("inf")]
                for _ in range(ROUNDS):
                    for place, store in enumerate(stores):
                        start = time.perf_counter()
                        found = [one async for one in search(store)]
                        best[place] = min(best[place], time.perf_counter() - start)
                        report.expect(len(found) == expected, f"{name}: {len(found)} found")
                report.expect(
                    best[1] <= MAX_RATIO * best[0],
                    f"{name}: {best[0] * 1e6:.0f} us among few, {best[1] * 1e6:.0f} us among"
                    f" {report.wanted} others",
                )
                report.tally[f"us {name} among few"] = round(best[0] * 1e6)
                report.tally[f"us {name}"] = round(best[1] * 1e6)
            await few.advance(3 * LIFE_SECS)
            left = [name for name in await few.residue() if ":find:" in name]
            report.expect(not left, f"{len(left)} indexes are left, as {left[:3]}")
            report.count = report.wanted


async def _filled(harness: RedisHarness, others: int) -> Store:
    store = await harness.open(indexed_labels=("channel",))
    await store.rebuild_index()
    labels = {"channel": "web"}
    for number in range(WANTED):
        key = f"wanted-{number}"
        await store.create(session(key, owner=OWNER, labels=labels, ttl_secs=LIFE_SECS))

    async def add(number: int) -> None:
        owner = ctx(user_id=f"user-{number % 5000}") if number % 2 else ctx(f"tenant-{number % 50}")
        channel = {"channel": f"channel-{number % 100}"}
        await store.create(
            session(f"other-{number}", owner=owner, labels=channel, ttl_secs=LIFE_SECS)
        )

    for start in range(0, others, AT_ONCE):
        await asyncio.gather(*map(add, range(start, min(start + AT_ONCE, others))))
    return store
