"""The topology of a Redis or Valkey cluster.

It follows the Redis cluster specification
(https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/). The client keeps a map
of 16384 slots. Each MOVED corrects one slot. After a MOVED or a failure, the client reads the map
again. Reads and writes go to the master of a slot.
"""

from __future__ import annotations

import binascii
import random
from functools import lru_cache
from typing import TYPE_CHECKING, Final, cast, final

from redis.exceptions import ResponseError

from ..._compat import override
from .driver import ask_once
from .failures import UnknownServerError
from .server import Server
from .topology import FAILURES, DiscoveringTopology, first_answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...config import Address, RedisConfig
    from .failures import Failure

__all__ = ["ClusterTopology", "slot_of"]

_SLOTS: Final = 16_384
_ASKED_AT_ONCE: Final = 3

_Shard = tuple[int, int, "Address"]


@lru_cache(maxsize=8192)
def slot_of(name: str) -> int:
    """Return the slot of a key: CRC16 (XMODEM) of its hash tag, or of the whole key without one.

    A hash tag is the text in the first braces, if it is not empty.
    """
    encoded = name.encode()
    start = encoded.find(b"{") + 1
    end = encoded.find(b"}", start) if start else -1
    return binascii.crc_hqx(encoded[start:end] if end > start else encoded, 0) % _SLOTS


@final
class ClusterTopology(DiscoveringTopology):
    """The masters of a cluster.

    :param config: the checked configuration.
    :param seeds: addresses of some servers of the cluster.
    """

    def __init__(self, config: RedisConfig, seeds: Sequence[Address]) -> None:
        super().__init__(config)
        self._seeds: Final = seeds
        self._slots: list[Server | None] = [None] * _SLOTS
        self._servers: dict[Address, Server] = {}

    @override
    def server_of(self, key: str | None) -> Server | None:
        """Return the master of a key's slot."""
        if key is None:
            return next(iter(self._servers.values()), None)
        return self._slots[slot_of(key)]

    @override
    def server_at(self, host: str, port: int, *, reported_by: Server) -> Server:
        """Return the server at an address. An empty host is that of the server that reported it."""
        address = (host or cast("Address", reported_by.address)[0], port)
        server = self._servers.get(address)
        if server is None:
            server = self._new_server(address)
        return server

    @property
    @override
    def servers(self) -> Sequence[Server]:
        """The masters, and the servers that redirections named."""
        return tuple(self._servers.values())

    @override
    def report_failure(self, server: Server, failure: Failure) -> None:
        """As :meth:`Topology.report_failure`. A MOVED reply changes the slot immediately."""
        redirect = failure.redirect
        if redirect is not None and not redirect.is_ask:
            owner = self.server_at(redirect.host, redirect.port, reported_by=server)
            if self._slots[redirect.slot % _SLOTS] is not owner:
                self._slots[redirect.slot % _SLOTS] = owner
                self._version += 1
                # While slots move one by one, each MOVED corrects its own slot. So the map need not
                # be read after each.
                self._discover_soon()
            return
        super().report_failure(server, failure)

    @override
    async def _discover(self) -> bool:
        seen, shards = await self._shards()
        slots: list[Server | None] = [None] * _SLOTS
        masters: set[Server] = set()
        for first, last, (host, port) in shards:
            # A null or unknown host means the server that was asked.
            address = (seen[0] if host in ("", "?") else host, port)
            server = self._servers.get(address)
            if server is None:
                server = self._new_server(address)
            masters.add(server)
            slots[first : last + 1] = [server] * (last + 1 - first)
        changed = slots != self._slots
        self._slots = slots
        gone = [server for server in self._servers.values() if server not in masters]
        if changed or gone:
            for server in gone:
                del self._servers[cast("Address", server.address)]
            # Their replies may still arrive, unless a failure of them caused this discovery.
            self._replace_servers(old=gone, abort=False)
        return changed

    def _new_server(self, address: Address) -> Server:
        self._servers[address] = server = Server(
            self._config, address, on_silence=self._check_silent
        )
        return server

    async def _shards(self) -> tuple[Address, list[_Shard]]:
        """Ask several servers concurrently, and return the first answer with its server."""
        known = sorted(self._servers.values(), key=lambda server: -server.answered_at)
        addresses = [cast("Address", server.address) for server in known]
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
        raise failure or UnknownServerError("no server of the cluster answered")

    async def _ask(self, address: Address) -> tuple[Address, list[_Shard]]:
        secs = self._config.deadline_secs / 4
        try:
            reply = await ask_once(self._config, address, "CLUSTER", "SLOTS", secs=secs)
        except ResponseError as error:
            if "cluster support disabled" in str(error):
                raise UnknownServerError("the server is not part of a cluster") from None
            raise
        try:
            shards: list[_Shard] = [
                (int(first), int(last), ((master[0] or b"").decode(), int(master[1])))
                for first, last, master, *_ in reply
            ]
        except (TypeError, ValueError, IndexError, KeyError, AttributeError):
            raise UnknownServerError(
                "the reply of a server of the cluster cannot be read"
            ) from None
        if not shards:
            raise UnknownServerError("the cluster has no slots assigned")
        if not all(0 <= first <= last < _SLOTS for first, last, _ in shards):
            raise UnknownServerError("a server of the cluster reported an invalid slot")
        return address, shards
