"""Contract tests of verification: values that no reader could decode again are refused."""

from __future__ import annotations

import enum
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, NewType
from uuid import UUID

import msgspec
import pytest

from ....codec import JsonCodec, MessagePackCodec
from ....errors import InvalidInputError
from ....model import Cas, Session, SessionKey, SessionMeta, TenantCtx
from ..samples import ACME, KEY, AppState, ctx, session
from .verbs import CHANGES, WRITES

if TYPE_CHECKING:
    from ....codec import CodecFactory
    from ...harness import StoreHarness

SECRET = "hunter2-hunter2"  # noqa: S105 - a placeholder
CODECS: dict[str, CodecFactory] = {"json": JsonCodec, "msgpack": MessagePackCodec}


class Gauge(msgspec.Struct, frozen=True):
    """A context type with a bound and a number."""

    level: Annotated[int, msgspec.Meta(ge=0)] = 0
    share: float = 0.0
    inner: AppState | None = None


class Loose(msgspec.Struct, frozen=True):
    """A context type whose parts do not say their decoded types."""

    extra: Any = None
    share: float | None = None
    at: datetime | None = None


VERBS = {**WRITES, **CHANGES}
_NAN = float("nan")
_TEXT: Any = SECRET
WRONG: dict[str, Gauge] = {
    "a text for a number": Gauge(level=_TEXT),
    "a number out of its bounds": Gauge(level=-1),
    "deep inside": Gauge(inner=AppState(step=_TEXT)),
}


class Mood(enum.Enum):
    """An enum whose members do not equal their values."""

    CALM = "calm"


# Text after the value, for which MessagePack has a form.
LOSSY: dict[str, tuple[Any, ...]] = {
    "keys that become one": ({1: "a", "1": "b"}, "msgpack"),
    "int as key": ({1: "a"}, "msgpack"),
    "nan": (_NAN, "msgpack"),
    "infinity": (float("inf"), "msgpack"),
    "bytes": (b"x", "msgpack"),
    "datetime": (datetime(2026, 1, 2, tzinfo=UTC), "msgpack"),
    "set": ({1},),
    "frozenset": (frozenset((1,)),),
    "uuid": (UUID(int=1),),
    "decimal": (Decimal("1.5"),),
    "date": (date(2026, 1, 2),),
    "enum": (Mood.CALM,),
    "struct": (AppState(step=1),),
}


class Tenant(str, enum.Enum):  # noqa: UP042 - as in applications
    """A tenant type as in an application. It formats as ``Tenant.ACME`` and equals ``acme``."""

    ACME = ACME


_new_type: Any = NewType  # Any: mypy fails on a NewType of a struct
Alias: Any = _new_type("Alias", AppState)


@pytest.mark.anyio
class VerifyingContract:
    """Sessions that no reader could decode again are refused."""

    @pytest.mark.parametrize("codec", CODECS)
    @pytest.mark.parametrize("wrong", WRONG)
    @pytest.mark.parametrize("write", VERBS)
    async def test_a_wrong_type_inside_a_context_is_refused(
        self, harness: StoreHarness, write: str, wrong: str, codec: str
    ) -> None:
        store = await harness.open(Gauge, codec=CODECS[codec])
        cas = None if write == "create" else await store.create(session(context=Gauge(level=1)))
        with pytest.raises(InvalidInputError) as caught:
            await VERBS[write](store, session(context=WRONG[wrong]), cas or Cas.none())
        assert caught.value.field == "session"
        assert "$.context" in caught.value.reason
        assert SECRET not in str(caught.value)
        assert caught.value.__context__ is None
        found = await store.get(KEY, ctx=ctx())
        assert (found and found.cas) == cas

    async def test_a_number_that_json_does_not_have_is_refused_in_a_typed_context(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open(Gauge)
        with pytest.raises(InvalidInputError, match="share"):
            await store.put(session(context=Gauge(share=_NAN)))
        assert await store.get(KEY, ctx=ctx()) is None

    @pytest.mark.parametrize("part", ["context", "labels"])
    @pytest.mark.parametrize("lossy", LOSSY)
    async def test_a_value_that_would_not_survive_is_refused(
        self, harness: StoreHarness, lossy: str, part: str
    ) -> None:
        value, *forms = LOSSY[lossy]
        for codec in (JsonCodec, MessagePackCodec):
            store = await harness.open(codec=codec)
            cas = await store.put(session(context={"n": 1}))
            for outer in ({"a": {"b": [1, value]}}, {"a": (value,), "secret": SECRET}):
                given = session(context=outer) if part == "context" else session(labels=outer)
                for verb, change in CHANGES.items():
                    if codec is MessagePackCodec and forms:
                        cas = await change(store, given, cas)
                        continue
                    with pytest.raises(InvalidInputError, match=r"\.a") as caught:
                        await change(store, given, cas)
                    assert caught.value.field == part, verb
                    assert SECRET not in str(caught.value)
            found = await store.get(KEY, ctx=ctx())
            assert found is not None
            assert found.cas == cas

    @pytest.mark.parametrize("codec", CODECS)
    async def test_a_tuple_may_come_back_as_a_list(self, harness: StoreHarness, codec: str) -> None:
        store = await harness.open(codec=CODECS[codec])
        state = {"a": (1, (2.5, None)), "b": [True, {"c": ("x",)}]}
        cas = await store.create(session(context=state, labels=state))
        await store.update_cas(session(context=state, labels=state), cas)
        found = await store.mutate(KEY, lambda found: found, ctx=ctx())
        expected = {"a": [1, [2.5, None]], "b": [True, {"c": ["x"]}]}
        assert found.session.context == found.session.meta.labels == expected

    @pytest.mark.parametrize("wrong", ["extra", "share"])
    async def test_an_untyped_part_of_a_context_that_would_not_survive_is_refused(
        self, harness: StoreHarness, wrong: str
    ) -> None:
        store = await harness.open(Loose)
        at = datetime(2026, 1, 2, tzinfo=UTC)
        given = Loose(extra={"a": (1, 2.5)}, share=0.5, at=at)
        cas = await store.create(session(context=given))
        lossy = {"extra": Loose(extra={"a": at}), "share": Loose(share=_NAN)}[wrong]
        with pytest.raises(InvalidInputError, match=wrong) as caught:
            await store.update_cas(session(context=lossy), cas)
        assert caught.value.field == "context"
        found = await store.get(KEY, ctx=ctx())
        assert found is not None
        assert found.session.context == Loose(extra={"a": [1, 2.5]}, share=0.5, at=at)

    async def test_verifying_can_be_switched_off(self, harness: StoreHarness) -> None:
        store = await harness.open(Gauge, verify=False)
        await store.put(session(context=Gauge(level=_TEXT)))
        assert await store.delete(KEY, ctx=ctx()) is True

    @pytest.mark.parametrize("context_type", [Alias, Annotated[AppState, "noted"]])
    async def test_an_alias_of_a_class_is_that_class(
        self, harness: StoreHarness, context_type: object
    ) -> None:
        store = await harness.open(context_type)
        await store.put(session(context=AppState(step=1)))
        with pytest.raises(InvalidInputError, match="context"):
            await store.put(session(context=Gauge()))

    async def test_an_enum_of_texts_is_its_value(self, harness: StoreHarness) -> None:
        store = await harness.open()
        named = TenantCtx(tenant_id=Tenant.ACME, user_id=Tenant.ACME)
        key = SessionKey(Tenant.ACME)
        written = Session(
            key=key,
            cursor=session().cursor,
            meta=SessionMeta.of(named),
            context={"n": 1},
        )
        cas = await store.create(written)
        plain = ctx(ACME, user_id=ACME)
        for who in (plain, named):
            for name in (key, SessionKey(ACME)):
                found = await store.get(name, ctx=who)
                assert found is not None
                assert found.cas == cas
                assert type(found.session.key) is str
        assert await store.get(SessionKey("Tenant.ACME"), ctx=ctx("Tenant.ACME")) is None
        assert [found.cas async for found in store.scan(ctx())] == [cas]
        assert await store.touch(key, ctx=plain) is True
        assert await store.delete(SessionKey(ACME), ctx=named) is True

    async def test_no_repr_shows_the_context(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.put(session(context={"token": SECRET}))
        found = await store.get(KEY, ctx=ctx())
        assert found is not None
        assert found.session.context == {"token": SECRET}
        assert SECRET not in f"{found!r} {found.session!r} {store!r}"
        assert KEY in repr(found)
