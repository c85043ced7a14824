"""Tests of the proxy between a plain client and an echo server."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Self

import pytest

from greentic_session.testing.proxy import (
    BREAKS,
    Fate,
    FaultProxy,
    Line,
    always,
    at_random,
    first_of_each,
)

from ..support.redis import SEED, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from greentic_session.testing.proxy import Schedule

pytestmark = pytest.mark.anyio

SHORT_SECS = 0.05
"""Limit of a wait for silence. A passing test ends earlier."""


class Echo:
    """A server that stores its input and echoes it."""

    def __init__(self) -> None:
        self.told: list[bytes] = []
        self.open = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await until(lambda: self.open == 0)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            while line := await reader.readline():
                self.told.append(line)
                writer.write(line)
        except ConnectionError:
            pass  # the proxy broke it on purpose
        finally:
            self.open -= 1
            writer.close()


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, line: bytes) -> bytes:
        """Return the reply. Empty if the connection ends, and partial if the reply is cut."""
        self.say(line)
        return await self.hear()

    def say(self, line: bytes) -> None:
        self._writer.write(line + b"\n")

    async def hear(self) -> bytes:
        try:
            async with asyncio.timeout(10):
                return await self._reader.readline()
        except ConnectionError:
            return b""

    async def hears_nothing(self) -> bool:
        try:
            async with asyncio.timeout(SHORT_SECS):
                await self._reader.readline()
        except TimeoutError:
            return True
        return False

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def through(
    schedule: Schedule, delay_secs: float = 0.0
) -> AsyncIterator[tuple[Echo, FaultProxy, Client]]:
    async with Echo() as echo, FaultProxy(echo.port, schedule, delay_secs=delay_secs) as proxy:
        client = await connected(proxy)
        try:
            yield echo, proxy, client
        finally:
            client.close()


async def connected(proxy: FaultProxy) -> Client:
    return Client(*await asyncio.open_connection("127.0.0.1", proxy.port))


@pytest.mark.parametrize(
    ("fate", "told", "answer"),
    [
        (Fate.PASS, [b"hello\n"], b"hello\n"),
        (Fate.REFUSE, [], b""),
        (Fate.LOSE, [b"hello\n"], b""),
        (Fate.CUT, [b"hello\n"], b"hel"),
        (Fate.LATE, [b"hello\n"], b"hello\n"),
        (Fate.DELAY, [b"hello\n"], b""),
        (Fate.HOLD, [b"hello\n"], b"hello\n"),
    ],
)
async def test_a_request_meets_its_fate(fate: Fate, told: list[bytes], answer: bytes) -> None:
    async with through(always(fate), delay_secs=0.01) as (echo, proxy, client):
        assert await client.ask(b"hello") == answer
        assert echo.told == told
        assert proxy.met == {**dict.fromkeys(Fate, 0), fate: 1}
        assert proxy.faults == (fate is not Fate.PASS)


@pytest.mark.parametrize(("fate", "told"), [(Fate.SWALLOW, []), (Fate.SILENCE, [b"hello\n"])])
async def test_a_silent_line_stays_open(fate: Fate, told: list[bytes]) -> None:
    async with through(first_of_each("hello", fate)) as (echo, proxy, client):
        client.say(b"hello")
        await until(lambda: echo.told == told and proxy.met[fate] == 1)
        assert await client.hears_nothing()
        assert echo.told == told
        client.say(b"are you there?")  # and stays silent
        await until(lambda: echo.told == [*told, b"are you there?\n"])
        assert await client.hears_nothing()
        assert proxy.connections == 1
        other = await connected(proxy)
        assert await other.ask(b"other") == b"other\n"
        other.close()


async def test_a_black_hole_delivers_when_it_has_healed() -> None:
    async with through(always(Fate.PASS)) as (echo, proxy, client):
        assert await client.ask(b"before") == b"before\n"
        proxy.black_hole()
        client.say(b"within")
        newcomer = await connected(proxy)  # is accepted but not served
        newcomer.say(b"new")
        assert await client.hears_nothing()
        assert await newcomer.hears_nothing()
        assert echo.told == [b"before\n"]
        proxy.heal()
        assert await client.hear() == b"within\n"
        assert await newcomer.hear() == b"new\n"
        newcomer.close()


async def test_a_half_open_connection_is_dead_and_a_new_one_is_not() -> None:
    async with through(always(Fate.PASS)) as (echo, proxy, client):
        assert await client.ask(b"before") == b"before\n"
        assert proxy.half_open() == 1
        assert proxy.half_open() == 0
        client.say(b"into the void")
        assert await client.hears_nothing()
        await until(lambda: echo.open == 0)
        proxy.heal()
        assert await client.hears_nothing()
        newcomer = await connected(proxy)
        assert await newcomer.ask(b"new") == b"new\n"
        assert echo.told == [b"before\n", b"new\n"]
        newcomer.close()


async def test_severed_connections_end_at_both_ends() -> None:
    async with through(always(Fate.PASS)) as (echo, proxy, client):
        assert await client.ask(b"before") == b"before\n"
        assert proxy.sever() == 1
        assert await client.hear() == b""
        await until(lambda: echo.open == 0 and proxy.connections == 0)
        assert proxy.accepted == 1


LARGE = b"x" * 30_000_000
"""More than fits into the kernel's buffers on the way."""


@asynccontextmanager
async def deaf_client(
    schedule: Schedule,
) -> AsyncIterator[tuple[FaultProxy, asyncio.StreamReader]]:
    """A client that reads less than it is sent. The proxy holds the rest."""

    async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        with suppress(ConnectionError):
            writer.write(LARGE)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(tell, "127.0.0.1", 0)
    async with server, FaultProxy(server.sockets[0].getsockname()[1], schedule) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, limit=1000)
        writer.write(b"hello\n")
        await until(
            lambda: any(way.client.transport.get_write_buffer_size() for way in proxy._ways)
        )
        yield proxy, reader
    async with asyncio.timeout(10):
        while await read(reader):
            pass
    writer.close()


async def read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(1 << 20)
    except ConnectionError:
        return b""


async def test_a_proxy_ends_though_a_client_does_not_read() -> None:
    async with asyncio.timeout(10), deaf_client(always(Fate.PASS)):
        pass


async def test_what_the_proxy_held_is_lost_when_it_severs() -> None:
    async with deaf_client(always(Fate.PASS)) as (proxy, reader):
        assert proxy.sever() == 1
        got = 0
        while some := await read(reader):
            got += len(some)
        assert got < len(LARGE) // 2
        await until(lambda: proxy.connections == 0)


async def test_what_was_said_before_the_end_arrives() -> None:
    async with deaf_client(always(Fate.PASS)) as (_, reader):
        got = 0
        while some := await read(reader):
            got += len(some)
        assert got == len(LARGE)


async def test_a_server_that_is_not_there_ends_the_connection() -> None:
    async with Echo() as echo:
        port = echo.port
    async with FaultProxy(port, always(Fate.PASS)) as proxy:
        client = await connected(proxy)
        assert await client.hear() == b""
        client.close()


async def test_something_happens_between_execution_and_loss() -> None:
    async with through(always(Fate.LOSE)) as (echo, proxy, client):
        seen: list[list[bytes]] = []

        async def look() -> None:
            seen.append([*echo.told])

        proxy.before_loss = look
        assert await client.ask(b"hello") == b""
        assert seen == [[b"hello\n"]]


async def test_a_proxy_leaves_nothing_behind() -> None:
    before = asyncio.all_tasks()
    async with through(always(Fate.SILENCE)) as (_, proxy, client):
        client.say(b"hello")
        await until(lambda: proxy.met[Fate.SILENCE] == 1)
    await until(lambda: asyncio.all_tasks() <= before)


def test_the_same_seed_makes_the_same_choices() -> None:
    def choices(seed: int) -> list[Fate]:
        choose = at_random(seed, 0.3)
        return [choose(b"") for _ in range(1000)]

    assert choices(SEED) == choices(SEED) != choices(SEED + 1)
    assert set(choices(SEED)) == {Fate.PASS, *BREAKS}
    assert 200 < 1000 - choices(SEED).count(Fate.PASS) < 400


def test_the_first_request_of_each_thing_said() -> None:
    choose = first_of_each(rb"key-[0-9]+", Fate.CUT)
    said = [b"key-1", b"no key", b"again key-1", b"key-2"]
    assert [choose(one) for one in said] == [Fate.CUT, Fate.PASS, Fate.PASS, Fate.CUT]


@pytest.mark.parametrize(("at", "met"), [(1, [0, 1, 0]), ("two", [0, 1, 0]), ("none", [0, 0, 0])])
def test_a_line_is_broken_for_one_request(at: int | str, met: list[int]) -> None:
    line = Line(Fate.CUT, at)
    assert line(b"two, before") is Fate.PASS
    with line.broken():
        fates = [line(said) for said in (b"one", b"two", b"three, not two")]
    assert fates == [(Fate.PASS, Fate.CUT)[each] for each in met]
    assert line(b"two, after") is Fate.PASS
    assert line.seen == 3
