"""Tests of a store that closes: running calls may end, and later calls are refused."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from greentic_session import Cas, OutcomeUnknownError, StoreUnavailableError

from ..support.redis import CTX, KEY, counted, session, store_at, until

if TYPE_CHECKING:
    from greentic_session.testing.servers import LocalServer

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("server", ["valkey"], indirect=True),
]
CALLERS = 12


async def test_running_writes_get_their_answers_before_the_store_closes(
    server: LocalServer,
) -> None:
    async with store_at(server.url, close_timeout=20) as store:
        await store.put(session(count=0))
        server.pause()
        try:
            puts = [asyncio.create_task(store.put(session(f"k{n}"))) for n in range(CALLERS)]
            # One attempts first and has no conflict, and the others queue up.
            mutates = [
                asyncio.create_task(store.mutate(KEY, counted, ctx=CTX)) for _ in range(CALLERS)
            ]
            await until(lambda: store.statistics().in_flight == 2 * CALLERS)
            closing = asyncio.create_task(store.aclose())
            await until(lambda: store.statistics().closed)
            with pytest.raises(StoreUnavailableError, match="closed"):
                await store.put(session("late"))
        finally:
            server.resume()
        assert all(isinstance(told, Cas) for told in await asyncio.gather(*puts))
        changed = await asyncio.gather(*mutates)
        assert {one.session.context["count"] for one in changed} == {*range(1, CALLERS + 1)}
        await closing
        assert store.statistics().connections == 0


async def test_after_the_timeout_the_outcome_of_a_running_write_is_unknown(
    server: LocalServer,
) -> None:
    async with store_at(server.url, close_timeout=0.01) as store:
        await store.ping()
        server.pause()
        try:
            put = asyncio.create_task(store.put(session()))
            await until(lambda: store.statistics().in_flight == 1)
            await store.aclose()
            with pytest.raises(OutcomeUnknownError):
                await put
        finally:
            server.resume()
