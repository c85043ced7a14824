"""The contenders: this library, and the same script sent by hand through other clients.

By hand means the work of an application without the library: encode the session with msgspec, send
the library's own Lua script (or HMGET), decode the reply. The server does the same work for all
contenders, so only the clients differ.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, Final

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from greentic_session import create_session_store
from greentic_session._core.verbs.base import services_of
from greentic_session.codec import JsonCodec, SessionBody
from greentic_session.redis.key_names import KeyNames
from greentic_session.redis.scripts import UPDATE_CAS

from .by_hand import FIELDS, is_done, update_arguments
from .sessions import CTX, session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from greentic_session import AsyncSessionStore, Cas, Session

    from .measuring import Operation

__all__ = ["ByHand", "Contender", "Ours", "PerTick", "PlainPool"]

_NAMESPACES: Final = count()


class Contender(ABC):
    """A client that stores sessions on the server.

    :param url: URL of the server's port, the same for all.
    :cvar name: name in the tables.
    :cvar version_of: the distribution whose version belongs to the figures.
    """

    name: ClassVar[str]
    version_of: ClassVar[str]

    def __init__(self, url: str) -> None:
        self.url: Final = url
        self.namespace: Final = f"bench:{next(_NAMESPACES)}"  # no shared sessions
        self.runner: Final = self._runner()

    def _runner(self) -> asyncio.Runner:
        return asyncio.Runner()

    @abstractmethod
    async def open(self, callers: int) -> None:
        """Connect in the best way for this number of callers, and store a session for each."""

    @abstractmethod
    def operation(self, verb: str, number: int) -> Operation:
        """Return the operation of one caller: ``get`` or ``update_cas`` of a session of its own."""

    @abstractmethod
    async def aclose(self) -> None:
        """Disconnect."""

    def store(self) -> AsyncSessionStore:
        """Return a store of this library in the contender's namespace."""
        return create_session_store(f"{self.url}?namespace={self.namespace}&deadline=20")


async def stored(store: AsyncSessionStore, callers: int) -> list[tuple[Session, Cas]]:
    """Store a session for each caller, and return each as it is read."""
    sessions = [session(number) for number in range(callers)]
    await asyncio.gather(*map(store.put, sessions))
    found = await store.get_many([each.key for each in sessions], ctx=CTX)
    return [(each.session, each.cas) for each in found if each is not None]


class Ours(Contender):
    """The library itself."""

    name = "greentic_session"
    version_of = "greentic_session"

    async def open(self, callers: int) -> None:
        """Connect, as :meth:`Contender.open`."""
        self._store: AsyncSessionStore = self.store()
        self._sessions = await stored(self._store, callers)

    def operation(self, verb: str, number: int) -> Operation:
        """Return the operation, as :meth:`Contender.operation`."""
        store = self._store
        mine, cas = self._sessions[number]
        key = mine.key

        async def get() -> None:
            if await store.get(key, ctx=CTX) is None:
                raise RuntimeError("the session is gone")

        async def update_cas() -> None:
            nonlocal cas
            cas = await store.update_cas(mine, cas)
            self._sessions[number] = mine, cas

        return get if verb == "get" else update_cas

    async def aclose(self) -> None:
        """Disconnect, as :meth:`Contender.aclose`."""
        await self._store.aclose()


class OursOnUvloop(Ours):
    """The library on uvloop."""

    name = "greentic_session on uvloop"
    version_of = "uvloop"

    def _runner(self) -> asyncio.Runner:
        import uvloop  # noqa: PLC0415 - a contender that is not installed is left out

        return asyncio.Runner(loop_factory=uvloop.new_event_loop)


class ByHand(Contender):
    """The library's own script and commands, sent through another client."""

    async def open(self, callers: int) -> None:
        """Connect, as :meth:`Contender.open`."""
        async with self.store() as store:
            self._sessions = await stored(store, callers)
            self._drafts = [services_of(store).encoder.encode(each) for each, _ in self._sessions]
        self._versions = [cas.value for _, cas in self._sessions]
        self._names = KeyNames(self.namespace)
        self._operations = count(1)
        await self.connect(callers)

    @abstractmethod
    async def connect(self, callers: int) -> None:
        """Connect, and load the script if the client requires it."""

    @abstractmethod
    def evalsha(self, keys: Sequence[str], arguments: Sequence[str | bytes]) -> Awaitable[Any]:
        """Run the script UPDATE_CAS."""

    @abstractmethod
    def hmget(self, name: str) -> Awaitable[Any]:
        """Read :data:`FIELDS` of a hash."""

    def operation(self, verb: str, number: int) -> Operation:
        """Return the operation, as :meth:`Contender.operation`."""
        mine, cas = self._sessions[number]
        encoded = self._drafts[number]
        codec = JsonCodec(dict)
        body = SessionBody(cursor=mine.cursor, meta=mine.meta, context=mine.context)
        keys = self._names.session_keys(encoded.scope, encoded.key)
        evalsha, hmget, operations = self.evalsha, self.hmget, self._operations

        async def get() -> None:
            fields = await hmget(keys[0])
            codec.decode(fields[5])

        async def update_cas() -> None:
            version = self._versions[number]
            reply = await evalsha(
                keys,
                update_arguments(
                    f"{next(operations):016x}",
                    encoded,
                    codec.encode(body),
                    cas.incarnation,
                    version,
                ),
            )
            if not is_done(reply):
                raise RuntimeError(f"the script refused: {reply}")
            self._versions[number] = version + 1

        return get if verb == "get" else update_cas


class PlainPool(ByHand):
    """``redis.asyncio`` with a connection pool.

    :param size: maximum number of connections. Further callers wait for one.
    """

    name = "redis.asyncio"
    version_of = "redis"

    def __init__(self, url: str, size: int) -> None:
        super().__init__(url)
        self._size: Final = size

    async def connect(self, callers: int) -> None:
        """Connect, as :meth:`ByHand.connect`."""
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            self.url,
            max_connections=min(self._size, callers),
            timeout=None,
            retry=Retry(NoBackoff(), 0),
            protocol=3,
        )
        self.client = redis.asyncio.Redis(connection_pool=pool)
        await self.client.script_load(UPDATE_CAS.source)

    def evalsha(self, keys: Sequence[str], arguments: Sequence[str | bytes]) -> Awaitable[Any]:
        """Run the script, as :meth:`ByHand.evalsha`."""
        return self.client.evalsha(UPDATE_CAS.sha1, len(keys), *keys, *arguments)

    def hmget(self, name: str) -> Awaitable[Any]:
        """Read the fields, as :meth:`ByHand.hmget`."""
        return self.client.hmget(name, FIELDS)

    async def aclose(self) -> None:
        """Disconnect, as :meth:`Contender.aclose`."""
        await self.client.aclose(close_connection_pool=True)


class PerTick(PlainPool):
    """``redis.asyncio`` with the commands of one loop tick in a ``Pipeline``, by hand."""

    name = "redis.asyncio, a Pipeline per tick"

    def __init__(self, url: str) -> None:
        super().__init__(url, 4)

    async def connect(self, callers: int) -> None:
        """Connect, as :meth:`ByHand.connect`."""
        await super().connect(callers)
        self._gathered: list[tuple[asyncio.Future[Any], tuple[Any, ...]]] = []
        self._leaving: set[asyncio.Task[None]] = set()

    def evalsha(self, keys: Sequence[str], arguments: Sequence[str | bytes]) -> Awaitable[Any]:
        """Run the script, as :meth:`ByHand.evalsha`."""
        return self._later("EVALSHA", UPDATE_CAS.sha1, len(keys), *keys, *arguments)

    def hmget(self, name: str) -> Awaitable[Any]:
        """Read the fields, as :meth:`ByHand.hmget`."""
        return self._later("HMGET", name, *FIELDS)

    def _later(self, *command: Any) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        if not self._gathered:
            loop.call_soon(self._leave)
        future: asyncio.Future[Any] = loop.create_future()
        self._gathered.append((future, command))
        return future

    def _leave(self) -> None:
        gathered, self._gathered = self._gathered, []
        task = asyncio.get_running_loop().create_task(self._send(gathered))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _send(self, gathered: list[tuple[asyncio.Future[Any], tuple[Any, ...]]]) -> None:
        pipeline = self.client.pipeline(transaction=False)
        for _, command in gathered:
            pipeline.execute_command(*command)
        for (future, _), reply in zip(gathered, await pipeline.execute(), strict=True):
            future.set_result(reply)


def opened(make: Callable[[], Contender], callers: int) -> Contender:
    """Return a connected contender with stored sessions.

    :raises ImportError: if a distribution that it needs is not installed.
    """
    contender = make()
    contender.runner.run(contender.open(callers))
    return contender


def closed(contender: Contender) -> None:
    """Disconnect a contender and end its loop."""
    try:
        contender.runner.run(contender.aclose())
    finally:
        contender.runner.close()
