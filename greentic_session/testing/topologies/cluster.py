"""Three masters that share the slots, and a replica of each."""

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
    """A node of the cluster as another one sees it.

    :ivar node_id: of the cluster's making.
    :ivar port: TCP port.
    :ivar flags: ``master``, ``slave``, ``fail`` and so on.
    :ivar follows: node id of its master, empty of a master.
    :ivar is_linked: whether the bus between the two is up.
    :ivar slots: ranges of slots that it owns, as ``first-last``; not those on the move.
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
    :param replicas: replicas of each master.
    :param node_timeout_ms: silence in milliseconds after which a node is taken for dead.
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
            # A replica may take over however long ago it heard of its master, and stays with it.
            *("--cluster-replica-validity-factor", "0"),
            *("--cluster-allow-replica-migration", "no"),
            # Replicas are made at once, not after 5 s in which others may join them.
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
        """As :func:`slot_of`."""
        return slot_of(name)

    async def masters(self) -> tuple[Node, ...]:
        """Return the live nodes that own slots, by the word of the first live node.

        :raises RuntimeError: if no node is live.
        """
        members = await self._members(self._anyone())
        ports = {member.port for member in members if member.slots}
        return tuple(node for node in self.live if node.port in ports)

    async def master_of(self, slot: int) -> Node:
        """Return the node that owns a slot, by the word of the first live node.

        :raises RuntimeError: if none does, or no node is live.
        """
        for member in await self._members(self._anyone()):
            if member.owns(slot):
                return self._at(member.port)
        raise RuntimeError(f"nobody owns slot {slot}")

    async def replicas_of(self, master: Node) -> tuple[Node, ...]:
        """Return the live replicas of a master, which may be dead.

        :raises RuntimeError: if no node is live.
        """
        members = await self._members(self._anyone())
        ports = {member.port for member in members if member.follows == self._ids[master]}
        return tuple(node for node in self.live if node.port in ports)

    async def failover(self, replica: Node, how: Literal["", "FORCE", "TAKEOVER"] = "") -> None:
        """Make a replica the master of its slots, and wait until it is (CLUSTER FAILOVER).

        :param how: nothing agrees with the master first; FORCE does without the master; TAKEOVER
            without anybody.
        :raises RefusedError: if the node is no replica.
        :raises RuntimeError: if it has not come to that within 40 s.
        """
        first = True

        async def is_master() -> bool:
            nonlocal first
            if first or (await replica.ask("ROLE"))[0] != b"master":
                # An attempt that the others did not vote for in time ends silently.
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
        """Move a slot to another master while the cluster serves it, key by key.

        :param to: a master.
        :param between: called after each step, e.g. to write meanwhile.
        :return: how many keys moved by command.
        :raises RefusedError: if a node refuses a step.
        """
        masters = await self.masters()
        source = await self.master_of(slot)
        return await move_slot(slot, source, to, masters=masters, ids=self._ids, between=between)

    async def move_slot_atomically(self, slot: int, to: Node) -> None:
        """Move a slot to another master in one step (CLUSTER MIGRATESLOTS), and wait until it is.

        :param to: a master.
        :raises RefusedError: if the server does not know the command; Valkey 9 does.
        :raises RuntimeError: if the move fails, or has not ended within 40 s.
        """
        await move_slot_atomically(slot, await self.master_of(slot), to, self._ids[to])

    async def until_ok(self) -> None:
        """Wait until the cluster is whole, by the word of every live node.

        Every slot has a live owner, the same for all; live nodes see one another; live replicas
        follow a live master with their link up.

        :raises RuntimeError: if it has not come to that within 40 s.
        """
        state = "nobody was asked"

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
        # Everybody meets everybody, which is quicker than to wait until they have gossiped.
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
