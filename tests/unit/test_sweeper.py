"""Tests of the background sweeper in every class that enters a store."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest
import pytest_asyncio

from greentic_session import (
    InMemorySessionStore,
    ManualClock,
    MemoryConfig,
    ReplyScope,
    Session,
    SessionCursor,
    SessionKey,
    SessionMeta,
    TenantCtx,
    WaitRegistry,
    create_session_store,
    new_session_key,
)
from greentic_session.ordering import SessionInbox, SessionLocks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from greentic_session import AsyncSessionStore

    Store = InMemorySessionStore[dict[str, Any]]

CTX = TenantCtx(tenant_id="acme")
KEY = SessionKey("absent")
QUICK = MemoryConfig(sweep_interval_secs=0.002)
Clocked = tuple[InMemorySessionStore[dict[str, Any]], ManualClock]


def made(ttl_secs: float, user_id: str | None = None) -> Session[dict[str, Any]]:
    return Session(
        key=new_session_key(),
        cursor=SessionCursor(flow_id="f", node_id="n"),
        meta=SessionMeta(tenant_id="acme", user_id=user_id),
        ttl_secs=ttl_secs,
    )


def make() -> Clocked:
    clock = ManualClock()
    return InMemorySessionStore(config=QUICK, clock=clock), clock


async def swept_by_itself(store: AsyncSessionStore[dict[str, Any]], clock: ManualClock) -> None:
    """Put sessions, let them expire, and wait until the sweeper has removed them."""
    before = store.statistics().swept
    for _ in range(3):
        await store.put(
            Session(
                key=new_session_key(),
                cursor=SessionCursor(flow_id="f", node_id="n"),
                meta=SessionMeta(tenant_id="acme"),
                ttl_secs=5,
            )
        )
    clock.advance(5)
    with anyio.fail_after(10):
        while store.statistics().swept < before + 3:  # noqa: ASYNC110 - a sweep does not notify
            await anyio.sleep(0.001)
    assert store.statistics().sessions == 0


both = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])


@both
@pytest.mark.anyio
async def test_sweep_runs_in_async_with() -> None:
    store, clock = make()
    async with store:
        await swept_by_itself(store, clock)


@both
@pytest.mark.anyio
async def test_in_an_exit_stack_left_in_another_order() -> None:
    first, first_clock = make()
    second, second_clock = make()
    async with AsyncExitStack() as inner:
        async with AsyncExitStack() as outer:
            await inner.enter_async_context(first)
            await outer.enter_async_context(second)
            await swept_by_itself(first, first_clock)
            await swept_by_itself(second, second_clock)
        await swept_by_itself(first, first_clock)


@both
@pytest.mark.anyio
async def test_in_a_task_group_entered_in_one_task_and_left_in_another() -> None:
    store, clock = make()
    async with anyio.create_task_group() as group:
        entered = anyio.Event()

        async def enter() -> None:
            await store.__aenter__()
            entered.set()

        group.start_soon(enter)
        await entered.wait()
        await swept_by_itself(store, clock)
        group.start_soon(store.aclose)
    assert store.statistics().closed


@both
@pytest.mark.anyio
async def test_a_cancelled_task_group_closes_it() -> None:
    store, _ = make()
    async with anyio.create_task_group() as group:

        async def hold() -> None:
            async with store:
                await anyio.sleep_forever()

        group.start_soon(hold)
        await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    assert store.statistics().closed


@pytest.fixture
async def held_by_anyio() -> AsyncIterator[Clocked]:
    store, clock = make()
    async with store:
        yield store, clock


@both
@pytest.mark.anyio
async def test_sweep_runs_in_an_anyio_fixture(held_by_anyio: Clocked) -> None:
    await swept_by_itself(*held_by_anyio)


@pytest_asyncio.fixture
async def held_by_pytest_asyncio() -> AsyncIterator[Clocked]:
    store, clock = make()
    async with store:
        yield store, clock


@pytest.mark.asyncio
async def test_sweep_runs_in_a_pytest_asyncio_fixture(held_by_pytest_asyncio: Clocked) -> None:
    await swept_by_itself(*held_by_pytest_asyncio)


def test_no_task_is_left_after_close() -> None:
    def sweepers() -> list[str]:
        return [task.get_name() for task in asyncio.all_tasks() if "sweeper" in task.get_name()]

    async def main() -> None:
        store, clock = make()
        async with store:
            await swept_by_itself(store, clock)
            assert len(sweepers()) == 1
        assert sweepers() == []

    asyncio.run(main())


def test_a_store_that_outlives_its_loop_can_be_closed_in_the_next() -> None:
    store, _ = make()
    asyncio.run(_enter(store))
    asyncio.run(store.aclose())
    assert store.statistics().closed


async def _enter(store: AsyncSessionStore[dict[str, Any]]) -> None:
    await store.__aenter__()


@both
@pytest.mark.anyio
async def test_without_async_with_nothing_runs_and_everything_works() -> None:
    clock = ManualClock()
    store = create_session_store("memory://", clock=clock)
    assert isinstance(store, InMemorySessionStore)
    session: Session[dict[str, Any]] = Session(
        key=new_session_key(),
        cursor=SessionCursor(flow_id="f", node_id="n"),
        meta=SessionMeta(tenant_id="acme"),
        ttl_secs=5,
    )
    await store.put(session)
    clock.advance(5)
    assert store.statistics().sessions == 1
    assert await store.sweep() == 1
    assert await store.get(session.key) is None
    assert store.statistics().sessions == 0
    await store.aclose()


async def _get(store: Store) -> None:
    assert await store.get(KEY, ctx=CTX) is None


async def _get_without_a_caller(store: Store) -> None:
    assert await store.get(KEY) is None


async def _get_many(store: Store) -> None:
    assert await store.get_many([KEY], ctx=CTX) == [None]


async def _scan(store: Store) -> None:
    assert [found async for found in store.scan(TenantCtx(tenant_id="globex"))] == []


async def _put(store: Store) -> None:
    await store.put(made(0))


async def _touch(store: Store) -> None:
    assert not await store.touch(KEY, ctx=CTX)


async def _delete(store: Store) -> None:
    assert not await store.delete(KEY, ctx=CTX)


async def _wait(store: Store) -> None:
    scope = ReplyScope(conversation="c")
    assert await WaitRegistry(store).find_wait_by_scope(CTX, "ann", scope) is None


async def _lock(store: Store) -> None:
    async with SessionLocks(store).hold(KEY, ctx=CTX):
        pass


async def _admit(store: Store) -> None:
    await SessionInbox(store, CTX).admit(KEY, "e1", b"")


CALLS = [
    *(_get, _get_without_a_caller, _get_many, _scan, _put, _touch, _delete, _wait, _lock, _admit)
]


@both
@pytest.mark.anyio
@pytest.mark.parametrize("call", CALLS)
async def test_without_async_with_each_later_call_frees_a_few(
    call: Callable[[Store], Awaitable[None]],
) -> None:
    clock = ManualClock()
    store = InMemorySessionStore(clock=clock)
    for _ in range(100):
        await store.put(made(5))
    lasting = await store.put(made(0))
    assert lasting.value == 1
    await call(store)  # nothing is due
    assert store.statistics().swept == 0
    clock.advance(5)
    left = [100]
    while left[-1]:
        await call(store)
        left.append(100 - store.statistics().swept)
        # At most 8 a step. A call takes a few steps, so no call is delayed for long.
        assert 1 <= left[-2] - left[-1] <= 64 or left[-1] == 0
    assert len(left) > 2
    assert store.statistics().expiring == 0


@both
@pytest.mark.anyio
async def test_without_async_with_all_else_that_ended_is_freed_too() -> None:
    clock = ManualClock()
    store = InMemorySessionStore(clock=clock)
    inbox, waits = SessionInbox(store, CTX), WaitRegistry(store)
    for number in range(20):
        key = SessionKey(f"k{number}")
        await inbox.admit(key, "e", b"")
        async with inbox.take("w") as turn:
            await turn.finish()
        scope = ReplyScope(conversation=key)
        await waits.register_wait(CTX, "ann", scope, made(5, "ann"), event_id="e")
    assert store.statistics().events
    clock.advance(8 * 24 * 3600)
    for _ in range(200):
        await _get(store)
    sizes = msgspec.structs.asdict(store.statistics())
    sizes = {name: size for name, size in sizes.items() if type(size) is int and name != "swept"}
    assert not any(sizes.values()), sizes


@both
@pytest.mark.anyio
async def test_in_async_with_calls_leave_the_freeing_to_the_task() -> None:
    clock = ManualClock()
    async with InMemorySessionStore(clock=clock) as store:
        await store.put(made(5))
        clock.advance(5)
        await _get(store)
        assert store.statistics().sessions == 1
