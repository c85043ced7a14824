"""Tests of batches on a server: their round trips, and a server that falls silent meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import pytest

from greentic_session import (
    Cas,
    OutcomeUnknownError,
    SessionError,
    SessionKey,
    StoreUnavailableError,
)

from ..support.redis import CTX, session, store_at
from .test_connections import Server, patient

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from greentic_session import AsyncSessionStore
    from greentic_session.testing.servers import LocalServer

    Batch = Callable[[AsyncSessionStore[Any], list[SessionKey]], Awaitable[list[Any]]]

__all__ = ["patient"]  # a fixture

pytestmark = pytest.mark.anyio

ITEMS: Final = 1024
PATIENCE_SECS: Final = 20.0
TOKEN: Final = b"*4\r\n:1\r\n$1\r\n1\r\n$32\r\n" + b"a" * 32 + b"\r\n:1700000000000\r\n"
BATCHES: Final[dict[str, Batch]] = {
    "put_many": lambda store, keys: store.put_many([session(key) for key in keys]),
    "delete_many": lambda store, keys: store.delete_many(keys, ctx=CTX),
}


def keys_of(count: int) -> list[SessionKey]:
    return [SessionKey(f"key-{number}") for number in range(count)]


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("batch", BATCHES)
async def test_a_batch_takes_one_round_trip(batch: str) -> None:
    requests = b""

    async def answer(chunk: bytes) -> bytes:
        nonlocal requests
        if chunk.count(b"PING"):
            return b"+PONG\r\n"
        requests += chunk
        # No reply is sent before all requests have arrived.
        return TOKEN * ITEMS if requests.count(b"EVALSHA") == ITEMS else b""

    async with Server(answer) as server:
        url = server.url.partition("?")[0]
        async with store_at(url, protocol=2) as store, asyncio.timeout(PATIENCE_SECS / 2):
            await store.ping()
            found = await BATCHES[batch](store, keys_of(ITEMS))
        assert len(found) == ITEMS
        assert not any(isinstance(one, SessionError) for one in found)
        assert server.connections == 1


@pytest.mark.parametrize("batch", BATCHES)
async def test_a_batch_ends_at_the_deadline_of_each_round_trip(batch: str) -> None:
    async def answer(chunk: bytes) -> bytes:
        return b"+PONG\r\n" if chunk.count(b"PING") else b""

    async with Server(answer) as server, asyncio.timeout(PATIENCE_SECS):
        url = server.url.partition("?")[0]
        async with store_at(url, protocol=2, deadline=0.3) as store:
            await store.ping()
            loop = asyncio.get_running_loop()
            begun_at = loop.time()
            found = await BATCHES[batch](store, keys_of(100))
            assert loop.time() - begun_at < PATIENCE_SECS / 2
    assert len(found) == 100
    assert {type(one) for one in found} <= {OutcomeUnknownError, StoreUnavailableError}


@pytest.mark.parametrize("server", ["valkey"], indirect=True)
async def test_a_cancelled_batch_leaves_whole_sessions(server: LocalServer) -> None:
    keys = keys_of(300)
    async with store_at(server.url) as store:
        for ticks in range(6):
            task = asyncio.ensure_future(
                store.put_many([session(key, ticks=ticks) for key in keys])
            )
            for _ in range(ticks):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        made = await store.put_many([session(key) for key in keys])
        stored = await store.get_many(keys, ctx=CTX)
        for cas, one in zip(made, stored, strict=True):
            assert isinstance(cas, Cas)
            assert one is not None
            # A write of a cancelled call may reach the server after a later one.
            assert one.cas.incarnation == cas.incarnation
            assert one.cas.value >= cas.value
            assert one.session.context in ({}, *({"ticks": ticks} for ticks in range(6)))
