"""Tests of one connection for many callers: batches, the order of replies, and its end."""

from __future__ import annotations

import asyncio
import random
import re
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

import pytest
from redis.exceptions import ResponseError

from greentic_session import OutcomeUnknownError, RedisConfig, SessionKey, StoreUnavailableError
from greentic_session.redis.transport import server as server_module
from greentic_session.redis.transport.client import RedisClient
from greentic_session.redis.transport.connection import ConnectionLostError, PendingRequest

from ..support.redis import CTX, SEED, control, session, store_at, until, until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from greentic_session.testing.servers import LocalServer

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def client_of(url: str, **options: Any) -> AsyncIterator[RedisClient]:
    config = RedisConfig.from_url(url)
    client = RedisClient(RedisConfig(**{**_fields(config), "deadline_secs": 20.0, **options}))
    try:
        yield client
    finally:
        await client.aclose()


def _fields(config: RedisConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.__struct_fields__}


class Server:
    """Speaks RESP by hand. The test chooses the answer to each chunk of bytes.

    :param tells_time: whether the test answers TIME after the greeting of a connection.
    """

    def __init__(
        self, answer: Callable[[bytes], Awaitable[bytes | None]], *, tells_time: bool = False
    ) -> None:
        self._answer = answer
        self._ours = rb"INFO|\r\nID\r\n" if tells_time else rb"INFO|\r\nID\r\n|TIME"
        self.chunks: list[bytes] = []
        self.connections = 0
        self.url = ""
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"redis://127.0.0.1:{port}?protocol=2"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self.connections += 1
        try:
            with suppress(ConnectionError):  # the client may end it
                while chunk := await reader.read(1 << 20):
                    if b"CLIENT" in chunk and b"SETINFO" in chunk:  # the driver's greeting
                        writer.write(b"+OK\r\n" * chunk.count(b"SETINFO"))
                        continue
                    if re.search(self._ours, chunk):  # the library's own greeting
                        ours = len(re.findall(rb"INFO|\r\nID\r\n|TIME", chunk))
                        writer.write(b"-NOPERM no permissions\r\n" * ours)
                        continue
                    self.chunks.append(chunk)
                    reply = await self._answer(chunk)
                    if reply is None:
                        return
                    writer.write(reply)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def echoed(chunk: bytes) -> bytes:
    """Answer each ``ECHO n`` with n."""
    words = chunk.split(b"\r\n")
    said = [words[place + 2] for place, word in enumerate(words) if word == b"ECHO"]
    return b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in said)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not take a short pause of the machine for a stall of the server."""
    monkeypatch.setattr(server_module, "_STALLED_SECS", 60.0)


@pytest.mark.usefixtures("patient")
async def test_commands_of_one_tick_leave_together_and_are_answered_in_order() -> None:
    async with Server(echoed) as server, client_of(server.url) as client:
        await client.read("ECHO", "first")
        server.chunks.clear()
        words = [f"word-{number}" for number in range(500)]
        replies = await asyncio.gather(*(client.read("ECHO", word) for word in words))
        assert [reply.decode() for reply in replies] == words
        assert b"".join(server.chunks).count(b"ECHO") == 500
        # The first at once, the next eight, and the rest: TCP's result of three writes.
        assert len(server.chunks) <= 12
        assert server.connections == client.connections == 1


@pytest.mark.usefixtures("patient")
async def test_a_lone_command_leaves_at_once() -> None:
    async with Server(echoed) as server, client_of(server.url) as client:
        await client.read("ECHO", "first")
        for _ in range(50):
            call = asyncio.ensure_future(client.read("ECHO", "alone"))
            await asyncio.sleep(0)  # the call's own first step, and nothing after it
            (connection,) = pool_of(client)._connections
            assert len(connection.waiting) == 1
            assert connection._out == []
            assert await call == b"alone"


async def test_cancelled_callers_cost_no_connection_and_cross_no_reply(
    server: LocalServer,
) -> None:
    print(f"GREENTIC_SESSION_TEST_SEED={SEED}")  # noqa: T201 - pytest shows it with a failure
    dice = random.Random(SEED)
    cancelled = crossed = 0
    async with client_of(server.url) as client, control(server) as other:
        await client.read("PING")

        async def received() -> int:
            stats: bytes = await other.read("INFO", "stats")
            return int(str(stats).split("total_connections_received:")[1].split("\\r\\n")[0])

        before = await received()
        number = 0
        while cancelled < 20_000:
            calls = []
            for _ in range(200):
                number += 1
                calls.append((number, asyncio.ensure_future(client.read("ECHO", number))))
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(0)
            for _, call in calls:
                if dice.random() < 0.8:
                    call.cancel()
            await asyncio.wait([call for _, call in calls])
            cancelled += sum(call.cancelled() for _, call in calls)
            crossed += sum(
                not call.cancelled() and int(call.result()) != said for said, call in calls
            )
        assert crossed == 0
        assert client.in_flight == 0
        await client.read("PING")
        assert all(len(connection.waiting) == 0 for connection in pool_of(client)._connections)
        # A slow machine may open another connection, but none is lost.
        assert await received() - before == client.connections - 1


async def test_more_callers_than_room_wait_their_turn(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_MOST_IN_FLIGHT", 4)
    async with client_of(server.url, max_connections=2) as client:
        seen: list[int] = []

        async def call(number: int) -> None:
            assert int(await client.read("ECHO", number)) == number
            seen.extend(len(connection.waiting) for connection in pool_of(client)._connections)

        await asyncio.gather(*(call(number) for number in range(500)))
        assert max(seen) <= 4
        assert client.connections <= 2
        assert not pool_of(client).queue


async def test_a_caller_that_is_cancelled_while_it_waits_for_room_gives_up_its_place(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_MOST_IN_FLIGHT", 2)
    async with client_of(server.url, max_connections=1) as client:
        for _ in range(50):
            calls = [asyncio.ensure_future(client.read("ECHO", n)) for n in range(20)]
            await asyncio.sleep(0)
            for call in calls[3:17]:
                call.cancel()
            done: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
            assert [int(done[n]) for n in (0, 1, 2, 17, 18, 19)] == [0, 1, 2, 17, 18, 19]
            assert not pool_of(client).queue


@pytest.mark.usefixtures("patient")
async def test_a_large_request_leaves_its_place_on_the_shared_connection_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "_MOST_IN_FLIGHT", 1)
    release = asyncio.Event()

    async def answer(chunk: bytes) -> bytes:
        await release.wait()
        return await echoed(chunk) + b"+large\r\n" * chunk.count(b"END")

    async with (
        Server(answer) as server,
        client_of(server.url, max_connections=1) as client,
        asyncio.timeout(8),  # less than half of the calls' own deadline
    ):
        release.set()
        await client.read("ECHO", "first")
        release.clear()
        held = asyncio.ensure_future(client.read("ECHO", "held"))
        large = asyncio.ensure_future(client.read("SET", "x" * 200_000, "END"))
        last = asyncio.ensure_future(client.read("ECHO", "last"))
        await asyncio.sleep(0)
        release.set()
        replies = [await call for call in (held, large, last)]
        assert replies == [b"held", b"large", b"last"]


async def test_many_large_sessions_at_once_are_written_and_read(server: LocalServer) -> None:
    async with store_at(server.url, max_payload=2 << 20) as store:
        text = "x" * (1 << 20)
        keys = [SessionKey(f"large-{number}") for number in range(60)]
        await asyncio.gather(*(store.create(session(key, text=text, name=key)) for key in keys))
        found = await asyncio.gather(*(store.get(key, ctx=CTX) for key in keys))
        assert [one and one.session.context["name"] for one in found] == keys


async def test_a_wire_that_stalls_is_passed_over() -> None:
    release = asyncio.Event()

    async def answer(chunk: bytes) -> bytes:
        if b"slow" in chunk:
            await release.wait()
        return await echoed(chunk)

    async with Server(answer) as server, client_of(server.url) as client:
        await client.read("ECHO", "first")
        slow = asyncio.ensure_future(client.read("ECHO", "slow"))
        await until(lambda: len(pool_of(client)._connections[0].waiting) == 1)
        # A call from before the detection of the stall waits. Later ones have another connection.
        first = asyncio.ensure_future(client.read("ECHO", "quick"))
        await until(lambda: client.connections == 2 or _asked(client))
        assert await client.read("ECHO", "overtakes") == b"overtakes"
        assert not slow.done()
        release.set()
        assert (await slow, await first) == (b"slow", b"quick")


def pool_of(client: RedisClient) -> server_module.ConnectionPool:
    (server,) = client._topology.servers
    return server.pool


def _asked(client: RedisClient) -> bool:
    pool_of(client).ready_connection(asyncio.get_running_loop().time())
    return False


async def test_a_silent_server_is_left_by_the_deadline_and_all_callers_fail() -> None:
    async def silent(chunk: bytes) -> bytes:
        return b"" if b"ECHO" in chunk else b"+OK\r\n"

    async with Server(silent) as server, client_of(server.url, deadline_secs=1.5) as client:
        loop = asyncio.get_running_loop()
        began = loop.time()
        ends = await asyncio.gather(
            *(client.read("ECHO", n) for n in range(50)), return_exceptions=True
        )
        assert {type(end) for end in ends} == {StoreUnavailableError}
        assert {end.code for end in ends if isinstance(end, StoreUnavailableError)} == {"timeout"}
        assert loop.time() - began < 10
        assert server.connections >= 2  # the second attempt had a connection of its own


@pytest.mark.parametrize("answer", [b"!nonsense\r\n", b"+OK\r\n+unasked\r\n", b"$5\r\nhalf"])
async def test_what_is_no_answer_ends_the_wire_and_the_call_is_made_again(answer: bytes) -> None:
    said = [answer]

    async def once(chunk: bytes) -> bytes | None:
        if said:
            return said.pop()
        return None if answer.endswith(b"half") and b"PING" in chunk else await echoed(chunk)

    async with Server(once) as server, client_of(server.url, deadline_secs=2) as client:
        if answer.startswith(b"+OK"):
            assert await client.read("ECHO", "a") == b"OK"
            await until(lambda: client.connections == 0)
        assert await client.read("ECHO", "b") == b"b"
        assert server.connections == 2


async def test_a_closed_client_fails_its_waiting_callers(server: LocalServer) -> None:
    async def silent(chunk: bytes) -> bytes:
        return b"" if b"ECHO" in chunk else b"+OK\r\n"

    async with Server(silent) as local, client_of(local.url) as client:
        calls = [asyncio.ensure_future(client.read("ECHO", n)) for n in range(20)]
        await until(lambda: bool(local.chunks))
        await client.aclose()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(end) for end in ends} == {StoreUnavailableError}
        assert client.connections == 0
    async with store_at(server.url) as store:
        writes = [asyncio.ensure_future(store.put(session(f"k{n}"))) for n in range(20)]
        await asyncio.sleep(0)  # each call's own first step
        assert store.statistics().in_flight == 20
        await store.aclose()
        for end in await asyncio.gather(*writes, return_exceptions=True):
            assert not isinstance(end, BaseException) or isinstance(
                end, (StoreUnavailableError, OutcomeUnknownError)
            )


async def test_a_server_that_comes_back_is_found_again(server: LocalServer) -> None:
    async with client_of(server.url) as client, control(server) as other:
        await client.read("PING")
        for _ in range(5):
            await other.read("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            words = await asyncio.gather(*(client.read("ECHO", n) for n in range(100)))
            assert [int(word) for word in words] == list(range(100))

        async def only_ours() -> bool:
            listed: bytes = await other.read("CLIENT", "LIST")
            return len(listed.splitlines()) == 1 + client.connections

        await until_async(only_ours)


async def test_a_request_on_a_connection_that_was_lost_meanwhile_fails_at_once(
    server: LocalServer,
) -> None:
    async with client_of(server.url) as client:
        await client.read("PING")
        (connection,) = pool_of(client)._connections
        connection.close()
        request = PendingRequest(asyncio.get_running_loop().create_future(), 1, 14, 0.0, 1e9)
        connection.send(request, b"*1\r\n$4\r\nPING\r\n")
        with pytest.raises(ConnectionLostError) as caught:
            await request.future
        assert not caught.value.sent


@pytest.mark.parametrize(
    ("answer", "raised"),
    [
        (b"-UNBLOCKED force unblock from blocking operation\r\n", "UNBLOCKED"),
        (b"-NOPERM this user has no permissions\r\n", "NOPERM"),
    ],
)
async def test_an_error_of_wait_reaches_each_of_its_callers(answer: bytes, raised: str) -> None:
    async def refuse(chunk: bytes) -> bytes:
        return answer if b"WAIT" in chunk else await echoed(chunk)

    async with Server(refuse) as server, client_of(server.url) as client:
        await client.read("ECHO", "first")
        (connection,) = pool_of(client)._connections
        until = asyncio.get_running_loop().time() + 20
        told = await asyncio.gather(
            *(connection.confirmed(1, until) for _ in range(3)), return_exceptions=True
        )
        assert [str(one).split()[0] for one in told] == [raised] * 3
        assert [type(one) for one in told] == [ResponseError] * 3
        assert sum(chunk.count(b"WAIT") for chunk in server.chunks) == 1
