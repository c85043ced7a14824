"""Tests of a cancelled caller's late grant: it is released all the same.

On another connection the release might arrive first. The grant would then have no holder for a
whole lease.
"""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import msgspec
import pytest

from greentic_session import (
    OutcomeUnknownError,
    ReplyScope,
    SessionKey,
    SessionMeta,
    TenantCtx,
    WaitRegistry,
)
from greentic_session.abc.locks import LockRef, LockRequest, SupportsLocks
from greentic_session.ordering import SessionAffinity, SessionInbox, SessionLocks
from greentic_session.redis import scripts
from greentic_session.testing.proxy import first_of_each

from ..support.redis import CTX, KEY, SHORT_SECS, session, store_at, until
from ..support.redis_proxy import Fate, Proxy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from greentic_session import AsyncSessionStore
    from greentic_session.testing.servers import LocalServer

    Act = Callable[[AsyncSessionStore[Any], str], Awaitable[None]]

pytestmark = pytest.mark.anyio

ANN: Final = TenantCtx(tenant_id="acme", user_id="ann")
DELAY_SECS: Final = 0.3
STALLED_SECS: Final = 0.03
"""Time in seconds without a reply after which a connection is replaced by another."""


async def hold(store: AsyncSessionStore[Any], name: str) -> None:
    async with SessionLocks(store).hold(SessionKey(name)):
        pass


async def join(store: AsyncSessionStore[Any], name: str) -> None:
    async with SessionAffinity(store).member(name):
        pass


async def resume(store: AsyncSessionStore[Any], name: str) -> None:
    async with WaitRegistry(store).resume(ANN, "ann", ReplyScope(conversation=name)):
        pass


async def nothing(_store: AsyncSessionStore[Any], _name: str) -> None:
    pass


async def register(store: AsyncSessionStore[Any], name: str) -> None:
    waiting = msgspec.structs.replace(session(name), meta=SessionMeta.of(ANN))
    scope = ReplyScope(conversation=name)
    await WaitRegistry(store).register_wait(ANN, "ann", scope, waiting)


async def admit(store: AsyncSessionStore[Any], name: str) -> None:
    await inbox_of(store, name).admit(SessionKey(name), "event", b"")


async def take(store: AsyncSessionStore[Any], name: str) -> None:
    async with inbox_of(store, name).take("worker"):
        pass


def inbox_of(store: AsyncSessionStore[Any], name: str) -> SessionInbox[Any]:
    return SessionInbox(store, CTX, name=name.replace(" ", "-"))


@pytest.mark.parametrize(
    ("prepare", "grant"),
    [(nothing, hold), (nothing, join), (register, resume), (admit, take)],
    ids=["lock", "membership", "wait", "turn"],
)
async def test_what_comes_late_is_given_back(server: LocalServer, prepare: Act, grant: Act) -> None:
    namespace = f"test:{uuid4().hex}"
    names = (f"held up {number}" for number in count())
    late = first_of_each("held up [0-9]+", Fate.HOLD)
    async with (
        asyncio.timeout(30),
        store_at(server.tcp_url, namespace=namespace) as near,
        Proxy(server.port, late, delay_secs=DELAY_SECS) as proxy,
        store_at(proxy.url, namespace=namespace) as far,
    ):
        await prepare(near, "other")
        await grant(near, "other")  # so that the server has the scripts
        while proxy.connections < 2:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(far.get(SessionKey(next(names)), ctx=CTX))
                await asyncio.sleep(STALLED_SECS)
                tasks.create_task(far.get(KEY, ctx=CTX))
        while True:
            name, held_up = next(names), proxy.met[Fate.HOLD]
            await prepare(near, name)
            asking = asyncio.ensure_future(grant(far, name))
            await until(lambda: proxy.met[Fate.HOLD] > held_up)  # noqa: B023 - within the turn
            await asyncio.sleep(STALLED_SECS)
            asking.cancel()
            await asyncio.wait((asking,))
            if asking.cancelled():  # otherwise the machine was too slow
                break
        await asyncio.sleep(1.2 * DELAY_SECS)  # it does not arrive later
        async with asyncio.timeout(10):
            await grant(near, name)


async def test_what_was_asked_for_twice_and_comes_late_is_given_back(server: LocalServer) -> None:
    namespace = f"test:{uuid4().hex}"
    lock, token = scripts.ACQUIRE_LOCK.sha1.encode(), b"asks twice"
    bid = LockRequest(LockRef("", KEY, token.decode()), "far", 30_000, 10_000, queues=True)

    def late(request: bytes) -> Fate:
        return Fate.DELAY if lock in request and token in request else Fate.PASS

    async with (
        asyncio.timeout(30),
        store_at(server.tcp_url, namespace=namespace) as near,
        Proxy(server.port, late, delay_secs=4 * SHORT_SECS) as proxy,
        store_at(proxy.url, namespace=namespace, deadline=SHORT_SECS) as far,
    ):
        await hold(near, "other")  # so that the server has the scripts
        assert isinstance(far, SupportsLocks)
        locks = far._lock_backend()
        for _ in range(2):
            with pytest.raises(OutcomeUnknownError):
                await locks.call().acquire(bid)
        assert await locks.call().release(bid.ref, 0) is False
        await asyncio.sleep(4.5 * SHORT_SECS)  # it does not arrive later
        assert await SessionLocks(near).holder(KEY) is None
