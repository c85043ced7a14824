"""Contract tests of ``replace_incarnation``: a delete and a create in one step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from ....errors import CasConflictError, PayloadTooLargeError, TenantMismatchError
from ....model import Cas, OutboxEntry
from ..assertions import everything, kept, refusal, require
from ..samples import ACME, GLOBEX, KEY, LIFE, PART, SECRET, ctx, session

if TYPE_CHECKING:
    from ....model import TenantCtx
    from ...harness import StoreHarness

_GUEST: Final = ctx(team_id="red")
_ANN: Final = ctx(team_id="red", user_id="ann")
_BOB: Final = ctx(team_id="red", user_id="bob")
_USERS: Final = {"a user": (_GUEST, _ANN), "no user": (_ANN, _GUEST), "another": (_ANN, _BOB)}
_TEAMS: Final = {
    "another team": ctx(team_id="blue", user_id="ann"),
    "no team": ctx(user_id="ann"),
}


@pytest.mark.anyio
class ReplacingContract:
    """The new incarnation, what ends with the old one, and what is refused."""

    async def test_the_new_incarnation_has_a_new_id_and_the_first_version(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        await store.create(session(owner=_ANN, context={"n": 1}))
        old = await store.update_cas(
            session(owner=_ANN, context={"n": 2}), (await require(store, caller=_ANN)).cas
        )
        before = await require(store, caller=_ANN)
        new = await store.replace_incarnation(session(owner=_ANN, context={"n": 3}), old)
        after = await require(store, caller=_ANN)
        assert after.cas == new
        assert new.value == 1
        assert new.incarnation != old.incarnation
        assert after.session.id != before.session.id
        assert after.session.key == before.session.key
        assert after.session.context == {"n": 3}

    async def test_the_outbox_is_the_given_one(self, harness: StoreHarness) -> None:
        store = await harness.open()
        first, second = OutboxEntry.for_payload(1, b"a"), OutboxEntry.for_payload(7, b"b")
        cas = await store.create(session(owner=_ANN, outbox=(first,)))
        await store.replace_incarnation(session(owner=_ANN, outbox=(second, second)), cas)
        kept_entries = (await require(store, caller=_ANN)).session.outbox
        assert [entry.seq for entry in kept_entries] == [7]

    @pytest.mark.parametrize(("before", "after"), _USERS.values(), ids=_USERS)
    async def test_the_user_may_change(
        self, harness: StoreHarness, before: TenantCtx, after: TenantCtx
    ) -> None:
        store = await harness.open()
        cas = await store.create(session(owner=before))
        new = await store.replace_incarnation(session(owner=after), cas)
        assert (await require(store, caller=after)).cas == new
        if before.user_id is not None:
            with pytest.raises(TenantMismatchError):
                await store.update_cas(session(owner=before), new)
        assert len(await everything(store)) == 1

    @pytest.mark.parametrize("owner", _TEAMS.values(), ids=_TEAMS)
    async def test_the_team_stays(self, harness: StoreHarness, owner: TenantCtx) -> None:
        store = await harness.open()
        cas = await store.create(session(owner=_ANN))
        async with kept(store):
            with pytest.raises(TenantMismatchError):
                await store.replace_incarnation(session(owner=owner), cas)

    @pytest.mark.parametrize("owner", [ctx(GLOBEX, team_id="red"), ctx(env="staging")])
    async def test_another_tenants_session_is_absent(
        self, harness: StoreHarness, owner: TenantCtx
    ) -> None:
        store = await harness.open()
        cas = await store.create(session(owner=_ANN))
        async with kept(store, ctx(), owner):
            with pytest.raises(CasConflictError) as caught:
                await store.replace_incarnation(session(owner=owner), cas)
        assert caught.value.current == Cas.none()

    async def test_a_token_of_the_old_incarnation_writes_nothing(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        old = await store.create(session(owner=_ANN))
        new = await store.replace_incarnation(session(owner=_ANN, context={"n": 1}), old)
        async with kept(store):
            with pytest.raises(CasConflictError) as late:
                await store.update_cas(session(owner=_ANN), old)
            assert late.value.current == new
            with pytest.raises(CasConflictError):
                await store.replace_incarnation(session(owner=_ANN), old)
            with pytest.raises(CasConflictError):
                await store.delete(KEY, ctx=_ANN, expected=old)

    async def test_another_version_of_the_session_is_a_conflict(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        old = await store.create(session(owner=_ANN))
        new = await store.update_cas(session(owner=_ANN), old)
        async with kept(store):
            with pytest.raises(CasConflictError) as caught:
                await store.replace_incarnation(session(owner=_BOB), old)
        assert (caught.value.expected, caught.value.current) == (old, new)

    async def test_an_absent_session_is_not_created(self, harness: StoreHarness) -> None:
        store = await harness.open()
        for expected in (Cas.none(), Cas(value=1, incarnation="a" * 32)):
            with pytest.raises(CasConflictError) as caught:
                await store.replace_incarnation(session(owner=_ANN), expected)
            assert caught.value.current == Cas.none()
        assert not await everything(store)

    async def test_an_expired_session_is_not_replaced(self, harness: StoreHarness) -> None:
        store = await harness.open()
        cas = await store.create(session(owner=_ANN, ttl_secs=LIFE))
        await harness.advance(LIFE * 2)
        with pytest.raises(CasConflictError) as caught:
            await store.replace_incarnation(session(owner=_ANN, ttl_secs=LIFE), cas)
        assert caught.value.current == Cas.none()
        assert not await everything(store)

    @pytest.mark.parametrize(("old_ttl", "new_ttl"), [(0, LIFE), (LIFE, 0), (LIFE, LIFE)])
    async def test_the_lifetime_is_that_of_the_new_session(
        self, harness: StoreHarness, old_ttl: float, new_ttl: float
    ) -> None:
        store = await harness.open()
        cas = await store.create(session(owner=_ANN, ttl_secs=old_ttl))
        await harness.advance(PART)
        await store.replace_incarnation(session(owner=_BOB, ttl_secs=new_ttl), cas)
        await harness.advance(PART)
        assert (await require(store, caller=_BOB)).session.ttl_secs == new_ttl
        assert await store.get(KEY) is not None  # by lookup, which lives as long
        await harness.advance(PART)
        found = await store.get(KEY, ctx=_BOB)
        assert (found is None) is (new_ttl != 0)

    async def test_of_rival_replacements_one_wins(self, harness: StoreHarness) -> None:
        store = await harness.open()
        cas = await store.create(session(owner=_GUEST))
        won: list[Cas] = []
        for n in range(3):
            try:
                given = session(owner=_ANN, context={"n": n})
                won.append(await store.replace_incarnation(given, cas))
            except CasConflictError:
                continue
        assert [(await require(store, caller=_ANN)).cas] == won
        assert (await require(store, caller=_ANN)).session.context == {"n": 0}

    @pytest.mark.parametrize(("before", "after"), _USERS.values(), ids=_USERS)
    async def test_a_search_finds_the_replaced_session_by_its_new_user(
        self, harness: StoreHarness, before: TenantCtx, after: TenantCtx
    ) -> None:
        store = await harness.open()
        await store.create(session("other", owner=_ANN))
        cas = await store.create(session(owner=before))
        await store.replace_incarnation(session(owner=after), cas)
        for user in (_ANN, _BOB):
            found = [key async for key in store.find_keys(ctx(), user_id=user.user_id)]
            mine = [KEY] if user == after else []
            assert sorted(found) == sorted([*mine, *(["other"] if user == _ANN else [])])

    async def test_the_session_can_be_deleted_and_created_after_it(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        cas = await store.create(session(owner=_GUEST))
        new = await store.replace_incarnation(session(owner=_ANN), cas)
        assert await store.delete(KEY, ctx=_ANN, expected=new) is True
        assert not await everything(store)
        again = await store.create(session(owner=_BOB))
        assert again.incarnation not in (cas.incarnation, new.incarnation)

    async def test_bad_input_is_refused_before_any_write(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session(owner=_ANN))
        bad: Any = "1"
        async with kept(store):
            assert (await refusal(store.replace_incarnation(session(), bad))).field == "expected"
            assert (await refusal(store.replace_incarnation(bad, Cas.none()))).field == "session"
            large = session(context={"text": SECRET * 100_000})
            with pytest.raises(PayloadTooLargeError):
                await store.replace_incarnation(large, Cas.none())

    async def test_a_scoped_view_cannot_replace(self, harness: StoreHarness) -> None:
        store = await harness.open()
        assert not hasattr(store.scoped(_ANN), "replace_incarnation")
        assert not hasattr(store.tenant("default", ACME), "replace_incarnation")
