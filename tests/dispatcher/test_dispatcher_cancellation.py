"""Tests that cancelled submitters and handlers leave nothing behind."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.lowlevel import checkpoint

from greentic_session.ordering import SessionDispatcher
from tests.support.dispatcher import Desk, both, check_empty, until

if TYPE_CHECKING:
    from collections.abc import Callable

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


def tasks() -> list[str]:
    return [t.get_name() for t in asyncio.all_tasks() if "greentic_session" in t.get_name()]


# --- cancelled submitters -------------------------------------------------------------------------


@both
@pytest.mark.parametrize("why", ["key", "total", "no key"])
async def test_a_submitter_that_is_cancelled_leaves_nothing_behind(why: str) -> None:
    desk = Desk()
    dispatcher = full(desk)
    await dispatcher.submit("a", 0)
    await dispatcher.submit("b", 1)
    await until(lambda: len(desk.begun) == 2)
    dispatcher.submit_nowait("a", 2)
    if why != "key":
        dispatcher.submit_nowait("b", 3)
        dispatcher.submit_nowait("c", 4)
    before = dispatcher.statistics()
    key = {"key": "a", "total": "d", "no key": None}[why]
    async with anyio.create_task_group() as group:
        group.start_soon(dispatcher.submit, key, 9)
        group.start_soon(dispatcher.submit, key, 9)
        await until(lambda: dispatcher.statistics().blocked == 2)
        group.cancel_scope.cancel()
    assert dispatcher.statistics() == before
    desk.let_all_go()
    await dispatcher.aclose()
    assert 9 not in [m for _, m in desk.done]
    assert dispatcher.statistics().accepted == before.accepted
    check_empty(dispatcher)


@pytest.mark.parametrize(
    ("anyio_backend", "native"), [("asyncio", False), ("asyncio", True), ("trio", False)]
)
async def test_a_submitter_cancelled_as_it_gets_room(native: bool) -> None:
    """A cancelled submitter has submitted nothing, and its room goes to the next."""
    desk = Desk()
    dispatcher = SessionDispatcher(desk.handle, concurrency=1, per_key=1)
    accepted: list[int] = []
    cancelled: list[int] = []
    scopes: dict[int, Callable[[], object]] = {}

    async def submit(number: int) -> None:
        with anyio.CancelScope() as scope:
            task = asyncio.current_task() if native else None
            scopes[number] = task.cancel if task else scope.cancel
            try:
                await dispatcher.submit("a", number)
            except anyio.get_cancelled_exc_class():
                cancelled.append(number)
                if not native:
                    raise
                return
            accepted.append(number)

    async with anyio.create_task_group() as group:
        dispatcher.submit_nowait("a", 0)
        await until(lambda: len(desk.begun) == 1)
        dispatcher.submit_nowait("a", 1)
        for number in range(2, 6):
            group.start_soon(submit, number)
            await until(lambda: dispatcher.statistics().blocked == number - 1)  # noqa: B023
        # The running message ends, message 1 is taken, and number 2 has room. Cancel it there.
        desk.let_go(0)
        while dispatcher.statistics().blocked == 4:
            await checkpoint()
        scopes[2]()
        desk.let_all_go()
    await dispatcher.aclose()
    assert sorted(accepted + cancelled) == [2, 3, 4, 5]
    assert [m for _, m in desk.done] == [0, 1, *accepted]
    if native:
        assert cancelled == [2]  # cancelled after it had room, but before it ran
    check_empty(dispatcher)


@both
async def test_cancellations_at_any_step_lose_nothing_and_double_nothing() -> None:
    """Submitters are cancelled after a random number of steps (seeded), with tight bounds."""
    rng = random.Random(11)
    for _ in range(60):
        desk = Desk()
        desk.let_all_go()
        accepted: dict[str | None, list[int]] = {}
        dispatcher = SessionDispatcher(
            desk.handle, concurrency=rng.randint(1, 3), per_key=rng.randint(1, 2), total=3
        )

        async def produce(key: str | None, first: int, limit: int) -> None:
            with anyio.CancelScope() as scope:
                for number in range(first, first + 6):
                    async with anyio.create_task_group() as group:
                        group.start_soon(cancel_later, scope, limit)
                        await dispatcher.submit(key, number)  # noqa: B023
                        accepted.setdefault(key, []).append(number)  # noqa: B023
                        group.cancel_scope.cancel()

        async def cancel_later(scope: anyio.CancelScope, steps: int) -> None:
            for _ in range(steps):
                await checkpoint()
            scope.cancel()

        async with anyio.create_task_group() as outer:
            for place in range(8):
                key = rng.choice([f"k{place}", f"k{place}", None])
                outer.start_soon(produce, key, place * 10, rng.randrange(1, 9))
        await dispatcher.aclose()
        for key, numbers in accepted.items():
            done = [m for k, m in desk.done if k == key]
            assert done == numbers if key else sorted(done) == sorted(numbers)
        assert len(desk.done) == sum(map(len, accepted.values()))
        check_empty(dispatcher)


async def test_what_stands_behind_a_submitter_that_gives_up_has_its_turn() -> None:
    """The second submitter returns before the first, which also has room, is cancelled."""
    desk = Desk()
    dispatcher = SessionDispatcher(desk.handle, per_key=2)
    dispatcher.submit_nowait("a", 0)
    await until(lambda: len(desk.begun) == 1)
    dispatcher.submit_nowait("a", 1)
    dispatcher.submit_nowait("a", 2)
    first, second = dispatcher.submit("a", 3), dispatcher.submit("a", 4)
    first.send(None)
    second.send(None)
    desk.let_all_go()
    await until(lambda: len(desk.done) == 3)
    with pytest.raises(StopIteration):
        second.send(None)
    assert dispatcher.statistics().waiting == 2
    with pytest.raises(asyncio.CancelledError):
        first.throw(asyncio.CancelledError())
    await until(lambda: len(desk.done) == 4)
    assert desk.done[-1] == ("a", 4)
    await dispatcher.aclose()
    check_empty(dispatcher)


async def test_join_ends_when_the_last_submitter_gives_up() -> None:
    desk = Desk()
    dispatcher = SessionDispatcher(desk.handle, per_key=1)
    dispatcher.submit_nowait("a", 0)
    await until(lambda: len(desk.begun) == 1)
    dispatcher.submit_nowait("a", 1)
    last = dispatcher.submit("a", 2)
    last.send(None)
    desk.let_all_go()
    async with anyio.create_task_group() as group:
        group.start_soon(dispatcher.join)
        await until(lambda: len(desk.done) == 2)
        assert dispatcher.statistics().lanes == 1
        with pytest.raises(asyncio.CancelledError):
            last.throw(asyncio.CancelledError())
    check_empty(dispatcher)


# --- cancelled handlers ---------------------------------------------------------------------------


async def test_a_handler_that_awaits_what_was_cancelled_does_not_stop_its_lane() -> None:
    desk = Desk()
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def handle(key: str | None, message: int) -> None:
        if message == 0:
            await future
        desk.done.append((key, message))

    async with SessionDispatcher(handle, on_discard=desk.note_discard) as dispatcher:
        await dispatcher.submit("a", 0)
        await dispatcher.submit("a", 1)
        await until(lambda: dispatcher.statistics().running == 1)
        future.cancel()
        await dispatcher.join()
        assert tasks() == []
    assert (desk.done, desk.discards) == ([("a", 1)], [("a", 0, "cancelled")])
    check_empty(dispatcher)


async def test_another_task_takes_over_from_one_that_was_cancelled() -> None:
    desk = Desk()

    async def handle(key: str | None, message: int) -> None:
        if message == 0:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        await checkpoint()
        desk.done.append((key, message))

    async with SessionDispatcher(handle, concurrency=1, on_discard=desk.note_discard) as dispatcher:
        for number in range(3):
            await dispatcher.submit("a", number)
        await dispatcher.join()
    assert (desk.done, desk.discards) == ([("a", 1), ("a", 2)], [("a", 0, "cancelled")])
    check_empty(dispatcher)


@both
async def test_a_scope_within_a_handler_cancels_that_much() -> None:
    done: list[int] = []

    async def handle(_: str | None, message: int) -> None:
        with anyio.move_on_after(0):
            await anyio.sleep_forever()
        done.append(message)

    async with SessionDispatcher(handle) as dispatcher:
        for number in range(3):
            await dispatcher.submit("a", number)
    assert done == [0, 1, 2]
    assert dispatcher.statistics().handled == 3


async def test_on_error_that_awaits_what_was_cancelled_does_not_stop_its_lane() -> None:
    done: list[int] = []

    async def handle(_: str | None, message: int) -> None:
        if message == 0:
            raise ValueError
        done.append(message)

    async def on_error(_key: str | None, _message: int, _error: BaseException) -> None:
        raise asyncio.CancelledError

    async with SessionDispatcher(handle, on_error=on_error) as dispatcher:
        await dispatcher.submit("a", 0)
        await dispatcher.submit("a", 1)
    assert done == [1]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_loop_that_ends_is_not_held_up_by_what_waits(backend: str) -> None:
    desk = Desk()
    dispatcher = SessionDispatcher(desk.handle, concurrency=2, on_discard=desk.note_discard)

    async def main() -> None:
        for number in range(6):
            await dispatcher.submit(f"k{number}", number)
        await until(lambda: len(desk.begun) == 2)

    anyio.run(main, backend=backend)
    assert sorted((m, r) for _, m, r in desk.discards) == [(0, "cancelled"), (1, "cancelled")]
    assert dispatcher.statistics().workers == 0
    assert len(desk.begun) == 2


async def test_nothing_runs_while_there_is_nothing_to_do() -> None:
    desk = Desk()
    desk.let_all_go()
    dispatcher = SessionDispatcher(desk.handle)
    for number in range(100):
        await dispatcher.submit(f"k{number}", number)
    await dispatcher.join()
    await until(lambda: dispatcher.statistics().workers == 0)
    assert tasks() == []
    check_empty(dispatcher)
    await dispatcher.aclose()
