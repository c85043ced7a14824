"""Tests of the driver: several versions open connections, and its bugs raise the right error."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from greentic_session.redis.transport import driver
from greentic_session.redis.transport.driver import new_connection

from ..support.redis import KEY, WRITES, ended, store_at

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio


class OlderConnection:
    def __init__(self, *, db: int = 0) -> None: ...


class NewerConnection:
    def __init__(self, *, db: int = 0, maint_notifications_config: object = None) -> None: ...


def test_an_argument_of_newer_drivers_is_passed_only_where_it_exists() -> None:
    assert driver._arguments_of_newer_drivers(OlderConnection) == {}
    pytest.importorskip("redis.maint_notifications", reason="the driver is older than that")
    assert set(driver._arguments_of_newer_drivers(NewerConnection)) == {
        "maint_notifications_config"
    }


def no_such_argument(*_: object, **__: object) -> Any:
    raise TypeError("unexpected keyword argument 'mistaken'")


async def no_such_attribute(_: object) -> None:
    raise AttributeError("no attribute 'mistaken'")


@pytest.mark.parametrize("way", ["unix", "redis", "sentinel", "cluster"])
@pytest.mark.parametrize(
    ("place", "mistake", "error"),
    [
        ("greentic_session.redis.transport.driver.Connection", no_such_argument, TypeError),
        ("redis.asyncio.Connection._connect", no_such_attribute, AttributeError),
    ],
    ids=["arguments", "connecting"],
)
async def test_a_programming_error_is_raised_at_once(
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    mistake: Callable[..., Any],
    error: type[Exception],
    way: str,
) -> None:
    for name in (place, place.replace("Connection", "UnixDomainSocketConnection")):
        monkeypatch.setattr(name, mistake)
    url = {
        "unix": "unix:///nowhere",
        "redis": "redis://127.0.0.1:1",
        "sentinel": "redis+sentinel://127.0.0.1:1/mymaster",
        "cluster": "redis+cluster://127.0.0.1:1",
    }[way]
    async with asyncio.timeout(10), store_at(url, deadline=60) as store:
        with pytest.raises(error, match="mistaken"):
            await store.get(KEY)
        with pytest.raises(error, match="mistaken"):
            await WRITES["put"](store)
        assert store.statistics().retries == 0
        assert store.statistics().connections == 0


async def test_a_driver_that_keeps_its_stream_elsewhere_is_named(
    monkeypatch: pytest.MonkeyPatch, valkey_url: str
) -> None:
    closed: list[object] = []
    disconnect = driver.disconnect

    async def connected_elsewhere(connection: Any) -> None:
        reader, writer = await asyncio.open_unix_connection(valkey_url.removeprefix("unix://"))
        connection._stream = reader, writer
        closed.append(writer)

    async def closing(connection: Any) -> None:
        connection._stream[1].close()
        await disconnect(connection)

    monkeypatch.setattr("redis.asyncio.UnixDomainSocketConnection.connect", connected_elsewhere)
    monkeypatch.setattr("greentic_session.redis.transport.server.disconnect", closing)
    async with asyncio.timeout(10), store_at(valkey_url, deadline=60) as store:
        with pytest.raises(RuntimeError, match="does not work with this release"):
            await store.get(KEY)
    assert len(closed) == 1


async def test_an_unreadable_greeting_is_no_programming_error() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 16):
            writer.write(b":1\r\n:1\r\n:1\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        url = f"redis://:secret@127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with store_at(url, deadline=0.3, protocol=3) as store:
            error = (await ended(store, {"ping": lambda store: store.ping()}))["ping"]
    assert "greeting cannot be read" in str(error)


def test_every_kind_of_connection_can_be_made() -> None:
    from greentic_session import RedisConfig

    for url in ("redis://a", "unix:///a", "rediss://a", "rediss://a?tls_verify=no"):
        config = RedisConfig.from_url(url)
        assert not new_connection(config, None).is_connected
