"""Contract tests of ``scan``: every live session of a tenant, once, and none of other tenants."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any, Final

import pytest

from ....errors import TenantMismatchError
from ....model import SessionKey
from ..assertions import require
from ..samples import GLOBEX, KEY, LIFE, ctx, session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ....model import Versioned
    from ...harness import StoreHarness

# Names that a careless pattern or prefix would confuse with `default/acme`.
_LOOK_ALIKES: Final = {
    "longer": ctx("acme2"),
    "shorter": ctx("acm"),
    "dotted": ctx("acme.eu"),
    "dashed": ctx("acme-eu"),
    "capital": ctx("Acme"),
    "env longer": ctx(env="default2"),
    "env shorter": ctx(env="defaul"),
    "env other": ctx(env="staging"),
    "swapped": ctx("default", env="acme"),
    "lookup": ctx(env="lookup"),
    "waits": ctx(env="waits"),
}
_OWNERS: Final = {
    "plain": ctx(),
    "red": ctx(team_id="red"),
    "red-ann": ctx(team_id="red", user_id="ann"),
    "red-bob": ctx(team_id="red", user_id="bob"),
    "redder": ctx(team_id="redder"),
    "ann": ctx(user_id="ann"),
    "bob": ctx(user_id="bob"),
}


async def _keys(found: AsyncIterator[Versioned[Any]]) -> list[str]:
    return sorted([one.session.key async for one in found])


@pytest.mark.anyio
class ScanningContract:
    """``scan`` returns the right sessions."""

    async def test_scan_of_a_tenant_without_sessions_is_empty(self, harness: StoreHarness) -> None:
        store = await harness.open()
        assert await _keys(store.scan(ctx())) == []
        await store.create(session(owner=ctx(GLOBEX)))
        assert await _keys(store.scan(ctx())) == []

    @pytest.mark.parametrize("batch_size", [1, 2, 7, 59, 60, 61, 10_000])
    async def test_scan_gives_each_session_once_whatever_the_batch(
        self, harness: StoreHarness, batch_size: int
    ) -> None:
        store = await harness.open()
        keys = sorted(f"conversation-{number}" for number in range(60))
        for key in keys:
            await store.create(session(key))
        assert await _keys(store.scan(ctx(), batch_size=batch_size)) == keys

    async def test_scan_gives_more_sessions_than_its_usual_batch(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        keys = sorted(f"conversation-{number}" for number in range(600))
        for key in keys:
            await store.create(session(key))
        assert await _keys(store.scan(ctx())) == keys

    async def test_scan_returns_what_get_returns(self, harness: StoreHarness) -> None:
        store = await harness.open()
        for number in range(5):
            await store.create(session(f"c{number}", context={"n": number}, ttl_secs=number * 100))
            await store.put(session(f"c{number}", context={"n": -number}, ttl_secs=number * 200))
        found = [one async for one in store.scan(ctx(), batch_size=2)]
        assert len(found) == 5
        for one in found:
            assert one == await require(store, one.session.key)

    async def test_scan_does_not_give_expired_sessions(self, harness: StoreHarness) -> None:
        store = await harness.open()
        for number in range(10):
            await store.create(session(f"short-{number}", ttl_secs=LIFE))
            await store.create(session(f"long-{number}", ttl_secs=10 * LIFE))
        await harness.advance(LIFE)
        assert await _keys(store.scan(ctx())) == [f"long-{number}" for number in range(10)]

    async def test_scan_does_not_give_deleted_sessions(self, harness: StoreHarness) -> None:
        store = await harness.open()
        for number in range(10):
            await store.create(session(f"c{number}"))
        for number in range(0, 10, 2):
            await store.delete(session(f"c{number}").key, ctx=ctx())
        assert await _keys(store.scan(ctx())) == [f"c{number}" for number in range(1, 10, 2)]

    @pytest.mark.parametrize("other", _LOOK_ALIKES)
    async def test_scan_does_not_give_another_tenants_sessions(
        self, harness: StoreHarness, other: str
    ) -> None:
        store = await harness.open()
        await store.create(session("ours"))
        await store.create(session(KEY))
        await store.create(session("theirs", owner=_LOOK_ALIKES[other]))
        await store.create(session(KEY, owner=_LOOK_ALIKES[other]))
        assert await _keys(store.scan(ctx())) == [KEY, "ours"]
        assert await _keys(store.scan(_LOOK_ALIKES[other])) == [KEY, "theirs"]

    @pytest.mark.parametrize(
        ("caller", "expected"),
        [
            pytest.param(ctx(), sorted(_OWNERS), id="tenant: all"),
            pytest.param(ctx(team_id="red"), ["red", "red-ann", "red-bob"], id="team: the team's"),
            pytest.param(
                ctx(team_id="red", user_id="ann"),
                ["red", "red-ann"],
                id="team's user: what is open",
            ),
            pytest.param(ctx(user_id="ann"), ["ann", "plain"], id="user: what is open"),
            pytest.param(ctx(user_id="eve"), ["plain"], id="unknown user: what is open to all"),
            pytest.param(ctx(team_id="blue"), [], id="unknown team: nothing"),
            pytest.param(ctx(team_id="re"), [], id="start of a team's name: nothing"),
        ],
    )
    async def test_a_team_or_user_narrows_the_scan(
        self, harness: StoreHarness, caller: Any, expected: list[str]
    ) -> None:
        store = await harness.open()
        for key, owner in _OWNERS.items():
            await store.create(session(key, owner=owner))
        assert await _keys(store.scan(caller)) == expected

    @pytest.mark.parametrize("caller", _OWNERS)
    async def test_a_fenced_scan_gives_what_get_would_give(
        self, harness: StoreHarness, caller: str
    ) -> None:
        store = await harness.open()
        for key, owner in _OWNERS.items():
            await store.create(session(key, owner=owner))
        open_to: list[str] = []
        for key in sorted(_OWNERS):
            try:
                await require(store, SessionKey(key), _OWNERS[caller])
            except TenantMismatchError:
                continue
            open_to.append(key)
        assert caller in open_to
        assert await _keys(store.scan(_OWNERS[caller], fenced=True)) == open_to

    async def test_a_narrow_scan_reaches_past_batches_of_others(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        for number in range(50):
            await store.create(session(f"bob-{number}", owner=ctx(user_id="bob")))
        await store.create(session("mine", owner=ctx(user_id="ann")))
        assert await _keys(store.scan(ctx(user_id="ann"), batch_size=3)) == ["mine"]

    async def test_sessions_that_live_throughout_are_given_once_while_others_come_and_go(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        keys = sorted(f"stays-{number}" for number in range(80))
        for key in keys:
            await store.create(session(key))
            await store.create(session(f"goes-{key}"))
        given: list[str] = []
        async for one in store.scan(ctx(), batch_size=3):
            given.append(one.session.key)
            number = len(given)
            await store.put(session(f"comes-{number}"))
            await store.delete(session(f"goes-{keys[number % 80]}").key, ctx=ctx())
            if number < 80:
                await store.put(session(keys[number]))
        assert len(given) == len(set(given))
        assert sorted(key for key in given if key.startswith("stays-")) == keys

    async def test_two_scans_do_not_disturb_each_other(self, harness: StoreHarness) -> None:
        store = await harness.open()
        keys = sorted(f"c{number}" for number in range(20))
        for key in keys:
            await store.create(session(key))
        inner: list[str] = []
        outer: list[str] = []
        async for one in store.scan(ctx(), batch_size=5):
            outer.append(one.session.key)
            if len(outer) == 7:
                inner = await _keys(store.scan(ctx(), batch_size=5))
        assert sorted(outer) == inner == keys

    @pytest.mark.parametrize("scoped", [False, True], ids=["store", "scoped"])
    async def test_a_scan_that_is_left_early_leaves_nothing_behind(
        self, harness: StoreHarness, *, scoped: bool
    ) -> None:
        store = await harness.open()
        for number in range(20):
            await store.create(session(f"c{number}"))
        view = store.scoped(ctx()) if scoped else None
        found = store.scan(ctx(), batch_size=2) if view is None else view.scan(batch_size=2)
        async for _ in found:
            break
        del found
        gc.collect()  # an async generator left open warns when it is collected, on trio
        assert len(await _keys(store.scan(ctx()))) == 20

    async def test_a_scan_can_be_left_and_gone_on_with(self, harness: StoreHarness) -> None:
        store = await harness.open()
        keys = sorted(f"c{number}" for number in range(20))
        for key in keys:
            await store.create(session(key))
        found = store.scan(ctx(), batch_size=7)
        given = [(await anext(found)).session.key for _ in range(10)]
        given += [one.session.key async for one in found]
        assert sorted(given) == keys
        assert [one async for one in found] == []

    @pytest.mark.parametrize("far", [100, 300, 700])
    async def test_sessions_that_live_throughout_are_given_once_while_many_expire(
        self, harness: StoreHarness, far: int
    ) -> None:
        # A server's hash table shrinks during the scan, and so returns some sessions twice.
        store = await harness.open()
        for number in range(800):
            await store.create(session(f"goes-{number}", ttl_secs=LIFE))
        keys = sorted(f"stays-{number}" for number in range(60))
        for key in keys:
            await store.create(session(key))
        given: list[str] = []
        async for one in store.scan(ctx(), batch_size=10):
            given.append(one.session.key)
            if len(given) == far:
                await harness.advance(LIFE)
        assert sorted(key for key in given if key.startswith("stays-")) == keys
