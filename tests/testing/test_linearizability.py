"""Tests of the checkers: they detect planted violations and accept correct histories."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest

from greentic_session import Cas
from greentic_session.testing.history import Ending, Operation, Verb
from greentic_session.testing.linearizability import check_history
from greentic_session.testing.planting import Flaw, simulate
from greentic_session.testing.verdict import Ruling
from greentic_session.testing.version_order import check_versions

from ..support.brute_force import has_an_order
from ..support.redis import SEED

if TYPE_CHECKING:
    from collections.abc import Iterator

PLANTED: Final = 200
RIGHT: Final = 400
TINY: Final = 4000
ABSENT: Final = Cas.none()


def planted(flaw: Flaw, dice: random.Random, **size: Any) -> list[Operation]:
    for _ in range(100):
        history = simulate(dice, flaw=flaw, **size)
        if history is not None:
            return history
    pytest.fail(f"no occasion for {flaw}")


def wrong_ones(number: int, **size: Any) -> Iterator[tuple[Flaw, list[Operation]]]:
    dice = random.Random(SEED)
    for index, flaw in zip(range(number), flaws(), strict=False):
        yield flaw, planted(flaw, dice, unknown=(0.0, 0.05, 0.15)[index % 3], **size)


def flaws() -> Iterator[Flaw]:
    while True:
        yield from Flaw


def test_every_planted_violation_is_caught_by_the_search() -> None:
    caught = Counter(check_history(history).ruling for _, history in wrong_ones(PLANTED))
    assert caught == {Ruling.VIOLATED: PLANTED}


def test_every_planted_violation_is_caught_by_the_order_of_versions() -> None:
    missed = [
        flaw for flaw, history in wrong_ones(PLANTED) if not check_versions(history).is_violation
    ]
    assert missed == []


def test_no_right_history_is_blamed() -> None:
    dice = random.Random(SEED)
    for number in range(RIGHT):
        history = simulate(dice, clients=2 + number % 9, unknown=(number % 4) / 20)
        assert history is not None
        for check in (check_history, check_versions):
            verdict = check(history)
            assert verdict.holds, verdict.explanation


@pytest.mark.parametrize("flaw", Flaw, ids=lambda flaw: flaw.name.lower())
def test_what_is_planted_is_a_violation_in_every_order(flaw: Flaw) -> None:
    dice = random.Random(SEED)
    for _ in range(10):
        history = planted(flaw, dice, operations=3, clients=3, unknown=0.2)
        assert not has_an_order(history)
        assert check_history(history).is_violation
        verdict = check_versions(history)
        assert verdict.is_violation
        assert set(verdict.operations) <= {operation.number for operation in history}


def garbled(history: list[Operation], dice: random.Random) -> list[Operation]:
    """Change a few things at random, which may or may not make a violation."""
    history = [*history]
    for _ in range(dice.randint(1, 3)):
        index = dice.randrange(len(history))
        one, other = history[index], dice.choice(history)
        is_read = one.verb is Verb.GET
        changes: list[dict[str, Any]] = [
            {"token": other.token, "mark": other.mark} if is_read and other.token else {},
            {"token": other.token} if one.token is not None and other.token is not None else {},
            {"token": raised(one.token)} if one.token is not None and one.token.value else {},
            {"mark": other.mark} if is_read and one.mark and other.mark else {},
            {"expected": other.token} if one.expected and other.token and other.token.value else {},
            {"found": not one.found} if one.verb in (Verb.TOUCH, Verb.DELETE) else {},
            {"before": other.mark} if one.before and other.mark and other is not one else {},
            {"ending": Ending.UNKNOWN, "returned_at": None, "token": None},
            {"ending": Ending.FAILED, "token": None},
            {"invoked_at": other.invoked_at},
            {"returned_at": other.returned_at} if one.returned_at and other.returned_at else {},
        ]
        change = dice.choice(changes)
        if is_read and change.get("ending"):
            change = {**change, "mark": ""}
        changed = msgspec.structs.replace(one, **change)
        if changed.returned_at is None or changed.invoked_at < changed.returned_at:
            history[index] = changed
    return [one for one in history if is_sensible(one)]


def raised(token: Cas) -> Cas:
    return Cas(value=token.value + 1, incarnation=token.incarnation)


def is_sensible(one: Operation) -> bool:
    """Return whether a client can have seen this. The checkers only get such histories."""
    told = one.token is not None and one.token.value > 0
    if one.ending is Ending.DONE and one.verb is Verb.GET:
        return told is bool(one.mark)
    if one.ending is Ending.DONE and one.verb not in (Verb.TOUCH, Verb.DELETE):
        return told
    return True


def test_the_search_agrees_with_trying_every_order() -> None:
    dice = random.Random(SEED)
    orderly: Counter[bool] = Counter()
    blamed = 0
    for _ in range(TINY):
        history = simulate(dice, operations=dice.randint(3, 6), clients=3, unknown=0.1)
        assert history is not None
        history = garbled(history, dice)
        expected = has_an_order(history)
        verdict = check_history(history)
        assert verdict.holds is expected, "\n".join(map(str, history))
        orderly[expected] += 1
        if check_versions(history).is_violation:
            assert not expected, "\n".join(map(str, history))
            blamed += 1
    assert min(orderly.values()) > TINY / 10
    assert blamed > orderly[False] * 0.6


# --- by hand --------------------------------------------------------------------------------------

A1, A2, A3 = (Cas(value=value, incarnation="a" * 32) for value in (1, 2, 3))
B1 = Cas(value=1, incarnation="b" * 32)


def op(verb: Verb, number: int, span: tuple[int, int | None], **told: Any) -> Operation:
    told.setdefault("ending", Ending.UNKNOWN if span[1] is None else Ending.DONE)
    return Operation(
        number=number,
        client="c",
        key="key",
        verb=verb,
        invoked_at=span[0],
        returned_at=span[1],
        **told,
    )


def test_concurrent_operations_go_in_the_order_that_explains_them() -> None:
    history = [
        op(Verb.CREATE, 0, (1, 10), mark="x", token=A1),
        op(Verb.GET, 1, (2, 3), token=A1, mark="x"),  # before the create has returned
        op(Verb.GET, 2, (4, 12), token=ABSENT),
    ]
    assert check_history(history[:2]).holds
    assert check_history(history).is_violation  # absent after a client saw it
    assert check_versions(history[:2]).holds


def test_a_write_of_unknown_outcome_takes_effect_late_or_never() -> None:
    create = op(Verb.CREATE, 0, (1, 2), mark="x", token=A1)
    lost = op(Verb.PUT, 1, (3, None), mark="y")
    before = op(Verb.GET, 2, (4, 5), token=A1, mark="x")
    after = op(Verb.GET, 3, (6, 7), token=A2, mark="y")
    for history in ([create, lost, before], [create, lost, before, after]):
        assert check_history(history).holds
        assert check_versions(history).holds
    backwards = [create, lost, op(Verb.GET, 2, (4, 5), token=A2, mark="y")]
    backwards.append(op(Verb.GET, 3, (6, 7), token=A1, mark="x"))
    assert check_history(backwards).is_violation
    assert check_versions(backwards).is_violation


def test_an_unknown_write_explains_one_version_and_no_more() -> None:
    create = op(Verb.CREATE, 0, (1, 2), mark="x", token=A1)
    lost = op(Verb.PUT, 1, (3, None), mark="y")
    third = op(Verb.PUT, 2, (4, 5), mark="z", token=A3)
    fourth = op(Verb.PUT, 2, (4, 5), mark="z", token=Cas(value=4, incarnation="a" * 32))
    assert check_history([create, lost, third]).holds
    assert check_versions([create, lost, third]).holds
    assert check_history([create, lost, fourth]).is_violation
    assert check_versions([create, lost, fourth]).is_violation


def test_a_write_with_an_unknown_token_counts_as_applied() -> None:
    create = op(Verb.CREATE, 0, (1, 2), mark="x", token=A1)
    short = op(Verb.PUT, 1, (3, 4), mark="y", error="DurabilityError")
    assert check_history([create, short, op(Verb.GET, 2, (5, 6), token=A2, mark="y")]).holds
    assert check_history([create, short, op(Verb.GET, 2, (5, 6), token=A1, mark="x")]).is_violation


def test_an_incarnation_does_not_come_back() -> None:
    history = [
        op(Verb.CREATE, 0, (1, 2), mark="x", token=A1),
        op(Verb.DELETE, 1, (3, 4), expected=A1),
        op(Verb.PUT, 2, (5, None), mark="y"),
        op(Verb.PUT, 3, (6, 7), mark="z", token=A2),
    ]
    assert check_history(history).is_violation
    assert check_versions(history[:2]).holds


def test_keys_are_checked_one_by_one() -> None:
    one = op(Verb.CREATE, 0, (1, 2), mark="x", token=A1)
    other = msgspec.structs.replace(one, key="another", number=1, mark="y", token=B1)
    assert check_history([one, other]).holds
    wrong = msgspec.structs.replace(one, key="another", number=1, mark="y", token=A2)
    verdict = check_history([one, wrong])
    assert verdict.is_violation
    assert verdict.explanation.startswith("another:")


def test_a_search_that_is_too_long_says_so() -> None:
    dice = random.Random(SEED)
    history = simulate(dice, operations=100)
    assert history is not None
    verdict = check_history(history, max_steps=50)
    assert verdict.ruling is Ruling.UNDECIDED
    assert not verdict.holds
    assert not verdict.is_violation
    assert verdict.steps == 50


def test_many_writes_of_unknown_outcome_are_no_burden() -> None:
    create = op(Verb.CREATE, 0, (1, 2), mark="x", token=A1)
    lost = [op(Verb.PUT, 1 + n, (3 + n, None), mark=f"lost {n}") for n in range(200)]
    value = Cas(value=151, incarnation="a" * 32)
    seen = op(Verb.PUT, 300, (400, 401), mark="y", token=value)
    verdict = check_history([create, *lost, seen])
    assert verdict.holds
    assert verdict.steps < 100_000
    too_high = msgspec.structs.replace(seen, token=Cas(value=300, incarnation="a" * 32))
    assert check_history([create, *lost, too_high]).is_violation
    assert check_versions([create, *lost, too_high]).is_violation


def test_a_violation_is_explained_without_what_was_written() -> None:
    history = planted(Flaw.STALE_READ, random.Random(SEED))
    stale = next(one for one in history if one.client == "witness" and one.verb is Verb.GET)
    for check in (check_history, check_versions):
        verdict = check(history)
        assert stale.number in verdict.operations
        assert str(stale) in verdict.explanation
        assert str(stale.token) in verdict.explanation
