"""Tests of errors of any kind, in handlers and in error callbacks."""

from __future__ import annotations

import asyncio
import gc
from contextvars import copy_context

import anyio
import pytest
from anyio.lowlevel import checkpoint

from greentic_session.ordering import SessionDispatcher
from tests.support.dispatcher import Desk, both, check_empty, until

pytestmark = pytest.mark.anyio


class OddError(BaseException):
    """An error that is no ``Exception``."""


# --- exceptions -----------------------------------------------------------------------------------


@both
async def test_an_error_comes_before_the_next_message_of_the_key() -> None:
    seen: list[str] = []

    async def handle(_: str | None, message: int) -> None:
        seen.append(f"handle {message}")
        if message % 2:
            raise ValueError(message)

    async def on_error(_: str | None, message: int, error: BaseException) -> None:
        await checkpoint()
        seen.append(f"error {message} {error}")

    async with SessionDispatcher(handle, on_error=on_error) as dispatcher:
        for number in range(4):
            await dispatcher.submit("a", number)
    assert seen == ["handle 0", "handle 1", "error 1 1", "handle 2", "handle 3", "error 3 3"]
    told = dispatcher.statistics()
    assert (told.handled, told.failed) == (2, 2)
    check_empty(dispatcher)


@both
async def test_an_error_without_a_callback_is_logged_without_the_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handle(_: str | None, message: int) -> None:
        if message == 41:
            raise ValueError("not to be done")

    async with SessionDispatcher(handle) as dispatcher:
        await dispatcher.submit("the-key", 41)
        await dispatcher.submit("the-key", 42)
    (logged,) = caplog.records
    assert logged.exc_info is not None
    assert isinstance(logged.exc_info[1], ValueError)
    assert "the-key" not in logged.getMessage()
    assert "41" not in logged.getMessage()
    assert dispatcher.statistics().handled == 1


@both
async def test_error_and_discard_handlers_that_fail_stop_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handle(_: str | None, message: int) -> None:
        if message == 0:
            raise ValueError("the handler's")

    async def on_error(_key: str | None, _message: int, _error: BaseException) -> None:
        raise KeyError("on_error's")

    def on_discard(_key: str | None, _message: int, _reason: str) -> None:
        raise LookupError("on_discard's")

    async with SessionDispatcher(
        handle, per_key=2, overflow="drop_oldest", on_error=on_error, on_discard=on_discard
    ) as dispatcher:
        dispatcher.submit_nowait("a", 9)
        dispatcher.submit_nowait("a", 0)
        dispatcher.submit_nowait("a", 1)
    told = dispatcher.statistics()
    assert (told.handled, told.failed, told.dropped) == (1, 1, 1)
    dropped, failed = caplog.records
    assert "dropped" in dropped.getMessage()
    assert failed.exc_info is not None
    assert isinstance(failed.exc_info[1], KeyError)
    assert isinstance(failed.exc_info[1].__context__, ValueError)
    check_empty(dispatcher)


# --- errors that are no Exception -----------------------------------------------------------------


async def _go_on_after(error: BaseException) -> None:
    desk = Desk()

    async def handle(key: str | None, message: int) -> None:
        if message == 0:
            raise error
        await checkpoint()
        desk.done.append((key, message))

    async with SessionDispatcher(
        handle, concurrency=1, on_error=desk.note_error, on_discard=desk.note_discard
    ) as dispatcher:
        for number in range(3):
            await dispatcher.submit("a", number)
        await dispatcher.submit("b", 1)
        with anyio.fail_after(10):
            await dispatcher.join()
    assert sorted(desk.done, key=str) == [("a", 1), ("a", 2), ("b", 1)]
    assert (desk.errors, desk.discards) == ([("a", 0, error)], [])
    told = dispatcher.statistics()
    assert (told.failed, told.cancelled) == (1, 0)
    check_empty(dispatcher)


@both
@pytest.mark.parametrize(
    "error",
    [
        OddError(),
        BaseExceptionGroup("several", [OddError(), ValueError()]),
        BaseExceptionGroup("an exit among others", [SystemExit(), ValueError()]),
        GeneratorExit(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_a_handler_raises_is_its_messages_failure(error: BaseException) -> None:
    await _go_on_after(error)


@pytest.mark.parametrize("anyio_backend", ["trio"])
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
async def test_on_trio_nothing_leaves_the_loop(kind: type[BaseException]) -> None:
    await _go_on_after(kind())


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_on_asyncio_two_leave_the_loop_and_the_rest_stays_in_order(
    kind: type[BaseException],
) -> None:
    desk = Desk()
    told: list[type[BaseException]] = []

    async def handle(key: str | None, message: int) -> None:
        if message == 0:
            raise kind
        desk.done.append((key, message))

    async def on_error(_key: str | None, _message: int, error: BaseException) -> None:
        await checkpoint()
        told.append(type(error))

    dispatcher = SessionDispatcher(handle, concurrency=1, on_error=on_error)

    async def main() -> None:
        for number in range(3):
            await dispatcher.submit("a", number)
        await dispatcher.join()

    with asyncio.Runner() as runner:
        with pytest.raises(kind):
            runner.run(main())
        assert (told, desk.done) == ([kind], [])
        assert dispatcher.statistics().running == 0
        runner.run(dispatcher.aclose())  # if the loop continues, the rest can be handled
    assert desk.done == [("a", 1), ("a", 2)]
    check_empty(dispatcher)
    gc.collect()  # asyncio then logs that the task's error was not read, and not in a later test


@both
async def test_a_base_exception_of_a_callback_stops_no_worker(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handle(_: str | None, message: int) -> None:
        if message == 0:
            raise ValueError

    async def on_error(_key: str | None, _message: int, _error: BaseException) -> None:
        raise OddError

    def on_discard(_key: str | None, _message: int, _reason: str) -> None:
        raise asyncio.CancelledError

    async with SessionDispatcher(
        handle,
        concurrency=1,
        per_key=2,
        overflow="drop_oldest",
        on_error=on_error,
        on_discard=on_discard,
    ) as dispatcher:
        for number in (9, 0, 1):
            dispatcher.submit_nowait("a", number)
    told = dispatcher.statistics()
    assert (told.handled, told.failed, told.dropped, told.cancelled) == (1, 1, 1, 0)
    assert len(caplog.records) == 2
    check_empty(dispatcher)


@both
async def test_a_handler_that_fails_while_it_is_cancelled_has_failed() -> None:
    """On trio its error may contain cancellations in addition to the failure."""
    desk = Desk()

    async def fail_late() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError

    async def handle(key: str | None, message: int) -> None:
        desk.begun.append((key, message))
        async with anyio.create_task_group() as group:
            group.start_soon(fail_late)
            group.start_soon(anyio.sleep_forever)

    async def on_error(key: str | None, message: int, error: BaseException) -> None:
        desk.errors.append((key, message, error))

    dispatcher = SessionDispatcher(handle, on_error=on_error, on_discard=desk.note_discard)
    await dispatcher.submit("a", 0)
    await until(lambda: len(desk.begun) == 1)
    await checkpoint()
    await dispatcher.aclose(drain=False)
    ((_, _, error),) = desk.errors
    assert isinstance(error, BaseExceptionGroup)
    assert error.subgroup(ValueError) is not None
    assert (dispatcher.statistics().failed, desk.discards) == (1, [])
    check_empty(dispatcher)


async def test_a_task_that_is_let_go_of_asks_for_nothing_more() -> None:
    """A loop that was closed early leaves its tasks behind. They are closed without a loop."""
    desk = Desk()
    dispatcher = SessionDispatcher(
        desk.handle, on_error=desk.note_error, on_discard=desk.note_discard
    )
    for number in range(2):
        dispatcher._lanes.enter("a", number, may_wait=False)
    left = dispatcher._work(1)
    copy_context().run(left.send, None)
    left.close()
    assert (desk.begun, desk.errors) == ([("a", 0)], [])
    assert desk.discards == [("a", 0, "cancelled")]
    assert dispatcher.statistics().workers == 0
