"""The background sweeper in every host that holds a store with ``async with``."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import pytest_asyncio

from greentic_session import (
    InMemorySessionStore,
    ManualClock,
    MemoryConfig,
    Session,
    SessionCursor,
    SessionMeta,
    create_session_store,
    new_session_key,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from greentic_session import AsyncSessionStore

QUICK = MemoryConfig(sweep_interval_secs=0.002)
Clocked = tuple[InMemorySessionStore[dict[str, Any]], ManualClock]


def make() -> Clocked:
    clock = ManualClock()
    return InMemorySessionStore(config=QUICK, clock=clock), clock


async def swept_by_itself(store: AsyncSessionStore[dict[str, Any]], clock: ManualClock) -> None:
    """Put sessions, let them expire, and wait until somebody else has removed them."""
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
        while store.statistics().swept < before + 3:  # noqa: ASYNC110 - a sweep tells nobody
            await anyio.sleep(0.001)
    assert store.statistics().sessions == 0


both = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])


@both
@pytest.mark.anyio
async def test_in_async_with() -> None:
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
async def test_in_an_anyio_fixture(held_by_anyio: Clocked) -> None:
    await swept_by_itself(*held_by_anyio)


@pytest_asyncio.fixture
async def held_by_pytest_asyncio() -> AsyncIterator[Clocked]:
    store, clock = make()
    async with store:
        yield store, clock


@pytest.mark.asyncio
async def test_in_a_pytest_asyncio_fixture(held_by_pytest_asyncio: Clocked) -> None:
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
    assert await store.get(session.key) is None
    assert store.statistics().sessions == 1
    assert await store.sweep() == 1
    assert store.statistics().sessions == 0
    await store.aclose()
