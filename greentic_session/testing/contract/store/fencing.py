"""Contract tests of the access check: tenants are separate, and team and user decide within one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

from ....errors import TenantMismatchError
from ....model import Cas, SessionKey, TenantCtx
from ..assertions import everything, kept, require, told
from ..samples import ACME, GLOBEX, KEY, LIFE, ctx, evolve, session
from .verbs import KEY_VERBS, REMOVALS, WRITES

if TYPE_CHECKING:
    from ...harness import StoreHarness


class _Pair(NamedTuple):
    """The owner of the stored session, and the caller."""

    owner: TenantCtx
    caller: TenantCtx


# Pairs of addresses that a careless join, case folding or pattern would confuse.
_APART: Final = {
    "tenants": _Pair(ctx(), ctx(GLOBEX)),
    "envs": _Pair(ctx(), ctx(env="staging")),
    "swapped": _Pair(ctx("one", env="two"), ctx("two", env="one")),
    "joined by a dash": _Pair(ctx("c", env="a-b"), ctx("b-c", env="a")),
    "joined by a dot": _Pair(ctx("c", env="a.b"), ctx("b.c", env="a")),
    "joined by an underscore": _Pair(ctx("c", env="a_b"), ctx("b_c", env="a")),
    "in capitals": _Pair(ctx("acme"), ctx("ACME")),
    "one the start of the other": _Pair(ctx("acme"), ctx("acme1")),
    "dots": _Pair(ctx("."), ctx("..")),
    "the team's name as tenant": _Pair(ctx(team_id="red"), ctx("red")),
}

# For these callers the stored session is closed to every verb.
_CLOSED: Final = {
    "another team": _Pair(ctx(team_id="red"), ctx(team_id="blue")),
    "no team": _Pair(ctx(team_id="red"), ctx()),
    "a team where there is none": _Pair(ctx(), ctx(team_id="red")),
    "the team - where there is none": _Pair(ctx(), ctx(team_id="-")),
    "no team for the team -": _Pair(ctx(team_id="-"), ctx()),
    "a team in capitals": _Pair(ctx(team_id="red"), ctx(team_id="RED")),
    "the start of the team": _Pair(ctx(team_id="redder"), ctx(team_id="red")),
    "another user": _Pair(ctx(user_id="ann"), ctx(user_id="bob")),
    "no user": _Pair(ctx(user_id="ann"), ctx()),
    "no user in the team": _Pair(ctx(team_id="red", user_id="ann"), ctx(team_id="red")),
    "a user in capitals": _Pair(ctx(user_id="ann"), ctx(user_id="Ann")),
    "a user with a space": _Pair(ctx(user_id="ann"), ctx(user_id="ann ")),
    "the same letters composed": _Pair(ctx(user_id="e\u0301va"), ctx(user_id="\u00e9va")),
    "the user of another team": _Pair(
        ctx(team_id="red", user_id="ann"), ctx(team_id="blue", user_id="ann")
    ),
    "the user without the team": _Pair(ctx(team_id="red", user_id="ann"), ctx(user_id="ann")),
    "a user of another team for all": _Pair(ctx(team_id="red"), ctx(team_id="blue", user_id="ann")),
    "team and user in one name": _Pair(ctx(team_id="red", user_id="ann"), ctx(user_id="red/ann")),
    "a user named as the team": _Pair(ctx(team_id="red"), ctx(user_id="red")),
    "a user that is a pattern": _Pair(ctx(user_id="ann"), ctx(user_id="*")),
}

# For these callers it is open: they are of its team, and its user is absent or theirs.
_OPEN: Final = {
    "the owner": _Pair(ctx(team_id="red", user_id="ann"), ctx(team_id="red", user_id="ann")),
    "a user where there is none": _Pair(ctx(), ctx(user_id="ann")),
    "a user of the team": _Pair(ctx(team_id="red"), ctx(team_id="red", user_id="ann")),
    "the team": _Pair(ctx(team_id="red"), ctx(team_id="red")),
    "a user with odd letters": _Pair(ctx(user_id="Ä/😀 :{}*"), ctx(user_id="Ä/😀 :{}*")),
}

# Owners that a live session cannot get, in addition to those the caller may not act for.
_TURNS: Final = {
    **_CLOSED,
    "a user it did not have": _Pair(ctx(), ctx(user_id="ann")),
    "a user of the team it did not have": _Pair(
        ctx(team_id="red"), ctx(team_id="red", user_id="ann")
    ),
}


@pytest.mark.anyio
class IsolationContract:
    """The same key in two tenants, or two envs, is two separate sessions."""

    @pytest.mark.parametrize("apart", _APART)
    async def test_a_verb_acts_on_the_callers_session_only(
        self, harness: StoreHarness, apart: str
    ) -> None:
        store = await harness.open()
        theirs, mine = _APART[apart]
        for verb, act in KEY_VERBS.items():
            key = SessionKey(verb)
            await store.create(session(key, owner=theirs, context={"n": "theirs"}, ttl_secs=1000))
            await store.create(session(key, owner=mine, context={"n": "mine"}, ttl_secs=1000))
            async with kept(store, theirs):
                await act(store, key, mine)
            after = await store.get(key, ctx=mine)
            if verb in REMOVALS:
                assert after is None
                continue
            assert after is not None, verb
            assert after.session.context == {"n": "mine"}, verb
            assert after.cas.value == (2 if verb.startswith("mutate") else 1), verb
            assert after.session.ttl_secs == (777 if verb == "touch with a life" else 1000), verb

    @pytest.mark.parametrize("apart", _APART)
    async def test_a_write_acts_on_the_writers_session_only(
        self, harness: StoreHarness, apart: str
    ) -> None:
        store = await harness.open()
        theirs, mine = _APART[apart]
        for verb, write in WRITES.items():
            key = SessionKey(verb)
            await store.create(session(key, owner=theirs, ttl_secs=1000))
            cas = Cas.none()
            if verb != "create":
                cas = await store.create(session(key, owner=mine))
            async with kept(store, theirs):
                await write(store, session(key, owner=mine, context={"n": 2}), cas)
            found = await require(store, key, mine)
            assert found.session.context == {"n": 2}, verb
            assert found.session.meta == session(owner=mine).meta, verb

    async def test_a_write_under_another_tenant_or_env_is_another_session(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        cas = await store.create(session(context={"n": 1}))
        for owner in (ctx(GLOBEX), ctx(env="staging")):
            moved = evolve((await require(store)).session, meta=session(owner=owner).meta)
            async with kept(store):
                other = await store.put(moved)
            assert other.value == 1
            assert other.incarnation != cas.incarnation
            assert (await require(store, caller=owner)).session.context == {"n": 1}


@pytest.mark.anyio
class FencingContract:
    """Within the right tenant, a wrong team or user is refused, and nothing changes."""

    @pytest.mark.parametrize("closed", _CLOSED)
    async def test_a_session_of_another_owner_refuses_each_verb(
        self, harness: StoreHarness, closed: str
    ) -> None:
        store = await harness.open()
        owner, caller = _CLOSED[closed]
        await store.create(session(owner=owner, ttl_secs=1000))
        async with kept(store):
            for act in KEY_VERBS.values():
                with pytest.raises(TenantMismatchError) as caught:
                    await act(store, KEY, caller)
                assert caught.value.key == KEY
                assert caught.value.code == "permission_denied"

    @pytest.mark.parametrize("opened", _OPEN)
    async def test_a_session_of_a_wider_owner_accepts_each_verb(
        self, harness: StoreHarness, opened: str
    ) -> None:
        store = await harness.open()
        owner, caller = _OPEN[opened]
        for verb, act in KEY_VERBS.items():
            key = SessionKey(verb)
            await store.create(session(key, owner=owner, ttl_secs=1000))
            await act(store, key, caller)
            found = await store.get(key, ctx=owner)
            assert (found is None) is (verb in REMOVALS), verb
            assert found is None or found.session.meta == session(owner=owner).meta, verb

    @pytest.mark.parametrize("turn", _TURNS)
    async def test_a_live_session_never_turns_into_one_of(
        self, harness: StoreHarness, turn: str
    ) -> None:
        store = await harness.open()
        owner, other = _TURNS[turn]
        cas = await store.create(session(owner=owner, ttl_secs=1000))
        async with kept(store):
            for write in WRITES.values():
                with pytest.raises(TenantMismatchError) as caught:
                    await write(store, session(owner=other), cas)
                assert caught.value.key == KEY

    @pytest.mark.parametrize("ending", ["expired", "deleted"])
    @pytest.mark.parametrize(
        "turn", ["another team", "no team", "another user", "no user", "a user it did not have"]
    )
    async def test_the_key_of_an_ended_session_is_free_for(
        self, harness: StoreHarness, turn: str, ending: str
    ) -> None:
        store = await harness.open()
        owner, other = _TURNS[turn]
        await store.create(session(owner=owner, ttl_secs=LIFE))
        if ending == "expired":
            await harness.advance(LIFE)
        else:
            await store.delete(KEY, ctx=owner)
        cas = await store.create(session(owner=other))
        assert cas.value == 1
        assert (await require(store, caller=other)).cas == cas
        async with kept(store):
            with pytest.raises(TenantMismatchError):
                await store.put(session(owner=owner))

    async def test_the_fence_is_judged_before_existence_and_token(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        ann, bob = ctx(user_id="ann"), ctx(user_id="bob")
        stale = await store.create(session(owner=ann))
        await store.put(session(owner=ann))
        async with kept(store):
            with pytest.raises(TenantMismatchError):
                await store.create(session(owner=bob))
            for token in (stale, Cas.none(), Cas(value=2, incarnation="a" * 32)):
                with pytest.raises(TenantMismatchError):
                    await store.update_cas(session(owner=bob), token)
                with pytest.raises(TenantMismatchError):
                    await store.delete(KEY, ctx=bob, expected=token)

    async def test_the_right_token_opens_no_fence(self, harness: StoreHarness) -> None:
        store = await harness.open()
        cas = await store.create(session(owner=ctx(user_id="ann")))
        async with kept(store):
            with pytest.raises(TenantMismatchError):
                await store.delete(KEY, ctx=ctx(user_id="bob"), expected=cas)
            with pytest.raises(TenantMismatchError):
                await store.update_cas(session(owner=ctx(user_id="bob")), cas)

    async def test_labels_and_attributes_are_no_fence(self, harness: StoreHarness) -> None:
        store = await harness.open()
        await store.create(session(labels={"a": 1}))
        await store.put(session(labels={"b": 2}))
        caller = TenantCtx(tenant_id=ACME, attributes={"channel": "chat"})
        assert (await require(store, caller=caller)).session.meta.labels == {"b": 2}

    @pytest.mark.parametrize("verb", [*KEY_VERBS, *WRITES])
    async def test_a_refusal_tells_nothing_of_the_other_owner(
        self, harness: StoreHarness, verb: str
    ) -> None:
        store = await harness.open()
        owner = ctx(team_id="team-zebra", user_id="user-okapi")
        secret = {"note": "content-quagga"}
        cas = await store.create(session(owner=owner, context=secret, labels=secret))
        if verb in KEY_VERBS:
            call = KEY_VERBS[verb](store, KEY, ctx(team_id="red"))
        else:
            call = WRITES[verb](store, session(owner=ctx(team_id="red")), Cas.none())
        with pytest.raises(TenantMismatchError) as caught:
            await call
        for hidden in ("zebra", "okapi", "quagga", cas.incarnation):
            assert hidden not in told(caught.value)
            assert hidden not in repr(vars(caught.value))

    async def test_a_call_without_a_caller_skips_the_access_check(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        owner = ctx(team_id="red", user_id="ann")
        await store.create(session(owner=owner))
        assert await store.get(KEY) == await require(store, caller=owner)
        assert await store.touch(KEY, 77) is True
        assert await store.delete(KEY) is True
        assert await everything(store) == {}
