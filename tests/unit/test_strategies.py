"""Tests of key strategies: the specification's assertions, vectors, no collisions."""

from __future__ import annotations

import hashlib
import json
import pickle
import string
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from datetime import UTC, timedelta, timezone
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greentic_session import InvalidInputError, ManualClock, SessionKey, ordering
from greentic_session.ordering import (
    CompositeKeyStrategy,
    CustomStrategy,
    DynamicStrategy,
    FallbackStrategy,
    KeyStrategy,
    NoOrderingStrategy,
    SessionKeyExtractor,
    SingleFieldStrategy,
    TimePartitionedStrategy,
    extractor_for,
    strategy_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "ordering.json").read_text("utf-8")
)
HOUR_MS = 3_600_000


def made(vector: dict[str, Any]) -> KeyStrategy:
    arguments = dict(vector["arguments"])
    if "strategies" in arguments:
        arguments["strategies"] = [made(inner) for inner in arguments["strategies"]]
    if "base" in arguments:
        arguments |= {"base": made(arguments["base"]), "clock": ManualClock(vector["now_ms"])}
    strategy: KeyStrategy = getattr(ordering, vector["strategy"])(**arguments)
    return strategy


def type_of(extractor: SessionKeyExtractor) -> KeyStrategy | None:
    """Choose by content, as the tests of `DynamicStrategy` do."""
    return {
        "order": SingleFieldStrategy("order_id", "order"),
        "device": CompositeKeyStrategy(["site", "device_id"], "/"),
    }.get(extractor.get_metadata("type") or "")


def upper_name(extractor: SessionKeyExtractor) -> str | None:
    name = extractor.get_metadata("name")
    return None if name is None else name.upper()


ALL: list[KeyStrategy] = [
    SingleFieldStrategy("order_id"),
    SingleFieldStrategy("order_id", "order"),
    CompositeKeyStrategy(["order_id", "name"]),
    CompositeKeyStrategy(["name", "order_id"], "--"),
    FallbackStrategy([SingleFieldStrategy("order_id"), SingleFieldStrategy("name", "n")]),
    NoOrderingStrategy(),
    TimePartitionedStrategy(SingleFieldStrategy("name"), 4, ManualClock()),
    DynamicStrategy(type_of),
    CustomStrategy(upper_name),
]


def is_valid(key: str) -> bool:
    return 1 <= len(key) <= 128 and all(" " <= char <= "~" for char in key)


# --- published vectors --------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['strategy']}{v['message']}"[:80])
def test_keys_for_the_published_messages_are_theirs(vector: dict[str, Any]) -> None:
    assert made(vector).key_of(vector["message"]) == vector["key"]


def test_every_strategy_without_code_of_yours_has_a_vector() -> None:
    strategies = {name for name in ordering.__all__ if name.endswith("Strategy")}
    code = {"AnyStrategy", "CustomStrategy", "DynamicStrategy", "KeyStrategy"}
    assert {vector["strategy"] for vector in VECTORS} == strategies - code


# --- generators: the specification's assertions, in its words -----------------------------------

messages = st.dictionaries(
    st.sampled_from(["order_id", "name", "type", "site", "device_id"]),
    st.one_of(
        st.text(max_size=140),
        st.text(alphabet="ab-:,v2", min_size=1, max_size=6),
        st.integers(),
        st.booleans(),
        st.none(),
        st.floats(),
        st.binary(max_size=4),
        st.uuids(),
        st.datetimes(timezones=st.sampled_from([None, UTC, timezone(timedelta(hours=14))])),
        st.lists(st.integers(), max_size=2),
        st.sampled_from(["order", "device", "x" * 128, "x" * 129]),
    ),
)


@given(messages)
def test_same_message_produces_same_session_key(message: dict[str, object]) -> None:
    struct = msgspec.defstruct("Message", list(message))(**message)
    for strategy in ALL:
        key = strategy.key_of(message)
        assert strategy.key_of(dict(reversed(message.items()))) == key
        assert strategy.generate_key(extractor_for(message)) == key
        assert strategy.key_of(struct) == key
        assert pickle.loads(pickle.dumps(strategy)).key_of(message) == key  # noqa: S301 - ours


@given(messages)
def test_valid_session_ids_only(message: dict[str, object]) -> None:
    for strategy in ALL:
        key = strategy.key_of(message)
        assert key is None or is_valid(key)


@given(st.one_of(st.none(), st.text(max_size=140), st.integers(), st.binary()))
def test_valid_session_ids_only_whatever_a_callable_returns(returned: Any) -> None:
    key = strategy_for(lambda _: returned).key_of({})
    assert key == (returned if isinstance(returned, str) and is_valid(returned) else None)


@pytest.mark.parametrize(
    ("value", "ordered"),
    [
        ("x", True),
        ("x" * 128, True),
        ("x" * 129, False),
        (string.printable[:95], True),
        (" ~", True),
        ("\x7f", False),
        ("tab\t", False),
        ("é", False),
        ("\ud800", False),
        ("", False),
    ],
)
def test_invalid_characters_or_over_128_is_none(value: str, ordered: bool) -> None:
    expected = value if ordered else None
    assert SingleFieldStrategy("id").key_of({"id": value}) == expected
    assert CompositeKeyStrategy(["id"], "\\.").key_of({"id": value}) == expected
    assert strategy_for(lambda _: value).key_of({}) == expected


def test_none_means_concurrent_processing() -> None:
    assert [strategy.key_of({}) for strategy in ALL] == [None] * len(ALL)


def test_generators_are_thread_safe() -> None:
    message = {"order_id": 7, "name": "a-b", "type": "order"}
    alone = [strategy.key_of(message) for strategy in ALL]
    assert alone.count(None) == 1

    def at_once(_: int) -> list[SessionKey | None]:
        return [strategy.key_of(message) for strategy in ALL]

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(at_once, range(200))) == [alone] * 200


# --- strategies: the specification's assertions, in its words -----------------------------------


def test_single_field_returns_none_if_field_missing() -> None:
    strategy = SingleFieldStrategy("order_id", "order")
    assert strategy.key_of({"order_id": "12345"}) == "order-12345"
    assert strategy.key_of({"id": "12345"}) is None


@given(st.sets(st.sampled_from(["owner", "repo", "entity_type", "entity_id"])))
def test_composite_requires_all_fields(there: set[str]) -> None:
    fields = ["owner", "repo", "entity_type", "entity_id"]
    key = CompositeKeyStrategy(fields, "/").key_of({field: field[0] for field in there})
    assert key == ("o/r/e/e" if len(there) == 4 else None)


def test_composite_takes_fields_in_their_order() -> None:
    message = {"a": "1", "b": "2", "c": "3"}
    assert CompositeKeyStrategy(["c", "a", "b"], "/").key_of(message) == "3/1/2"


@pytest.mark.parametrize("strategy", [CompositeKeyStrategy([]), FallbackStrategy([])])
def test_no_fields_is_none(strategy: KeyStrategy) -> None:
    assert strategy.key_of({"a": "1"}) is None


def test_fallback_tries_in_order_and_not_all() -> None:
    asked: list[str] = []

    def asking(name: str, answer: str | None) -> Callable[[SessionKeyExtractor], str | None]:
        def ask(_: SessionKeyExtractor) -> str | None:
            asked.append(name)
            return answer

        return ask

    strategy = FallbackStrategy(
        [asking("none", None), asking("invalid", "é"), asking("first", "1"), asking("second", "2")]
    )
    assert strategy.key_of({}) == "1"
    assert asked == ["none", "invalid", "first"]


def test_fallback_returns_none_if_all_return_none() -> None:
    strategy = FallbackStrategy([SingleFieldStrategy("a"), SingleFieldStrategy("b")])
    assert strategy.key_of({"c": "1"}) is None
    assert strategy.key_of({"b": "1"}) == "1"


@given(messages)
def test_no_ordering_always_returns_none(message: dict[str, object]) -> None:
    assert NoOrderingStrategy().key_of(message) is None


# --- collisions ---------------------------------------------------------------------------------

PIECES = ["a", "b", "-", "--", "a-", "-a", "a-b", "a-b-a", "v2:", "v2:1:a", ",", "1:a,", "1"]


@pytest.mark.parametrize("separator", ["-", "--", "a", ",", ":", "v2:", "-a-"])
@pytest.mark.parametrize("fields", [1, 2, 3])
def test_no_two_lists_of_values_share_a_key(separator: str, fields: int) -> None:
    names = [f"f{number}" for number in range(fields)]
    strategy = CompositeKeyStrategy(names, separator)
    keys = [
        strategy.key_of(dict(zip(names, values, strict=True)))
        for values in product(PIECES, repeat=fields)
    ]
    assert None not in keys
    assert len(set(keys)) == len(PIECES) ** fields


value = st.text(alphabet="ab-", min_size=1, max_size=70)


@given(st.lists(st.tuples(value, value), unique=True, max_size=8), st.sampled_from(["-", "--"]))
def test_no_two_long_pairs_share_a_key(pairs: list[tuple[str, str]], separator: str) -> None:
    strategy = CompositeKeyStrategy(["x", "y"], separator)
    keys = [strategy.key_of({"x": x, "y": y}) for x, y in pairs]
    # A separator inside a value never changes a message's order.
    fit = [len(x) + len(separator) + len(y) <= 128 for x, y in pairs]
    assert [key is not None for key in keys] == fit
    known = [key for key in keys if key is not None]
    assert len(set(known)) == len(known)


@given(value, value)
def test_values_without_the_separator_are_joined_plainly(x: str, y: str) -> None:
    joined = f"{x}/{y}"
    key = CompositeKeyStrategy(["x", "y"], "/").key_of({"x": x, "y": y})
    assert key == (joined if len(joined) <= 128 else None)


def test_a_long_ambiguous_key_is_a_digest() -> None:
    x = "-" + "x" * 122
    netstrings = f"v2:123:{x},1:y,"
    assert len(netstrings) > 128
    key = CompositeKeyStrategy(["x", "y"]).key_of({"x": x, "y": "y"})
    assert key == "v2:" + hashlib.sha256(netstrings.encode()).hexdigest()


# --- time, content, custom code -----------------------------------------------------------------


def test_partitions_are_aligned_to_the_epoch() -> None:
    clock = ManualClock(1_709_164_800_000)  # 2024-02-29T00:00:00Z
    strategy = TimePartitionedStrategy(SingleFieldStrategy("id", "order"), hours=8, clock=clock)
    keys: list[SessionKey | None] = []
    for _ in range(48):
        keys.append(strategy.key_of({"id": 1}))
        clock.advance(3600)
    assert keys == [f"order-1-p{59346 + hour // 8}" for hour in range(48)]


@given(st.integers(-(10**13), 10**14), st.integers(1, 10_000))
def test_a_partition_is_as_long_as_it_says(now_ms: int, hours: int) -> None:
    clock = ManualClock(now_ms)
    strategy = TimePartitionedStrategy(lambda _: "k", hours, clock)
    length = hours * HOUR_MS
    start = now_ms - now_ms % length
    keys: list[SessionKey | None] = []
    for moment in (start - 1, start, now_ms, start + length - 1, start + length):
        clock.set_ms(moment)
        keys.append(strategy.key_of({}))
    assert keys[1] == keys[2] == keys[3]
    assert len(set(keys)) == 3


def test_a_partition_of_nothing_or_of_too_much_is_none() -> None:
    assert TimePartitionedStrategy(NoOrderingStrategy(), 1, ManualClock()).key_of({}) is None
    clock = ManualClock(0)
    strategy = TimePartitionedStrategy(SingleFieldStrategy("id"), 1, clock)
    assert strategy.key_of({"id": "x" * 125}) == "x" * 125 + "-p0"
    clock.advance(10 * 3600)
    assert strategy.key_of({"id": "x" * 125}) is None


def test_a_strategy_chosen_by_content() -> None:
    strategy = DynamicStrategy(type_of)
    assert strategy.key_of({"type": "order", "order_id": 5}) == "order-5"
    assert strategy.key_of({"type": "device", "site": "lab", "device_id": "t1"}) == "lab/t1"
    assert strategy.key_of({"type": "ping", "order_id": 5}) is None
    assert DynamicStrategy(lambda _: upper_name).key_of({"name": "ann"}) == "ANN"


def test_what_is_no_strategy_cannot_be_chosen() -> None:
    choice: Any = "order"
    with pytest.raises(InvalidInputError) as caught:
        DynamicStrategy(lambda _: choice).key_of({})
    assert caught.value.field == "select"


class Foreign:
    """A generator outside the library."""

    def generate_key(self, extractor: SessionKeyExtractor, /) -> SessionKey | None:
        return SessionKey(f"foreign {extractor.get_metadata('id')}")


class Subclassed(KeyStrategy):
    def _make_text(self, extractor: SessionKeyExtractor, /) -> str | None:
        return extractor.get_metadata("id")


def test_every_kind_of_custom_strategy_is_taken_and_checked() -> None:
    for custom in (
        Foreign(),
        Subclassed(),
        upper_name,
        partial(upper_name),
        Foreign().generate_key,
    ):
        strategy = strategy_for(custom)
        good, bad = {"id": "7", "name": "7"}, {"id": "é", "name": "é"}
        key = strategy.key_of(good)
        assert key in ("7", "foreign 7")
        assert strategy.key_of(bad) is None
        assert FallbackStrategy([custom]).key_of(good) == key
        assert TimePartitionedStrategy(custom, 1, ManualClock(0)).key_of(good) == f"{key}-p0"
        assert strategy_for(strategy) is strategy


def test_what_a_custom_strategy_raises_is_not_hidden() -> None:
    def broken(_: SessionKeyExtractor) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        FallbackStrategy([broken, upper_name]).key_of({"name": "ann"})


# --- as objects ---------------------------------------------------------------------------------


def test_strategies_compare_by_what_they_are_made_of() -> None:
    def build() -> list[KeyStrategy]:
        return [
            SingleFieldStrategy("a"),
            SingleFieldStrategy("a", "p"),
            CompositeKeyStrategy(["a", "b"]),
            CompositeKeyStrategy(["a", "b"], "/"),
            FallbackStrategy([SingleFieldStrategy("a"), upper_name]),
            NoOrderingStrategy(),
            TimePartitionedStrategy(SingleFieldStrategy("a"), 4),
            TimePartitionedStrategy(SingleFieldStrategy("a"), 5),
            DynamicStrategy(type_of),
            CustomStrategy(upper_name),
        ]

    assert build() == build()
    assert len({*build(), *build()}) == len(build())
    assert CompositeKeyStrategy(["a"]) == CompositeKeyStrategy(("a",))


def test_reprs_read_like_code() -> None:
    for strategy in (
        SingleFieldStrategy("order_id", "order"),
        CompositeKeyStrategy(["a", "b"], "/"),
        FallbackStrategy([SingleFieldStrategy("a"), NoOrderingStrategy()]),
        TimePartitionedStrategy(CompositeKeyStrategy(["a"]), hours=4),
    ):
        assert eval(repr(strategy), vars(ordering).copy()) == strategy  # noqa: S307 - our own repr


def test_a_pickled_strategy_is_equal() -> None:
    partitioned = TimePartitionedStrategy(CompositeKeyStrategy(["a"]), hours=4)
    for strategy in (FallbackStrategy([partitioned, upper_name]), DynamicStrategy(type_of)):
        assert pickle.loads(pickle.dumps(strategy)) == strategy  # noqa: S301 - ours


def test_the_clock_is_the_machine_s_unless_given() -> None:
    hour_before = time.time_ns() // 1_000_000 // HOUR_MS
    key = TimePartitionedStrategy(lambda _: "k", 1).key_of({})
    assert key in (f"k-p{hour_before}", f"k-p{hour_before + 1}")


def test_a_value_is_empty_for_every_extractor() -> None:
    class Careless(SessionKeyExtractor):
        def get_metadata(self, field: str, /) -> Any:
            return {"empty": "", "odd": 7, "id": "7"}.get(field)

    assert SingleFieldStrategy("id", "order").key_of(Careless()) == "order-7"
    for field in ("empty", "odd"):
        assert SingleFieldStrategy(field, "order").key_of(Careless()) is None
        assert CompositeKeyStrategy(["id", field]).key_of(Careless()) is None


@pytest.mark.parametrize("strategy", ALL, ids=lambda strategy: type(strategy).__name__)
def test_strategies_are_frozen(strategy: KeyStrategy) -> None:
    for name in ("separator", "field", "anything"):
        with pytest.raises(FrozenInstanceError):
            setattr(strategy, name, "x")


async def coroutine(_: SessionKeyExtractor) -> str:
    return "never"


class AsyncCallable:
    async def __call__(self, _: SessionKeyExtractor) -> str:
        return "never"


NOT_STRATEGIES: list[Any] = [None, "order_id", 5, NoOrderingStrategy, coroutine, AsyncCallable()]
BAD: list[tuple[Callable[[Any], object], str, list[Any]]] = [
    (SingleFieldStrategy, "field", [None, "", 5, "x" * 513]),
    (partial(SingleFieldStrategy, "a"), "prefix", ["", 5, "é", "a\n", "x" * 127]),
    (CompositeKeyStrategy, "fields", [None, "a", b"a", 5, {"a"}, {"a": 1}, ["a", ""], ["a", 5]]),
    (partial(CompositeKeyStrategy, ["a"]), "separator", [None, "", 5, "é", "\n", "x" * 127]),
    (
        FallbackStrategy,
        "strategies",
        [None, upper_name, {upper_name}, *([x] for x in NOT_STRATEGIES)],
    ),
    (partial(TimePartitionedStrategy, hours=1), "base", NOT_STRATEGIES),
    (partial(TimePartitionedStrategy, upper_name), "hours", [None, 0, -1, 1.5, True, 10**9]),
    (partial(TimePartitionedStrategy, upper_name, 1), "clock", [5, ManualClock]),
    (DynamicStrategy, "select", NOT_STRATEGIES),
    (CustomStrategy, "custom", NOT_STRATEGIES),
    (strategy_for, "strategy", NOT_STRATEGIES),
]


@pytest.mark.parametrize(
    ("build", "field", "bad"), [(build, field, bad) for build, field, many in BAD for bad in many]
)
def test_a_bad_argument_is_named(build: Callable[[Any], object], field: str, bad: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        build(bad)
    assert caught.value.field == field
