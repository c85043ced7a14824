"""Tests of large requests and replies: the delays that they may cause, and their batches."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest

from greentic_session import Cas, SessionKey, StoreUnavailableError, create_session_store
from greentic_session._core.loop_gate import LoopGate
from greentic_session.codec import JsonCodec
from greentic_session.redis.transport import server as server_module
from greentic_session.redis.transport.client import RedisClient
from greentic_session.redis.transport.script import Script

from ..support.redis import CTX, KEY, counted, drained, session, store_at, until
from .test_connections import Server, client_of, echoed, patient

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from greentic_session.testing.servers import LocalServer

__all__ = ["patient"]  # a fixture

pytestmark = pytest.mark.anyio
valkey = pytest.mark.parametrize("server", ["valkey"], indirect=True)

LARGE: Final = "x" * 200_000
PATIENCE_SECS: Final = 20.0
TIME_REPLY: Final = b"*2\r\n$1\r\n1\r\n$1\r\n1\r\n"


@pytest.mark.usefixtures("patient")
async def test_a_small_request_does_not_wait_behind_large_ones() -> None:
    release = asyncio.Event()
    held = most = 0

    async def answer(chunk: bytes) -> bytes:
        nonlocal held, most
        ends = chunk.count(b"END")
        if not ends:  # several chunks are one large request
            return b"" if b"x" in chunk else await echoed(chunk)
        held += ends
        most = max(most, held)
        await release.wait()
        held -= ends
        return b"+large\r\n" * ends

    async with (
        Server(answer) as server,
        client_of(server.url) as client,
        asyncio.timeout(PATIENCE_SECS),
    ):
        await client.read("ECHO", "first")
        large = [asyncio.ensure_future(client.read("SET", LARGE, "END")) for _ in range(6)]
        quick = [asyncio.ensure_future(client.read("ECHO", number)) for number in range(50)]
        assert [int(word) for word in await asyncio.gather(*quick)] == [*range(50)]
        # One large request on a connection: with more of them, a single connection takes all.
        await until(lambda: held == 2)
        release.set()
        assert await asyncio.gather(*large) == [b"large"] * 6
        assert most == 2
        assert server.connections == client.connections == 3


@pytest.mark.usefixtures("patient")
async def test_a_caller_that_is_cancelled_in_the_tick_of_its_turn_wakes_the_next() -> None:
    release = asyncio.Event()

    async def answer(chunk: bytes) -> bytes:
        if b"END" not in chunk:
            return await echoed(chunk)
        await release.wait()
        return b"+large\r\n" * chunk.count(b"END")

    async with (
        Server(answer) as server,
        client_of(server.url, max_connections=1) as client,
        asyncio.timeout(PATIENCE_SECS / 2),  # half of the calls' own deadline
    ):
        await client.read("ECHO", "first")

        async def cancel_the_second() -> None:
            await client.read("SET", LARGE, "END")
            second.cancel()  # its turn has come in this tick

        first = asyncio.ensure_future(cancel_the_second())
        await until(lambda: client.connections == 2)
        second = asyncio.ensure_future(client.read("SET", LARGE, "END"))
        third = asyncio.ensure_future(client.read("SET", LARGE, "END"))
        await asyncio.sleep(0)
        release.set()
        await first
        assert await third == b"large"


async def test_a_retry_of_a_large_write_follows_it_on_its_connection() -> None:
    attempts = 0

    async def answer(chunk: bytes) -> bytes:
        nonlocal attempts
        reply = await echoed(chunk)
        if b"TIME" in chunk and attempts:  # first, the rest of the late reply to the first attempt
            reply += b"1\r\n" + TIME_REPLY
        if b"END" in chunk:
            attempts += 1
            if attempts == 1:
                await asyncio.sleep(0.5)  # this is the fault
            reply += b":2\r\n" if attempts == 2 else b"$1\r\n"
        return reply

    async with (
        Server(answer, tells_time=True) as server,
        client_of(server.url, deadline_secs=2) as client,
    ):
        await client.read("ECHO", "first")
        # The first attempt ends after half the deadline. A part of its reply has arrived, so its
        # connection is alive.
        assert await client.run(Script("sessions/put"), ("name",), (LARGE, "END")) == 2
        assert attempts == 2
        assert server.connections == 2


@valkey
async def test_reads_of_many_records_ask_for_a_bounded_number_of_bytes(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    replied: list[int] = []
    read_each = RedisClient.read_each

    async def measured(self: RedisClient, commands: Any, **options: Any) -> list[Any]:
        replies = await read_each(self, commands, **options)
        replied.append(sum(len(one[-1] or b"") for one in replies if isinstance(one, list)))
        return replies

    monkeypatch.setattr(RedisClient, "read_each", measured)
    async with store_at(server.url) as store:
        keys = [SessionKey(f"k{number}") for number in range(60)]
        for number, key in enumerate(keys):
            await store.put(session(key, text=LARGE if number % 3 else ""))
        foreign = SessionKey("foreign")
        name = store._names.record("default/acme", foreign)  # type: ignore[attr-defined]
        await store._client.read("SET", name, "of another program", key=name)  # type: ignore[attr-defined]
        found = await store.get_many([*keys[:30], foreign, *keys[30:]], ctx=CTX, on_error="skip")
        assert [one and one.session.key for one in found] == [*keys[:30], None, *keys[30:]]
        assert max(replied) <= 1 << 20
        replied.clear()
        assert len(await drained(store.scan(CTX, on_error="skip"))) == 60
        assert max(replied) <= 1 << 20
        replied.clear()
        small = [key for number, key in enumerate(keys) if number % 3 == 0][:16]
        assert all(await store.get_many(small, ctx=CTX))
        assert len(replied) == 1  # a few small records take one round trip


@valkey
async def test_reads_of_many_records_ask_for_a_linear_number_of_sizes(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    read_each = RedisClient.read_each

    async def counted(self: RedisClient, commands: Any, **options: Any) -> list[Any]:
        asked.append(sum(command[0] == "HSTRLEN" for command in commands))
        return await read_each(self, commands, **options)

    monkeypatch.setattr(RedisClient, "read_each", counted)
    async with store_at(server.url) as store:
        large = [SessionKey(f"large-{number}") for number in range(200)]
        for key in large:
            await store.put(session(key, text=LARGE))
        small = [SessionKey(f"small-{number}") for number in range(200)]
        for key in small:
            await store.put(session(key, text=""))
        assert all(await store.get_many(small, ctx=CTX))
        assert [count for count in asked if count] == [200]  # small records take one request
        asked.clear()
        assert all(await store.get_many(large, ctx=CTX))
        assert sum(asked) <= 200 + 64 * 40  # five records fit in a reply, so there are 40 steps
        asked.clear()
        assert all(await store.get_many(small, ctx=CTX))
        assert [count for count in asked if count] == [64, 128, 8]


@valkey
async def test_a_record_that_was_large_is_read_apart_from_small_ones(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    take = server_module.ConnectionPool.large_connection

    async def counted(self: server_module.ConnectionPool, give_up_at: float) -> Any:
        nonlocal calls
        calls += 1
        return await take(self, give_up_at)

    monkeypatch.setattr(server_module.ConnectionPool, "large_connection", counted)

    async def calls_of(work: Callable[[], Coroutine[Any, Any, object]]) -> int:
        nonlocal calls
        calls = 0
        await work()
        return calls

    async with store_at(server.url, namespace="test:large") as store:
        url = f"{server.url}?namespace=test:large&deadline=20"
        async with create_session_store(url) as other:
            await store.put(session("script"))  # otherwise the first large one is sent twice
            assert await calls_of(lambda: store.put(session(text=LARGE))) == 1
            assert await calls_of(lambda: store.get(KEY, ctx=CTX)) == 1
            assert await calls_of(lambda: other.get(KEY, ctx=CTX)) == 0  # no size is known yet
            assert await calls_of(lambda: other.get(KEY, ctx=CTX)) == 1
            assert await calls_of(lambda: store.put(session(text=""))) == 0
            assert await calls_of(lambda: other.get(KEY, ctx=CTX)) == 1  # no size is known yet
            assert await calls_of(lambda: other.get(KEY, ctx=CTX)) == 0
            assert await store.delete(KEY, ctx=CTX)


@valkey
async def test_large_writes_of_one_moment_are_encoded_one_at_a_time(server: LocalServer) -> None:
    loop = asyncio.get_running_loop()
    iteration = 0
    encoded: dict[int, int] = {}

    class Counting:
        def __init__(self, context_type: Any) -> None:
            codec: Any = JsonCodec(context_type)
            self.decode = codec.decode
            self._encode = codec.encode

        def encode(self, body: Any) -> bytes:
            encoded[iteration] = encoded.get(iteration, 0) + 1
            return self._encode(body)  # type: ignore[no-any-return]

    def tick() -> None:
        nonlocal iteration
        iteration += 1
        if iteration < 1_000_000:
            timer.append(loop.call_soon(tick))
            del timer[0]

    timer = [loop.call_soon(tick)]
    url = f"{server.url}?namespace=test:encoded&deadline=20"
    try:
        async with create_session_store(url, codec=Counting) as store:
            await store.put(session())
            calls = [
                asyncio.ensure_future(store.put(session(f"k{number}", text=LARGE)))
                for number in range(60)
            ]
            await until(lambda: len(encoded) > 3)
            for call in calls[10:40]:
                call.cancel()
            ends = await asyncio.gather(*calls, return_exceptions=True)
            assert not any(isinstance(end, Exception) for end in ends)
            assert max(encoded.values()) == 1
            # They are running calls, and a store lets these end before it closes.
            calls = [
                asyncio.ensure_future(store.put(session(f"k{number}", text=LARGE)))
                for number in range(8)
            ]
            await asyncio.sleep(0)
            await store.aclose()
            await asyncio.gather(*calls)
    finally:
        timer[0].cancel()


@valkey
async def test_the_wait_of_a_large_write_counts_against_its_deadline(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store_at(server.url, deadline=0.5) as store, asyncio.timeout(PATIENCE_SECS):
        await store.put(session())
        monkeypatch.setattr(LoopGate, "_let_pass", lambda *_: None)  # it stays shut
        await store.put(session(text=LARGE))
        # Small writes do not wait.
        await store.put(session("small"))
        await store.create(session("created"))
        await store.mutate(SessionKey("small"), counted, ctx=CTX)
        late: list[Callable[[], Coroutine[Any, Any, object]]] = [
            lambda: store.put(session("late", text=LARGE)),
            lambda: store.create(session("late", text=LARGE)),
            lambda: store.update_cas(session("late", text=LARGE), Cas.none()),
            lambda: store.mutate(KEY, counted, ctx=CTX),
        ]
        for call in late:
            with pytest.raises(StoreUnavailableError) as caught:
                await call()
            assert caught.value.code == "timeout"
        assert await store.get(SessionKey("late"), ctx=CTX) is None


@valkey
async def test_a_second_event_loop_does_not_disturb_the_large_writes_of_the_first(
    server: LocalServer,
) -> None:
    store = store_at(server.url)
    errors: list[BaseException] = []

    async def refused() -> None:
        for write in (store.put(session()), store.put(session(text=LARGE))):
            try:
                await write
            except StoreUnavailableError as error:
                errors.append(error)

    async with store, asyncio.timeout(PATIENCE_SECS):
        await store.put(session())
        calls = [
            asyncio.ensure_future(store.put(session(f"k{number}", text=LARGE)))
            for number in range(20)
        ]
        await asyncio.sleep(0)
        assert store._gate
        thread = threading.Thread(target=asyncio.run, args=(refused(),))
        thread.start()
        thread.join()  # this loop makes no iteration meanwhile
        assert ["another event loop" in str(error) for error in errors] == [True, True]
        await asyncio.gather(*calls)
