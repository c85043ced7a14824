"""Kills of servers and workers: acknowledged writes stay, and waits resume once."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from greentic_session import SessionKey
from greentic_session.testing.harness import RedisHarness
from greentic_session.testing.history import History
from greentic_session.testing.linearizability import check_history
from greentic_session.testing.servers import LocalServer, valkey_binary
from greentic_session.testing.version_order import check_versions

from ..support.beginnings import Beginnings
from ..support.histories import DOCUMENTED, another
from ..support.redis import CTX, LONG_SECS, session, store_at, until
from ..support.waits import Orders, Race
from ..waits.test_wait_races import Field

if TYPE_CHECKING:
    import random

    from greentic_session.testing.history import RecordedStore

    from .report import Report

DURABLE: Final = ("--appendonly", "yes", "--appendfsync", "always")
WRITERS: Final = 8
KEYS: Final = [SessionKey(f"key-{number}") for number in range(16)]
"""Limit that keeps a key's writes within its operation log while a call is retried."""
WAITS: Final = 2000
WORKERS: Final = 8
KILLS: Final = 16
ROUNDS_PER_KILL: Final = 10


async def restarts(report: Report) -> None:
    """Kill -9 a server with an append-only file under its writers, and start it again."""
    with LocalServer(valkey_binary(), DURABLE, tcp=True) as server:
        while not report.is_over:
            history = await _restarted(server, report)
            for check in (check_versions, check_history):
                verdict = check(history.operations())
                report.expect(verdict.holds, verdict.explanation)
            report.tally += Counter(one.ending.value for one in history.operations())
            report.count += 1
            report.faults += 1


async def _restarted(server: LocalServer, report: Report) -> History:
    """Return the results of the writers on a server that is killed meanwhile."""
    history = History()
    over = asyncio.Event()
    namespace = f"soak:{uuid4().hex}"
    async with store_at(server.url, namespace=namespace, deadline=LONG_SECS) as store:
        writers = [
            asyncio.create_task(
                _write(
                    history.client(store, f"c{number}"),
                    report.dice(f"{report.count} {number}"),
                    over,
                )
            )
            for number in range(WRITERS)
        ]
        try:
            await asyncio.sleep(report.dice(report.count).uniform(0.005, 0.06))  # while they write
            server.kill()
            killed_at = len(history.operations())
            await asyncio.to_thread(server.start)
            await until(lambda: len(history.operations()) >= killed_at + 2 * WRITERS)
        finally:
            over.set()
            await asyncio.gather(*writers)
        reader = history.client(store, "reader")
        for key in KEYS:
            await reader.get(key, ctx=CTX)
        report.tally["retries"] += store.statistics().retries or 0
    return history


async def _write(
    client: RecordedStore[dict[str, Any]], dice: random.Random, over: asyncio.Event
) -> None:
    while not over.is_set():
        key = dice.choice(KEYS)
        try:
            if dice.random() < 0.5:
                await client.put(session(key))
            else:
                await client.mutate(key, another, ctx=CTX, attempts=100)
        except DOCUMENTED:
            continue


async def beginnings(report: Report) -> None:
    """Let racers of two processes begin the same sessions, and kill the processes meanwhile."""
    with LocalServer(valkey_binary()) as server:
        async with RedisHarness(server.url) as harness:
            race = Beginnings(harness, report.dice())
            await race.run(report.wanted, lambda number: number % ROUNDS_PER_KILL == 0)
    report.losses += race.losses
    report.faults += race.kills
    report.count += race.rounds


async def resumes(report: Report) -> None:
    """Let workers race for waits, and kill them in their turns. Each wait has one turn."""
    with LocalServer(valkey_binary()) as server:
        while not report.is_over:
            waits = min(WAITS, report.wanted - report.count)
            async with RedisHarness(server.url) as harness:
                field = Field(harness, await harness.open(), waits=waits, users=max(1, waits // 20))
                await field.prepare()
                seed = report.seed + report.count
                numbers = [wait.number for wait in field.waits]
                report.dice(seed).shuffle(numbers)
                orders = Orders(numbers=tuple(numbers), users=field.users, seed=seed)
                race = Race(harness, orders, kills=min(KILLS, max(1, waits // 100)))
                await race.run(workers=WORKERS)
                try:
                    with redirect_stdout(io.StringIO()):  # its output is reported below
                        await field.assert_resumed_once_each(race)
                except AssertionError as error:
                    report.losses.append(f"seed {seed}: {error}")
                report.faults += race.tally["kills"]
                report.tally += race.tally
            report.count += waits
