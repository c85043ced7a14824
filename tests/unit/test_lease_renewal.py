"""Tests of a lease that cannot be renewed: its block ends with the lease, and no later.

The tests run on trio with a clock that jumps to the next event, so times are exact.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from trio.testing import MockClock

from greentic_session import (
    InMemorySessionStore,
    LeaseLostError,
    ManualClock,
    ReplyScope,
    Session,
    SessionCursor,
    SessionKey,
    SessionMeta,
    StoreUnavailableError,
    TenantCtx,
    WaitRegistry,
)
from greentic_session._core.leases import LeaseHandle, LeaseRenewer
from greentic_session.ordering import SessionAffinity, SessionInbox, SessionLocks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> object:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


async def cut_off_at(lease_secs: float, renew: Callable[[], Awaitable[object]]) -> float:
    """Hold a lease that begins now, and return its age when its block was cancelled."""
    began_at = anyio.current_time()
    renewer = LeaseRenewer(lease_secs, began_at + lease_secs)
    ages: list[float] = []

    async def leave() -> None:
        pass

    async def block() -> None:
        async with renewer.renewing(renew, leave, name="test"):
            try:
                await anyio.sleep_forever()
            finally:
                ages.append(anyio.current_time() - began_at)

    with pytest.raises(LeaseLostError):
        await block()
    return ages[0]


@pytest.mark.parametrize("call_secs", [0, 0.5, 2, 3, 7, 100])
@pytest.mark.parametrize("lease_secs", [1, 6, 30])
async def test_a_block_ends_with_its_lease_if_the_store_is_away(
    lease_secs: float, call_secs: float
) -> None:
    async def renew() -> None:
        await anyio.sleep(call_secs)
        raise StoreUnavailableError("away")

    assert await cut_off_at(lease_secs, renew) == pytest.approx(lease_secs)


async def test_the_store_is_asked_again_while_time_is_left() -> None:
    asked_at: list[float] = []
    began_at = anyio.current_time()

    async def renew() -> None:
        asked_at.append(anyio.current_time() - began_at)
        raise StoreUnavailableError("away")

    assert await cut_off_at(30, renew) == pytest.approx(30)
    assert asked_at == pytest.approx([10, 13, 16, 19, 22, 25, 28])


async def test_an_unexpected_error_is_logged_and_ends_the_block_with_the_lease(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = 0

    async def renew() -> None:
        nonlocal asked
        asked += 1
        raise RuntimeError("nobody thought of this")

    assert await cut_off_at(30, renew) == pytest.approx(30)
    assert asked == 7
    assert len(caplog.records) == asked
    assert all(record.exc_info is not None for record in caplog.records)


async def test_a_renewal_is_retried_after_an_unexpected_error() -> None:
    began_at = anyio.current_time()
    renewer = LeaseRenewer(30, began_at + 30)
    asked = 0

    async def renew() -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise RuntimeError("nobody thought of this")
        renewer.ends_at = anyio.current_time() + 30

    async def leave() -> None:
        renewer.ended = True

    async with renewer.renewing(renew, leave, name="test"):
        await anyio.sleep(31)
    assert not renewer.lost


async def test_a_loop_that_was_held_up_may_still_ask() -> None:
    """A late renewal is still sent, because the lease may still have no other holder."""
    began_at = anyio.current_time()
    renewer = LeaseRenewer(30, began_at - 1)  # as if the loop had been blocked since
    asked = anyio.Event()

    async def renew() -> None:
        await anyio.sleep(5)
        renewer.ends_at = anyio.current_time() + 30
        asked.set()

    async def leave() -> None:
        renewer.ended = True

    async with renewer.renewing(renew, leave, name="test"):
        await asked.wait()
    assert not renewer.lost


ANN = TenantCtx(tenant_id="acme", user_id="ann")
KEY = SessionKey("key")


async def a_claim(store: InMemorySessionStore[Any], _: AsyncExitStack) -> LeaseHandle:
    waits, scope = WaitRegistry(store), ReplyScope(conversation="chat")
    cursor = SessionCursor(flow_id="flow", node_id="node")
    session: Session[Any] = Session(
        key=KEY, cursor=cursor, meta=SessionMeta.of(ANN), context={}, ttl_secs=60
    )
    await waits.register_wait(ANN, "ann", scope, session)
    return await waits.claim(ANN, "ann", scope)


async def a_turn(store: InMemorySessionStore[Any], blocks: AsyncExitStack) -> LeaseHandle:
    inbox = SessionInbox(store, ANN)
    await inbox.admit(KEY, "event", b"")
    return await blocks.enter_async_context(inbox.take("worker"))


async def a_lock(store: InMemorySessionStore[Any], blocks: AsyncExitStack) -> LeaseHandle:
    return await blocks.enter_async_context(SessionLocks(store).hold(KEY))


async def a_membership(store: InMemorySessionStore[Any], blocks: AsyncExitStack) -> LeaseHandle:
    return await blocks.enter_async_context(SessionAffinity(store).member("worker", lease=30))


@pytest.mark.parametrize("name", ["auto_renew", "kept"])
@pytest.mark.parametrize("lease_of", [a_claim, a_turn, a_lock, a_membership])
async def test_auto_renew_and_its_deprecated_alias_renew_and_release_every_lease(
    lease_of: Callable[[InMemorySessionStore[Any], AsyncExitStack], Awaitable[LeaseHandle]],
    name: str,
) -> None:
    clock = ManualClock(1_700_000_000_000)
    store: InMemorySessionStore[Any] = InMemorySessionStore(clock=clock)
    async with AsyncExitStack() as blocks:
        lease = await lease_of(store, blocks)
        until = lease._until
        clock.advance(5)
        async with getattr(lease, name)() as same:
            assert same is lease
            await anyio.sleep(11)
            assert lease._until - until == timedelta(seconds=5)
            assert not lease.ended
        assert lease.ended
        assert await lease._release() is False
