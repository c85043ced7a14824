"""A Sentinel rig: a master, its replicas, and three sentinels that watch them."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, final

from ..._compat import override
from .link import RefusedError
from .node import Node, Rig, at_once, until

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from .link import Reply

__all__ = ["SentinelRig"]

_SENTINELS: Final = 3
_QUORUM: Final = 2
_STABLE_SECS: Final = 40.0
_MEET_MS: Final = 100
_PUBLISH_MS: Final = 600
"""Announcement period of sentinels after they have met, in milliseconds.

After four periods a sentinel demotes a master that no sentinel has promoted. These periods are
longer than the second after which the promoting sentinel checks the new master.
"""
# The default periods are several seconds, for networks. On loopback they can be short.
_PERIODS: Final = {
    "INFO-PERIOD": 200,
    # A sentinel trusts a replica's reply for five ping periods. Once the master is down, it asks
    # each replica once a second. The period must exceed a fifth of that second, or no replica
    # qualifies for promotion.
    "PING-PERIOD": 250,
    "ASK-PERIOD": 100,
    "PUBLISH-PERIOD": _MEET_MS,
    # A busy machine triggers tilt mode, which would otherwise last 30 s.
    "TILT-PERIOD": 1000,
    "MIN-LINK-RECONNECT-PERIOD": 500,
}
_OPTIONS: Final = (
    # Start replication at once. The default waits 5 s for more replicas.
    *("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"),
    *("--replica-announce-ip", "127.0.0.1", "--repl-ping-replica-period", "1"),
)


@final
class SentinelRig(Rig):
    """One master, ``replicas`` replicas and three sentinels with a quorum of two.

    :param binary: ``valkey-server`` or ``redis-server``. The sentinels run the same binary.
    :param replicas: number of replicas.
    :param down_after_ms: silence in milliseconds after which a sentinel considers a server down.
    :param failover_timeout_ms: failover timeout in milliseconds. After a failed failover the next
        one begins after twice this time.
    :param durable: whether a server that is killed and started again has its writes.
    :param options: further command-line options of master and replicas.
    :ivar sentinels: the sentinels. They can be killed and paused like the nodes.
    """

    NAME: Final = "mymaster"

    def __init__(
        self,
        binary: Path,
        *,
        replicas: int = 2,
        down_after_ms: int = 500,
        failover_timeout_ms: int = 3000,
        durable: bool = False,
        options: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self._down_after_ms: Final = down_after_ms
        self._failover_timeout_ms: Final = failover_timeout_ms
        self.nodes: tuple[Node, ...] = tuple(
            Node(binary, (*_OPTIONS, *options), durable=durable) for _ in range(1 + replicas)
        )
        self.sentinels: Final = tuple(
            Node(binary, ("--sentinel",), config="") for _ in range(_SENTINELS)
        )

    @property
    def url(self) -> str:
        """``redis+sentinel://`` with the addresses of the sentinels, the master's name and db 0."""
        hosts = ",".join(sentinel.address for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{self.NAME}/0"

    async def master(self) -> Node:
        """Return the node that a majority of the live sentinels names as the master.

        :raises RuntimeError: if there is no majority.
        """
        named = await self._named()
        for node in self.nodes:
            if 2 * named.count(node.port) > _SENTINELS:
                return node
        raise RuntimeError(f"no majority of the sentinels on one master: {named}")

    async def replicas(self) -> tuple[Node, ...]:
        """Return the live nodes other than the master.

        :raises RuntimeError: as for :meth:`master`.
        """
        master = await self.master()
        return tuple(node for node in self.live if node is not master)

    async def failover(self) -> Node:
        """Promote a replica while the old master lives (SENTINEL FAILOVER), and wait for the end.

        :return: the new master. The old one is a replica by then.
        :raises RuntimeError: if the failover has not ended within 40 s.
        """
        before = await self.until_stable()
        watching = next(sentinel for sentinel in self.sentinels if sentinel.is_live)

        async def is_over() -> bool:
            if await self._named_by(watching) != before.port:
                return True
            state = _fields(await watching.ask("SENTINEL", "MASTER", self.NAME))
            if "failover_in_progress" not in state["flags"]:
                # The failover has not begun, or it ended because the replica was not ready in time.
                # Both can happen on a busy machine.
                with suppress(RefusedError):  # no replica qualifies yet
                    await watching.ask("SENTINEL", "FAILOVER", self.NAME)
            return False

        await until(is_over, secs=_STABLE_SECS)
        return await self.until_stable(other_than=before)

    async def kill_master(self) -> Node:
        """Kill the master's process with SIGKILL, without waiting for the sentinels.

        :return: the node that was the master.
        :raises RuntimeError: as for :meth:`master`.
        """
        master = await self.master()
        master.kill()
        return master

    async def until_stable(self, *, other_than: Node | None = None) -> Node:
        """Wait until all live sentinels name one live master and all other live nodes follow it.

        :param other_than: a node that must no longer be the master.
        :return: the master.
        :raises RuntimeError: if this is not so within 40 s.
        """
        found: list[Node] = []
        state = ""

        async def is_stable() -> bool:
            nonlocal state
            named = set(await self._named())
            masters = [node for node in self.live if {node.port} == named]
            state = f"the sentinels name {sorted(named)} of {self.nodes}"
            if not masters or masters[0] is other_than:
                return False
            found[:] = masters
            roles = await at_once(self._role(node) for node in self.live)
            ports = [masters[0].port if node is not masters[0] else 0 for node in self.live]
            state = f"following {roles}, expected {ports}"
            return roles == ports and await self._watched(masters[0])

        await until(is_stable, secs=_STABLE_SECS, why=lambda: state)
        return found[0]

    @override
    def _everything(self) -> Iterable[Node]:
        return *self.nodes, *self.sentinels

    @override
    async def _form(self) -> None:
        await super()._form()
        first, *rest = self.nodes
        await at_once(node.ask("REPLICAOF", "127.0.0.1", first.port) for node in rest)
        await at_once(self._watch(sentinel, first) for sentinel in self.sentinels)
        await self.until_stable()
        await at_once(
            sentinel.ask("SENTINEL", "DEBUG", "PUBLISH-PERIOD", _PUBLISH_MS)
            for sentinel in self.sentinels
        )

    async def _watch(self, sentinel: Node, master: Node) -> None:
        for name, ms in _PERIODS.items():
            await sentinel.ask("SENTINEL", "DEBUG", name, ms)
        await sentinel.ask("SENTINEL", "MONITOR", self.NAME, "127.0.0.1", master.port, _QUORUM)
        settings = {
            "down-after-milliseconds": self._down_after_ms,
            "failover-timeout": self._failover_timeout_ms,
            "parallel-syncs": len(self.nodes),
        }
        for name, value in settings.items():
            await sentinel.ask("SENTINEL", "SET", self.NAME, name, value)

    async def _named(self) -> list[int]:
        """Return the port of the master as each live sentinel sees it."""
        live = [sentinel for sentinel in self.sentinels if sentinel.is_live]
        return await at_once(self._named_by(sentinel) for sentinel in live)

    async def _named_by(self, sentinel: Node) -> int:
        address = await sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.NAME)
        return int(address[1])

    async def _role(self, node: Node) -> int:
        """Return the port of the master that a node follows with its link up.

        A master gives 0, and a node without a link -1.
        """
        try:
            role: Reply = await node.ask("ROLE")
        except OSError:
            return -1  # still starting
        if role[0] == b"master":
            return 0
        return int(role[2]) if role[3] == b"connected" else -1

    async def _watched(self, master: Node) -> bool:
        """Return whether every live sentinel sees the other sentinels and every node's role."""
        live = [sentinel for sentinel in self.sentinels if sentinel.is_live]
        followers = {node.port for node in self.live if node is not master}
        for sentinel in live:
            state = _fields(await sentinel.ask("SENTINEL", "MASTER", self.NAME))
            replicas: list[list[bytes]] = await sentinel.ask("SENTINEL", "REPLICAS", self.NAME)
            usable = {
                int(replica["port"])
                for replica in map(_fields, replicas)
                if replica["flags"] == "slave" and replica["master-link-status"] == "ok"
            }
            if (
                state["flags"] != "master"
                or int(state["num-other-sentinels"]) != _SENTINELS - 1
                or not followers <= usable
            ):
                return False
        return True


def _fields(reply: list[bytes]) -> dict[str, str]:
    words = [word.decode() for word in reply]
    return dict(zip(words[::2], words[1::2], strict=True))
