"""The servers of a Redis or Valkey cluster.

After the Redis cluster specification
(https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/): a map of 16384 slots,
corrected by each MOVED and read anew after one, and after a failure. Reads and writes go to the
master of a slot.
"""

from __future__ import annotations

import binascii
import random
from functools import lru_cache
from typing import TYPE_CHECKING, Final, cast, final

from redis.exceptions import ResponseError

from ..._compat import override
from .driver import ask_once
from .failures import UnknownPlaceError
from .server import Node
from .topology import FAILURES, LookingTopology, first_answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...config import Address, RedisConfig
    from .failures import Fault

__all__ = ["ClusterTopology", "slot_of"]

_SLOTS: Final = 16_384
_ASKED_AT_ONCE: Final = 3

_Shard = tuple[int, int, tuple["bytes | None", int]]


@lru_cache(maxsize=8192)
def slot_of(name: str) -> int:
    """Return the slot of a name: CRC16 (XMODEM) of what its first braces hold, or of all of it."""
    encoded = name.encode()
    start = encoded.find(b"{") + 1
    end = encoded.find(b"}", start) if start else -1
    return binascii.crc_hqx(encoded[start:end] if end > start else encoded, 0) % _SLOTS


@final
class ClusterTopology(LookingTopology):
    """The masters of a cluster.

    :param config: checked configuration.
    :param seeds: addresses of some of its servers.
    """

    def __init__(self, config: RedisConfig, seeds: Sequence[Address]) -> None:
        super().__init__(config)
        self._seeds: Final = seeds
        self._slots: list[Node | None] = [None] * _SLOTS
        self._nodes: dict[Address, Node] = {}

    @override
    def node_of(self, key: str | None) -> Node | None:
        """Return the master of a name's slot."""
        if key is None:
            return next(iter(self._nodes.values()), None)
        return self._slots[slot_of(key)]

    @override
    def node_at(self, host: str, port: int, *, told_by: Node) -> Node:
        """Return the server at an address; without a host, at that of the server that told."""
        address = (host or cast("Address", told_by.address)[0], port)
        node = self._nodes.get(address)
        if node is None:
            node = self._new_node(address)
        return node

    @property
    @override
    def nodes(self) -> Sequence[Node]:
        """Masters, and servers that a redirection named."""
        return tuple(self._nodes.values())

    @override
    def blame(self, node: Node, fault: Fault) -> None:
        """As :meth:`Topology.blame`; what MOVED says of a slot holds from now on."""
        redirect = fault.redirect
        if redirect is not None and not redirect.is_ask:
            owner = self.node_at(redirect.host, redirect.port, told_by=node)
            if self._slots[redirect.slot % _SLOTS] is not owner:
                self._slots[redirect.slot % _SLOTS] = owner
                self._version += 1
                # While slots move one by one, each MOVED mends its own, and the map is not read for
                # each of them.
                self._look_soon()
            return
        super().blame(node, fault)

    @override
    async def _look(self) -> bool:
        seen, shards = await self._shards()
        slots: list[Node | None] = [None] * _SLOTS
        masters: set[Node] = set()
        for first, last, (host, port) in shards:
            # Null is "where you asked", and so is a name that the cluster was never told.
            named = host.decode() if host not in (None, b"", b"?") else seen[0]
            address = (named, port)
            node = self._nodes.get(address)
            if node is None:
                node = self._new_node(address)
            masters.add(node)
            slots[first : last + 1] = [node] * (last + 1 - first)
        changed = slots != self._slots
        self._slots = slots
        gone = [node for node in self._nodes.values() if node not in masters]
        if changed or gone:
            for node in gone:
                del self._nodes[cast("Address", node.address)]
            # They may be about to answer, unless they are why the map was read.
            self._replaced(old=gone, abort=False)
        return changed

    def _new_node(self, address: Address) -> Node:
        self._nodes[address] = node = Node(self._config, address, on_silence=self._suspect)
        return node

    async def _shards(self) -> tuple[Address, list[_Shard]]:
        """Ask some servers at once, and take the first answer."""
        known = sorted(self._nodes.values(), key=lambda node: -node.answered_at)
        addresses = [cast("Address", node.address) for node in known]
        others = [address for address in self._seeds if address not in addresses]
        random.shuffle(others)
        candidates = [*addresses, *others]
        failure: BaseException | None = None
        while candidates:
            asked, candidates = candidates[:_ASKED_AT_ONCE], candidates[_ASKED_AT_ONCE:]
            try:
                return await first_answer(self._ask(address) for address in asked)
            except FAILURES as error:
                failure = error
        raise failure or UnknownPlaceError("no server of the cluster answered")

    async def _ask(self, address: Address) -> tuple[Address, list[_Shard]]:
        secs = self._config.deadline_secs / 4
        try:
            reply = await ask_once(self._config, address, "CLUSTER", "SLOTS", secs=secs)
        except ResponseError as error:
            if "cluster support disabled" in str(error):
                raise UnknownPlaceError("the server is no part of a cluster") from None
            raise
        try:
            shards: list[_Shard] = [
                (int(first), int(last), (master[0], int(master[1])))
                for first, last, master, *_ in reply
            ]
        except (TypeError, ValueError, IndexError):
            raise UnknownPlaceError(
                "the answer of a server of the cluster cannot be read"
            ) from None
        if not shards:
            raise UnknownPlaceError("the cluster has no slots assigned")
        if not all(0 <= first <= last < _SLOTS for first, last, _ in shards):
            raise UnknownPlaceError("a server of the cluster tells of slots that there are not")
        return address, shards
