"""Other clients of Redis and Valkey, each imported only for its measurement."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from greentic_session.redis.scripts import UPDATE_CAS

from .by_hand import FIELDS
from .contenders import ByHand

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

__all__ = ["Coredis", "Glide"]


class Glide(ByHand):
    """``valkey-glide``: a client with a core in Rust and one connection for all callers."""

    name = "valkey-glide"
    version_of = "valkey-glide"

    async def connect(self, callers: int) -> None:
        """Connect, as :meth:`ByHand.connect`."""
        import glide  # noqa: PLC0415 - a contender that is not installed is left out

        place = urlsplit(self.url)
        self._script = glide.Script(UPDATE_CAS.source)
        self._client = await glide.GlideClient.create(
            glide.GlideClientConfiguration(
                [glide.NodeAddress(place.hostname or "", place.port or 6379)],
                request_timeout=20_000,
                inflight_requests_limit=max(1000, 2 * callers),
            )
        )

    def evalsha(self, keys: Sequence[str], arguments: Sequence[str | bytes]) -> Awaitable[Any]:
        """Run the script, as :meth:`ByHand.evalsha`."""
        return self._client.invoke_script(self._script, keys=list(keys), args=list(arguments))

    def hmget(self, name: str) -> Awaitable[Any]:
        """Read the fields, as :meth:`ByHand.hmget`."""
        return self._client.hmget(name, list(FIELDS))

    async def aclose(self) -> None:
        """Disconnect, as :meth:`Contender.aclose`."""
        await self._client.close()


class Coredis(ByHand):
    """``coredis``: a client in Python."""

    name = "coredis"
    version_of = "coredis"

    async def connect(self, callers: int) -> None:
        """Connect, as :meth:`ByHand.connect`."""
        import coredis  # noqa: PLC0415 - a contender that is not installed is left out

        place = urlsplit(self.url)
        self._client = coredis.Redis(
            place.hostname, place.port, max_connections=min(64, callers), verify_version=False
        )
        self._ready, self._leave = asyncio.Event(), asyncio.Event()
        self._held = asyncio.create_task(self._hold())
        await self._ready.wait()
        await self._client.script_load(UPDATE_CAS.source)

    async def _hold(self) -> None:
        # The task that entered its context must leave it.
        async with self._client:
            self._ready.set()
            await self._leave.wait()

    def evalsha(self, keys: Sequence[str], arguments: Sequence[str | bytes]) -> Awaitable[Any]:
        """Run the script, as :meth:`ByHand.evalsha`."""
        return self._client.evalsha(UPDATE_CAS.sha1, list(keys), list(arguments))

    def hmget(self, name: str) -> Awaitable[Any]:
        """Read the fields, as :meth:`ByHand.hmget`."""
        return self._client.hmget(name, FIELDS)

    async def aclose(self) -> None:
        """Disconnect, as :meth:`Contender.aclose`."""
        self._leave.set()
        await self._held
