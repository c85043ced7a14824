"""The Redis store on ``redis.asyncio``'s own pool, instead of on the connections it shares.

Everything else stays as it is, so what differs is the client alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest import mock

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from greentic_session import create_session_store
from greentic_session.redis import scripts
from greentic_session.redis.transport.script import Script

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greentic_session import AsyncSessionStore, RedisConfig

__all__ = ["pooled_store"]

_POOL = 64


class PooledClient:
    """Has the methods of the store's client, and hands each command to the driver.

    Neither repeats nor gives up: it is there to be measured.
    """

    in_flight = 0
    connections = 0
    retries = 0

    def __init__(self, config: RedisConfig) -> None:
        pool = redis.asyncio.BlockingConnectionPool(
            host=config.host,
            port=config.port,
            max_connections=_POOL,
            timeout=None,
            retry=Retry(NoBackoff(), 0),
            protocol=3,
        )
        self._client = redis.asyncio.Redis(connection_pool=pool)
        self._operation = 0

    def deadline(self) -> float:
        """Return a deadline, which nobody looks at."""
        return 0.0

    async def read(
        self,
        *command: Any,
        key: str | None = None,
        until: float | None = None,
        is_large: bool = False,
    ) -> Any:
        """As the store's client."""
        del key, until, is_large
        return await self._client.execute_command(*command)

    async def read_many(
        self,
        commands: Sequence[tuple[Any, ...]],
        *,
        key: str | None = None,
        until: float | None = None,
        is_large: bool = False,
    ) -> list[Any]:
        """As the store's client."""
        del key, until, is_large
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute()

    read_each = read_many

    async def run(
        self,
        script: Script,
        keys: Sequence[str],
        arguments: Sequence[Any],
        *,
        until: float | None = None,
        skips_acks: bool = False,
        grants: str = "",
        ends: str = "",
    ) -> Any:
        """As the store's client."""
        del until, skips_acks, grants, ends
        self._operation += 1
        operation = f"{self._operation:016x}"
        given = (*keys, operation, "", *arguments)
        return await self._client.evalsha(script.sha1, len(keys), *given)

    async def aclose(self) -> None:
        """As the store's client."""
        await self._client.aclose(close_connection_pool=True)

    async def load(self) -> None:
        """Make every script known to the server."""
        for name in scripts.__all__:
            script = getattr(scripts, name)
            if isinstance(script, Script):
                await self._client.script_load(script.source)


async def pooled_store(url: str) -> AsyncSessionStore:
    """Return the store."""
    made: list[PooledClient] = []

    def make(config: RedisConfig, _host: object = None) -> PooledClient:
        made.append(PooledClient(config))
        return made[-1]

    with mock.patch("greentic_session.redis.store.RedisClient", make):
        store = create_session_store(url)
    await made[0].load()
    return store
