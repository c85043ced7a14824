"""Contract tests of reads: ``get``, ``get_many``, and results that belong to the caller."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import msgspec
import pytest

from ....errors import TenantMismatchError
from ....model import Cas, OutboxEntry, SessionKey, Versioned
from ..assertions import kept, require
from ..samples import GLOBEX, KEY, PART, ctx, evolve, session
from .verbs import READS, WRITES

if TYPE_CHECKING:
    from ...harness import StoreHarness


def _key(number: int) -> SessionKey:
    return SessionKey(f"conversation-{number}")


@pytest.mark.anyio
class ReadingContract:
    """Reads return the stored session, as objects of the caller's own."""

    async def test_get_of_an_absent_key_is_none(self, harness: StoreHarness) -> None:
        store = await harness.open()
        assert await store.get(KEY) is None
        assert await store.get(KEY, ctx=ctx()) is None

    async def test_get_returns_what_was_put(self, harness: StoreHarness) -> None:
        store = await harness.open()
        written = session(
            context={"name": "Ann", "n": [1, 2.5, None, True]},
            labels={"tier": "gold", "tags": ["a", "b"]},
            outbox=(OutboxEntry.for_payload(3, b"hello"),),
            ttl_secs=60,
        )
        cas = await store.put(written)
        found = await store.get(KEY, ctx=ctx())
        assert found is not None
        expected = msgspec.structs.replace(
            written, id=found.session.id, updated_at=found.session.updated_at
        )
        assert found == Versioned(expected, cas)
        assert found.session.id.hex == cas.incarnation

    async def test_a_read_unpacks_as_session_and_token(self, harness: StoreHarness) -> None:
        store = await harness.open()
        written = await store.create(session(context={"n": 1}))
        found, cas = await require(store)
        assert found.context == {"n": 1}
        assert cas == written

    @pytest.mark.parametrize("read", READS)
    async def test_every_read_returns_the_same(self, harness: StoreHarness, read: str) -> None:
        store = await harness.open()
        await store.create(session("another", context={"n": 1}))
        await store.create(session(context={"n": 1}, labels={"vip": True}, ttl_secs=1000))
        await store.put(session(context={"n": 2}, labels={"vip": False}, ttl_secs=500))
        found = await READS[read](store, KEY, ctx())
        assert found == await require(store)
        assert found.session.context == {"n": 2}
        assert found.session.ttl_secs == 500

    async def test_reading_changes_nothing(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session(ttl_secs=1000))
        await harness.advance(PART)
        async with kept(store):
            await store.get(KEY)
            await store.get(KEY, ctx=ctx())
            await store.get_many([KEY], ctx=ctx())

    # --- get_many ----------------------------------------------------------------------------

    @pytest.mark.parametrize("seed", range(3))
    async def test_get_many_keeps_the_order_of_the_keys(
        self, harness: StoreHarness, seed: int
    ) -> None:
        store = await harness.open()
        keys = [_key(number) for number in range(20)]
        for number, key in enumerate(keys):
            await store.create(session(key, context={"n": number}))
        random.Random(seed).shuffle(keys)
        found = await store.get_many(keys, ctx=ctx())
        assert [one.session.key for one in found if one is not None] == keys
        assert found == [await require(store, key) for key in keys]

    async def test_get_many_gives_none_for_each_absent_key(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session(_key(1)))
        await store.create(session(_key(3)))
        found = await store.get_many([_key(number) for number in range(5)], ctx=ctx())
        assert [one and one.session.key for one in found] == [None, _key(1), None, _key(3), None]

    async def test_get_many_gives_a_repeated_key_each_time(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session(_key(1)))
        await store.create(session(_key(2)))
        keys = [_key(1), _key(2), _key(0), _key(1), _key(1)]
        found = await store.get_many(keys, ctx=ctx())
        assert [one and one.session.key for one in found] == [
            *(_key(1), _key(2), None),
            *(_key(1), _key(1)),
        ]

    async def test_get_many_of_no_keys_is_empty(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session())
        assert await store.get_many([], ctx=ctx()) == []
        assert await store.get_many((), ctx=ctx()) == []

    async def test_get_many_takes_a_tuple(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session())
        assert await store.get_many((KEY,), ctx=ctx()) == [await require(store)]

    async def test_get_many_of_hundreds_of_keys(self, harness: StoreHarness) -> None:
        store = await harness.open()
        for number in range(0, 300, 3):
            await store.create(session(_key(number), context={"n": number}))
        found = await store.get_many([_key(number) for number in range(300)], ctx=ctx())
        assert [one and one.session.context["n"] for one in found] == [
            None if number % 3 else number for number in range(300)
        ]

    async def test_get_many_sees_one_tenant_only(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session(_key(0)))
        await store.create(session(_key(1), owner=ctx(GLOBEX)))
        await store.create(session(_key(2), owner=ctx(env="staging")))
        found = await store.get_many([_key(number) for number in range(3)], ctx=ctx())
        assert [one and one.session.key for one in found] == [_key(0), None, None]

    @pytest.mark.parametrize("place", [0, 1, 4])
    async def test_get_many_raises_if_one_session_is_another_users(
        self, harness: StoreHarness, place: int
    ) -> None:
        store = await harness.open()
        keys = [_key(number) for number in range(5)]
        for number, key in enumerate(keys):
            user_id = "bob" if number == place else "ann"
            await store.create(session(key, owner=ctx(user_id=user_id)))
        with pytest.raises(TenantMismatchError) as caught:
            await store.get_many(keys, ctx=ctx(user_id="ann"))
        assert caught.value.key == keys[place]

    # --- results belong to the caller --------------------------------------------------------

    @pytest.mark.parametrize("read", READS)
    async def test_changing_what_was_read_changes_nothing_stored(
        self, harness: StoreHarness, read: str
    ) -> None:
        store = await harness.open()
        await store.create(session(context={"cart": ["tea"]}, labels={"tags": ["new"]}))
        found = await READS[read](store, KEY, ctx())
        async with kept(store):
            found.session.context["cart"].append("milk")
            found.session.context["paid"] = True
            found.session.meta.labels["tags"].clear()
        assert (await require(store)).session.context == {"cart": ["tea"]}
        assert (await require(store)).session.meta.labels == {"tags": ["new"]}

    @pytest.mark.parametrize("write", WRITES)
    async def test_changing_what_was_written_changes_nothing_stored(
        self, harness: StoreHarness, write: str
    ) -> None:
        store = await harness.open()
        before = Cas.none() if write == "create" else await store.create(session())
        given = session(context={"cart": ["tea"]}, labels={"tags": ["new"]})
        await WRITES[write](store, given, before)
        async with kept(store):
            given.context["cart"].append("milk")
            given.meta.labels["tags"].clear()
        assert (await require(store)).session.context == {"cart": ["tea"]}
        assert (await require(store)).session.meta.labels == {"tags": ["new"]}

    @pytest.mark.parametrize("read", READS)
    async def test_each_read_hands_out_objects_of_its_own(
        self, harness: StoreHarness, read: str
    ) -> None:
        store = await harness.open()
        await store.create(session(context={"cart": ["tea"]}))
        first = await READS[read](store, KEY, ctx())
        first.session.context["cart"].append("milk")
        second = await READS[read](store, KEY, ctx())
        assert second.session.context == {"cart": ["tea"]}

    async def test_a_repeated_key_hands_out_objects_of_its_own(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session(context={"cart": ["tea"]}))
        first, second = await store.get_many([KEY, KEY], ctx=ctx())
        assert first is not None
        assert second is not None
        first.session.context["cart"].append("milk")
        assert second.session.context == {"cart": ["tea"]}

    async def test_what_was_read_can_be_written_as_it_is(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session(context={"cart": ["tea"]}, labels={"vip": True}, ttl_secs=500))
        found = await require(store)
        cas = await store.update_cas(found.session, found.cas)
        again = await require(store)
        assert again.cas == cas
        assert again.session == evolve(found.session, updated_at=again.session.updated_at)
