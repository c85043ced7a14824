"""Contract tests of ``scoped``: a view of the store for one caller."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from ....errors import CasConflictError, SessionError, SessionNotFoundError, TenantMismatchError
from ....model import Cas
from ..assertions import kept, require, told
from ..samples import GLOBEX, KEY, ctx, session
from .verbs import same

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ....model import Session
    from ....scoped import ScopedSessionStore
    from ...harness import StoreHarness

    View = ScopedSessionStore[Any]

_ANN: Final = ctx(team_id="red", user_id="ann")
_OTHERS: Final = {
    "tenant": ctx(GLOBEX, team_id="red", user_id="ann"),
    "env": ctx(env="staging", team_id="red", user_id="ann"),
    "team": ctx(team_id="blue", user_id="ann"),
    "no team": ctx(user_id="ann"),
    "user": ctx(team_id="red", user_id="bob"),
}


async def _put_many(view: View, given: Session[Any]) -> None:
    [result] = await view.put_many([given])
    if isinstance(result, SessionError):
        raise result


async def _delete_many(view: View) -> object:
    [result] = await view.delete_many([KEY])
    if isinstance(result, SessionError):
        raise result
    return result


_WRITES: Final[dict[str, Callable[[View, Session[Any]], Awaitable[object]]]] = {
    "create": lambda view, given: view.create(given),
    "put": lambda view, given: view.put(given),
    "put_many": _put_many,
    "get_or_create": lambda view, given: view.get_or_create(KEY, lambda: given),
    "mutate": lambda view, given: view.mutate(KEY, same, default=lambda: given),
    "update_cas": lambda view, given: view.update_cas(given, Cas(value=1, incarnation="a" * 32)),
}
_KEY_VERBS: Final[dict[str, Callable[[View], Awaitable[object]]]] = {
    "get": lambda view: view.get(KEY),
    "get_many": lambda view: view.get_many([KEY]),
    "mutate": lambda view: view.mutate(KEY, same),
    "touch": lambda view: view.touch(KEY),
    "delete": lambda view: view.delete(KEY),
    "require": lambda view: view.require(KEY),
    "exists": lambda view: view.exists(KEY),
    "get_or_create": lambda view: view.get_or_create(KEY, lambda: session(owner=_ANN)),
    "mutate with a default": lambda view: view.mutate(KEY, same, default=session),
    "delete_many": _delete_many,
}


@pytest.mark.anyio
class ScopingContract:
    """Each verb of the view is the store's verb, with the access check for the view's caller."""

    async def test_the_view_knows_its_caller(self, harness: StoreHarness) -> None:
        store = await harness.open()
        assert store.scoped(_ANN).ctx == _ANN

    async def test_each_verb_does_what_the_stores_verb_does(self, harness: StoreHarness) -> None:
        store = await harness.open()
        view = store.scoped(_ANN)
        mine = session(owner=_ANN, context={"n": 1})
        created = await view.create(mine)
        assert created.value == 1
        assert await view.get(KEY) == await require(store, caller=_ANN)
        assert await view.get_many([KEY, KEY]) == [await view.get(KEY)] * 2
        assert (await view.put(mine)).value == 2
        current = await view.update_cas(mine, Cas(value=2, incarnation=created.incarnation))
        assert current.value == 3
        changed = await view.mutate(KEY, lambda found: found.advance("paid"), attempts=3)
        assert changed == await view.get(KEY)
        assert changed.cas.value == 4
        assert await view.touch(KEY, 77) is True
        assert (await require(store, caller=_ANN)).session.ttl_secs == 77
        assert [found async for found in view.scan()] == [await view.get(KEY)]
        with pytest.raises(CasConflictError):
            await view.delete(KEY, expected=created)
        assert await view.delete(KEY, expected=changed.cas) is True
        assert await view.get(KEY) is None

    async def test_absent_sessions_are_absent_in_the_view(self, harness: StoreHarness) -> None:
        view = (await harness.open()).scoped(_ANN)
        assert await view.get(KEY) is None
        assert await view.get_many([KEY]) == [None]
        assert await view.touch(KEY) is False
        assert await view.delete(KEY) is False
        assert [found async for found in view.scan()] == []
        with pytest.raises(SessionNotFoundError):
            await view.mutate(KEY, same)

    @pytest.mark.parametrize("other", _OTHERS)
    @pytest.mark.parametrize("verb", _WRITES)
    async def test_a_session_of_another_owner_is_not_written(
        self, harness: StoreHarness, verb: str, other: str
    ) -> None:
        store = await harness.open()
        view = store.scoped(_ANN)
        async with kept(store, ctx(), _OTHERS[other]):
            with pytest.raises(TenantMismatchError) as caught:
                await _WRITES[verb](view, session(owner=_OTHERS[other]))
        assert caught.value.key == KEY

    @pytest.mark.parametrize("verb", _WRITES)
    async def test_a_caller_without_a_user_writes_no_users_session(
        self, harness: StoreHarness, verb: str
    ) -> None:
        store = await harness.open()
        async with kept(store):
            with pytest.raises(TenantMismatchError):
                await _WRITES[verb](store.scoped(ctx(team_id="red")), session(owner=_ANN))

    async def test_a_user_writes_what_is_open_to_the_team(self, harness: StoreHarness) -> None:
        store = await harness.open()
        view = store.scoped(_ANN)
        cas = await view.create(session(owner=ctx(team_id="red")))
        assert (await view.update_cas(session(owner=ctx(team_id="red")), cas)).value == 2
        assert (await require(store, caller=ctx(team_id="red"))).cas.value == 2

    @pytest.mark.parametrize("other", ["team", "no team", "user"])
    @pytest.mark.parametrize("verb", _KEY_VERBS)
    async def test_a_session_of_another_team_or_user_is_refused(
        self, harness: StoreHarness, verb: str, other: str
    ) -> None:
        store = await harness.open()
        await store.create(session(owner=_OTHERS[other]))
        async with kept(store):
            with pytest.raises(TenantMismatchError) as caught:
                await _KEY_VERBS[verb](store.scoped(_ANN))
        assert "blue" not in told(caught.value)
        assert "bob" not in told(caught.value)

    @pytest.mark.parametrize("other", ["tenant", "env"])
    @pytest.mark.parametrize(
        "verb", ["get", "get_many", "touch", "delete", "exists", "delete_many"]
    )
    async def test_a_session_of_another_tenant_is_absent(
        self, harness: StoreHarness, verb: str, other: str
    ) -> None:
        store = await harness.open()
        await store.create(session(owner=_OTHERS[other]))
        async with kept(store, _OTHERS[other]):
            assert await _KEY_VERBS[verb](store.scoped(_ANN)) in (None, [None], False)

    async def test_scan_gives_what_get_would_give(self, harness: StoreHarness) -> None:
        store = await harness.open()
        owners = {
            "plain": ctx(),
            "red": ctx(team_id="red"),
            "red-ann": _ANN,
            "red-bob": ctx(team_id="red", user_id="bob"),
            "ann": ctx(user_id="ann"),
            "blue": ctx(team_id="blue"),
        }
        for key, owner in owners.items():
            await store.create(session(key, owner=owner))
        for caller in owners.values():
            view = store.scoped(caller)
            given = {found.session.key async for found in view.scan(batch_size=2)}
            for key, owner in owners.items():
                open_to = owner in (caller, ctx(team_id=caller.team_id))
                assert (session(key).key in given) is open_to, (key, caller)
                if open_to:
                    assert await view.get(session(key).key) is not None
                else:
                    with pytest.raises(TenantMismatchError):
                        await view.get(session(key).key)
