"""Tests of a full dispatcher, from within a handler too, and of long runs."""

from __future__ import annotations

import random
from collections import Counter, defaultdict, deque
from typing import TYPE_CHECKING

import anyio
import pytest

from greentic_session.errors import DispatcherFullError
from greentic_session.ordering import SessionDispatcher
from tests.support.dispatcher import Desk, both, check_empty, until

if TYPE_CHECKING:
    from greentic_session.ordering import Overflow

pytestmark = pytest.mark.anyio


# --- overflow -------------------------------------------------------------------------------------


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
        await dispatcher.submit("a", 2)  # exactly full, because the running message does not count
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
                dispatcher.submit_nowait("a", 99)  # no message overtakes the waiting ones
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
        assert dispatcher.statistics().lanes == 4  # x is running, then None, c and d
        desk.let_all_go()
    # While one of its messages waits, a lane keeps its turn.
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


# --- from within a handler ------------------------------------------------------------------------


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


# --- many -----------------------------------------------------------------------------------------


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

    async def on_error(_key: str | None, _message: int, _error: BaseException) -> None:
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
    # Keys belong to producers: a task that submits all messages of a key knows their order.
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
