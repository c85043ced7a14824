"""The Redis store on ``redis.asyncio``'s own pool, instead of its shared connections.

Everything else is the same, so the comparison is of the clients alone.
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
    """Has the methods of the store's client, and passes each command to the driver.

    It neither retries nor times out, because it is only for measurements.
    """

    confirms = False
    confirms_apart = False
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
        """Return a deadline, which has no effect here."""
        return 0.0

    async def read(
        self,
        *command: Any,
        key: str | None = None,
        until: float | None = None,
        is_large: bool = False,
    ) -> Any:
        """Read one record, as the store's client does."""
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
        """Read records, as the store's client does."""
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
        """Run a script, as the store's client does."""
        del until, skips_acks, grants, ends
        self._operation += 1
        operation = f"{self._operation:016x}"
        given = (*keys, operation, "", *arguments)
        return await self._client.evalsha(script.sha1, len(keys), *given)

    async def aclose(self) -> None:
        """Close the pool, as the store's client does."""
        await self._client.aclose(close_connection_pool=True)

    async def load(self) -> None:
        """Load every script into the server."""
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
