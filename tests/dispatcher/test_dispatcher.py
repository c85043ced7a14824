"""Tests of the order and the turns of a dispatcher, in every event loop."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio
import pytest
import pytest_asyncio

from greentic_session.errors import DispatcherClosedError
from greentic_session.ordering import SessionDispatcher
from tests.support.dispatcher import Desk, both, check_empty, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


pytestmark = pytest.mark.anyio


@both
async def test_a_key_keeps_its_order_and_handles_one_message_at_a_time() -> None:
    desk = Desk()
    async with SessionDispatcher(desk.handle) as dispatcher:
        for number in range(5):
            await dispatcher.submit("a", number)
        for number in range(5):
            await until(lambda: len(desk.begun) == number + 1)  # noqa: B023 - awaited in its turn
            assert dispatcher.statistics().running == 1
            desk.let_go(number)
        await dispatcher.join()
        assert desk.done == [("a", number) for number in range(5)]
        assert desk.most == 1
    check_empty(dispatcher)


@both
async def test_keys_run_at_once_up_to_the_limit() -> None:
    desk = Desk()
    async with SessionDispatcher(desk.handle, concurrency=3) as dispatcher:
        for number in range(7):
            dispatcher.submit_nowait(f"k{number}", number)
        await until(lambda: len(desk.begun) == 3)
        told = dispatcher.statistics()
        assert (told.running, told.waiting, told.workers, told.lanes) == (3, 4, 3, 7)
        desk.let_all_go()
    assert (desk.most, len(desk.done)) == (3, 7)
    check_empty(dispatcher)


@both
async def test_one_key_needs_one_task() -> None:
    desk = Desk()
    async with SessionDispatcher(desk.handle) as dispatcher:
        for number in range(100):
            dispatcher.submit_nowait("a", number)
        assert dispatcher.statistics().workers == 1
        desk.let_all_go()
    assert [number for _, number in desk.done] == list(range(100))


@both
async def test_messages_without_a_key_run_at_once_within_the_limit() -> None:
    desk = Desk()
    async with SessionDispatcher(desk.handle, concurrency=4, per_key=1) as dispatcher:
        for number in range(6):
            await dispatcher.submit(None, number)
        await until(lambda: len(desk.begun) == 4)
        assert dispatcher.statistics().lanes == 6
        desk.let_go(3)
        await until(lambda: len(desk.begun) == 5)
        assert desk.done == [(None, 3)]
        desk.let_all_go()
    assert (desk.most, len(desk.done)) == (4, 6)
    check_empty(dispatcher)


@both
async def test_keys_take_turns_of_one_message() -> None:
    order: list[str | None] = []

    async def handle(key: str | None, _: int) -> None:
        order.append(key)

    async with SessionDispatcher(handle, concurrency=1) as dispatcher:
        for number in range(5):
            dispatcher.submit_nowait("busy", number)
        dispatcher.submit_nowait("b", 0)
        dispatcher.submit_nowait("b", 1)
        dispatcher.submit_nowait(None, 0)
        dispatcher.submit_nowait("c", 0)
    assert order == ["busy", "b", None, "c", "busy", "b", "busy", "busy", "busy"]


@both
async def test_a_handler_that_never_waits_lets_other_tasks_run() -> None:
    beside: list[int] = []

    async def handle(_: str | None, message: int) -> None:
        if len(beside) < 3:
            await dispatcher.submit("a", message + 1)

    dispatcher = SessionDispatcher(handle, concurrency=1)
    await dispatcher.submit("a", 0)
    for turn in range(3):
        await anyio.lowlevel.checkpoint()
        beside.append(turn)
    await dispatcher.aclose()
    assert dispatcher.statistics().failed == 0


# --- hosts ----------------------------------------------------------------------------------------


@pytest.fixture
async def in_an_anyio_fixture() -> AsyncIterator[tuple[SessionDispatcher[int], Desk]]:
    desk = Desk()
    async with SessionDispatcher(desk.handle) as dispatcher:
        yield dispatcher, desk
    assert len(desk.done) == 3


@both
async def test_dispatcher_runs_in_an_anyio_fixture(
    in_an_anyio_fixture: tuple[SessionDispatcher[int], Desk],
) -> None:
    dispatcher, desk = in_an_anyio_fixture
    for number in range(3):
        await dispatcher.submit("a", number)
    desk.let_all_go()


@pytest_asyncio.fixture
async def in_a_pytest_asyncio_fixture() -> AsyncIterator[tuple[SessionDispatcher[int], Desk]]:
    desk = Desk()
    async with SessionDispatcher(desk.handle) as dispatcher:
        yield dispatcher, desk
    assert len(desk.done) == 3


@pytest.mark.asyncio
async def test_dispatcher_runs_in_a_pytest_asyncio_fixture(
    in_a_pytest_asyncio_fixture: tuple[SessionDispatcher[int], Desk],
) -> None:
    dispatcher, desk = in_a_pytest_asyncio_fixture
    for number in range(3):
        await dispatcher.submit("a", number)
    desk.let_all_go()


@both
async def test_in_exit_stacks_left_in_another_order() -> None:
    first, second = Desk(), Desk()
    async with AsyncExitStack() as inner:
        async with AsyncExitStack() as outer:
            one = await inner.enter_async_context(SessionDispatcher(first.handle))
            two = await outer.enter_async_context(SessionDispatcher(second.handle))
            for number in range(3):
                await one.submit("a", number)
                await two.submit("a", number)
            second.let_all_go()
        assert len(second.done) == 3
        first.let_all_go()
    assert len(first.done) == 3


@both
async def test_entered_in_one_task_and_left_in_another() -> None:
    desk = Desk()
    dispatcher = SessionDispatcher(desk.handle)
    async with anyio.create_task_group() as group:
        group.start_soon(dispatcher.__aenter__)
        group.start_soon(dispatcher.submit, "a", 1)
        await until(lambda: len(desk.begun) == 1)
        desk.let_all_go()
        group.start_soon(dispatcher.aclose)
    assert desk.done == [("a", 1)]
    check_empty(dispatcher)


@both
async def test_a_closed_dispatcher_takes_nothing() -> None:
    dispatcher = SessionDispatcher(Desk().handle)
    await dispatcher.aclose()
    await dispatcher.aclose()
    with pytest.raises(DispatcherClosedError):
        dispatcher.submit_nowait("a", 1)
    with pytest.raises(DispatcherClosedError):
        await dispatcher.submit("a", 1)
    assert dispatcher.statistics().accepted == 0
