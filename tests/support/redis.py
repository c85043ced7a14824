"""Stores, servers and calls for the tests of server faults and of single scripts."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import uuid4

import msgspec

from greentic_session import (
    Cas,
    OutcomeUnknownError,
    RedisConfig,
    Session,
    SessionCursor,
    SessionError,
    SessionKey,
    SessionMeta,
    StoreUnavailableError,
    TenantCtx,
    create_session_store,
)
from greentic_session.redis.transport.client import RedisClient

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from greentic_session import AsyncSessionStore
    from greentic_session.testing.servers import LocalServer

    Store = AsyncSessionStore[Any]
    Call = Callable[[Store], Awaitable[object]]


T = TypeVar("T")

SEED: Final = int(os.environ.get("GREENTIC_SESSION_TEST_SEED", "20240229"))
CTX: Final = TenantCtx(tenant_id="acme")
KEY: Final = SessionKey("conversation")
NEW_KEY: Final = SessionKey("new")
MADE_UP: Final = Cas(value=1, incarnation="0" * 32)
LONG_SECS: Final = 20.0
SHORT_SECS: Final = 0.4


def session(key: str = KEY, *, ttl_secs: float = 0, **context: Any) -> Session[dict[str, Any]]:
    return Session(
        key=SessionKey(key),
        cursor=SessionCursor(flow_id="flow", node_id="node"),
        meta=SessionMeta.of(CTX),
        context=context,
        ttl_secs=ttl_secs,
    )


def counted(before: Session[dict[str, Any]]) -> Session[dict[str, Any]]:
    context = {**before.context, "count": before.context.get("count", 0) + 1}
    return msgspec.structs.replace(before, context=context)


async def drained(found: AsyncIterator[object]) -> list[object]:
    return [one async for one in found]


READS: Final[dict[str, Call]] = {
    "get": lambda store: store.get(KEY),
    "get of a caller": lambda store: store.get(KEY, ctx=CTX),
    "get_many": lambda store: store.get_many([KEY, NEW_KEY], ctx=CTX),
    "scan": lambda store: drained(store.scan(CTX)),
    "ping": lambda store: store.ping(),
    "scoped get": lambda store: store.scoped(CTX).get(KEY),
    "scoped get_many": lambda store: store.scoped(CTX).get_many([KEY]),
    "scoped scan": lambda store: drained(store.scoped(CTX).scan()),
    # These read before they write, and find nothing to write to.
    "touch": lambda store: store.touch(KEY),
    "delete": lambda store: store.delete(KEY),
    "mutate": lambda store: store.mutate(KEY, counted),
    "scoped mutate": lambda store: store.scoped(CTX).mutate(KEY, counted),
}
WRITES: Final[dict[str, Call]] = {
    "create": lambda store: store.create(session(NEW_KEY)),
    "put": lambda store: store.put(session()),
    "update_cas": lambda store: store.update_cas(session(), MADE_UP),
    "touch of a caller": lambda store: store.touch(KEY, 10, ctx=CTX),
    "delete of a caller": lambda store: store.delete(KEY, ctx=CTX),
    "delete of a token": lambda store: store.delete(KEY, ctx=CTX, expected=MADE_UP),
    "scoped create": lambda store: store.scoped(CTX).create(session(NEW_KEY)),
    "scoped put": lambda store: store.scoped(CTX).put(session()),
    "scoped update_cas": lambda store: store.scoped(CTX).update_cas(session(), MADE_UP),
    "scoped touch": lambda store: store.scoped(CTX).touch(KEY),
    "scoped delete": lambda store: store.scoped(CTX).delete(KEY),
}


def store_at(url: str, *, namespace: str = "", **options: float) -> Store:
    """Return a store with a long deadline and a namespace of its own, unless given otherwise."""
    given = {"deadline": LONG_SECS, **options}
    query = "".join(f"&{name}={value}" for name, value in given.items())
    return create_session_store(f"{url}?namespace={namespace or f'test:{uuid4().hex}'}{query}")


def url_of(server: LocalServer, transport: str) -> str:
    return server.url if transport == "unix" else server.tcp_url


@asynccontextmanager
async def control(server: LocalServer) -> AsyncIterator[RedisClient]:
    """Yield a connection for the test's own commands, opened before any fault."""
    client = RedisClient(RedisConfig.from_url(f"{server.url}?deadline={LONG_SECS}"))
    try:
        await client.read("PING")
        yield client
    finally:
        await client.aclose()


async def snapshot(client: RedisClient, namespace: str) -> dict[bytes, object]:
    """Return everything under a namespace: the bytes, and the expiry on the server."""
    names: list[bytes] = await client.read("KEYS", f"{namespace}:*")
    return {
        name: (await _content(client, name), await client.read("PEXPIRETIME", name))
        for name in names
    }


async def _content(client: RedisClient, name: bytes) -> object:
    if await client.read("TYPE", name) == b"hash":
        # A large hash is dumped in the order of its table, which the server resizes at any time.
        return await client.read("HGETALL", name)
    return await client.read("DUMP", name)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - there is no notification
            await asyncio.sleep(0.002)


async def until_async(condition: Callable[[], Awaitable[bool]], *, secs: float = 10) -> None:
    async with asyncio.timeout(secs):
        while not await condition():  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.005)


async def ended(
    store: Store, calls: dict[str, Call], *, deadline: float | None = None
) -> dict[str, object]:
    """Return the result or error of each call. All calls run concurrently.

    :param deadline: deadline of the calls in seconds. A tenth more is allowed. Pauses of the loop
        that the machine causes are added.
    """
    loop = asyncio.get_running_loop()
    secs: dict[str, float] = {}
    stolen = 0.0
    woken_at = loop.time()

    async def watch() -> None:
        nonlocal stolen, woken_at
        while True:
            woken_at = loop.time()
            await asyncio.sleep(0.005)
            stolen += loop.time() - woken_at - 0.005

    async def one(name: str, call: Call) -> object:
        started_at = loop.time()
        try:
            return await call(store)
        except SessionError as error:  # anything else fails the test as it is
            return error
        finally:
            secs[name] = loop.time() - started_at

    watching = asyncio.create_task(watch())
    try:
        outcomes = await asyncio.gather(*(one(*item) for item in calls.items()))
        if deadline is not None:
            stolen += loop.time() - woken_at
            late = {name: took for name, took in secs.items() if took > 1.1 * deadline + stolen}
            assert not late, f"after {deadline} s, with {stolen} s lost to the machine"
    finally:
        watching.cancel()
    return dict(zip(calls, outcomes, strict=True))


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call whose deadline may be too short on a busy machine."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await call()
            except (StoreUnavailableError, OutcomeUnknownError):
                continue


async def warmed_up(store: Store) -> None:
    """Let the store open several connections."""
    await patiently(lambda: asyncio.gather(*(store.ping() for _ in range(16))))


# --- the server is gone, or does not answer ------------------------------------------------------


@contextmanager
def stopped(server: LocalServer) -> Iterator[None]:
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


# --- the server forgets scripts, refuses, is full ------------------------------------------------


class Crowd:
    """Calls on a few keys. Each call knows the contents of its own reply."""

    def __init__(self, store: Store, dice: random.Random) -> None:
        self._store = store
        self._dice = dice
        self._keys = [SessionKey(f"key-{number}") for number in range(10)]
        self.calls: tuple[Callable[[], Awaitable[object]], ...] = (
            self.get,
            self.get_many,
            self.put,
            self.make_and_remove,
            self.touch,
            self.mutate,
            self.scan,
            store.ping,
        )

    async def arrive(self) -> None:
        for number, key in enumerate(self._keys):
            await self._store.put(session(key, number=number))

    async def get(self) -> None:
        number = self._dice.randrange(len(self._keys))
        found = await self._store.get(self._keys[number], ctx=CTX)
        assert found is not None
        assert found.session.context == {"number": number}

    async def get_many(self) -> None:
        numbers = self._dice.sample(range(len(self._keys)), 3)
        many = await self._store.get_many([self._keys[number] for number in numbers], ctx=CTX)
        assert [found and found.session.context["number"] for found in many] == numbers

    async def put(self) -> None:
        number = self._dice.randrange(len(self._keys))
        await self._store.put(session(self._keys[number], number=number))

    async def make_and_remove(self) -> None:
        await self._store.put(session(NEW_KEY))
        await self._store.delete(NEW_KEY, ctx=CTX)

    async def touch(self) -> None:
        assert await self._store.touch(self._dice.choice(self._keys), 1000, ctx=CTX)

    async def mutate(self) -> None:
        number = self._dice.randrange(len(self._keys))
        found = await self._store.mutate(
            self._keys[number], lambda before: before, ctx=CTX, attempts=100
        )
        assert found.session.context == {"number": number}

    async def scan(self) -> None:
        seen = [found async for found in self._store.scan(CTX, batch_size=3)]
        assert {found.session.key for found in seen} - {NEW_KEY} == set(self._keys)


def next_of(cas: Cas) -> Cas:
    return Cas(value=cas.value + 1, incarnation=cas.incarnation)
