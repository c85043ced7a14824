"""Masters that give way or die while replies are lost: what was acknowledged is there after it."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar
from unittest.mock import patch
from uuid import uuid4

from greentic_session import create_session_store
from greentic_session.redis.transport import driver
from greentic_session.testing.proxy import Fate, FaultProxy
from greentic_session.testing.servers import valkey_binary
from greentic_session.testing.topologies import ClusterRig, SentinelRig

from ..support.acknowledged import Acknowledged
from ..support.redis import until_async

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Awaitable, Callable

    from greentic_session.testing.topologies import Node

    from .report import Report

_Rig = TypeVar("_Rig", SentinelRig, ClusterRig)

DEADLINE_SECS: Final = 10.0
LOST: Final = 0.02
"""The share of requests with scripts whose reply is lost."""
BATCH: Final = 20
"""Failovers of one set of servers, after which the messages are counted."""


async def with_sentinel(report: Report) -> None:
    """Depose or kill a master that has one replica, by turns."""
    while not report.is_over:
        # The one replica has what it confirmed. Of several, another might be promoted.
        await _run(
            report,
            SentinelRig(valkey_binary(), replicas=1, down_after_ms=300, failover_timeout_ms=1000),
            _depose_sentinels,
        )


async def with_cluster(report: Report) -> None:
    """Depose or kill one of three masters, each of which has a replica, by turns."""
    while not report.is_over:
        await _run(report, ClusterRig(valkey_binary()), _depose_in_cluster)


async def _depose_sentinels(rig: SentinelRig, dice: random.Random) -> str:
    how = dice.choice(("graceful", "kill -9"))
    if how == "graceful":
        await rig.failover()
        return how
    old = await rig.kill_master()
    await until_async(lambda: _is_deposed(rig, old), secs=40)
    new = await rig.master()
    await rig.restart(old)
    # The sentinels would do so as well, after seconds.
    await old.ask("REPLICAOF", "127.0.0.1", new.port)
    await rig.until_stable(other_than=old)
    return how


async def _depose_in_cluster(rig: ClusterRig, dice: random.Random) -> str:
    how = dice.choice(("graceful", "TAKEOVER", "kill -9"))
    old = dice.choice(await rig.masters())
    (replica,) = await rig.replicas_of(old)
    if how == "kill -9":
        await rig.kill(old)
    # An election would wait for the others to notice. What a replica has does not depend on it.
    await rig.failover(replica, "" if how == "graceful" else "TAKEOVER")
    if how == "kill -9":
        await rig.restart(old)
    await rig.until_ok()
    return how


async def _is_deposed(rig: SentinelRig, node: Node) -> bool:
    try:
        return await rig.master() is not node
    except RuntimeError:
        return False  # the sentinels do not agree yet


async def _run(
    report: Report,
    rig: _Rig,
    fail_over: Callable[[_Rig, random.Random], Awaitable[str]],
) -> None:
    dice = report.dice(report.count)
    namespace = f"soak:{uuid4().hex}"
    async with rig, lossy_lines(rig.nodes, dice) as proxies, AsyncExitStack() as stack:
        store = await stack.enter_async_context(
            create_session_store(f"{rig.url}?namespace={namespace}&acks=1&deadline={DEADLINE_SECS}")
        )
        those = Acknowledged(store, dice)
        try:
            async with those.at_work():
                await those.has_worked()
                for _ in range(min(BATCH, report.wanted - report.count)):
                    those.stage = f"failover {report.count + 1}"
                    began_at = time.monotonic()
                    how = await fail_over(rig, dice)
                    report.tally[f"ms of {how}"] += round(1000 * (time.monotonic() - began_at))
                    report.tally[how] += 1
                    those.stage = f"after {those.stage} ({how})"
                    await those.has_worked()
                    await those.check()
                    report.count += 1
        finally:
            report.losses += those.losses
            report.faults += sum(proxy.faults for proxy in proxies)
            report.tally += those.told


@asynccontextmanager
async def lossy_lines(
    nodes: tuple[Node, ...], dice: random.Random
) -> AsyncIterator[list[FaultProxy]]:
    """Lead the stores' connections through proxies that lose replies to scripts.

    Sentinels and servers talk without proxies, because only their clients are tested.
    """

    def choose(request: bytes) -> Fate:
        if b"EVALSHA" not in request or dice.random() >= LOST:
            return Fate.PASS
        return dice.choice((Fate.LOSE, Fate.CUT))

    async with AsyncExitStack() as stack:
        proxies = {
            node.port: await stack.enter_async_context(FaultProxy(node.port, choose))
            for node in nodes
        }

        def new_connection(config: Any, address: Any, **options: Any) -> Any:
            host, port = address
            return driver.new_connection(config, (host, proxies[port].port), **options)

        with patch("greentic_session.redis.transport.server.new_connection", new_connection):
            yield [*proxies.values()]
