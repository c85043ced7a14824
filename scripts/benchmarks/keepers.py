"""Other libraries for conversation state, each with its save and load.

Each is imported when it is opened, so that one that is not installed is left out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import count
from typing import TYPE_CHECKING, ClassVar, Final

import redis.asyncio

from greentic_session import create_session_store

from .sessions import CTX, STATE, session

if TYPE_CHECKING:
    from .measuring import Operation

__all__ = ["KEEPERS", "Keeper", "NotHereError", "Ours"]

_POOL: Final = 64
_BLIND: Final = "the driver repeats it, perhaps over a newer write"


class NotHereError(Exception):
    """The library is installed but cannot do the job on this server. The message has the reason."""


class Keeper(ABC):
    """A library.

    :cvar name: name in the tables.
    :cvar version_of: its distribution.
    :cvar promises: compare-and-set, expiry, access check by tenant, safety after a lost reply.
    """

    name: ClassVar[str]
    version_of: ClassVar[str]
    promises: ClassVar[tuple[str, str, str, str]]

    @abstractmethod
    async def open(self, url: str | None) -> None:
        """Open memory (``None``) or a server.

        :raises NotHereError: if it cannot.
        """

    @abstractmethod
    async def operation(self, number: int) -> Operation:
        """Return the operation of one caller: save its state and load it."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close."""


def _client(url: str) -> redis.asyncio.Redis:
    pool = redis.asyncio.BlockingConnectionPool.from_url(url, max_connections=_POOL, timeout=None)
    return redis.asyncio.Redis(connection_pool=pool)


class Ours(Keeper):
    """The library itself."""

    name = "greentic_session"
    version_of = "greentic_session"
    promises = ("yes", "yes", "yes", "the call is repeated, and done once")

    async def open(self, url: str | None) -> None:
        """Open it, as :meth:`Keeper.open`."""
        self._store = create_session_store("memory://" if url is None else f"{url}?deadline=20")

    async def operation(self, number: int) -> Operation:
        """Return the operation, as :meth:`Keeper.operation`."""
        mine = session(number)
        cas = await self._store.put(mine)

        async def save_and_load() -> None:
            nonlocal cas
            cas = await self._store.update_cas(mine, cas)
            if await self._store.get(mine.key, ctx=CTX) is None:
                raise RuntimeError("the session is gone")

        return save_and_load

    async def aclose(self) -> None:
        """Close it, as :meth:`Keeper.aclose`."""
        await self._store.aclose()


class Aiogram(Keeper):
    """The state storages of a framework for Telegram bots."""

    name = "aiogram storage"
    version_of = "aiogram"
    promises = ("no, the last writer wins", "on a server", "no", _BLIND)

    async def open(self, url: str | None) -> None:
        """Open it, as :meth:`Keeper.open`."""
        from aiogram.fsm.storage.base import StorageKey  # noqa: PLC0415 - see above
        from aiogram.fsm.storage.memory import MemoryStorage  # noqa: PLC0415
        from aiogram.fsm.storage.redis import RedisStorage  # noqa: PLC0415

        self._key = StorageKey
        self._storage = (
            MemoryStorage() if url is None else RedisStorage(_client(url), data_ttl=3600)
        )

    async def operation(self, number: int) -> Operation:
        """Return the operation, as :meth:`Keeper.operation`."""
        key = self._key(bot_id=7012345678, chat_id=number, user_id=number)
        storage = self._storage

        async def save_and_load() -> None:
            await storage.set_data(key, STATE)
            if not await storage.get_data(key):
                raise RuntimeError("the state is gone")

        return save_and_load

    async def aclose(self) -> None:
        """Close it, as :meth:`Keeper.aclose`."""
        await self._storage.close()


class Starsessions(Keeper):
    """The session stores of a middleware for web applications."""

    name = "starsessions store"
    version_of = "starsessions"
    promises = ("no, the last writer wins", "on a server", "no", _BLIND)

    async def open(self, url: str | None) -> None:
        """Open it, as :meth:`Keeper.open`."""
        from starsessions import InMemoryStore, JsonSerializer  # noqa: PLC0415 - see above
        from starsessions.stores.redis import RedisStore  # noqa: PLC0415

        self._client = None if url is None else _client(url)
        self._serializer = JsonSerializer()
        self._store = InMemoryStore() if url is None else RedisStore(connection=self._client)

    async def operation(self, number: int) -> Operation:
        """Return the operation, as :meth:`Keeper.operation`."""
        store, serializer, name = self._store, self._serializer, f"session-{number}"

        async def save_and_load() -> None:
            await store.write(name, serializer.serialize(STATE), 3600, 3600)
            if not serializer.deserialize(await store.read(name, 3600)):
                raise RuntimeError("the state is gone")

        return save_and_load

    async def aclose(self) -> None:
        """Close it, as :meth:`Keeper.aclose`."""
        if self._client is not None:
            await self._client.aclose(close_connection_pool=True)


class Langgraph(Keeper):
    """The checkpointers of a framework for agents."""

    name = "langgraph checkpointer"
    version_of = "langgraph"
    promises = ("no, each save is a new checkpoint", "on a server", "no", _BLIND)

    async def open(self, url: str | None) -> None:
        """Open it, as :meth:`Keeper.open`."""
        from langgraph.checkpoint.base import empty_checkpoint  # noqa: PLC0415 - see above
        from langgraph.checkpoint.memory import InMemorySaver  # noqa: PLC0415

        self._empty = empty_checkpoint
        self._client = None
        self._threads = count()
        if url is None:
            self._saver = InMemorySaver()
            return
        from langgraph.checkpoint.redis.aio import AsyncRedisSaver  # noqa: PLC0415

        self._client = _client(url)
        self._saver = AsyncRedisSaver(redis_client=self._client)
        try:
            await self._saver.asetup()
        except Exception as error:  # the server's error may be wrapped
            await self.aclose()
            known = "unknown command" in str(error).lower()
            reason = "it needs the modules RediSearch and RedisJSON, which this server lacks"
            raise NotHereError(reason if known else f"{type(error).__name__}: {error}") from error

    async def operation(self, number: int) -> Operation:
        """Return the operation, as :meth:`Keeper.operation`."""
        del number
        saver, empty, versions = self._saver, self._empty, count(1)
        place = {
            "configurable": {"thread_id": f"thread-{next(self._threads)}", "checkpoint_ns": ""}
        }

        async def save_and_load() -> None:
            version = {"state": next(versions)}
            saved = {
                **empty(),
                "channel_values": {"state": STATE},
                "channel_versions": version,
            }
            await saver.aput(place, saved, {"source": "loop", "step": 1, "parents": {}}, version)
            if await saver.aget_tuple(place) is None:
                raise RuntimeError("the state is gone")

        return save_and_load

    async def aclose(self) -> None:
        """Close it, as :meth:`Keeper.aclose`."""
        if self._client is not None:
            await self._client.aclose(close_connection_pool=True)


KEEPERS: Final[tuple[type[Keeper], ...]] = (Ours, Aiogram, Starsessions, Langgraph)
