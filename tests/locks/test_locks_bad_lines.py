"""Tests of waiters of a lock on a connection without notifications."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import uuid4

import anyio
import pytest

from greentic_session import LockHeldError
from greentic_session.ordering import SessionLocks

from ..support.redis import KEY, store_at, until
from ..support.redis_proxy import Fate, Proxy

if TYPE_CHECKING:
    from greentic_session.testing.servers import LocalServer

pytestmark = pytest.mark.anyio

PATIENCE_SECS = 15
"""Limit in seconds for an expected event, less than the deadline of :func:`store_at`."""


def deaf(request: bytes) -> Fate:
    return Fate.SWALLOW if b"SUBSCRIBE" in request else Fate.PASS


async def test_a_caller_without_notifications_stops_waiting_at_its_timeout(
    server: LocalServer,
) -> None:
    namespace = f"test:{uuid4().hex}"
    async with (
        store_at(server.tcp_url, namespace=namespace) as near,
        Proxy(server.port, deaf) as proxy,
        store_at(proxy.url, namespace=namespace) as far,
        SessionLocks(near).hold(KEY),
    ):
        with anyio.fail_after(PATIENCE_SECS), pytest.raises(LockHeldError):
            await SessionLocks(far).hold(KEY, wait=0.05).__aenter__()


async def test_a_caller_without_notifications_keeps_its_place(server: LocalServer) -> None:
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
