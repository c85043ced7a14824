"""Contract tests of a session's content: it comes back the same from every backend."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypedDict
from uuid import UUID

import msgspec
import pytest

from ....abc.records import UnreadableSession
from ....codec import CodecFactory, JsonCodec, MessagePackCodec
from ....errors import DecodeError, InvalidInputError, TenantMismatchError
from ....model import SessionCursor, SessionKey
from ..assertions import everything, require, told
from ..samples import KEY, SECRET, AppState, ctx, evolve, session
from .verbs import CHANGES, READS, same

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ...harness import StoreHarness

_CODECS: Final[dict[str, CodecFactory]] = {"json": JsonCodec, "msgpack": MessagePackCodec}


class _Mood(Enum):
    CALM = "calm"
    CROSS = "cross"


@dataclass
class _Basket:
    items: list[str] = field(default_factory=list[str])
    total: Decimal = Decimal(0)


class _Profile(TypedDict):
    name: str
    age: int


class _Asking(msgspec.Struct, tag=True):
    question: str


class _Paying(msgspec.Struct, tag=True):
    amount: int
    basket: _Basket


class _Rich(msgspec.Struct, kw_only=True):
    at: datetime
    id: UUID
    raw: bytes
    mood: _Mood
    price: Decimal
    step: _Asking | _Paying
    pairs: tuple[tuple[int, str], ...] = ()
    tags: frozenset[str] = frozenset()
    by_number: dict[int, str] = {}
    note: str | None = None


_NOON: Final = datetime(2024, 2, 29, 12, 0, 0, 123456, tzinfo=UTC)
_RICH: Final = _Rich(
    at=_NOON,
    id=UUID(int=7),
    raw=bytes(range(256)),
    mood=_Mood.CROSS,
    price=Decimal("12.340"),
    step=_Paying(amount=3, basket=_Basket(["tea"], Decimal("0.1"))),
    pairs=((1, "a"), (2, "b")),
    tags=frozenset({"x", "y"}),
    by_number={1: "one", -2: "two"},
)
# A context type and a context of it. Any: checkers see each type differently.
_CONTEXTS: Final[dict[str, tuple[Any, Any]]] = {
    "dict": (dict, {"a": [1, {"b": None}]}),
    "dict of a type": (dict[str, list[int]], {"a": [1, 2]}),
    "empty dict": (dict, {}),
    "struct": (AppState, AppState(step=2, answers={"name": "Ann"}, tags=("a", "b"))),
    "struct of defaults": (AppState, AppState()),
    "dataclass": (_Basket, _Basket(["tea", "milk"], Decimal("3.50"))),
    "typed dict": (_Profile, _Profile(name="Ann", age=33)),
    "first of a union": (_Asking | _Paying, _Asking(question="why?")),
    "second of a union": (_Asking | _Paying, _Paying(amount=7, basket=_Basket(["tea"]))),
    "nested": (_Rich, _RICH),
}

_SURVIVORS: Final[dict[str, Any]] = {
    "empty list": [],
    "empty dict": {},
    "empty text": "",
    "none": None,
    "true": True,
    "false": False,
    "zero": 0,
    "one as float": 1.0,
    "int beyond a float": 2**53 + 1,
    "largest signed": 2**63 - 1,
    "smallest signed": -(2**63),
    "largest unsigned": 2**64 - 1,
    "smallest float": 5e-324,
    "largest float": 1.7976931348623157e308,
    "fraction": 0.1,
    "controls": "".join(map(chr, range(32))) + "\x7f\x85",
    "line separators": "\u2028\u2029",
    "last code point": "\U0010ffff😀",
    "quotes": "\"'\\/<>&",
    "byte order mark": "\ufeffa",
    "long list": list(range(2000)),
    "nested": [[[[[[[[[[{"a": [[[[{}]]]]}]]]]]]]]]],
    "odd keys": {"": 1, "a.b": 2, "$": 3, "\0": 4, "é": 5, " ": 6, "__proto__": 7},
}

# A value that a plain dict does not keep as it is, and its JSON and MessagePack forms.
_CONVERTED: Final[dict[str, tuple[Any, Any, Any]]] = {
    "tuple": ((1, (2, 3)), [1, [2, 3]], [1, [2, 3]]),
    "set": ({1}, [1], [1]),
    "int key": ({3: "x"}, {"3": "x"}, {3: "x"}),
    "bytes": (b"\0\xff", "AP8=", b"\0\xff"),
    "uuid": (UUID(int=7), str(UUID(int=7)), str(UUID(int=7))),
    "decimal": (Decimal("1.50"), "1.50", "1.50"),
    "enum": (_Mood.CALM, "calm", "calm"),
    "struct": (AppState(step=1), _STATE := {"step": 1, "answers": {}, "tags": []}, _STATE),
    "dataclass": (_Basket(["tea"]), _BASKET := {"items": ["tea"], "total": "0"}, _BASKET),
    "date": (_NOON.date(), "2024-02-29", "2024-02-29"),
}


@pytest.mark.anyio
class BodyContract:
    """A session's content survives the store, as far as its codec can represent it."""

    @pytest.mark.parametrize("codec", _CODECS)
    @pytest.mark.parametrize("kind", _CONTEXTS)
    async def test_a_context_of_the_stores_type_comes_back_equal(
        self, harness: StoreHarness, kind: str, codec: str
    ) -> None:
        context_type, context = _CONTEXTS[kind]
        store = await harness.open(context_type, codec=_CODECS[codec])
        cas = await store.create(session(context=context))
        for verb in CHANGES:
            found = await require(store)
            assert found.session.context == context
            assert type(found.session.context) is type(context)
            assert found.cas == cas
            cas = await CHANGES[verb](store, found.session, cas)
        assert (await everything(store))[KEY].session.context == context

    @pytest.mark.parametrize("codec", _CODECS)
    @pytest.mark.parametrize("name", _SURVIVORS)
    async def test_a_plain_value_comes_back_as_it_was(
        self, harness: StoreHarness, name: str, codec: str
    ) -> None:
        value = _SURVIVORS[name]
        store = await harness.open(codec=_CODECS[codec])
        await store.create(session(context={"value": value}, labels={"value": value}))
        found = (await require(store)).session
        for back in (found.context["value"], found.meta.labels["value"]):
            assert back == value
            assert type(back) is type(value)

    @pytest.mark.parametrize("codec", _CODECS)
    @pytest.mark.parametrize("name", _CONVERTED)
    async def test_another_value_in_a_dict_comes_back_as_what_the_codec_made_of_it(
        self, harness: StoreHarness, name: str, codec: str
    ) -> None:
        value, as_json, as_msgpack = _CONVERTED[name]
        expected = as_json if codec == "json" else as_msgpack
        store = await harness.open(codec=_CODECS[codec], verify=False)
        await store.create(session(context={"value": value}))
        for found in (await require(store), await store.mutate(KEY, same)):
            assert found.session.context == {"value": expected}
            assert type(found.session.context["value"]) is type(expected)

    @pytest.mark.parametrize("codec", _CODECS)
    @pytest.mark.parametrize(
        "cursor",
        [
            pytest.param(SessionCursor(flow_id="f", node_id="n"), id="least"),
            pytest.param(
                SessionCursor(flow_id="f", node_id="n", outbox_seq=2**53 + 1), id="late step"
            ),
            pytest.param(
                SessionCursor(
                    flow_id="é😀\0\n", node_id='"\\', pack_id="", wait_reason=" ", outbox_seq=-1
                ),
                id="odd",
            ),
        ],
    )
    async def test_a_cursor_comes_back_equal(
        self, harness: StoreHarness, cursor: SessionCursor, codec: str
    ) -> None:
        store = await harness.open(codec=_CODECS[codec])
        await store.put(session().advance("elsewhere", "because"))
        await store.put(evolve(session(), cursor=cursor))
        assert (await require(store)).session.cursor == cursor

    @pytest.mark.parametrize("verb", CHANGES)
    async def test_labels_of_a_live_session_can_change(
        self, harness: StoreHarness, verb: str
    ) -> None:
        store = await harness.open()
        cas = await store.create(session(labels={"tier": "gold", "n": 1}))
        labels = {"n": 2, "nested": {"a": [1, None, 2.5]}}
        cas = await CHANGES[verb](store, session(labels=labels), cas)
        assert (await require(store)).session.meta.labels == labels
        await CHANGES[verb](store, session(), cas)
        assert (await require(store)).session.meta.labels == {}


@pytest.mark.anyio
class DecodingContract:
    """Stored content that does not fit the store's type is named, but never quoted."""

    @pytest.mark.parametrize("codec", _CODECS)
    @pytest.mark.parametrize("read", READS)
    async def test_reading_what_does_not_fit_raises(
        self, harness: StoreHarness, read: str, codec: str
    ) -> None:
        store = await harness.open(AppState, codec=_CODECS[codec], verify=False)
        wrong: Any = SECRET
        await store.create(session(context=AppState(step=wrong)))
        with pytest.raises(DecodeError) as caught:
            await READS[read](store, KEY, ctx())
        assert caught.value.key == KEY
        assert "context.step" in caught.value.reason
        assert caught.value.code == "internal"
        assert SECRET not in told(caught.value)

    @pytest.mark.parametrize("codec", _CODECS)
    async def test_a_word_that_is_none_of_those_allowed_is_not_quoted(
        self, harness: StoreHarness, codec: str
    ) -> None:
        store = await harness.open(_Rich, codec=_CODECS[codec], verify=False)
        await store.create(session(context=msgspec.structs.replace(_RICH, mood=SECRET)))
        with pytest.raises(DecodeError) as caught:
            await store.get(KEY, ctx=ctx())
        assert "context.mood" in caught.value.reason
        assert SECRET not in told(caught.value)

    @pytest.mark.parametrize("scoped", [False, True], ids=["store", "scoped"])
    async def test_an_unreadable_session_among_others_is_raised_skipped_or_returned(
        self, harness: StoreHarness, *, scoped: bool
    ) -> None:
        store = await harness.open(AppState, verify=False)
        view = store.scoped(ctx()) if scoped else None
        wrong: Any = SECRET
        keys = [SessionKey(f"c{number}") for number in range(5)]
        for number, key in enumerate(keys):
            state = AppState(step=wrong if number in (1, 3) else number)
            await store.create(session(key, context=state))

        async def many(on_error: Any) -> Any:
            asked: Any = store if view is None else view
            caller = {"ctx": ctx()} if view is None else {}
            return await asked.get_many([*keys, KEY], on_error=on_error, **caller)

        def scan(on_error: Any) -> AsyncIterator[Any]:
            if view is not None:
                return view.scan(on_error=on_error)
            return store.scan(ctx(), on_error=on_error)

        steps = [one and one.session.context.step for one in await many("skip")]
        assert steps == [0, None, 2, None, 4, None]
        found = await many("return")
        assert found[5] is None
        for number in (1, 3):
            assert isinstance(found[number], UnreadableSession)
            assert found[number].key == keys[number]
            assert found[number].error.key == keys[number]
            assert "context.step" in found[number].error.reason
            assert SECRET not in told(found[number].error)
        assert [found[number].session.key for number in (0, 2, 4)] == keys[::2]
        with pytest.raises(DecodeError):
            await many("raise")

        assert sorted([one.session.key async for one in scan("skip")]) == keys[::2]
        given = [one async for one in scan("return")]
        bad = [one for one in given if isinstance(one, UnreadableSession)]
        assert sorted(one.key for one in bad) == keys[1::2]
        assert len(given) == len(keys)
        raising = scan("raise")
        readable: list[str] = []
        raised = 0
        while True:  # the iteration continues after an error
            try:
                readable.append((await anext(raising)).session.key)
            except DecodeError:
                raised += 1
            except StopAsyncIteration:
                break
        assert (sorted(readable), raised) == (keys[::2], 2)

    async def test_an_unreadable_session_of_another_owner_is_not_returned(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open(AppState, verify=False)
        wrong: Any = SECRET
        ann, bob = ctx(user_id="ann"), ctx(user_id="bob")
        await store.create(session(owner=ann, context=AppState(step=wrong)))
        with pytest.raises(TenantMismatchError):
            await store.get_many([KEY], ctx=bob, on_error="return")
        assert [one async for one in store.scan(bob, on_error="return")] == []
        (found,) = [one async for one in store.scan(ann, on_error="return")]
        assert isinstance(found, UnreadableSession)
        assert found.key == KEY

    @pytest.mark.parametrize("on_error", ["ignore", None, 1])
    async def test_another_on_error_is_refused(self, harness: StoreHarness, on_error: Any) -> None:
        store = await harness.open()
        with pytest.raises(InvalidInputError, match="on_error"):
            await store.get_many([KEY], ctx=ctx(), on_error=on_error)
        with pytest.raises(InvalidInputError, match="on_error"):
            await store.scoped(ctx()).get_many([KEY], on_error=on_error)
        with pytest.raises(InvalidInputError, match="on_error"):
            store.scan(ctx(), on_error=on_error)

    async def test_what_cannot_be_read_can_be_kept_replaced_and_deleted(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open(AppState, verify=False)
        wrong: Any = SECRET
        await store.create(session(context=AppState(step=wrong)))
        assert await store.touch(KEY, 1000, ctx=ctx()) is True
        cas = await store.put(session(context=AppState(step=2)))
        assert cas.value == 2
        assert (await require(store)).session.context == AppState(step=2)
        await store.put(session(context=AppState(step=wrong)))
        assert await store.delete(KEY, ctx=ctx()) is True
        assert await store.get(KEY, ctx=ctx()) is None
