"""Contract tests of calls without a caller: the key's only tenant is found, several are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from ....errors import AmbiguousKeyError, SessionNotFoundError
from ..assertions import everything, kept, told
from ..samples import GLOBEX, KEY, LIFE, PART, ctx, session
from .verbs import LOOKUP_VERBS, REMOVALS, same

if TYPE_CHECKING:
    from ....model import TenantCtx
    from ...harness import StoreHarness

_OWNERS: Final[dict[str, TenantCtx]] = {
    "tenant": ctx(),
    "env": ctx(env="staging"),
    "team": ctx(team_id="red"),
    "user": ctx(user_id="ann"),
    "all": ctx(env="staging", team_id="red", user_id="ann"),
}
_OTHERS: Final[dict[str, TenantCtx]] = {
    "tenant": ctx(GLOBEX),
    "env": ctx(env="staging"),
    "both": ctx(GLOBEX, env="staging", team_id="red", user_id="ann"),
}


@pytest.mark.anyio
class LookupContract:
    """A call without a caller finds a key's only live session, and never picks one of several."""

    @pytest.mark.parametrize("owner", _OWNERS)
    async def test_get_finds_the_only_owner(self, harness: StoreHarness, owner: str) -> None:
        store = await harness.open()
        cas = await store.create(session(owner=_OWNERS[owner], context={"n": 1}))
        found = await store.get(KEY)
        assert found is not None
        assert found.cas == cas
        assert found == await store.get(KEY, ctx=_OWNERS[owner])

    @pytest.mark.parametrize("owner", _OWNERS)
    async def test_mutate_writes_the_only_owners_session(
        self, harness: StoreHarness, owner: str
    ) -> None:
        store = await harness.open()
        await store.create(session(owner=_OWNERS[owner]))
        changed = await store.mutate(KEY, lambda found: found.advance("paid"))
        assert changed.session.cursor.node_id == "paid"
        assert changed == await store.get(KEY, ctx=_OWNERS[owner])

    @pytest.mark.parametrize("owner", _OWNERS)
    async def test_touch_and_delete_act_on_the_only_owners_session(
        self, harness: StoreHarness, owner: str
    ) -> None:
        store = await harness.open()
        await store.create(session(owner=_OWNERS[owner]))
        assert await store.touch(KEY, 77) is True
        found = await store.get(KEY, ctx=_OWNERS[owner])
        assert found is not None
        assert found.session.ttl_secs == 77
        assert await store.delete(KEY) is True
        assert await store.get(KEY, ctx=_OWNERS[owner]) is None

    async def test_a_key_without_an_owner_is_absent(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session("another"))
        assert await store.get(KEY) is None
        assert await store.touch(KEY) is False
        assert await store.delete(KEY) is False
        with pytest.raises(SessionNotFoundError):
            await store.mutate(KEY, same)

    @pytest.mark.parametrize("other", _OTHERS)
    @pytest.mark.parametrize("verb", LOOKUP_VERBS)
    async def test_a_key_of_two_owners_is_ambiguous(
        self, harness: StoreHarness, verb: str, other: str
    ) -> None:
        store = await harness.open()
        owners = (ctx(), _OTHERS[other])
        for owner in owners:
            await store.create(session(owner=owner, ttl_secs=1000))
        async with kept(store, *owners):
            with pytest.raises(AmbiguousKeyError) as caught:
                await LOOKUP_VERBS[verb](store, KEY, None)
        assert caught.value.key == KEY
        assert caught.value.code == "conflict"

    async def test_an_ambiguous_key_tells_no_tenant(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session(owner=ctx("tenant-one")))
        await store.create(session(owner=ctx("tenant-two", env="env-two")))
        with pytest.raises(AmbiguousKeyError) as caught:
            await store.get(KEY)
        for hidden in ("tenant-one", "tenant-two", "env-two"):
            assert hidden not in told(caught.value)

    @pytest.mark.parametrize("first", [True, False], ids=["the first", "the second"])
    @pytest.mark.parametrize("verb", LOOKUP_VERBS)
    async def test_when_one_of_two_has_expired_the_other_is_meant(
        self, harness: StoreHarness, verb: str, *, first: bool
    ) -> None:
        store = await harness.open()
        expires, lives = (ctx(), ctx(GLOBEX)) if first else (ctx(GLOBEX), ctx())
        for owner in (ctx(), ctx(GLOBEX)):
            await store.create(session(owner=owner, ttl_secs=LIFE if owner == expires else 1000))
        await harness.advance(LIFE)
        result = await LOOKUP_VERBS[verb](store, KEY, None)
        assert result
        assert await everything(store, expires) == {}
        assert len(await everything(store, lives)) == (verb not in REMOVALS)

    @pytest.mark.parametrize("first", [True, False], ids=["the first", "the second"])
    async def test_when_one_of_two_was_deleted_the_other_is_meant(
        self, harness: StoreHarness, *, first: bool
    ) -> None:
        store = await harness.open()
        await store.create(session())
        await store.create(session(owner=ctx(GLOBEX)))
        await store.delete(KEY, ctx=ctx() if first else ctx(GLOBEX))
        found = await store.get(KEY)
        assert found is not None
        assert found.session.meta.tenant_id == (GLOBEX if first else ctx().tenant_id)
        assert await store.touch(KEY) is True
        assert await store.delete(KEY) is True
        assert await store.get(KEY) is None

    async def test_a_third_owner_keeps_the_key_ambiguous(self, harness: StoreHarness) -> None:
        store = await harness.open()
        for tenant_id in ("one", "two", "three"):
            await store.create(session(owner=ctx(tenant_id)))
        await store.delete(KEY, ctx=ctx("two"))
        with pytest.raises(AmbiguousKeyError):
            await store.get(KEY)
        await store.delete(KEY, ctx=ctx("one"))
        found = await store.get(KEY)
        assert found is not None
        assert found.session.meta.tenant_id == "three"

    async def test_a_caller_ends_the_ambiguity(self, harness: StoreHarness) -> None:
        store = await harness.open()
        for tenant_id in ("one", "two"):
            await store.create(session(owner=ctx(tenant_id), context={"whose": tenant_id}))
        for tenant_id in ("one", "two"):
            found = await store.get(KEY, ctx=ctx(tenant_id))
            assert found is not None
            assert found.session.context == {"whose": tenant_id}
        assert await store.delete(KEY, ctx=ctx("one")) is True
        assert await store.get(KEY, ctx=ctx("two")) is not None


@pytest.mark.anyio
class LookupLifeContract:
    """The lookup lives as long as the longest-lived session under its key, and no longer."""

    async def test_a_lookup_without_caller_ends_with_the_session(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        await store.create(session(ttl_secs=LIFE))
        await harness.advance(LIFE)
        assert await store.get(KEY) is None
        assert await store.touch(KEY) is False
        assert await store.delete(KEY) is False

    @pytest.mark.parametrize("ttl_secs", [0, 1000, None])
    async def test_touch_moves_the_end_of_a_lookup_without_caller(
        self, harness: StoreHarness, ttl_secs: float | None
    ) -> None:
        store = await harness.open()
        await store.create(session(ttl_secs=LIFE))
        await harness.advance(PART)
        await store.touch(KEY, ttl_secs, ctx=ctx())
        await harness.advance(PART)
        found = await store.get(KEY)
        assert found is not None
        assert found == await store.get(KEY, ctx=ctx())

    @pytest.mark.parametrize("ttl_secs", [0, 1000, LIFE])
    async def test_a_write_moves_the_end_of_a_lookup_without_caller(
        self, harness: StoreHarness, ttl_secs: float
    ) -> None:
        store = await harness.open()
        await store.create(session(ttl_secs=LIFE))
        await harness.advance(PART)
        await store.put(session(ttl_secs=ttl_secs))
        await harness.advance(PART)
        found = await store.get(KEY)
        assert found is not None
        assert found == await store.get(KEY, ctx=ctx())

    @pytest.mark.parametrize("longer", [1000.0, 0.0])
    @pytest.mark.parametrize("first", [True, False], ids=["the first", "the second"])
    async def test_a_shorter_life_of_another_tenant_does_not_end_it(
        self, harness: StoreHarness, longer: float, *, first: bool
    ) -> None:
        store = await harness.open()
        given = [session(ttl_secs=longer), session(owner=ctx(GLOBEX), ttl_secs=LIFE)]
        for one in given if first else reversed(given):
            await store.create(one)
        await store.touch(KEY, 10, ctx=ctx(GLOBEX))
        await harness.advance(LIFE)
        found = await store.get(KEY)
        assert found is not None
        assert found.session.meta.tenant_id == ctx().tenant_id

    @pytest.mark.parametrize("longer", [1000.0, 0.0])
    async def test_the_end_of_a_longer_life_does_not_end_it(
        self, harness: StoreHarness, longer: float
    ) -> None:
        store = await harness.open()
        await store.create(session(owner=ctx(GLOBEX), ttl_secs=longer))
        await store.create(session(ttl_secs=LIFE))
        await store.delete(KEY, ctx=ctx(GLOBEX))
        await harness.advance(PART)
        found = await store.get(KEY)
        assert found is not None
        assert found.session.meta.tenant_id == ctx().tenant_id

    async def test_it_stands_again_when_the_session_is_made_again(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        await store.create(session(ttl_secs=LIFE))
        await harness.advance(LIFE)
        await store.create(session(ttl_secs=LIFE))
        assert await store.get(KEY) is not None
        await store.delete(KEY)
        cas = await store.put(session(owner=ctx(GLOBEX)))
        found = await store.get(KEY)
        assert found is not None
        assert found.cas == cas
