"""What no reader could read again is refused, and what a text is does not hang on its class."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated, Any, NewType

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

SECRET = "hunter2-hunter2"  # noqa: S105 - stands for one
CODECS: dict[str, CodecFactory] = {"json": JsonCodec, "msgpack": MessagePackCodec}


class Gauge(msgspec.Struct, frozen=True):
    """A context type with a bound and a number."""

    level: Annotated[int, msgspec.Meta(ge=0)] = 0
    share: float = 0.0
    inner: AppState | None = None


VERBS = {**WRITES, **CHANGES}
_NAN = float("nan")
_TEXT: Any = SECRET
WRONG: dict[str, Gauge] = {
    "a text for a number": Gauge(level=_TEXT),
    "a number out of its bounds": Gauge(level=-1),
    "deep inside": Gauge(inner=AppState(step=_TEXT)),
}


class Tenant(str, enum.Enum):  # noqa: UP042 - what applications have
    """A tenant as an application may name it: formats as ``Tenant.ACME``, equals ``acme``."""

    ACME = ACME


_new_type: Any = NewType  # Any: mypy fails on a NewType of a struct
Alias: Any = _new_type("Alias", AppState)


@pytest.mark.anyio
class VerifyingContract:
    """What no reader could read again is refused."""

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
