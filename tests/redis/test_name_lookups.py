"""Tests of host names: a hanging name server costs one thread, and addresses are tried in turn."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from greentic_session import RedisConfig, StoreUnavailableError
from greentic_session.redis.transport.driver import connect, disconnect, new_connection

from ..support.redis import KEY, store_at, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio

ATTEMPTS = 50
HANGING = "hangs.example"
REAL = socket.getaddrinfo


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Lookups of one name hang until the event is set."""
    released = threading.Event()

    def look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host == HANGING:
            released.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "the name server has gone")
        return REAL(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield released
    released.set()


@contextmanager
def addresses(monkeypatch: pytest.MonkeyPatch, *found: tuple[Any, str, int]) -> Iterator[None]:
    """Give the name ``many.example`` these addresses: family, host and port."""

    def look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "many.example":
            return REAL(host, *args, **kwargs)
        return [(family, socket.SOCK_STREAM, 6, "", (ip, port)) for family, ip, port in found]

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", look_up)
        yield


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return int(unused.getsockname()[1])


async def test_a_name_server_that_hangs_costs_one_thread_and_no_executor(
    release: threading.Event,
) -> None:
    config = RedisConfig(host=HANGING)
    before = set(threading.enumerate())
    for _ in range(ATTEMPTS):
        connection = new_connection(config, None)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.005):
                await connect(connection)
        await disconnect(connection)
    started = [thread for thread in threading.enumerate() if thread not in before]
    assert len(started) == 1
    assert started[0].daemon  # the end of the process does not wait for it
    async with asyncio.timeout(10):
        assert await asyncio.to_thread(lambda: "runs") == "runs"
    release.set()
    await until(lambda: not started[0].is_alive())
    with pytest.raises(socket.gaierror):
        await connect(new_connection(config, None))  # by a lookup of its own


async def test_callers_of_one_name_share_a_lookup_that_fails(release: threading.Event) -> None:
    connections = [new_connection(RedisConfig(host=HANGING), None) for _ in range(5)]
    before = threading.active_count()
    attempts = [asyncio.create_task(connect(connection)) for connection in connections]
    await asyncio.wait(attempts, timeout=0.01)
    assert threading.active_count() == before + 1
    release.set()
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert [type(result) for result in results] == [socket.gaierror] * 5


FORKED: Final = """
import asyncio, os, socket, threading
from greentic_session.redis.transport.resolver import resolve

real = socket.getaddrinfo
asked, release = threading.Event(), threading.Event()


def hang(*args, **kwargs):
    asked.set()
    release.wait(30)
    raise socket.gaierror


async def start():
    looking = asyncio.create_task(resolve("localhost", 1))
    await asyncio.to_thread(asked.wait, 30)
    looking.cancel()


async def look_up():
    async with asyncio.timeout(20):
        assert await resolve("localhost", 1)


socket.getaddrinfo = hang
asyncio.run(start())
pid = os.fork()
socket.getaddrinfo = real
if pid == 0:
    try:
        asyncio.run(look_up())
        os._exit(7)
    finally:
        os._exit(1)
_, status = os.waitpid(pid, 0)
release.set()
print(os.waitstatus_to_exitcode(status))
"""


def test_a_forked_process_looks_a_name_up_although_its_parent_does() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.stdout.strip() == "7", done.stderr


@pytest.mark.usefixtures("release")
@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+cluster"])
async def test_a_store_whose_name_server_hangs_answers_by_its_deadline_and_closes(
    scheme: str,
) -> None:
    async with asyncio.timeout(10):
        async with store_at(f"{scheme}://{HANGING}:6379", deadline=0.2) as store:
            with pytest.raises(StoreUnavailableError):
                await store.get(KEY)
            waiting = asyncio.create_task(store.ping())
            await asyncio.sleep(0)
        with pytest.raises(StoreUnavailableError):
            await waiting


async def test_the_next_address_is_tried_when_one_refuses(
    monkeypatch: pytest.MonkeyPatch, tcp_server_url: str
) -> None:
    found = [
        (socket.AF_INET6, "::1", free_port()),
        (socket.AF_INET, "127.0.0.1", free_port()),
        (socket.AF_INET, "127.0.0.1", port_of(tcp_server_url)),
    ]
    with addresses(monkeypatch, *found):
        async with store_at("redis://many.example") as store:
            await store.ping()


async def test_an_address_that_is_silent_does_not_hold_up_the_next(
    monkeypatch: pytest.MonkeyPatch, tcp_server_url: str
) -> None:
    loop = asyncio.get_running_loop()
    connect_there = loop.sock_connect
    asked: list[str] = []

    async def sock_connect(opened: socket.socket, address: Any) -> None:
        asked.append(address[0])
        if address[0] == "192.0.2.1":  # RFC 5737: leads to no host
            await asyncio.Event().wait()
        await connect_there(opened, address)

    monkeypatch.setattr(loop, "sock_connect", sock_connect)
    found = [
        (socket.AF_INET, "192.0.2.1", 1),
        (socket.AF_INET, "192.0.2.1", 2),
        (socket.AF_INET, "127.0.0.1", port_of(tcp_server_url)),
    ]
    with addresses(monkeypatch, *found):
        async with store_at("redis://many.example", deadline=8) as store:
            await store.ping()
    assert asked == ["192.0.2.1", "192.0.2.1", "127.0.0.1"]


async def test_a_resolver_that_an_application_gave_its_loop_is_asked(
    monkeypatch: pytest.MonkeyPatch, tcp_server_url: str
) -> None:
    async def look_up(host: str, port: int, **_: Any) -> Any:
        assert (host, port) == ("service.example", 7)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port_of(tcp_server_url)))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
    async with store_at("redis://service.example:7") as store:
        await store.ping()
