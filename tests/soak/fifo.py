"""Messages of many sessions, with killed workers: in order and once per session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from greentic_session.testing.harness import RedisHarness
from greentic_session.testing.servers import LocalServer, valkey_binary

from ..support.inbox import Fifo

if TYPE_CHECKING:
    from .report import Report

SESSIONS: Final = 500
MOST: Final = 1_000_000
"""In one piece, up to the count of a night."""


async def fifo(report: Report) -> None:
    """Let workers admit and handle messages, and kill them in their turns."""
    with LocalServer(valkey_binary()) as server:
        while not report.is_over:
            messages = min(MOST, report.wanted - report.count)
            keys = max(1, min(SESSIONS, messages // 40))
            rounds = -(-messages // keys)
            async with RedisHarness(server.url) as harness:
                store = await harness.open()
                run = Fifo(
                    harness,
                    keys=keys,
                    rounds=rounds,
                    processes=8 if messages >= 10_000 else 2,
                    kills=max(1, min(100, messages // 3000)),
                    seed=report.seed + report.count,
                )
                try:
                    await run.run(store, patience_secs=60 + messages / 100)
                    await run.assert_in_order_once_each(store)
                except (AssertionError, TimeoutError) as error:
                    report.losses.append(f"seed {report.seed + report.count}: {error!r}")
            report.faults += run.tally["kills"] + run.tally["halts"] + run.tally["failed"]
            report.tally += run.tally
            report.count += keys * rounds
