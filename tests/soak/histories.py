"""Histories of many clients have an order, and the checkers detect planted flaws."""

from __future__ import annotations

from contextlib import AsyncExitStack
from itertools import cycle
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from greentic_session import create_session_store
from greentic_session.testing.linearizability import check_history
from greentic_session.testing.planting import Flaw, simulate
from greentic_session.testing.proxy import Fate, FaultProxy, at_random
from greentic_session.testing.servers import LocalServer, valkey_binary
from greentic_session.testing.version_order import check_versions

from ..support.histories import CLIENTS, Clients
from ..support.redis import store_at

if TYPE_CHECKING:
    from .report import Report

DEADLINE_SECS: Final = 0.5
AT_ONCE: Final = 40
FATES: Final = tuple(fate for fate in Fate if fate is not Fate.PASS)


async def in_memory(report: Report) -> None:
    """Check histories in memory, with cancelled clients."""
    async with create_session_store("memory://") as store:
        await _play(report, Clients([store], store, cancels=0.1))


async def on_valkey(report: Report) -> None:
    """Check histories over faulty connections to a server, with cancelled clients."""
    schedule = at_random(report.seed, 0.06, FATES)
    namespace = f"soak:{uuid4().hex}"
    with LocalServer(valkey_binary(), tcp=True) as server:
        async with (
            FaultProxy(server.port, schedule, delay_secs=0.7 * DEADLINE_SECS) as proxy,
            store_at(server.url, namespace=namespace) as reader,
            AsyncExitStack() as stack,
        ):
            stores = [
                await stack.enter_async_context(
                    store_at(proxy.url, namespace=namespace, deadline=DEADLINE_SECS)
                )
                for _ in range(CLIENTS)
            ]
            clients = Clients(stores, reader, cancels=0.03, deadline_secs=DEADLINE_SECS)
            try:
                await _play(report, clients)
            finally:
                report.faults += proxy.faults


async def _play(report: Report, clients: Clients) -> None:
    while not report.is_over:
        numbers = range(report.count, min(report.wanted, report.count + AT_ONCE))
        await clients.play(numbers, report.seed, at_once=AT_ONCE)
        report.count = numbers.stop
        report.losses += [verdict.explanation for verdict in clients.verdicts]
        report.losses += [f"a call ended late: {late}" for late in clients.late]
        clients.verdicts.clear()
        clients.late.clear()
    report.faults += clients.tally["cancelled"]
    report.tally += clients.tally


async def of_checkers(report: Report) -> None:
    """Check planted violations and as many correct histories. Each checker must tell them apart."""
    dice = report.dice()
    for flaw in cycle(Flaw):
        if report.is_over:
            return
        unknown = (0.0, 0.05, 0.15)[report.count // len(Flaw) % 3]
        right = simulate(dice, unknown=unknown)
        wrong = None
        while wrong is None:
            wrong = simulate(dice, unknown=unknown, flaw=flaw)
        assert right is not None
        for check in (check_history, check_versions):
            name = f"{check.__name__}, history {report.count}"
            report.expect(check(wrong).is_violation, f"{name}: missed {flaw.name}")
            report.expect(check(right).holds, f"{name}: blamed a right one")
        report.count += 1
        report.faults += 1
