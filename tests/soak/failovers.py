"""Masters that give way or die while replies are lost: what was acknowledged is there after it."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from unittest.mock import patch
from uuid import uuid4

from greentic_session import create_session_store
from greentic_session.redis.transport import driver
from greentic_session.testing.proxy import Fate, FaultProxy
from greentic_session.testing.servers import valkey_binary
from greentic_session.testing.topologies import ClusterRig, SentinelRig
from greentic_session.testing.topologies.link import RefusedError

from ..support.acknowledged import Acknowledged
from ..support.redis import until_async

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Sequence
    from types import TracebackType

    from greentic_session.testing.topologies import Node

    from .report import Report

_Rig = TypeVar("_Rig", SentinelRig, ClusterRig)

DEADLINE_SECS: Final = 10.0
HASTY_SECS: Final = 0.25
"""A deadline that passes while a replica lags."""
LOST: Final = 0.02
"""The share of requests with scripts whose reply is lost."""
LOST_IN_LAG: Final = 0.2
BALLAST_BYTES: Final = 24 << 20
"""More than the buffers of a socket at both ends."""
POLLS: Final = 300
"""Looks at the sentinels, a few seconds in all, after which they are told to fail over."""
BATCH: Final = 20
"""Failovers of one set of servers, after which the messages are counted."""


async def with_sentinel(report: Report) -> None:
    """Depose or kill a master that has one replica, by turns."""
    while not report.is_over:
        # The one replica has what it confirmed. Of several, another might be promoted.
        await _run(
            report,
            SentinelRig(
                valkey_binary(),
                replicas=1,
                down_after_ms=500,
                failover_timeout_ms=1000,
                # Where a machine is busy, sentinels may promote a server that has just come back.
                durable=True,
                options=("--appendfsync", "no"),  # enough for a process that is killed
            ),
            _depose_sentinels,
            ("graceful", "kill -9", "kill -9 after a lag"),
        )


async def with_cluster(report: Report) -> None:
    """Depose or kill one of three masters, each of which has a replica, by turns."""
    while not report.is_over:
        ways = ("graceful", "TAKEOVER", "kill -9", "kill -9 after a lag")
        await _run(report, ClusterRig(valkey_binary()), _depose_in_cluster, ways)


async def _depose_sentinels(rig: SentinelRig, lines: Lines, how: str) -> None:
    old = await rig.until_stable()
    if how != "graceful":
        await _kill(rig, old, await rig.replicas(), lines if how.endswith("lag") else None)
    polls = 0 if how == "graceful" else 1

    async def is_over() -> bool:
        nonlocal polls
        if polls % POLLS == 0:
            # A machine that is busy makes sentinels give a failover up, or not find the time.
            with suppress(RefusedError):
                await rig.sentinels[0].ask("SENTINEL", "FAILOVER", rig.NAME)
        polls += 1
        return await _is_deposed(rig, old)

    await until_async(is_over, secs=40)
    new = await rig.master()
    if not old.is_live:
        await rig.restart(old)
    # The sentinels would do so as well, after seconds.
    await old.ask("REPLICAOF", "127.0.0.1", new.port)
    await rig.until_stable()


async def _depose_in_cluster(rig: ClusterRig, lines: Lines, how: str) -> None:
    old = lines.dice.choice(await rig.masters())
    replicas = await rig.replicas_of(old)
    if how.startswith("kill"):
        await _kill(rig, old, replicas, lines if how.endswith("lag") else None)
    # An election would wait for the others to notice. What a replica has does not depend on it.
    await rig.failover(replicas[0], "" if how == "graceful" else "TAKEOVER")
    if not old.is_live:
        await rig.restart(old)
    await rig.until_ok()


async def _kill(
    rig: SentinelRig | ClusterRig, master: Node, replicas: Sequence[Node], lag: Lines | None
) -> None:
    """Kill a master.

    :param lag: if given, replicas miss what the master does in its last moments, in which these
        lines lose many replies.
    """
    if lag is None:
        await rig.kill(master)
        return
    for replica in replicas:
        rig.pause(replica)
    try:
        await _fill_sockets(master)
        lag.is_lagging = True
        await asyncio.sleep(lag.dice.uniform(1, 2) * HASTY_SECS)  # in which calls begin and fail
        await rig.kill(master)
    finally:
        lag.is_lagging = False
        for replica in replicas:
            rig.resume(replica)


async def _fill_sockets(master: Node) -> None:
    """Write so much that what follows dies with the master, and is not in the sockets' buffers."""
    for number in range(100):
        try:
            await master.ask("SET", f"ballast-{number}", bytes(BALLAST_BYTES))
        except RefusedError:
            continue  # another master of the cluster has its slot
        return


async def _is_deposed(rig: SentinelRig, node: Node) -> bool:
    try:
        return await rig.master() is not node
    except RuntimeError:
        return False  # the sentinels do not agree yet


async def _run(
    report: Report,
    rig: _Rig,
    fail_over: Callable[[_Rig, Lines, str], Awaitable[None]],
    ways: Sequence[str],
) -> None:
    dice = report.dice(report.count)
    namespace = f"soak:{uuid4().hex}"
    query = f"?namespace={namespace}&acks=1&deadline="
    async with (
        rig,
        Lines(rig.nodes, dice) as lines,
        create_session_store(f"{rig.url}{query}{DEADLINE_SECS}") as store,
        create_session_store(f"{rig.url}{query}{HASTY_SECS}") as hasty,
    ):
        those = Acknowledged(store, hasty, dice, lambda: lines.is_lagging)
        try:
            async with those.at_work():
                await those.has_worked()
                for _ in range(min(BATCH, report.wanted - report.count)):
                    how = dice.choice(ways)
                    those.stage = f"failover {report.count + 1} ({how})"
                    began_at = time.monotonic()
                    await fail_over(rig, lines, how)
                    report.tally[f"ms of {how}"] += round(1000 * (time.monotonic() - began_at))
                    report.tally[f"times {how}"] += 1
                    those.stage = f"the time after {those.stage}"
                    await those.has_worked()
                    await those.check()
                    report.count += 1
        finally:
            report.losses += those.losses
            report.faults += lines.faults
            report.tally += those.told


class Lines:
    """Proxies between a store and servers, which lose replies to scripts.

    Sentinels and servers talk without proxies, because only their clients are tested.

    :param nodes: the servers.
    :param dice: choose which replies are lost.
    :ivar is_lagging: whether replicas miss what the master does now, and many replies are lost.
    """

    def __init__(self, nodes: Sequence[Node], dice: random.Random) -> None:
        self.dice: Final = dice
        self.is_lagging = False
        self._nodes: Final = nodes
        self._proxies: Final[dict[int, FaultProxy]] = {}
        self._stack: Final = AsyncExitStack()

    @property
    def faults(self) -> int:
        """How many replies were lost."""
        return sum(proxy.faults for proxy in self._proxies.values())

    async def __aenter__(self) -> Self:
        async with self._stack:
            for node in self._nodes:
                proxy = FaultProxy(node.port, self._choose)
                self._proxies[node.port] = await self._stack.enter_async_context(proxy)
            name = "greentic_session.redis.transport.server.new_connection"
            self._stack.enter_context(patch(name, self._new_connection))
            self._open = self._stack.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._open.aclose()

    def _choose(self, request: bytes) -> Fate:
        lost = LOST_IN_LAG if self.is_lagging else LOST
        if b"EVAL" not in request or self.dice.random() >= lost:
            return Fate.PASS
        return self.dice.choice((Fate.LOSE, Fate.CUT))

    def _new_connection(self, config: Any, address: Any, **options: Any) -> Any:
        host, port = address
        return driver.new_connection(config, (host, self._proxies[port].port), **options)
