"""A cluster rig: three masters that share the slots, and replicas of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple, final

from ..._compat import override
from .link import RefusedError
from .moving import Step, move_slot, move_slot_atomically
from .node import Node, Rig, at_once, until
from .slots import SLOTS, slot_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

__all__ = ["ClusterRig", "Member"]

_MASTERS: Final = 3
_OK_SECS: Final = 40.0


class Member(NamedTuple):
    """A node of the cluster as another node sees it.

    :ivar node_id: id that the cluster gave it.
    :ivar port: TCP port.
    :ivar flags: ``master``, ``slave``, ``fail`` and so on.
    :ivar follows: node id of its master. Empty for a master.
    :ivar is_linked: whether the bus between the two is up.
    :ivar slots: ranges of the slots that it owns, as ``first-last``, without slots in migration.
    """

    node_id: str
    port: int
    flags: frozenset[str]
    follows: str
    is_linked: bool
    slots: tuple[str, ...]

    def owns(self, slot: int) -> bool:
        """Return whether it owns a slot."""
        ends = ([int(end) for end in span.split("-")] for span in self.slots)
        return any(span[0] <= slot <= span[-1] for span in ends)


@final
class ClusterRig(Rig):
    """A cluster of three masters and ``replicas`` replicas of each.

    :param binary: ``valkey-server`` or ``redis-server``.
    :param replicas: number of replicas of each master.
    :param node_timeout_ms: silence in milliseconds after which a node counts as failed.
    :param durable: whether a server that is killed and started again has its writes.
    :param options: further command-line options.
    """

    def __init__(
        self,
        binary: Path,
        *,
        replicas: int = 1,
        node_timeout_ms: int = 1000,
        durable: bool = False,
        options: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        given = (
            *("--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1"),
            *("--cluster-node-timeout", str(node_timeout_ms)),
            # A replica may take over however old its data is, and never changes its master.
            *("--cluster-replica-validity-factor", "0"),
            *("--cluster-allow-replica-migration", "no"),
            # Start replication at once. The default waits 5 s for more replicas.
            *("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"),
            *options,
        )
        count = _MASTERS * (1 + replicas)
        self.nodes: tuple[Node, ...] = tuple(
            Node(binary, given, durable=durable) for _ in range(count)
        )
        self._ids: dict[Node, str] = {}

    @property
    def url(self) -> str:
        """``redis+cluster://`` with the addresses of all nodes."""
        return f"redis+cluster://{','.join(node.address for node in self.nodes)}"

    @staticmethod
    def slot_of(name: str | bytes) -> int:
        """Return the slot of a name, as :func:`slot_of`."""
        return slot_of(name)

    async def masters(self) -> tuple[Node, ...]:
        """Return the live nodes that own slots, as the first live node sees them.

        :raises RuntimeError: if no node is live.
        """
        members = await self._members(self._anyone())
        ports = {member.port for member in members if member.slots}
        return tuple(node for node in self.live if node.port in ports)

    async def master_of(self, slot: int) -> Node:
        """Return the node that owns a slot, as the first live node sees it.

        :raises RuntimeError: if no node owns the slot, or no node is live.
        """
        for member in await self._members(self._anyone()):
            if member.owns(slot):
                return self._at(member.port)
        raise RuntimeError(f"no node owns slot {slot}")

    async def replicas_of(self, master: Node) -> tuple[Node, ...]:
        """Return the live replicas of a master, which itself may be down.

        :raises RuntimeError: if no node is live.
        """
        members = await self._members(self._anyone())
        ports = {member.port for member in members if member.follows == self._ids[master]}
        return tuple(node for node in self.live if node.port in ports)

    async def failover(self, replica: Node, how: Literal["", "FORCE", "TAKEOVER"] = "") -> None:
        """Promote a replica and wait until it is the master of its slots (CLUSTER FAILOVER).

        :param how: an empty value agrees with the master first. FORCE works without the master, and
            TAKEOVER without any other node.
        :raises RefusedError: if the node is no replica.
        :raises RuntimeError: if the replica is not the master within 40 s.
        """
        first = True

        async def is_master() -> bool:
            nonlocal first
            if first or (await replica.ask("ROLE"))[0] != b"master":
                # An attempt without enough votes in time ends silently.
                try:
                    await replica.ask("CLUSTER", "FAILOVER", *([how] if how else []))
                except RefusedError:
                    if first:
                        raise
                first = False
            return bool((await replica.ask("ROLE"))[0] == b"master")

        await until(is_master, secs=_OK_SECS)

    async def move_slot(
        self,
        slot: int,
        to: Node,
        between: Callable[[Step], Awaitable[None]] | None = None,
    ) -> int:
        """Move a slot to another master key by key, while the cluster serves it.

        :param to: a master.
        :param between: callback after each step, e.g. to write meanwhile.
        :return: number of keys moved by command.
        :raises RefusedError: if a node refuses a step.
        """
        masters = await self.masters()
        source = await self.master_of(slot)
        return await move_slot(slot, source, to, masters=masters, ids=self._ids, between=between)

    async def move_slot_atomically(self, slot: int, to: Node) -> None:
        """Move a slot in one step (CLUSTER MIGRATESLOTS), and wait for the end of the move.

        :param to: a master.
        :raises RefusedError: if the server does not support the command. Valkey 9 does.
        :raises RuntimeError: if the move fails, or has not ended within 40 s.
        """
        await move_slot_atomically(slot, await self.master_of(slot), to, self._ids[to])

    async def until_ok(self) -> None:
        """Wait until every live node sees a whole cluster.

        Every slot has a live owner, the same for all. Live nodes see one another. Live replicas
        follow a live master with their link up.

        :raises RuntimeError: if this is not so within 40 s.
        """
        state = "no node has replied"

        async def is_ok() -> bool:
            nonlocal state
            live = self.live
            views = await at_once(self._members(node) for node in live)
            infos = await at_once(node.info("replication") for node in live)
            states = await at_once(node.ask("CLUSTER", "INFO") for node in live)
            state = f"{[told.split()[0] for told in states]} {views} {infos}"
            ports = {node.port for node in live}
            return (
                all(told.startswith(b"cluster_state:ok") for told in states)
                and all(_is_whole(view, ports, len(self.nodes)) for view in views)
                and len({_owners(view) for view in views}) == 1
                and all(_follows(info, ports) for info in infos)
            )

        await until(is_ok, secs=_OK_SECS, why=lambda: state)

    @override
    async def _form(self) -> None:
        await super()._form()
        masters, replicas = self.nodes[:_MASTERS], self.nodes[_MASTERS:]
        for index, master in enumerate(masters):
            first, last = SLOTS * index // _MASTERS, SLOTS * (index + 1) // _MASTERS - 1
            await master.ask("CLUSTER", "ADDSLOTSRANGE", first, last)
        for epoch, node in enumerate(self.nodes, 1):
            await node.ask("CLUSTER", "SET-CONFIG-EPOCH", epoch)
            self._ids[node] = (await node.ask("CLUSTER", "MYID")).decode()
        # Introduce all nodes to one another, which is faster than to wait for gossip.
        for index, node in enumerate(self.nodes):
            for other in self.nodes[index + 1 :]:
                await node.ask("CLUSTER", "MEET", "127.0.0.1", other.port)
        await until(self._everybody_met, secs=_OK_SECS)
        await at_once(
            replica.ask("CLUSTER", "REPLICATE", self._ids[masters[index % _MASTERS]])
            for index, replica in enumerate(replicas)
        )
        await self.until_ok()

    async def _everybody_met(self) -> bool:
        views = await at_once(self._members(node) for node in self.nodes)
        ids = set(self._ids.values())
        return all({member.node_id for member in view} == ids for view in views)

    async def _members(self, node: Node) -> tuple[Member, ...]:
        text: bytes = await node.ask("CLUSTER", "NODES")
        return tuple(_member(line.split()) for line in text.decode().splitlines())

    def _anyone(self) -> Node:
        if not self.live:
            raise RuntimeError("no node of the cluster is live")
        return self.live[0]

    def _at(self, port: int) -> Node:
        return next(node for node in self.nodes if node.port == port)


def _member(words: list[str]) -> Member:
    node_id, address, flags, follows, _pinged, _ponged, _epoch, link, *slots = words
    port = int(address.partition("@")[0].rpartition(":")[2])
    owned = tuple(sorted(span for span in slots if not span.startswith("[")))
    master = "" if follows == "-" else follows
    return Member(node_id, port, frozenset(flags.split(",")), master, link == "connected", owned)


def _is_whole(view: tuple[Member, ...], live: set[int], count: int) -> bool:
    return len(view) == count and all(
        member.is_linked and not member.flags & {"fail", "fail?", "handshake", "noaddr"}
        if member.port in live
        else not member.slots
        for member in view
    )


def _owners(view: tuple[Member, ...]) -> frozenset[tuple[str, tuple[str, ...], str]]:
    return frozenset((member.node_id, member.slots, member.follows) for member in view)


def _follows(info: dict[str, str], live: set[int]) -> bool:
    if info["role"] == "master":
        return True
    return info["master_link_status"] == "up" and int(info["master_port"]) in live
