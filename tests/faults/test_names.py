"""Tests of ids that are made up to be confused with others, or with parts of names."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greentic_session import (
    InvalidInputError,
    ReplyScope,
    Session,
    SessionCursor,
    SessionKey,
    SessionMeta,
    TenantCtx,
    WaitRegistry,
    create_session_store,
)
from greentic_session.testing.harness import MemoryHarness, RedisHarness

from ..support.redis import drained
from .invariants import at_work

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from greentic_session import AsyncSessionStore
    from greentic_session.testing.harness import StoreHarness
    from greentic_session.testing.topologies import StandaloneRig

    from ..support.waits import Registry

    Store = AsyncSessionStore[Any]

HOSTILE: Final = st.text(alphabet=":{}*%?[]\\/ a1\u00e9\u0301\U0001f600", min_size=1, max_size=5)
PLAIN: Final = st.sampled_from(["a", "A", "-", ".", "a.b", "default", "lookup", "waits"])
UNFIT: Final = {
    "NUL": "a\x00b",
    "newline": "a\nb",
    "surrogate": "a\ud800b",
    "surrogate pair by halves": "\ud83d\ude00",
    "64 KB": "a" * 65_536,
    "nothing": "",
}


def made_by(tenant: str, user: str, key: str, mark: str = "") -> Session[dict[str, Any]]:
    return Session(
        key=SessionKey(key),
        cursor=SessionCursor(flow_id="flow", node_id="node"),
        meta=SessionMeta(tenant_id=tenant, user_id=user),
        context={"mark": mark},
    )


@settings(max_examples=30)
@given(st.lists(st.tuples(PLAIN, HOSTILE, HOSTILE), min_size=2, max_size=8, unique=True))
def test_hostile_ids_do_not_collide(valkey_url: str, several: list[tuple[str, str, str]]) -> None:
    """Sessions of as many tenants, users and keys are all separate, and so are their waits."""

    async def on_both() -> None:
        async with MemoryHarness() as memory:
            await keep_apart(memory, several)
        async with RedisHarness(valkey_url) as valkey:
            await keep_apart(valkey, several)

    asyncio.run(on_both())


async def keep_apart(harness: StoreHarness, several: list[tuple[str, str, str]]) -> None:
    store = await harness.open()
    waits: Registry = WaitRegistry(store)
    # A tenant has one session under a key, for any user.
    owners = {(tenant, key): user for tenant, user, key in several}
    for (tenant, key), user in owners.items():
        await store.create(made_by(tenant, user, key, f"{tenant} {user} {key}"))
        waiting = made_by(tenant, user, f"wait {key}")
        ctx = TenantCtx(tenant_id=tenant, user_id=user)
        await waits.register_wait(ctx, user, ReplyScope(conversation=key), waiting)
    for (tenant, key), user in owners.items():
        ctx = TenantCtx(tenant_id=tenant, user_id=user)
        found = await store.get(SessionKey(key), ctx=ctx)
        assert found is not None
        assert found.session.context == {"mark": f"{tenant} {user} {key}"}
        there = await waits.find_wait_by_scope(ctx, user, ReplyScope(conversation=key))
        assert there == f"wait {key}"
    for tenant in {tenant for tenant, _ in owners}:
        keys = [key for owner, key in owners if owner == tenant]
        seen: list[Any] = await drained(store.scan(TenantCtx(tenant_id=tenant)))
        expected = {*keys, *(f"wait {key}" for key in keys)}
        assert {one.session.key for one in seen} == expected
        assert len(seen) == len(expected)
    for (tenant, key), user in owners.items():
        ctx = TenantCtx(tenant_id=tenant, user_id=user)
        listed = await waits.list_waits_for_user(ctx, user)
        mine = {
            f"wait {one}" for (owner, one), who in owners.items() if (owner, who) == (tenant, user)
        }
        assert f"wait {key}" in listed
        assert set(listed) == mine
    for (tenant, key), user in owners.items():
        assert await store.delete(SessionKey(key), ctx=TenantCtx(tenant_id=tenant, user_id=user))


CALLS: Final[dict[str, Callable[[Store, str], Awaitable[object]]]] = {
    "key of a get": lambda store, bad: store.get(SessionKey(bad)),
    "key of a get_many": lambda store, bad: store.get_many(
        [SessionKey("a"), SessionKey(bad)], ctx=TenantCtx(tenant_id="acme")
    ),
    "key of a create": lambda store, bad: store.create(made_by("acme", "ann", bad)),
    "key of a put": lambda store, bad: store.put(made_by("acme", "ann", bad)),
    "key of a touch": lambda store, bad: store.touch(SessionKey(bad)),
    "key of a delete": lambda store, bad: store.delete(SessionKey(bad)),
    "key of a mutate": lambda store, bad: store.mutate(SessionKey(bad), lambda before: before),
    "tenant": lambda store, bad: store.put(made_by(bad, "ann", "a")),
    "tenant of a caller": lambda store, bad: store.get(
        SessionKey("a"), ctx=TenantCtx(tenant_id=bad)
    ),
    "tenant of a scan": lambda store, bad: drained(store.scan(TenantCtx(tenant_id=bad))),
    "user": lambda store, bad: store.put(made_by("acme", bad, "a")),
    "conversation": lambda store, bad: WaitRegistry(store).find_wait_by_scope(
        TenantCtx(tenant_id="acme"), "ann", ReplyScope(conversation=bad)
    ),
    "user of a wait": lambda store, bad: WaitRegistry(store).list_waits_for_user(
        TenantCtx(tenant_id="acme"), bad
    ),
    "event": lambda store, bad: WaitRegistry(store).claim(
        TenantCtx(tenant_id="acme"), "ann", ReplyScope(conversation="a"), event_id=bad
    ),
    "attempt": lambda store, bad: WaitRegistry(store).claim(
        TenantCtx(tenant_id="acme"), "ann", ReplyScope(conversation="a"), attempt_id=bad
    ),
}


@pytest.mark.anyio
@pytest.mark.parametrize("unfit", UNFIT.values(), ids=UNFIT)
async def test_hostile_ids_are_refused_before_any_io(unfit: str) -> None:
    # A call that reached a server would fail, because there is none.
    async with create_session_store("redis://127.0.0.1:1?deadline=0.2") as store:
        for name, call in CALLS.items():
            with pytest.raises(InvalidInputError) as caught:
                await call(store, unfit)
            assert unfit not in str(caught.value) or not unfit, name
        assert store.statistics().retries == 0


@pytest.mark.anyio
@pytest.mark.timeout(150)
@pytest.mark.parametrize("prefix", ["a:b:{x}:", "}*{", "%7B?[a-z]", "\U0001f600\u00e9 "])
async def test_hostile_ids_of_sessions_that_many_write(
    standalone: StandaloneRig, prefix: str
) -> None:
    async with at_work(standalone.url, nodes=standalone.nodes, prefix=prefix) as company:
        await company.clients.has_done(300)
    company.assert_unseen()
