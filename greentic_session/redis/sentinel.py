"""The master that Redis Sentinel names.

After "Guidelines for Redis clients with support for Redis Sentinel"
(https://redis.io/docs/latest/develop/reference/sentinel-clients/): any sentinel that answers is
asked, and the server it names is asked for its role on each new connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from redis.exceptions import NoPermissionError

from .._compat import override
from .connecting import ask, ask_once
from .faults import UnknownPlaceError
from .node import Node
from .topology import FAILURES, LookingTopology

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio.connection import AbstractConnection

    from ..config import Address, RedisConfig, SentinelConfig

__all__ = ["SentinelTopology"]

_ASK_SECS: Final = 0.5
"""For one sentinel's answer, before the next is asked beside it."""


@final
class SentinelTopology(LookingTopology):
    """One server at a time, by the word of its sentinels.

    :param config: checked configuration.
    :param sentinel: the part of it that names the sentinels.
    """

    def __init__(self, config: RedisConfig, sentinel: SentinelConfig) -> None:
        super().__init__(config)
        self._sentinel: Final = sentinel
        self._addresses = list(sentinel.addresses)
        self._node: Node | None = None

    @override
    def node_of(self, key: str | None) -> Node | None:
        """Return the master, as far as known."""
        return self._node

    @override
    def node_at(self, host: str, port: int, *, told_by: Node) -> Node:
        """Return the server that told: behind Sentinel there is no cluster."""
        return told_by

    @property
    @override
    def nodes(self) -> Sequence[Node]:
        """The master, as far as known."""
        return () if self._node is None else (self._node,)

    @override
    async def _look(self) -> bool:
        address = await self._master_address()
        old = self._node
        if old is not None and old.address == address:
            return False
        self._node = Node(self._config, address, _require_master, self._suspect)
        # What was under way at the old one is told so, and repeated at the new one.
        self._replaced(old=() if old is None else (old,), abort=True)
        return True

    async def _master_address(self) -> Address:
        failure: BaseException | None = None
        for address in [*self._addresses]:
            try:
                found: list[bytes] | None = await ask_once(
                    self._config,
                    address,
                    "SENTINEL",
                    "GET-MASTER-ADDR-BY-NAME",
                    self._sentinel.master_name,
                    secs=min(_ASK_SECS, self._config.deadline_secs / 4),
                    of=self._sentinel,
                )
            except FAILURES as error:
                failure = error
                continue
            if found is None:
                failure = UnknownPlaceError("the sentinels know no master of that name")
                continue
            # Who answered is asked first the next time.
            self._addresses.remove(address)
            self._addresses.insert(0, address)
            try:
                host, port = found
                return host.decode(), int(port)
            except (TypeError, ValueError):
                failure = UnknownPlaceError("a sentinel's answer cannot be read")
        raise failure or UnknownPlaceError("no sentinel answered")


async def _require_master(connection: AbstractConnection) -> None:
    try:
        role, *_ = await ask(connection, "ROLE")
    except NoPermissionError:
        return  # a replica refuses writes, and is left then
    if role != b"master":
        raise UnknownPlaceError("the server that the sentinels name is no master yet")
