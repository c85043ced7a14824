"""Tests of invalid arguments to a dispatcher, and of functions of the wrong kind."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial
from types import coroutine
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import AsyncMock, MagicMock, create_autospec

import anyio
import pytest

from greentic_session.errors import InvalidInputError
from greentic_session.ordering import SessionDispatcher
from tests.support.dispatcher import Desk, both, check_empty, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Generator, Iterator

pytestmark = pytest.mark.anyio


async def _handle(_key: str | None, _message: int) -> None:
    pass


async def _note_later(_key: str | None, _message: int, _what: object) -> None:
    pass


def _note(_key: str | None, _message: int, _what: object) -> None:
    pass


async def _iterate(*_: object) -> AsyncIterator[None]:
    yield None


def _generate(*_: object) -> Iterator[None]:
    yield None


@coroutine
def _old_style(*_: object) -> Generator[None, None, None]:
    yield


class _CalledLater:
    async def __call__(self, *_: object) -> None:
        pass

    async def method(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("concurrency", {"concurrency": 0}),
        ("per_key", {"per_key": True}),
        ("total", {"total": 1.5}),
        ("overflow", {"overflow": "drop"}),
    ],
)
def test_bad_limits_are_refused(field: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError) as refused:
        SessionDispatcher(Desk().handle, **arguments)
    assert refused.value.field == field


@both
async def test_a_key_is_text_or_none() -> None:
    dispatcher = SessionDispatcher(Desk().handle)
    with pytest.raises(InvalidInputError) as refused:
        await dispatcher.submit(cast("str", 7), 1)
    assert refused.value.field == "key"
    check_empty(dispatcher)


# --- functions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("handler", None),
        ("handler", _iterate),
        ("handler", partial(_generate, 1)),
        ("on_error", 5),
        ("on_error", _iterate),
        ("on_discard", "text"),
        ("on_discard", _note_later),
        ("on_discard", partial(_note_later, "a")),
        ("on_discard", _CalledLater()),
        ("on_discard", partial(_CalledLater())),
        ("on_discard", _CalledLater().method),
        ("on_discard", _generate),
        ("on_discard", AsyncMock()),
    ],
)
def test_functions_that_cannot_serve_are_refused(field: str, bad: object) -> None:
    arguments: dict[str, Any] = {"handler": _handle, field: bad}
    with pytest.raises(InvalidInputError) as refused:
        SessionDispatcher(**arguments)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("field", "fine"),
    [
        ("handler", lambda _, message: _handle("a", message)),
        ("handler", partial(_CalledLater())),
        ("handler", _CalledLater().method),
        ("handler", _old_style),
        ("handler", AsyncMock()),
        ("handler", MagicMock()),
        ("handler", create_autospec(_handle)),
        ("on_error", lambda _, message, error: _note_later("a", message, error)),
        ("on_error", MagicMock()),
        ("on_discard", [].append),
        ("on_discard", partial(_note, "a")),
        ("on_discard", MagicMock()),
        ("on_discard", create_autospec(_note)),
        ("on_discard", dict),
    ],
)
def test_functions_that_may_serve_are_taken(field: str, fine: object) -> None:
    arguments: dict[str, Any] = {"handler": _handle, field: fine}
    SessionDispatcher(**arguments)


@both
async def test_whatever_can_be_awaited_is() -> None:
    done: list[str] = []

    class Awaited:
        def __init__(self, key: str | None, _message: int) -> None:
            self.key = key

        def __await__(self) -> Generator[None, None, None]:
            done.append(str(self.key))
            return
            yield

    async with SessionDispatcher(Awaited) as dispatcher:
        await dispatcher.submit("a", 1)
    assert (done, dispatcher.statistics().handled) == (["a"], 1)


@both
async def test_a_handler_that_returns_nothing_to_await_is_refused() -> None:
    desk = Desk()
    ran: list[int] = []

    def handle(_key: str | None, message: int) -> Awaitable[None]:
        ran.append(message)
        return cast("Awaitable[None]", None)

    async with SessionDispatcher(handle, on_error=desk.note_error) as dispatcher:
        await dispatcher.submit("a", 0)
        await dispatcher.submit("a", 1)
    assert ran == [0, 1]
    for key, _, error in desk.errors:
        assert isinstance(error, InvalidInputError)
        assert (key, error.field, error.reason) == (
            "a",
            "handler",
            "returned NoneType, not an awaitable",
        )
    assert dispatcher.statistics().failed == 2


@both
async def test_an_error_handler_that_returns_nothing_to_await_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(_key: str | None, _message: int) -> None:
        raise ValueError

    async with SessionDispatcher(fail, on_error=MagicMock()) as dispatcher:
        await dispatcher.submit("a", 0)
    (logged,) = caplog.records
    assert logged.exc_info is not None
    assert str(logged.exc_info[1]) == "on_error: returned MagicMock, not an awaitable"
    assert dispatcher.statistics().failed == 1


# --- closing --------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "bad", ["5", float("nan"), float("inf"), -1, True, timedelta(-1), None.__class__]
)
async def test_a_bad_timeout_closes_nothing(bad: Any) -> None:
    desk = Desk()
    async with SessionDispatcher(desk.handle, on_discard=desk.note_discard) as dispatcher:
        await dispatcher.submit("a", 0)
        await dispatcher.submit("a", 1)
        await until(lambda: len(desk.begun) == 1)
        with pytest.raises(InvalidInputError) as refused:
            await dispatcher.aclose(timeout_secs=bad)
        assert refused.value.field == "timeout_secs"
        await dispatcher.submit("a", 2)
        desk.let_all_go()
    assert desk.done == [("a", 0), ("a", 1), ("a", 2)]
    assert desk.discards == []


@both
@pytest.mark.parametrize("patience", [0, 0.0, timedelta(0), timedelta(milliseconds=10)])
async def test_a_timeout_is_seconds_or_a_timedelta(patience: timedelta | float) -> None:
    desk = Desk()
    dispatcher = SessionDispatcher(desk.handle, on_discard=desk.note_discard)
    await dispatcher.submit("a", 0)
    await until(lambda: len(desk.begun) == 1)
    with anyio.fail_after(10):
        await dispatcher.aclose(timeout_secs=patience)
    assert desk.discards == [("a", 0, "cancelled")]
    check_empty(dispatcher)


# --- no event loop --------------------------------------------------------------------------------


def test_a_message_is_not_in_where_no_loop_runs() -> None:
    desk = Desk()
    desk.let_all_go()
    dispatcher = SessionDispatcher(desk.handle, concurrency=2)
    with pytest.raises(RuntimeError):
        dispatcher.submit_nowait("a", 0)
    check_empty(dispatcher)

    async def main() -> None:
        await dispatcher.submit("a", 1)
        await dispatcher.aclose()

    asyncio.run(main())
    assert desk.done == [("a", 1)]
    assert dispatcher.statistics().accepted == 1


def test_a_message_is_not_in_between_runs_of_the_loop() -> None:
    desk = Desk()
    dispatcher = SessionDispatcher(desk.handle, concurrency=2)

    async def begin() -> None:
        await dispatcher.submit("a", 0)
        await until(lambda: len(desk.begun) == 1)

    with asyncio.Runner() as runner:
        runner.run(begin())
        with pytest.raises(RuntimeError):
            dispatcher.submit_nowait("b", 1)
        desk.let_all_go()
        runner.run(dispatcher.aclose())
    assert desk.done == [("a", 0)]
    check_empty(dispatcher)
