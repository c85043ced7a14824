"""Contract tests of ``put_many`` and ``delete_many``: each item is a step of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ....errors import (
    InvalidInputError,
    PayloadTooLargeError,
    SessionError,
    StoreUnavailableError,
    TenantMismatchError,
)
from ....model import Cas, SessionKey
from ..assertions import everything, kept, refusal, require, told
from ..samples import GLOBEX, KEY, LIFE, SECRET, ctx, session

if TYPE_CHECKING:
    from ...harness import StoreHarness

_ANN = ctx(team_id="red", user_id="ann")
_BOB = ctx(team_id="red", user_id="bob")


def _keys(count: int) -> list[SessionKey]:
    return [SessionKey(f"key-{number}") for number in range(count)]


@pytest.mark.anyio
class BatchContract:
    """A batch returns the result of each item in its place, and an error stops no other item."""

    async def test_put_many_creates_and_replaces(self, harness: StoreHarness) -> None:
        store = await harness.open()
        first = await store.create(session(context={"n": 0}))
        given = [session(key, context={"n": 1}, ttl_secs=1000) for key in (KEY, *_keys(3))]
        found = await store.put_many(given)
        assert found[0] == Cas(value=2, incarnation=first.incarnation)
        for one, cas in zip(given, found, strict=True):
            stored = await require(store, one.key)
            assert stored.cas == cas
            assert stored.session.context == {"n": 1}
            assert stored.session.ttl_secs == 1000

    async def test_put_many_writes_for_every_tenant(self, harness: StoreHarness) -> None:
        store = await harness.open()
        owners = (ctx(), ctx(GLOBEX), ctx(env="staging"))
        found = await store.put_many([session(owner=owner) for owner in owners])
        for owner, cas in zip(owners, found, strict=True):
            assert (await require(store, caller=owner)).cas == cas

    async def test_an_error_takes_the_place_of_its_item(self, harness: StoreHarness) -> None:
        store = await harness.open(max_payload_bytes=1000)
        keys = _keys(5)
        await store.create(session(keys[2], owner=_ANN))
        wrong: Any = {"note": SECRET}
        found = await store.put_many(
            [
                session(keys[0]),
                session(keys[1], context={"text": SECRET * 100}),
                session(keys[2], owner=_BOB),
                wrong,
                session(keys[4]),
            ]
        )
        assert [type(one) for one in found] == [
            Cas,
            PayloadTooLargeError,
            TenantMismatchError,
            InvalidInputError,
            Cas,
        ]
        for one in found:
            assert not isinstance(one, SessionError) or SECRET not in told(one)
        assert {*await everything(store)} == {keys[0], keys[2], keys[4]}
        assert (await require(store, keys[2], _ANN)).cas.value == 1

    @pytest.mark.parametrize("size", [0, 1, 64, 2500])
    async def test_a_batch_of_any_size_is_complete(self, harness: StoreHarness, size: int) -> None:
        store = await harness.open()
        keys = _keys(size)
        made = await store.put_many([session(key, context={"key": key}) for key in keys])
        assert [one.value for one in made if isinstance(one, Cas)] == [1] * size
        found = await store.get_many(keys, ctx=ctx())
        assert [None if one is None else one.cas for one in found] == made
        assert await store.delete_many(keys, ctx=ctx()) == [True] * size
        assert await store.delete_many(keys, ctx=ctx()) == [False] * size
        assert await everything(store) == {}

    async def test_a_batch_of_large_sessions_is_complete(self, harness: StoreHarness) -> None:
        store = await harness.open()
        keys = _keys(12)
        state = {"text": "x" * 200_000}
        for value in (1, 2):
            found = await store.put_many([session(key, context=state) for key in keys])
            assert [one.value for one in found if isinstance(one, Cas)] == [value] * 12
        assert (await require(store, keys[-1])).session.context == state

    async def test_a_session_that_repeats_is_written_each_time(self, harness: StoreHarness) -> None:
        store = await harness.open()
        found = await store.put_many([session(context={"n": number}) for number in range(3)])
        assert {one.value for one in found if isinstance(one, Cas)} == {1, 2, 3}
        assert (await require(store)).cas.value == 3

    async def test_delete_many_returns_whether_each_session_was_removed(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        keys = _keys(6)
        bad: Any = f"{SECRET}\0"
        await store.create(session(keys[0], owner=_ANN))
        await store.create(session(keys[2], owner=ctx(team_id="red")))
        await store.create(session(keys[3], owner=_BOB))
        await store.create(session(keys[4], owner=ctx(GLOBEX)))
        await store.create(session(keys[5], owner=_ANN, ttl_secs=LIFE))
        await harness.advance(LIFE)
        async with kept(store, ctx(GLOBEX)):
            found = await store.delete_many([*keys, bad], ctx=_ANN)
        assert found[:3] == [True, False, True]
        assert isinstance(found[3], TenantMismatchError)
        assert found[3].key == keys[3]
        assert found[4:6] == [False, False]
        assert isinstance(found[6], InvalidInputError)
        assert found[6].field == "key"
        assert SECRET not in told(found[6])
        assert {*await everything(store)} == {keys[3]}

    async def test_a_key_that_repeats_is_removed_once(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session())
        found = await store.delete_many([KEY] * 3, ctx=ctx())
        assert sorted(map(bool, found)) == [False, False, True]

    @pytest.mark.parametrize("kind", ["one text", "none", "number", "iterator", "set"])
    async def test_a_batch_that_is_no_sequence_is_refused(
        self, harness: StoreHarness, kind: str
    ) -> None:
        store = await harness.open()
        await store.create(session())
        kinds: dict[str, Any] = {
            "one text": KEY,
            "none": None,
            "number": 7,
            "iterator": iter([KEY]),
            "set": {KEY},
        }
        async with kept(store):
            for one in (store, store.scoped(ctx())):
                assert (await refusal(one.put_many(kinds[kind]))).field == "sessions"
            assert (await refusal(store.delete_many(kinds[kind], ctx=ctx()))).field == "keys"

    async def test_a_view_writes_and_removes_its_callers_sessions_only(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        view = store.scoped(_ANN)
        keys = _keys(4)
        owners = (_ANN, _BOB, ctx(GLOBEX), ctx(team_id="red"))
        given = [session(key, owner=owner) for key, owner in zip(keys, owners, strict=True)]
        found = await view.put_many(given)
        assert [type(one) for one in found] == [
            Cas,
            TenantMismatchError,
            TenantMismatchError,
            Cas,
        ]
        assert {*await everything(store)} == {keys[0], keys[3]}
        assert await everything(store, ctx(GLOBEX)) == {}
        assert await view.put_many([]) == []
        assert await view.delete_many(keys) == [True, False, False, True]

    async def test_a_closed_store_refuses_a_batch(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.aclose()
        with pytest.raises(StoreUnavailableError):
            await store.put_many([session()])
        with pytest.raises(StoreUnavailableError):
            await store.delete_many([KEY], ctx=ctx())
