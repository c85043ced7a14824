"""What a cancelled caller had asked for, and comes late: it is given back all the same.

By another connection, that might come first; and what was granted would be nobody's for a lease.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest

from greentic_session import SessionKey
from greentic_session.ordering import SessionAffinity, SessionLocks

from .redis_proxy import Fate, Proxy
from .redis_rig import CTX, KEY, store_at, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from greentic_session import AsyncSessionStore
    from greentic_session.testing.servers import LocalServer

pytestmark = pytest.mark.anyio

HELD_UP: Final = b"held up"
STALLED_SECS: Final = 0.03
"""After so long without an answer, a connection is passed over for another."""


async def hold(store: AsyncSessionStore[Any], name: str) -> None:
    async with SessionLocks(store).hold(SessionKey(name)):
        pass


async def join(store: AsyncSessionStore[Any], name: str) -> None:
    async with SessionAffinity(store).member(name):
        pass


@pytest.mark.parametrize("grant", [hold, join], ids=lambda grant: grant.__name__)
async def test_what_comes_late_is_given_back(
    server: LocalServer, grant: Callable[[AsyncSessionStore[Any], str], Awaitable[None]]
) -> None:
    namespace = f"test:{uuid4().hex}"
    seen = 0

    def choose(request: bytes) -> Fate:
        nonlocal seen
        seen += HELD_UP in request
        return Fate.HOLD if HELD_UP in request and seen < 3 else Fate.PASS

    async with (
        store_at(server.tcp_url, namespace=namespace) as near,
        Proxy(server.port, choose, delay_secs=0.3) as proxy,
        store_at(proxy.url, namespace=namespace) as far,
    ):
        await grant(near, "other")  # so that the server knows the scripts
        async with asyncio.TaskGroup() as tasks:
            # So that the store has a second connection.
            tasks.create_task(far.get(SessionKey(HELD_UP.decode()), ctx=CTX))
            await until(lambda: proxy.met[Fate.HOLD] == 1)
            await asyncio.sleep(STALLED_SECS)
            tasks.create_task(far.get(KEY, ctx=CTX))
        assert proxy.connections == 2
        asking = asyncio.ensure_future(grant(far, HELD_UP.decode()))
        await until(lambda: proxy.met[Fate.HOLD] == 2)
        await asyncio.sleep(STALLED_SECS)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert seen > 2  # it was given back
        await asyncio.sleep(0.35)  # the delay: it comes no later
        async with asyncio.timeout(10):
            await grant(near, HELD_UP.decode())
