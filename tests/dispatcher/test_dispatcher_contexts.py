"""Tests of a handler's context: which one it runs in, and that its changes reach no other."""

from __future__ import annotations

import asyncio
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING

import pytest
from anyio.lowlevel import checkpoint

from greentic_session.ordering import SessionDispatcher
from tests.support.dispatcher import both, check_empty

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio

WHOSE: ContextVar[object] = ContextVar("WHOSE", default="nobody's")


def test_handlers_run_in_the_context_of_the_dispatcher() -> None:
    whose: ContextVar[str] = ContextVar("whose", default="nobody's")
    seen: list[str] = []

    async def handle(_: str | None, _message: int) -> None:
        seen.append(whose.get())

    async def main() -> None:
        whose.set("the maker's")
        async with SessionDispatcher(handle) as dispatcher:
            whose.set("a submitter's")
            await dispatcher.submit("a", 1)

    asyncio.run(main())
    assert seen == ["the maker's"]


@both
@pytest.mark.parametrize("concurrency", [1, 3])
async def test_what_a_handler_sets_reaches_no_other(concurrency: int) -> None:
    seen: list[object] = []
    done: list[tuple[str | None, int]] = []

    async def handle(key: str | None, message: int) -> None:
        seen.append(WHOSE.get())
        WHOSE.set(key)
        if message % 2:
            await checkpoint()
        seen.append(WHOSE.get() if WHOSE.get() != key else "nobody's")
        done.append((key, message))
        if message % 5 == 0:
            raise ValueError

    async def on_error(_key: str | None, message: int, _error: BaseException) -> None:
        WHOSE.set(message)

    async with SessionDispatcher(handle, concurrency=concurrency, on_error=on_error) as dispatcher:
        for number in range(40):
            await dispatcher.submit(f"k{number % 4}" if number % 9 else None, number)
    assert set(seen) == {"nobody's"}
    assert sorted(number for _, number in done) == [*range(40)]
    for key in ("k0", "k1", "k2", "k3"):
        numbers = [number for of, number in done if of == key]
        assert numbers == sorted(numbers)
    check_empty(dispatcher)


class Odd:
    """Values without a truth value for comparisons, as in numeric libraries."""

    def __eq__(self, other: object) -> bool:
        raise TypeError("the truth of this is ambiguous")

    def __hash__(self) -> int:
        return 1


@both
async def test_values_that_cannot_be_compared_reach_no_other() -> None:
    first = WHOSE.set(Odd())
    seen: list[object] = []

    async def handle(_: str | None, _message: int) -> None:
        seen.append(WHOSE.get())
        WHOSE.set(Odd())

    async with SessionDispatcher(handle, concurrency=1) as dispatcher:
        for number in range(3):
            await dispatcher.submit("a", number)
    assert len({id(value) for value in seen}) == 1
    WHOSE.reset(first)


def _keep() -> None:
    pass


def _set_and_reset() -> None:
    WHOSE.reset(WHOSE.set("mine for now"))


@both
@pytest.mark.parametrize("touch", [_keep, _set_and_reset])
async def test_handlers_that_leave_nothing_set_share_a_task(touch: Callable[[], None]) -> None:
    async def handle(_: str | None, _message: int) -> None:
        touch()

    async with SessionDispatcher(handle) as dispatcher:
        for number in range(100):
            dispatcher.submit_nowait("a", number)
    assert dispatcher.statistics().handled == 100
    assert dispatcher._started == 1


# `asyncio.eager_task_factory` came with Python 3.12.
@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks are never eager")
def test_eager_tasks_that_set_something_do_not_nest() -> None:
    async def handle(_: str | None, message: int) -> None:
        assert WHOSE.get() == "nobody's"
        WHOSE.set(message)
        if message == 0:
            await checkpoint()

    async def main() -> None:
        # As in a newer Python.
        eager = getattr(asyncio, "eager_task_factory")  # noqa: B009
        asyncio.get_running_loop().set_task_factory(eager)
        async with SessionDispatcher(handle, concurrency=1) as dispatcher:
            for number in range(3000):  # the first of them lets the others be submitted
                dispatcher.submit_nowait(f"k{number % 7}", number)
        assert dispatcher.statistics().handled == 3000
        check_empty(dispatcher)

    asyncio.run(main())
