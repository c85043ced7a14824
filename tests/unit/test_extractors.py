"""Tests of extractors: the fields and texts that they find in a message, and never an error."""

from __future__ import annotations

from collections import defaultdict, namedtuple
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from functools import cached_property
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greentic_session.ordering import (
    SessionKeyExtractor,
    SingleFieldStrategy,
    extractor_for,
    text_of,
)


class Color(Enum):
    RED = "red"
    DEEP = 7
    ODD = 1.5


class Size(StrEnum):
    LARGE = "large"


class Level(IntEnum):
    HIGH = 3


class Seasons(tzinfo):
    """A zone as in the time zone database, for machines without one."""

    def utcoffset(self, when: datetime | None, /) -> timedelta | None:
        return None if when is None else timedelta(hours=1) + self.dst(when)

    def dst(self, when: datetime | None, /) -> timedelta:
        return timedelta(hours=1 if when is not None and 3 < when.month < 10 else 0)

    def tzname(self, _: datetime | None, /) -> str:
        return "SEASONS"


class Chat(msgspec.Struct, frozen=True):
    id: int
    title: str | msgspec.UnsetType = msgspec.UNSET
    topic: str | None = None


class Update(msgspec.Struct, rename="camel"):
    update_id: int
    chat: Chat
    score: float = 0.5
    _secret: str = "s"

    @property
    def lane(self) -> str:
        return f"chat {self.chat.id}"

    def method(self) -> str:
        return "no field"


@dataclass(frozen=True, slots=True)
class Slotted:
    device_id: str
    sensor: Color


@dataclass
class Order:
    kind: ClassVar[str] = "order"
    order_id: int
    customer: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def region(self) -> str:
        return "eu"

    @property
    def broken(self) -> str:
        raise AttributeError

    @property
    def previous(self) -> Order:
        return Order(self.order_id - 1)


class Point(NamedTuple):
    x: int
    y: int


class OrderEvent(SessionKeyExtractor):
    """The domain message of the specification, which is an extractor itself."""

    def __init__(self, order_id: str | None) -> None:
        self.order_id = order_id
        self.secret = "s"

    def get_metadata(self, field: str, /) -> str | None:
        return self.order_id if field == "order_id" else None

    def list_metadata_keys(self) -> list[str]:
        return ["order_id"]


class Bare:
    """A message with the only required method of the protocol."""

    def get_metadata(self, field: str, /) -> str | None:
        return "7" if field == "order_id" else None


class Listing(Bare):
    def list_metadata_keys(self) -> list[str]:
        return ["order_id", "unknown"]


@pytest.mark.parametrize(("made", "names"), [(Bare, []), (Listing, ["order_id", "unknown"])])
def test_a_message_with_some_of_the_methods_gets_the_others(
    made: type[Bare], names: list[str]
) -> None:
    extractor = extractor_for(made())
    assert extractor.get_metadata("order_id") == "7"
    assert extractor.get_metadata("unknown") is None
    assert extractor.list_metadata_keys() == names
    assert extractor.get_all_metadata() == ({"order_id": "7"} if names else {})
    assert extractor_for(extractor) is extractor
    assert SingleFieldStrategy("order_id").key_of(made()) == "7"


UUID_TEXT = "0b9e1f0e-0000-4000-8000-00000000000a"
TEXTS: list[tuple[object, str | None]] = [
    ("a", "a"),
    (" é\n", " é\n"),
    (Size.LARGE, "large"),
    (0, "0"),
    (-(10**20), "-100000000000000000000"),
    (Level.HIGH, "3"),
    (True, "true"),
    (False, "false"),
    (UUID(UUID_TEXT.upper()), UUID_TEXT),
    (Color.RED, "red"),
    (Color.DEEP, "7"),
    (date(2024, 2, 29), "2024-02-29"),
    (datetime(2024, 2, 29, 12, tzinfo=UTC), "2024-02-29T12:00:00Z"),
    (datetime(2024, 2, 29, 12, 0, 0, 50, tzinfo=UTC), "2024-02-29T12:00:00.000050Z"),
    (datetime(2024, 3, 1, 1, tzinfo=timezone(timedelta(hours=2))), "2024-02-29T23:00:00Z"),
    (None, None),
    (msgspec.UNSET, None),
    ("", None),
    (1.0, None),
    (float("nan"), None),
    (Color.ODD, None),
    (Decimal(1), None),
    (2**512, None),
    (b"a", None),
    (["a"], None),
    ({"a": "b"}, None),
    (datetime(2024, 2, 29, 12), None),  # noqa: DTZ001 - another instant on each machine
    (datetime(2024, 2, 29, 12, tzinfo=Seasons()), None),
    (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=2))), None),
    (time(12), None),
    (timedelta(1), None),
    (object(), None),
]


@pytest.mark.parametrize(("value", "text"), TEXTS, ids=range(len(TEXTS)))
def test_the_text_of_a_value(value: object, text: str | None) -> None:
    assert text_of(value) == text
    assert type(text_of(value)) in (str, type(None))
    assert extractor_for({"value": value}).get_metadata("value") == text
    assert extractor_for(SimpleNamespace(value=value)).get_metadata("value") == text


scalars = st.one_of(
    st.text(min_size=1),
    st.integers(),
    st.booleans(),
    st.uuids(),
    st.dates(),
    st.datetimes(timezones=st.just(UTC)),
    st.sampled_from([Color.RED, Color.DEEP, Size.LARGE, Level.HIGH]),
)


@given(scalars)
def test_a_message_says_the_same_decoded_and_as_json_left_it(value: object) -> None:
    as_json = msgspec.json.decode(msgspec.json.encode({"value": value}, enc_hook=str))
    decoded = text_of(value)
    assert decoded is not None or isinstance(value, int)
    if decoded is not None and not isinstance(as_json["value"], float):  # a large int there
        assert extractor_for(as_json).get_metadata("value") == decoded


# --- the specification's assertions, in its words ----------------------------------------------

Plain = namedtuple("Plain", ["a", "b"])  # noqa: PYI024 - untyped ones exist, too
UPDATE = Update(update_id=9, chat=Chat(id=-42))
MESSAGES: list[tuple[object, dict[str, str]]] = [
    ({"a": "1", "b": None, 5: "x", "c": 2.5, "d": ["1"], "": "e"}, {"a": "1", "": "e"}),
    ({"chat": {"id": 1, "from": {"id": 2}}}, {"chat.id": "1", "chat.from.id": "2"}),
    ({"a.b": "flat", "a": {"b": "deep", "c.d": "0"}}, {"a.b": "flat", "a.c.d": "0"}),
    ({"a.b": {"c": "not reached"}}, {}),
    ({"_id": "1"}, {"_id": "1"}),
    ({Size.LARGE: 1}, {"large": "1"}),
    (UPDATE, {"update_id": "9", "chat.id": "-42", "lane": "chat -42"}),
    (Slotted("t1", Color.RED), {"device_id": "t1", "sensor": "red"}),
    (
        Order(5, {"id": 6, "at": Point(1, 2)}),
        {"kind": "order", "order_id": "5", "region": "eu"}
        | {"customer.id": "6", "customer.at.x": "1", "customer.at.y": "2"},
    ),
    (SimpleNamespace(id=1, _hidden=2), {"id": "1"}),
    (Plain(1, "2"), {"a": "1", "b": "2"}),
    (OrderEvent("12345"), {"order_id": "12345"}),
    (OrderEvent(None), {}),
    ({}, {}),
    ("text", {}),
    (5, {}),
    (None, {}),
    (["a"], {}),
    (Order, {}),
    (datetime(2024, 2, 29, tzinfo=UTC), {}),
    (Color.RED, {}),
]


@pytest.mark.parametrize(("message", "known"), MESSAGES, ids=lambda value: repr(value)[:40])
def test_list_metadata_keys_lists_all_available_keys(
    message: object, known: dict[str, str]
) -> None:
    extractor = extractor_for(message)
    names = [name for name in extractor.list_metadata_keys() if extractor.get_metadata(name)]
    assert sorted(names) == sorted(known)
    assert extractor.get_all_metadata() == known


@pytest.mark.parametrize(("message", "known"), MESSAGES, ids=lambda value: repr(value)[:40])
def test_get_metadata_returns_consistent_values(message: object, known: dict[str, str]) -> None:
    extractor = extractor_for(message)
    for _ in range(2):
        assert {name: extractor.get_metadata(name) for name in known} == known


UNKNOWN = ["nope", "chat.nope", "a.b.c.d", ".", "..", "a.", ".a", "__class__", "__class__.__name__"]
UNKNOWN += ["_secret", "method", "broken", "real", "year", "name", "customer.at.x.real", "upper"]


@pytest.mark.parametrize(("message", "known"), MESSAGES, ids=lambda value: repr(value)[:40])
def test_get_metadata_returns_none_for_unknown_keys(message: object, known: dict[str, str]) -> None:
    extractor = extractor_for(message)
    assert [extractor.get_metadata(name) for name in UNKNOWN if name not in known] == [None] * len(
        UNKNOWN
    )
    for odd in (None, 5, b"a", ["a"]):
        assert extractor.get_metadata(odd) is None  # type: ignore[arg-type] # on purpose


# --- more ---------------------------------------------------------------------------------------


def test_a_message_that_is_an_extractor_is_returned_as_it_is() -> None:
    event = OrderEvent("12345")
    assert extractor_for(event) is event
    assert SingleFieldStrategy("order_id", "order").key_of(event) == "order-12345"
    assert SingleFieldStrategy("secret").key_of(event) is None


def test_an_extractor_needs_no_more_than_one_method() -> None:
    class Least(SessionKeyExtractor):
        def get_metadata(self, field: str, /) -> str | None:
            return field.upper()

    assert Least().list_metadata_keys() == []
    assert Least().get_all_metadata() == {}
    assert SingleFieldStrategy("a").key_of(Least()) == "A"


def test_what_is_made_up_is_found_by_name_and_not_listed() -> None:
    order = Order(5)
    extractor = extractor_for(order)
    assert extractor.get_metadata("previous.previous.order_id") == "3"
    assert not [name for name in extractor.list_metadata_keys() if "previous" in name]


def test_reading_changes_nothing() -> None:
    message: defaultdict[str, Any] = defaultdict(dict)
    extractor = extractor_for(message)
    assert extractor.get_metadata("chat.id") is None
    assert extractor.list_metadata_keys() == []
    assert message == {}


def test_a_message_that_holds_itself_has_an_end() -> None:
    message: dict[str, Any] = {"id": 1}
    message["self"] = message
    message["other"] = {"up": message}
    extractor = extractor_for(message)
    assert extractor.list_metadata_keys() == ["id"]
    assert extractor.get_metadata("self.self.id") == "1"
    deep: dict[str, Any] = {"id": 1}
    for _ in range(5000):
        deep = {"in": deep}
    assert extractor_for(deep).get_all_metadata() == {}
    assert extractor_for(deep).get_metadata("in." * 5000 + "id") is None


def test_a_path_is_eight_names_long_at_most() -> None:
    names = list("abcdefgh")
    message: Any = 1
    for name in reversed(names):
        message = {name: message}
    path = ".".join(names)
    assert extractor_for(message).get_all_metadata() == {path: "1"}
    assert extractor_for({"z": message}).get_metadata(f"z.{path}") is None
    assert extractor_for({"z": message}).list_metadata_keys() == []


def test_a_repr_shows_no_values() -> None:
    assert repr(extractor_for({"token": "secret"})) == "<metadata of a dict>"


def test_an_error_of_the_message_is_not_hidden() -> None:
    class Broken:
        @property
        def order_id(self) -> str:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        extractor_for(Broken()).get_metadata("order_id")


names = st.sampled_from(["a", "b", "a.b", "b.c", "", ".", "_a", "é", "\ud800"])
anything = st.recursive(
    st.one_of(scalars, st.none(), st.floats(), st.binary(max_size=3), st.datetimes()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(names | st.integers(), inner, max_size=4),
        st.builds(lambda a, b: SimpleNamespace(a=a, b=b), inner, inner),
        st.builds(msgspec.defstruct("Drawn", ["a", "b"]), inner, inner),
    ),
    max_leaves=12,
)


@given(anything, st.lists(names, min_size=1, max_size=3).map(".".join))
def test_metadata_of_any_message_raises_nothing(message: object, path: str) -> None:
    extractor = extractor_for(message)
    text = extractor.get_metadata(path)
    listed = extractor.list_metadata_keys()
    assert extractor.get_all_metadata().keys() == set(listed)
    assert len(set(listed)) == len(listed)
    assert (text is not None) == (path in listed)
    assert extractor.get_metadata(path) == text
