"""Locks whose line to the server is bad for a while: bells that are not heard, requests held up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import uuid4

import anyio
import pytest

from greentic_session import LockHeldError, SessionKey
from greentic_session.ordering import SessionLocks

from .redis_proxy import Fate, Proxy
from .redis_rig import CTX, KEY, store_at, until

if TYPE_CHECKING:
    from greentic_session.testing.servers import LocalServer

pytestmark = pytest.mark.anyio

PATIENCE_SECS = 15
"""For what must come, however busy the machine; less than the deadline of :func:`store_at`."""


def deaf(request: bytes) -> Fate:
    return Fate.SWALLOW if b"SUBSCRIBE" in request else Fate.PASS


async def test_who_hears_no_bell_waits_no_longer_than_it_will(server: LocalServer) -> None:
    namespace = f"test:{uuid4().hex}"
    async with (
        store_at(server.tcp_url, namespace=namespace) as near,
        Proxy(server.port, deaf) as proxy,
        store_at(proxy.url, namespace=namespace) as far,
        SessionLocks(near).hold(KEY),
    ):
        with anyio.fail_after(PATIENCE_SECS), pytest.raises(LockHeldError):
            await SessionLocks(far).hold(KEY, wait=0.05).__aenter__()


async def test_who_hears_no_bell_has_its_place(server: LocalServer) -> None:
    namespace = f"test:{uuid4().hex}"
    served: list[str] = []
    async with (
        store_at(server.tcp_url, namespace=namespace) as near,
        Proxy(server.port, deaf) as proxy,
        store_at(proxy.url, namespace=namespace) as far,
    ):

        async def wait(name: str, locks: SessionLocks) -> None:
            async with locks.hold(KEY):
                served.append(name)

        holder = SessionLocks(near)
        with anyio.fail_after(PATIENCE_SECS):
            async with asyncio.TaskGroup() as tasks, holder.hold(KEY):
                tasks.create_task(wait("deaf", SessionLocks(far)))
                await until(lambda: proxy.met[Fate.SWALLOW] > 0)
                tasks.create_task(wait("later", SessionLocks(near)))
    assert served == ["deaf", "later"]


async def test_who_was_cancelled_leaves_nothing_though_its_request_comes_late(
    server: LocalServer,
) -> None:
    """What leaves it by another connection does not overtake it."""
    namespace = f"test:{uuid4().hex}"
    victim = SessionKey("victim")
    held_up = 0

    def choose(request: bytes) -> Fate:
        nonlocal held_up
        if b"hinder" not in request and (b"EVAL" not in request or b"victim" not in request):
            return Fate.PASS
        held_up += 1
        return Fate.HOLD if held_up < 3 else Fate.PASS

    async with (
        store_at(server.tcp_url, namespace=namespace) as near,
        Proxy(server.port, choose, delay_secs=0.3) as proxy,
        store_at(proxy.url, namespace=namespace) as far,
    ):
        # The server knows the scripts, and the store has a second connection.
        async with SessionLocks(near).hold(KEY):
            pass
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(far.get(SessionKey("hinder"), ctx=CTX))
            await until(lambda: proxy.met[Fate.HOLD] == 1)
            while proxy.connections < 2:
                await asyncio.sleep(0.03)  # until the first one counts as stalled
                await asyncio.wait((tasks.create_task(far.get(KEY, ctx=CTX)),), timeout=0.001)
        asking = asyncio.create_task(SessionLocks(far).hold(victim).__aenter__())
        await until(lambda: proxy.met[Fate.HOLD] == 2)
        await asyncio.sleep(0.03)  # as above: whoever comes now takes the other one
        asking.cancel()
        await asyncio.wait((asking,))
        await until(lambda: proxy.met[Fate.PASS] > 0)
        await far.get(victim, ctx=CTX)
        assert await SessionLocks(near).holder(victim) is None
        # Nor does it come later.
        await asyncio.sleep(0.4)
        assert await SessionLocks(near).holder(victim) is None
