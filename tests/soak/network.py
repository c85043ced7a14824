"""Cancelled callers and broken connections: no reply is crossed, no conflict is false."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from greentic_session import OutcomeUnknownError, SessionError, StoreUnavailableError
from greentic_session.testing.proxy import BREAKS, FaultProxy, at_random
from greentic_session.testing.servers import LocalServer, valkey_binary

from ..faults.test_callers import cancelled_after
from ..redis.test_lost_replies import Writer
from ..support.redis import CTX, Crowd, control, store_at, until_async

if TYPE_CHECKING:
    from .report import Report

CALLERS: Final = 64
WRITERS: Final = 64
"""Each has a store and a connection of its own, so that a fault affects one call."""


async def cancellations(report: Report) -> None:
    """Cancel callers at every step. All others get their own replies, and nothing is left."""
    with LocalServer(valkey_binary()) as server:
        async with (
            store_at(server.url, namespace=f"soak:{uuid4().hex}", max_connections=2) as store,
            control(server) as client,
        ):
            crowd = Crowd(store, report.dice())
            await crowd.arrive()

            async def caller(number: int) -> None:
                dice = report.dice(number)
                while not report.is_over:
                    call = dice.choice(crowd.calls)
                    try:
                        if await cancelled_after(call, dice.randrange(24)):
                            report.count += 1
                            report.faults += 1
                        await crowd.get()
                    except (AssertionError, SessionError) as error:
                        report.losses.append(f"a crossed reply, or none: {error!r}")
                        return

            async with asyncio.TaskGroup() as tasks:
                for number in range(CALLERS):
                    tasks.create_task(caller(number))
            seen = store.statistics()
            report.expect(seen.in_flight == 0, f"{seen.in_flight} calls are left in flight")
            report.expect(seen.connections <= 2, f"{seen.connections} connections are open")

            async def closed_what_was_left() -> bool:
                # The two of the store and the one of this run. The server needs a moment to notice.
                return len((await client.read("CLIENT", "LIST")).splitlines()) <= 3

            await until_async(closed_what_was_left)


async def faults(report: Report) -> None:
    """Break connections of single writers, and check that each call gets its one correct result."""
    namespace = f"soak:{uuid4().hex}"
    with LocalServer(valkey_binary(), tcp=True) as server:
        async with (
            FaultProxy(server.port, at_random(report.seed, 0.25)) as proxy,
            store_at(server.url, namespace=namespace) as direct,
            AsyncExitStack() as stack,
        ):
            writers = [
                Writer(
                    await stack.enter_async_context(
                        store_at(proxy.url, namespace=namespace, max_connections=1, deadline=60)
                    ),
                    number,
                )
                for number in range(WRITERS)
            ]

            async def write(writer: Writer) -> None:
                while not report.is_over:
                    try:
                        await writer.write(1)
                    except (OutcomeUnknownError, StoreUnavailableError) as error:
                        # A true report: on a slow machine, no attempt succeeded before the
                        # deadline.
                        report.tally[type(error).__name__] += 1
                        found = await direct.get(writer.key, ctx=CTX)
                        writer.cas = found.cas if found else None
                    except (AssertionError, SessionError) as error:
                        report.losses.append(f"{writer.key}: false result: {error!r}")
                        return
                    report.count = report.faults = proxy.faults

            try:
                async with asyncio.TaskGroup() as tasks:
                    for writer in writers:
                        tasks.create_task(write(writer))
            finally:
                report.count = report.faults = proxy.faults
                report.tally += Counter({fate.name: proxy.met[fate] for fate in BREAKS})
                report.tally["calls"] = sum(writer.calls for writer in writers)
            for writer in writers:
                found = await direct.get(writer.key, ctx=CTX)
                report.expect(
                    (found and found.cas) == writer.cas, f"{writer.key}: reported is not actual"
                )
