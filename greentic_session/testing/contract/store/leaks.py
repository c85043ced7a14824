"""Contract tests of leaks: nothing is left when every session has ended."""

from __future__ import annotations

import random
from itertools import permutations
from typing import TYPE_CHECKING, Final

import pytest

from ....errors import (
    CasConflictError,
    InvalidInputError,
    SessionExistsError,
    SessionNotFoundError,
    TenantMismatchError,
)
from ....model import Cas, SessionKey
from ..assertions import everything
from ..samples import GLOBEX, KEY, LIFE, ctx, session
from .verbs import CHANGES, same

if TYPE_CHECKING:
    from ...harness import StoreHarness

_HOUR: Final = 3600.0
"""Longer than any trace of a delete on a server."""

_ORDERS: Final = tuple(permutations(range(3)))
_OWNERS: Final = (ctx(), ctx(GLOBEX), ctx(env="staging", team_id="red", user_id="ann"))


@pytest.mark.anyio
class LeavingContract:
    """When every session has expired or was deleted, the namespace is as empty as at the start."""

    async def test_nothing_is_there_at_first_and_a_session_is_not_nothing(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        assert await harness.residue() == []
        await store.create(session())
        await harness.advance(100 * _HOUR)
        assert await harness.residue() != []

    async def test_nothing_is_left_after_the_end_of_a_life(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session(ttl_secs=LIFE))
        await harness.advance(LIFE)
        assert await harness.residue() == []

    async def test_nothing_is_left_after_a_delete(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session())
        await store.create(session("another", ttl_secs=10 * _HOUR))
        assert await store.delete(KEY, ctx=ctx()) is True
        assert await store.delete(SessionKey("another")) is True
        await harness.advance(_HOUR)
        assert await harness.residue() == []

    @pytest.mark.parametrize("verb", [*CHANGES, "touch"])
    @pytest.mark.parametrize("before", [0, 10 * _HOUR, LIFE / 2])
    @pytest.mark.parametrize("after", [LIFE, 0.001, 0.002])
    async def test_nothing_is_left_after_the_end_of_a_changed_life(
        self, harness: StoreHarness, after: float, before: float, verb: str
    ) -> None:
        store = await harness.open()
        cas = await store.create(session(ttl_secs=before))
        if verb == "touch":
            await store.touch(KEY, after, ctx=ctx())
        else:
            await CHANGES[verb](store, session(ttl_secs=after), cas)
        await harness.advance(after)
        assert await harness.residue() == []

    @pytest.mark.parametrize("order", _ORDERS, ids=str)
    async def test_nothing_is_left_of_a_key_in_three_tenants_in_whatever_order_they_end(
        self, harness: StoreHarness, order: tuple[int, ...]
    ) -> None:
        store = await harness.open()
        for place in order:
            await store.create(session(owner=_OWNERS[place], ttl_secs=LIFE * (1 + place)))
        await harness.advance(3 * LIFE)
        assert await harness.residue() == []

    @pytest.mark.parametrize("order", _ORDERS, ids=str)
    async def test_nothing_is_left_of_a_key_in_three_tenants_in_whatever_order_they_are_deleted(
        self, harness: StoreHarness, order: tuple[int, ...]
    ) -> None:
        store = await harness.open()
        for owner in _OWNERS:
            await store.create(session(owner=owner))
        for place in order:
            assert await store.delete(KEY, ctx=_OWNERS[place]) is True
        await harness.advance(_HOUR)
        assert await harness.residue() == []

    @pytest.mark.parametrize("deleted_ttl", [0, LIFE / 2, LIFE, 100 * _HOUR])
    async def test_a_deleted_session_does_not_prolong_what_is_left_of_its_key(
        self, harness: StoreHarness, deleted_ttl: float
    ) -> None:
        store = await harness.open()
        await store.create(session(ttl_secs=LIFE))
        await store.create(session(owner=ctx(GLOBEX), ttl_secs=deleted_ttl))
        await store.delete(KEY, ctx=ctx(GLOBEX))
        await harness.advance(_HOUR)
        assert await harness.residue() == []

    async def test_a_touch_to_a_shorter_life_does_not_prolong_what_is_left_of_its_key(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        await store.create(session(ttl_secs=LIFE))
        await store.create(session(owner=ctx(GLOBEX)))
        await store.touch(KEY, LIFE, ctx=ctx(GLOBEX))
        await harness.advance(LIFE)
        assert await harness.residue() == []

    async def test_a_session_made_again_leaves_no_more_than_one_made_once(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        for _ in range(3):
            await store.create(session(ttl_secs=LIFE))
            await store.delete(KEY, ctx=ctx())
            await store.put(session(ttl_secs=LIFE))
            await harness.advance(LIFE)
        await harness.advance(_HOUR)
        assert await harness.residue() == []

    async def test_a_permanent_session_outlives_the_trace_of_a_delete(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        await store.create(session(ttl_secs=LIFE))
        await store.delete(KEY, ctx=ctx())
        await store.create(session())
        await harness.advance(_HOUR)
        assert set(await everything(store)) == {KEY}
        assert await store.get(KEY) is not None

    async def test_verbs_that_act_on_nothing_leave_nothing(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.get(KEY)
        await store.get(KEY, ctx=ctx())
        await store.get_many([KEY], ctx=ctx())
        await store.touch(KEY, 0)
        await store.touch(KEY, 0, ctx=ctx())
        await store.delete(KEY)
        await store.delete(KEY, ctx=ctx())
        with pytest.raises(SessionNotFoundError):
            await store.mutate(KEY, same, ctx=ctx())
        for token in (Cas.none(), Cas(value=1, incarnation="a" * 32)):
            with pytest.raises(CasConflictError):
                await store.update_cas(session(), token)
        with pytest.raises(InvalidInputError):
            await store.put(session(ttl_secs=-1))
        assert await everything(store) == {}
        assert await harness.residue() == []

    async def test_refused_verbs_leave_nothing_after_the_session_has_ended(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        cas = await store.create(session(ttl_secs=LIFE))
        await store.put(session(ttl_secs=LIFE))
        with pytest.raises(SessionExistsError):
            await store.create(session())
        with pytest.raises(CasConflictError):
            await store.update_cas(session(), cas)
        with pytest.raises(TenantMismatchError):
            await store.put(session(owner=ctx(team_id="red")))
        with pytest.raises(TenantMismatchError):
            await store.touch(KEY, 0, ctx=ctx(team_id="red"))
        with pytest.raises(CasConflictError):
            await store.delete(KEY, ctx=ctx(), expected=cas)
        await harness.advance(LIFE)
        assert await harness.residue() == []

    @pytest.mark.parametrize("seed", range(4))
    async def test_nothing_is_left_after_many_lives(self, harness: StoreHarness, seed: int) -> None:
        store = await harness.open()
        chance = random.Random(seed)
        keys = [SessionKey(f"conversation-{number}") for number in range(12)]
        for _ in range(150):
            key, owner = chance.choice(keys), chance.choice(_OWNERS)
            ttl_secs = chance.choice([0, 0.001, 5, LIFE, _HOUR])
            verb = chance.choice(["put", "put", "put", "touch", "touch", "delete", "pass"])
            if verb == "put":
                await store.put(session(key, owner=owner, ttl_secs=ttl_secs))
            elif verb == "touch":
                await store.touch(key, ttl_secs, ctx=owner)
            elif verb == "delete":
                await store.delete(key, ctx=owner)
            elif chance.random() < 0.3:
                await harness.advance(chance.choice([1, 60, 600]))
        # Sessions that are permanent by now are deleted or get a lifetime.
        for number, key in enumerate(keys):
            for owner in _OWNERS:
                if number % 2:
                    await store.delete(key, ctx=owner)
                else:
                    await store.touch(key, LIFE, ctx=owner)
        await harness.advance(_HOUR)
        assert await harness.residue() == []
