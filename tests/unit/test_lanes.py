"""Tests of a dispatcher's accounting, step by step, against its invariants."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, cast

import pytest

from greentic_session.errors import DispatcherFullError
from greentic_session.ordering.dispatcher.lanes import Lane, Lanes, Submitter
from tests.support.dispatcher import both

if TYPE_CHECKING:
    from greentic_session.ordering import Overflow

pytestmark = pytest.mark.anyio

PER_KEY, TOTAL = 2, 6


def check(lanes: Lanes[int], in_hand: set[Lane[int]], back_soon: set[Submitter[int]]) -> None:
    """Check all invariants that the module states."""
    every = [*lanes._by_key.values(), *lanes._loose]
    assert lanes.waiting == sum(len(lane.messages) for lane in every) <= TOTAL
    assert lanes.blocked == sum(len(lane.submitters or ()) for lane in every)
    assert in_hand == {lane for lane in every if lane.is_busy}
    placed = {each for lane in every for each in lane.messages if isinstance(each, Submitter)}
    assert back_soon == {each for each in placed if not each.is_back}
    ready, starved = set(lanes.ready), set(lanes._starved)
    for lane in every:
        assert lane.messages or lane.is_busy or lane.submitters, "an idle lane"
        assert len(lane.messages) <= PER_KEY
        first = lane.messages[0] if lane.messages else None
        takeable = first is not None and first not in back_soon
        assert (lane in ready) == (takeable and not lane.is_busy)
        assert (lane in starved) == (bool(lane.submitters) and len(lane.messages) < PER_KEY)
    assert ready | starved <= set(every)
    assert not starved or lanes.waiting == TOTAL
    if lanes._ages is not None:
        ages = lanes._ages
        assert Counter(ages._lane_of.values()) == {
            lane: len(lane.messages) for lane in every if lane.messages
        }
        assert set(ages._numbers) == {lane for lane in every if lane.messages}


class Play:
    """Random steps, and their required results."""

    def __init__(self, overflow: Overflow) -> None:
        self.rng = random.Random(3)
        self.lanes: Lanes[int] = Lanes(PER_KEY, TOTAL, overflow)
        self.in_hand: list[Lane[int]] = []
        self.blocked: list[Submitter[int]] = []
        self.order: defaultdict[str, list[int]] = defaultdict(list)
        self.taken: list[tuple[str | None, int]] = []
        self.lost: set[int] = set()
        self.steps: Counter[str] = Counter()

    def back_soon(self) -> list[Submitter[int]]:
        return [each for each in self.blocked if each.has_room]

    def enter(self, number: int) -> None:
        key = self.rng.choice(["a", "b", "c", "d", "e", None])
        lane = self.lanes._by_key.get(key) if key else None
        is_full = lane is not None and len(lane.messages) == PER_KEY
        try:
            outcome = self.lanes.enter(key, number, may_wait=self.rng.random() < 0.9)
        except DispatcherFullError as error:
            self.steps[f"full {error.limit}, {is_full}"] += 1
            return
        if key is not None:
            self.order[key].append(number)
        if isinstance(outcome, Submitter):
            self.blocked.append(outcome)
            self.steps["wait"] += 1
        elif outcome is not None:
            self.lost.add(outcome[1])
            self.steps["drop"] += 1

    def take(self) -> None:
        if self.lanes.ready:
            expected = next(iter(self.lanes.ready))
            lane, message = self.lanes.take()
            assert lane is expected
            self.in_hand.append(lane)
            self.taken.append((lane.key, message))

    def put_back(self) -> None:
        if self.in_hand:
            lane = self.in_hand.pop(self.rng.randrange(len(self.in_hand)))
            self.lanes.requeue(lane)

    def come_back(self) -> None:
        if self.back_soon():
            submitter = self.rng.choice(self.back_soon())
            assert submitter.settled.is_set()
            self.blocked.remove(submitter)
            self.lanes.confirm(submitter)
            self.steps["come back"] += 1

    def withdraw(self) -> None:
        if self.blocked:
            submitter = self.blocked.pop(self.rng.randrange(len(self.blocked)))
            self.steps["withdraw, with room" if submitter.has_room else "withdraw"] += 1
            self.lanes.withdraw(submitter)
            self.lost.add(submitter.message)

    def empty(self) -> None:
        self.lost.update(message for _, message in self.lanes.empty())
        for submitter in self.blocked:
            assert submitter.settled.is_set()
            assert not submitter.has_room
            self.lost.add(submitter.message)
            self.lanes.withdraw(submitter)  # it may be cancelled before it learns of this
        self.blocked.clear()
        assert (self.lanes.waiting, self.lanes.blocked) == (0, 0)


SEEN: dict[Overflow, set[str]] = {
    "wait": {
        "wait",
        "come back",
        "withdraw",
        "withdraw, with room",
        "full key, True",
        "full total, False",
    },
    "reject": {"full key, True", "full total, False"},
    "drop_oldest": {"drop"},
}


@both
@pytest.mark.parametrize("overflow", ["wait", "reject", "drop_oldest"])
async def test_every_step_keeps_the_books(overflow: Overflow) -> None:
    """Take seeded random steps in any order, including those that only a race would take."""
    play = Play(overflow)
    steps = [play.take, play.put_back, play.come_back, play.withdraw, play.empty]
    for number in range(8000):
        if play.rng.random() < 0.35:
            play.enter(number)
        else:
            play.rng.choices(steps, [6, 6, 5, 2, 0.02])[0]()
        check(play.lanes, set(play.in_hand), set(play.back_soon()))
    play.empty()
    for lane in play.in_hand:
        play.lanes.requeue(lane)
    assert len(play.lanes) == 0
    for key, numbers in play.order.items():
        kept = [number for number in numbers if number not in play.lost]
        assert [number for of, number in play.taken if of == key] == kept
        assert len(kept) > 100
    assert set(play.steps) == SEEN[overflow]


@both
async def test_a_message_that_equals_everything_is_not_taken_for_another() -> None:
    class Same:
        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 1

    lanes: Lanes[Same] = Lanes(2, 10, "wait")
    first, second = Same(), Same()
    lanes.enter("a", first, may_wait=True)
    lanes.enter("a", second, may_wait=True)
    submitter = cast("Submitter[Any]", lanes.enter("a", Same(), may_wait=True))
    lane, message = lanes.take()
    assert message is first
    assert submitter.has_room
    lanes.withdraw(submitter)
    lanes.requeue(lane)
    assert lanes.take()[1] is second
    lanes.requeue(lane)
    assert len(lanes) == 0
