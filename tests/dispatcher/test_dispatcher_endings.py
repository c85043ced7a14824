"""Tests of draining a dispatcher, and of ending it at once."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from greentic_session.errors import DispatcherClosedError
from greentic_session.ordering import SessionDispatcher
from tests.support.dispatcher import Desk, both, check_empty, until

pytestmark = pytest.mark.anyio


def full(desk: Desk) -> SessionDispatcher[int]:
    return SessionDispatcher(
        desk.handle,
        concurrency=2,
        per_key=1,
        total=3,
        on_error=desk.note_error,
        on_discard=desk.note_discard,
    )


@both
async def test_a_drain_handles_accepted_messages_and_refuses_waiting_submitters() -> None:
    desk = Desk()
    dispatcher = full(desk)
    turned_away: list[int] = []

    async def submit(number: int) -> None:
        try:
            await dispatcher.submit("a", number)
        except DispatcherClosedError:
            turned_away.append(number)

    async with anyio.create_task_group() as group:
        await dispatcher.submit("a", 0)
        await until(lambda: len(desk.begun) == 1)
        await dispatcher.submit("a", 1)
        group.start_soon(submit, 2)
        group.start_soon(submit, 3)
        await until(lambda: dispatcher.statistics().blocked == 2)
        group.start_soon(dispatcher.aclose)
        await until(lambda: len(turned_away) == 2)
        with pytest.raises(DispatcherClosedError):
            dispatcher.submit_nowait("b", 4)
        desk.let_all_go()
    assert desk.done == [("a", 0), ("a", 1)]
    assert desk.discards == []
    check_empty(dispatcher)


@both
async def test_a_handler_that_submits_while_draining_is_refused() -> None:
    desk = Desk()

    async def handle(key: str | None, message: int) -> None:
        await desk.handle(key, message)
        dispatcher.submit_nowait("a", message + 1)

    dispatcher = SessionDispatcher(handle, on_error=desk.note_error)
    async with anyio.create_task_group() as group:
        await dispatcher.submit("a", 0)
        await until(lambda: len(desk.begun) == 1)
        group.start_soon(dispatcher.aclose)
        await checkpoint()
        desk.let_all_go()
    ((key, message, error),) = desk.errors
    assert (key, message, type(error)) == ("a", 0, DispatcherClosedError)
    check_empty(dispatcher)


@both
async def test_closing_without_draining_discards_and_cancels() -> None:
    desk = Desk()
    dispatcher = full(desk)
    await dispatcher.submit("a", 0)
    await dispatcher.submit("b", 1)
    await until(lambda: len(desk.begun) == 2)
    dispatcher.submit_nowait("b", 2)
    dispatcher.submit_nowait("a", 3)
    dispatcher.submit_nowait(None, 4)
    await dispatcher.aclose(drain=False)
    assert desk.done == []
    assert sorted((m, r) for _, m, r in desk.discards) == [
        (0, "cancelled"),
        (1, "cancelled"),
        (2, "closed"),
        (3, "closed"),
        (4, "closed"),
    ]
    told = dispatcher.statistics()
    assert (told.accepted, told.cancelled, told.closed) == (5, 2, 3)
    check_empty(dispatcher)


@both
async def test_closing_cancels_an_error_handler_too(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()

    async def fail(_key: str | None, _message: int) -> None:
        raise ValueError

    async def hang(key: str | None, message: int, error: BaseException) -> None:
        desk.errors.append((key, message, error))
        await anyio.sleep_forever()

    dispatcher = SessionDispatcher(fail, on_error=hang, on_discard=desk.note_discard)
    await dispatcher.submit("a", 0)
    await dispatcher.submit("a", 1)
    await until(lambda: len(desk.errors) == 1)
    assert dispatcher.statistics().running == 1
    await dispatcher.aclose(drain=False)
    assert desk.discards == [("a", 1, "closed"), ("a", 0, "cancelled")]
    told = dispatcher.statistics()
    assert (told.failed, told.cancelled, told.closed) == (0, 1, 1)
    (logged,) = caplog.records  # the error is not lost
    assert logged.exc_info is not None
    assert logged.exc_info[1] is not None
    assert isinstance(logged.exc_info[1].__context__, ValueError)
    check_empty(dispatcher)


@both
async def test_a_drain_with_a_limit_cancels_the_rest() -> None:
    desk = Desk()
    dispatcher = SessionDispatcher(desk.handle, concurrency=1, on_discard=desk.note_discard)
    for number in range(3):
        await dispatcher.submit("a", number)
    desk.let_go(0)
    await until(lambda: len(desk.begun) == 2)
    await dispatcher.aclose(timeout_secs=0.01)
    assert desk.done == [("a", 0)]
    assert desk.discards == [("a", 2, "closed"), ("a", 1, "cancelled")]
    check_empty(dispatcher)


@both
async def test_a_handler_ends_before_the_close_does() -> None:
    order: list[str] = []

    async def handle(_: str | None, _message: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                for _turn in range(5):
                    await checkpoint()
                order.append("cleaned up")

    dispatcher = SessionDispatcher(handle)
    for letter in "abc":
        await dispatcher.submit(letter, 1)
    await until(lambda: dispatcher.statistics().running == 3)
    await dispatcher.aclose(drain=False)
    order.append("closed")
    assert order == ["cleaned up"] * 3 + ["closed"]
    check_empty(dispatcher)


@both
async def test_closing_before_a_task_has_begun() -> None:
    desk = Desk()
    dispatcher = SessionDispatcher(desk.handle, on_discard=desk.note_discard)
    dispatcher.submit_nowait("a", 1)
    await dispatcher.aclose(drain=False)
    assert (desk.begun, desk.discards) == ([], [("a", 1, "closed")])
    check_empty(dispatcher)


@both
async def test_a_block_that_ends_by_an_exception_cancels() -> None:
    desk = Desk()
    dispatcher = SessionDispatcher(desk.handle, on_discard=desk.note_discard)

    async def block() -> None:
        async with dispatcher:
            await dispatcher.submit("a", 1)
            await until(lambda: len(desk.begun) == 1)
            raise KeyError

    with pytest.raises(KeyError):
        await block()
    assert desk.discards == [("a", 1, "cancelled")]
    check_empty(dispatcher)


@both
async def test_only_the_outermost_block_closes_the_dispatcher() -> None:
    desk = Desk()
    dispatcher = full(desk)
    async with dispatcher:
        with pytest.raises(ZeroDivisionError):
            async with dispatcher:
                raise ZeroDivisionError
        desk.let_all_go()
        await dispatcher.submit("a", 0)
    assert desk.done == [("a", 0)]
    with pytest.raises(DispatcherClosedError):
        dispatcher.submit_nowait("a", 1)


@both
async def test_closing_at_once_ends_another_tasks_drain() -> None:
    desk = Desk()
    dispatcher = SessionDispatcher(desk.handle)
    await dispatcher.submit("a", 1)
    await until(lambda: len(desk.begun) == 1)
    async with anyio.create_task_group() as group:
        group.start_soon(dispatcher.aclose)
        await checkpoint()
        await dispatcher.aclose(drain=False)
    check_empty(dispatcher)


@both
async def test_a_drain_that_is_cancelled_cancels_the_rest() -> None:
    desk = Desk()
    dispatcher = SessionDispatcher(desk.handle, on_discard=desk.note_discard)
    async with anyio.create_task_group() as group:
        await dispatcher.submit("a", 1)
        await until(lambda: len(desk.begun) == 1)
        group.start_soon(dispatcher.aclose)
        await checkpoint()
        group.cancel_scope.cancel()
    assert desk.discards == [("a", 1, "cancelled")]
    check_empty(dispatcher)


@both
async def test_join_includes_submitters_that_wait_for_room() -> None:
    desk = Desk()
    joined: list[int] = []
    dispatcher = full(desk)

    async def join() -> None:
        await dispatcher.join()
        joined.append(len(desk.done))

    await dispatcher.join()  # at once, because it is empty
    async with anyio.create_task_group() as group:
        dispatcher.submit_nowait("a", 0)
        await until(lambda: len(desk.begun) == 1)
        dispatcher.submit_nowait("a", 1)
        group.start_soon(dispatcher.submit, "a", 2)
        await until(lambda: dispatcher.statistics().blocked == 1)
        group.start_soon(join)
        group.start_soon(join)
        await checkpoint()
        assert joined == []
        desk.let_all_go()
    assert joined == [3, 3]
    check_empty(dispatcher)
