"""Contract tests of ``tenant``: a view of one tenant's sessions, without the check of the user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from ....errors import CasConflictError, TenantMismatchError
from ....model import Cas, SessionKey
from ..assertions import kept, refusal, require
from ..samples import ACME, GLOBEX, KEY, LIFE, PART, ctx, session

if TYPE_CHECKING:
    from ....model import TenantCtx
    from ...harness import StoreHarness

_OWNERS: Final = {
    "no team": ctx(),
    "a team": ctx(team_id="red"),
    "a user": ctx(team_id="red", user_id="ann"),
    "a user without a team": ctx(user_id="ann"),
}
_STRANGERS: Final = {"tenant": ctx(GLOBEX, user_id="ann"), "env": ctx(env="staging")}
_owners: Final = pytest.mark.parametrize("owner", _OWNERS.values(), ids=_OWNERS)
_strangers: Final = pytest.mark.parametrize("stranger", _STRANGERS.values(), ids=_STRANGERS)


@pytest.mark.anyio
class TenantContract:
    """The view acts on every session of its tenant, and on no other."""

    async def test_the_view_knows_its_tenant(self, harness: StoreHarness) -> None:
        view = (await harness.open()).tenant("staging", GLOBEX)
        assert (view.env, view.tenant_id) == ("staging", GLOBEX)

    @pytest.mark.parametrize("field", ["env", "tenant_id"])
    async def test_a_view_of_an_invalid_tenant_is_refused(
        self, harness: StoreHarness, field: str
    ) -> None:
        store = await harness.open()

        async def view() -> None:
            store.tenant(**{"env": "default", "tenant_id": ACME, field: "no/slash"})

        assert (await refusal(view())).field == field

    @_owners
    async def test_the_view_reads_the_session_of_any_owner(
        self, harness: StoreHarness, owner: TenantCtx
    ) -> None:
        store = await harness.open()
        await store.create(session(owner=owner, context={"n": 1}))
        found = await require(store, caller=owner)
        view = store.tenant("default", ACME)
        assert await view.get(KEY) == found
        assert await view.get_many([KEY, SessionKey("absent"), KEY]) == [found, None, found]
        assert await view.get_many([KEY], on_error="return") == [found]

    @_owners
    async def test_the_view_touches_the_session_of_any_owner(
        self, harness: StoreHarness, owner: TenantCtx
    ) -> None:
        store = await harness.open()
        cas = await store.create(session(owner=owner, ttl_secs=LIFE))
        view = store.tenant("default", ACME)
        await harness.advance(PART)
        assert await view.touch(KEY) is True
        await harness.advance(PART)
        assert (await require(store, caller=owner)).cas == cas
        assert await view.touch(KEY, 0) is True
        await harness.advance(LIFE * 9)
        assert (await require(store, caller=owner)).session.expires_at is None

    @_owners
    async def test_the_view_deletes_the_session_of_any_owner(
        self, harness: StoreHarness, owner: TenantCtx
    ) -> None:
        store = await harness.open()
        await store.create(session(owner=owner))
        view = store.tenant("default", ACME)
        assert await view.delete(KEY) is True
        assert await view.delete(KEY) is False
        assert await view.touch(KEY) is False
        assert await view.get(KEY) is None

    async def test_a_delete_through_the_view_needs_the_expected_token(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        cas = await store.create(session(owner=_OWNERS["a user"]))
        view = store.tenant("default", ACME)
        async with kept(store):
            with pytest.raises(CasConflictError) as caught:
                await view.delete(KEY, expected=Cas(value=1, incarnation="a" * 32))
            assert caught.value.current == cas
        assert await view.delete(KEY, expected=cas) is True

    @_strangers
    async def test_another_tenants_session_does_not_exist_for_the_view(
        self, harness: StoreHarness, stranger: TenantCtx
    ) -> None:
        store = await harness.open()
        await store.create(session(owner=stranger))
        view = store.tenant("default", ACME)
        async with kept(store, stranger):
            assert await view.get(KEY) is None
            assert await view.get_many([KEY]) == [None]
            assert await view.touch(KEY, 1) is False
            assert await view.delete(KEY) is False

    @_strangers
    async def test_the_view_acts_on_its_own_tenants_session_under_a_shared_key(
        self, harness: StoreHarness, stranger: TenantCtx
    ) -> None:
        store = await harness.open()
        await store.create(session(owner=stranger))
        await store.create(session(owner=_OWNERS["a user"], context={"mine": 1}))
        view = store.tenant("default", ACME)
        async with kept(store, stranger):
            found = await view.get(KEY)
            assert found is not None
            assert found.session.context == {"mine": 1}
            assert await view.touch(KEY, LIFE) is True
            assert await view.delete(KEY) is True

    async def test_a_caller_with_the_name_of_every_owner_is_a_caller_like_others(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        await store.create(session(owner=_OWNERS["a user"]))
        async with kept(store):
            for verb in (store.get, store.touch, store.delete):
                with pytest.raises(TenantMismatchError):
                    await verb(KEY, ctx=ctx(user_id="*"))
