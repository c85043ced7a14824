"""Order, turns, limits and ends of a dispatcher."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict, deque
from contextlib import AsyncExitStack
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest
import pytest_asyncio

from greentic_session.errors import DispatcherClosedError, DispatcherFullError, InvalidInputError
from greentic_session.ordering import SessionDispatcher
from tests.dispatcher_rig import Desk, both, check_empty, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from greentic_session.ordering import Overflow

pytestmark = pytest.mark.anyio


@both
async def test_a_key_keeps_its_order_and_has_one_message_in_hand() -> None:
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
async def test_who_never_waits_lets_others_run() -> None:
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


# --- overflow ------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("limit", ["key", "total"])
async def test_reject_refuses_what_is_over_the_limit(limit: str) -> None:
    desk = Desk()
    per_key, total = (2, 100) if limit == "key" else (100, 2)
    async with SessionDispatcher(
        desk.handle, overflow="reject", per_key=per_key, total=total
    ) as dispatcher:
        dispatcher.submit_nowait("a", 0)
        await until(lambda: len(desk.begun) == 1)
        await dispatcher.submit("a", 1)
        await dispatcher.submit("a", 2)  # exactly full: the one in hand does not count
        for submitted in (dispatcher.submit("a", 3), dispatcher.submit("a", 4)):
            with pytest.raises(DispatcherFullError) as refused:
                await submitted
            assert (refused.value.limit, refused.value.code) == (limit, "rate_limited")
        if limit == "key":
            dispatcher.submit_nowait("b", 9)  # another key has its own room
        else:
            with pytest.raises(DispatcherFullError):
                dispatcher.submit_nowait(None, 9)
        desk.let_all_go()
    assert [m for k, m in desk.done if k == "a"] == [0, 1, 2]
    check_empty(dispatcher)


@both
async def test_wait_lets_submitters_wait_in_order() -> None:
    desk = Desk()
    submitted: list[int] = []
    async with SessionDispatcher(desk.handle, per_key=2) as dispatcher:
        async with anyio.create_task_group() as group:

            async def submit(number: int) -> None:
                await dispatcher.submit("a", number)
                submitted.append(number)

            for number in range(6):
                group.start_soon(submit, number)
                before = number
                await until(
                    lambda: len(submitted) + dispatcher.statistics().blocked == before + 1  # noqa: B023
                )
                if number == 0:
                    await until(lambda: len(desk.begun) == 1)
            assert submitted == [0, 1, 2]
            told = dispatcher.statistics()
            assert (told.waiting, told.blocked, told.accepted) == (2, 3, 3)
            with pytest.raises(DispatcherFullError):
                dispatcher.submit_nowait("a", 99)  # no way past those who wait
            await dispatcher.submit("b", 50)
            desk.let_go(0)
            await until(lambda: len(submitted) == 4)
            assert dispatcher.statistics().waiting == 2
            desk.let_all_go()
        await dispatcher.join()
    assert [m for k, m in desk.done if k == "a"] == [0, 1, 2, 3, 4, 5]
    check_empty(dispatcher)


@both
async def test_wait_for_room_in_all_takes_turns_between_keys() -> None:
    desk = Desk()
    entered: list[str] = []
    async with SessionDispatcher(desk.handle, concurrency=1, total=1) as dispatcher:
        dispatcher.submit_nowait("x", 0)
        await until(lambda: len(desk.begun) == 1)
        dispatcher.submit_nowait("x", 1)
        async with anyio.create_task_group() as group:

            async def submit(key: str | None, number: int) -> None:
                await dispatcher.submit(key, number)
                entered.append(str(key))

            for place, key in enumerate(("a", "a", "a", "b", None)):
                group.start_soon(submit, key, 10 + place)
                await until(lambda: dispatcher.statistics().blocked == place + 1)  # noqa: B023
            assert dispatcher.statistics().lanes == 4
            desk.let_all_go()
        await dispatcher.join()
        assert entered == ["a", "b", "None", "a", "a"]
    assert [m for k, m in desk.done if k == "a"] == [10, 11, 12]
    check_empty(dispatcher)


@both
async def test_drop_oldest_of_the_key_keeps_the_order_of_the_rest() -> None:
    desk = Desk()
    async with SessionDispatcher(
        desk.handle, per_key=2, overflow="drop_oldest", on_discard=desk.note_discard
    ) as dispatcher:
        dispatcher.submit_nowait("a", 0)
        await until(lambda: len(desk.begun) == 1)
        dispatcher.submit_nowait("b", 100)
        for number in range(1, 6):
            await dispatcher.submit("a", number)
            assert dispatcher.statistics().waiting <= 3
        assert desk.discards == [("a", 1, "dropped"), ("a", 2, "dropped"), ("a", 3, "dropped")]
        desk.let_all_go()
    assert [m for k, m in desk.done if k == "a"] == [0, 4, 5]
    told = dispatcher.statistics()
    assert (told.accepted, told.handled, told.dropped) == (7, 4, 3)
    check_empty(dispatcher)


@both
async def test_drop_oldest_of_all_where_all_are_full() -> None:
    desk = Desk()
    async with SessionDispatcher(
        desk.handle,
        concurrency=1,
        total=3,
        overflow="drop_oldest",
        on_discard=desk.note_discard,
    ) as dispatcher:
        dispatcher.submit_nowait("x", 0)
        await until(lambda: len(desk.begun) == 1)
        for place, key in enumerate(("a", "b", "a", "c", None, "c", "d")):
            dispatcher.submit_nowait(key, place + 1)
            assert dispatcher.statistics().waiting == min(place + 1, 3)
        assert [m for _, m, _ in desk.discards] == [1, 2, 3, 4]
        assert dispatcher.statistics().lanes == 4  # x in hand, None, c and d
        desk.let_all_go()
    # Where one of its messages waits throughout, a lane keeps its turn.
    assert desk.done == [("x", 0), ("c", 6), (None, 5), ("d", 7)]
    check_empty(dispatcher)


@both
async def test_a_key_that_is_always_full_has_its_turn() -> None:
    desk = Desk()
    async with SessionDispatcher(
        desk.handle, concurrency=1, per_key=1, overflow="drop_oldest"
    ) as dispatcher:
        dispatcher.submit_nowait("x", 0)
        await until(lambda: len(desk.begun) == 1)
        for number in range(1, 4):
            dispatcher.submit_nowait("a", number)
            dispatcher.submit_nowait(f"other{number}", number)
        desk.let_all_go()
    assert desk.done[:2] == [("x", 0), ("a", 3)]


# --- errors --------------------------------------------------------------------------------------


@both
async def test_an_error_comes_before_the_next_message_of_the_key() -> None:
    seen: list[str] = []

    async def handle(_: str | None, message: int) -> None:
        seen.append(f"handle {message}")
        if message % 2:
            raise ValueError(message)

    async def on_error(_: str | None, message: int, error: Exception) -> None:
        await anyio.lowlevel.checkpoint()
        seen.append(f"error {message} {error}")

    async with SessionDispatcher(handle, on_error=on_error) as dispatcher:
        for number in range(4):
            await dispatcher.submit("a", number)
    assert seen == ["handle 0", "handle 1", "error 1 1", "handle 2", "handle 3", "error 3 3"]
    told = dispatcher.statistics()
    assert (told.handled, told.failed) == (2, 2)
    check_empty(dispatcher)


@both
async def test_an_error_nobody_takes_is_logged_without_the_message(
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

    async def on_error(_key: str | None, _message: int, _error: Exception) -> None:
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


# --- from within a handler -----------------------------------------------------------------------


@both
async def test_a_handler_submits_to_its_own_key_and_never_waits_for_itself() -> None:
    done: list[int] = []
    refused: list[str] = []

    async def handle(_: str | None, message: int) -> None:
        done.append(message)
        if message == 0:
            await dispatcher.submit("a", 1)
            await dispatcher.submit("a", 2)
            with pytest.raises(DispatcherFullError) as error:
                await dispatcher.submit("a", 3)
            refused.append(error.value.limit)
            async with anyio.create_task_group() as group:
                group.start_soon(submit_beside)

    async def submit_beside() -> None:
        with pytest.raises(DispatcherFullError):
            await dispatcher.submit("a", 4)
        refused.append("beside")

    async with SessionDispatcher(handle, per_key=2) as dispatcher:
        await dispatcher.submit("a", 0)
        await dispatcher.join()
    assert (done, refused) == ([0, 1, 2], ["key", "beside"])
    assert dispatcher.statistics().failed == 0
    check_empty(dispatcher)


@both
async def test_a_handler_of_one_dispatcher_waits_for_another() -> None:
    desk = Desk()
    second = SessionDispatcher(desk.handle, per_key=1)

    async def handle(key: str | None, message: int) -> None:
        await second.submit(key, message)

    async with second, SessionDispatcher(handle) as first:
        for number in range(4):
            await first.submit("a", number)
        await until(lambda: second.statistics().blocked == 1)
        desk.let_all_go()
        await first.join()
    assert [m for _, m in desk.done] == [0, 1, 2, 3]
    assert first.statistics().failed == 0


@both
async def test_a_handler_cannot_wait_for_its_own_end() -> None:
    refused: list[str] = []

    async def handle(_: str | None, _message: int) -> None:
        for wait in (dispatcher.join, dispatcher.aclose):
            with pytest.raises(RuntimeError, match="cannot wait"):
                await wait()
            refused.append(wait.__name__)

    async with SessionDispatcher(handle) as dispatcher:
        await dispatcher.submit("a", 0)
    assert refused == ["join", "aclose"]


# --- many ----------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("overflow", ["wait", "drop_oldest", "reject"])
async def test_20_000_messages_over_500_keys(overflow: Overflow) -> None:
    rng = random.Random(5)
    handled: defaultdict[str | None, list[int]] = defaultdict(list)
    gone: Counter[str | None] = Counter()
    in_hand: Counter[str | None] = Counter()
    most = {"in hand": 0, "key": 0, "waiting": 0, "per key": 0}
    lots = deque(
        (None if rng.random() < 0.02 else f"k{rng.randrange(500)}", number)
        for number in range(20_000)
    )
    expected: defaultdict[str | None, list[int]] = defaultdict(list)
    for key, number in lots:
        expected[key].append(number)
    drawn = random.Random(6)

    async def handle(key: str | None, message: int) -> None:
        in_hand[key] += 1
        most["in hand"] = max(most["in hand"], in_hand.total())
        if key is not None:
            most["key"] = max(most["key"], in_hand[key])
        for _ in range(drawn.randrange(3)):
            await anyio.lowlevel.checkpoint()
        in_hand[key] -= 1
        handled[key].append(message)
        if message % 50 == 0:
            raise ValueError(message)

    async def on_error(_key: str | None, _message: int, _error: Exception) -> None:
        pass

    def on_discard(key: str | None, message: int, _reason: str) -> None:
        gone[key] += 1
        expected[key].remove(message)

    dispatcher = SessionDispatcher(
        handle,
        concurrency=16,
        per_key=3,
        total=100,
        overflow=overflow,
        on_error=on_error,
        on_discard=on_discard,
    )
    # Keys belong to producers: who submits the messages of a key from one task knows their order.
    shares: list[list[tuple[str | None, int]]] = [[] for _ in range(40)]
    for key, number in lots:
        shares[hash_of(key) % 40].append((key, number))

    async def produce(share: list[tuple[str | None, int]]) -> None:
        for key, number in share:
            try:
                await dispatcher.submit(key, number)
            except DispatcherFullError:
                gone[key] += 1
                expected[key].remove(number)
                await anyio.lowlevel.checkpoint()
            told = dispatcher.statistics()
            most["waiting"] = max(most["waiting"], told.waiting)
            if overflow != "wait" and number % 7 == 0:
                await anyio.lowlevel.checkpoint()

    async with dispatcher:
        async with anyio.create_task_group() as group:
            for share in shares:
                group.start_soon(produce, share)
        await dispatcher.join()
    loose, loose_expected = handled.pop(None), expected.pop(None)
    assert sorted(loose) == loose_expected
    assert {k: v for k, v in handled.items() if v} == {k: v for k, v in expected.items() if v}
    assert (most["key"], most["in hand"], most["waiting"]) == (1, 16, 100)
    assert bool(gone) == (overflow != "wait")
    told = dispatcher.statistics()
    assert told.handled + told.failed == 20_000 - gone.total()
    check_empty(dispatcher)


def hash_of(key: str | None) -> int:
    return int(key[1:]) if key else 0


# --- hosts ---------------------------------------------------------------------------------------


@pytest.fixture
async def in_an_anyio_fixture() -> AsyncIterator[tuple[SessionDispatcher[int], Desk]]:
    desk = Desk()
    async with SessionDispatcher(desk.handle) as dispatcher:
        yield dispatcher, desk
    assert len(desk.done) == 3


@both
async def test_in_an_anyio_fixture(
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
async def test_in_a_pytest_asyncio_fixture(
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


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("concurrency", {"concurrency": 0}),
        ("per_key", {"per_key": True}),
        ("total", {"total": 1.5}),
        ("overflow", {"overflow": "drop"}),
    ],
)
def test_bad_arguments_are_refused(field: str, arguments: dict[str, Any]) -> None:
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
