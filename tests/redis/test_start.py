"""Tests of a server that starts: it loads its data, and reports its settings for sessions."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from greentic_session import SessionKey, StoreUnavailableError
from greentic_session.testing.servers import LocalServer, valkey_binary

from ..support.redis import CTX, control, session, store_at, until_async

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio


@pytest.fixture
def slow_starter() -> Iterator[LocalServer]:
    """Yield a server that keeps its data, and takes 10 ms to load each record of it."""
    options = ("--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024")
    with LocalServer(valkey_binary(), options, durable=True) as server:
        yield server


async def first_word(server: LocalServer) -> bytes:
    try:
        reader, writer = await asyncio.open_unix_connection(server.folder / "server.sock")
    except OSError:
        return b""
    writer.write(b"PING\r\n")
    word = await reader.read(8)
    writer.close()
    return word


async def test_a_server_that_is_loading_is_waited_for(slow_starter: LocalServer) -> None:
    namespace = f"test:{uuid4().hex}"
    keys = [SessionKey(f"kept-{number}") for number in range(40)]
    async with (
        store_at(slow_starter.url, namespace=namespace) as patient,
        store_at(slow_starter.url, namespace=namespace, deadline=0.1) as hasty,
    ):
        tokens = await asyncio.gather(*(patient.create(session(key)) for key in keys))
        # A snapshot, which is read key by key. The commands after it are read one by one.
        async with control(slow_starter) as client:
            await client.read("BGREWRITEAOF")

            async def is_rewritten() -> bool:
                told = str(await client.read("INFO", "persistence"))
                return "aof_rewrite_in_progress:0" in told and "aof_rewrite_scheduled:0" in told

            await until_async(is_rewritten)
        slow_starter.kill()
        slow_starter.launch()

        async def is_loading() -> bool:
            return await first_word(slow_starter) == b"-LOADING"

        await until_async(is_loading)
        with pytest.raises(StoreUnavailableError) as caught:
            await hasty.update_cas(session(keys[0]), tokens[0])
        assert caught.value.reason in (
            "the server answered LOADING",
            "the server could not be reached",
        )
        written = await patient.update_cas(session(keys[0]), tokens[0])
        assert written.value == 2
        assert patient.statistics().retries > 0
        found = await patient.get_many(keys, ctx=CTX)
        assert [one.cas for one in found if one] == [written, *tokens[1:]]


@pytest.mark.parametrize("policy", ["noeviction", "allkeys-lru", "volatile-ttl"])
async def test_a_policy_that_drops_sessions_is_warned_of_once(
    server: LocalServer, policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "greentic_session")
    async with control(server) as client:
        await client.read("CONFIG", "SET", "maxmemory-policy", policy)
        caplog.clear()
        async with store_at(server.url) as store:
            await store.put(session())
            await client.read("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await store.put(session())
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == (policy != "noeviction")
    assert all(f"maxmemory-policy is {policy}," in line for line in warned)


async def test_an_account_that_may_not_ask_is_not_warned(
    server: LocalServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with control(server) as client:
        await client.read("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        await client.read("ACL", "SETUSER", "bot", "on", ">pw", "~*", "+@all", "-info")
        caplog.clear()
        url = server.url.replace("unix://", "unix://bot:pw@")
        async with store_at(url) as store:
            assert (await store.put(session())).value == 1
    assert caplog.records == []
