"""The topology of a master that Redis Sentinel names.

After "Guidelines for Redis clients with support for Redis Sentinel"
(https://redis.io/docs/latest/develop/reference/sentinel-clients/): any sentinel that answers is
asked, and the server it names is asked for its role on each new connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from ..._compat import override
from .driver import ask, ask_once
from .failures import UnknownServerError
from .server import Server
from .topology import DiscoveringTopology, first_answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio.connection import AbstractConnection

    from ...config import Address, RedisConfig, SentinelConfig

__all__ = ["SentinelTopology"]


@final
class SentinelTopology(DiscoveringTopology):
    """One server at a time, by the word of its sentinels.

    :param config: checked configuration.
    :param sentinel: the part of it that names the sentinels.
    """

    def __init__(self, config: RedisConfig, sentinel: SentinelConfig) -> None:
        super().__init__(config)
        self._sentinel: Final = sentinel
        self._server: Server | None = None

    @override
    def server_of(self, key: str | None) -> Server | None:
        """Return the master, as far as known."""
        return self._server

    @override
    def server_at(self, host: str, port: int, *, reported_by: Server) -> Server:
        """Return the server that told: behind Sentinel there is no cluster."""
        return reported_by

    @property
    @override
    def servers(self) -> Sequence[Server]:
        """The master, as far as known."""
        return () if self._server is None else (self._server,)

    @override
    async def _discover(self) -> bool:
        address = await self._master_address()
        old = self._server
        if old is not None and old.address == address:
            return False
        self._server = Server(self._config, address, _require_master, self._check_silent)
        # What was under way at the old one is told so, and repeated at the new one.
        self._replace_servers(old=() if old is None else (old,), abort=True)
        return True

    async def _master_address(self) -> Address:
        """Ask all sentinels at once: one that hangs shall cost nobody time."""
        return await first_answer(self._ask(address) for address in self._sentinel.addresses)

    async def _ask(self, sentinel: Address) -> Address:
        try:
            found: list[bytes] | None = await ask_once(
                self._config,
                sentinel,
                "SENTINEL",
                "GET-MASTER-ADDR-BY-NAME",
                self._sentinel.master_name,
                secs=self._config.deadline_secs / 4,
                of=self._sentinel,
            )
        except (NoPermissionError, AuthenticationError):
            raise
        except ResponseError:
            raise UnknownServerError("a sentinel refused to name the master") from None
        if found is None:
            raise UnknownServerError("the sentinels know no master of that name")
        try:
            host, port = found
            return host.decode(), int(port)
        except (TypeError, ValueError, AttributeError):
            raise UnknownServerError("a sentinel's answer cannot be read") from None


async def _require_master(connection: AbstractConnection) -> None:
    try:
        role, *_ = await ask(connection, "ROLE")
    except NoPermissionError:
        return  # a replica refuses writes, and is left then
    except (TypeError, ValueError):
        raise UnknownServerError("the server's answer to a greeting cannot be read") from None
    if role != b"master":
        raise UnknownServerError("the server that the sentinels name is no master yet")
