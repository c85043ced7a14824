"""Tests of a record with a field of the wrong type: verbs report it, a delete removes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest

from greentic_session import (
    CasConflictError,
    DecodeError,
    ReplyScope,
    SessionKey,
    TenantMismatchError,
    UnreadableSession,
    Versioned,
    WaitNotFoundError,
    WaitRegistry,
)
from greentic_session.model import Cas, SessionMeta, TenantCtx
from greentic_session.testing.harness import RedisHarness

from ..support.redis import CTX, KEY, ended, session, snapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ..support.redis import Call

pytestmark = pytest.mark.anyio

UNREADABLE: Final = [
    *(("at", "soon"), ("at", ""), ("at", None), ("at", "nan"), ("at", "9" * 400)),
    *(("ttl", "long"), ("ttl", ""), ("ttl", None), ("ttl", "inf")),
    *(("cas", "one"), ("lease", "soon")),
]
HERE: Final = ReplyScope(conversation="here")
ANN: Final = TenantCtx(tenant_id="acme", user_id="ann")
ANNS: Final = msgspec.structs.replace(session(ttl_secs=60), meta=SessionMeta.of(ANN))


@pytest.fixture(params=["valkey_url", "redis_url"])
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[RedisHarness]:
    async with RedisHarness(request.getfixturevalue(request.param)) as harness:
        yield harness


def record_of(harness: RedisHarness) -> str:
    return f"{harness.config.namespace}:default:acme:{{{KEY}}}"


async def spoil(harness: RedisHarness, field: str, value: str | None) -> None:
    if value is None:
        await harness.client.read("HDEL", record_of(harness), field)
    else:
        await harness.client.read("HSET", record_of(harness), field, value)


@pytest.mark.parametrize(
    ("field", "value", "ttl_secs"),
    [
        *((field, value, 60) for field, value in UNREADABLE),
        *((field, value, 0) for field, value in UNREADABLE if field != "at"),
    ],
)
async def test_an_unreadable_record_is_named_by_each_verb_and_stays_as_it_is(
    harness: RedisHarness, field: str, value: str | None, ttl_secs: float
) -> None:
    store = await harness.open()
    token = await store.put(session(ttl_secs=ttl_secs))
    await spoil(harness, field, value)
    before = await snapshot(harness.client, harness.config.namespace)
    calls: dict[str, Call] = {
        "put": lambda store: store.put(session(ttl_secs=5)),
        "update_cas": lambda store: store.update_cas(session(), token),
        "touch": lambda store: store.touch(KEY, ctx=CTX),
        "touch to a life": lambda store: store.touch(KEY, 5, ctx=CTX),
        "touch by lookup": lambda store: store.touch(KEY),
        "delete by lookup": lambda store: store.delete(KEY),
    }
    if field != "cas":  # the reply does not show whether there is a session
        calls["create"] = lambda store: store.create(session())
    if field != "lease":  # the reply shows nothing about the session
        calls |= {
            "get": lambda store: store.get(KEY, ctx=CTX),
            "get_many": lambda store: store.get_many([KEY], ctx=CTX),
        }
    for verb, outcome in (await ended(store, calls)).items():
        assert isinstance(outcome, DecodeError), (verb, outcome)
        assert outcome.key == KEY
    assert await snapshot(harness.client, harness.config.namespace) == before


@pytest.mark.parametrize(("field", "value"), [*UNREADABLE, ("inc", "\xff"), ("inc", None)])
async def test_an_unreadable_record_is_removed_by_a_delete_of_its_owner(
    harness: RedisHarness, field: str, value: str | None
) -> None:
    store = await harness.open()
    await store.put(session(ttl_secs=60))
    await spoil(harness, field, value)
    assert await store.delete(KEY, ctx=CTX) is True
    assert await store.delete(KEY, ctx=CTX) is False
    assert await store.get(KEY) is None
    assert (await store.create(session())).value == 1


@pytest.mark.parametrize(
    "caller", [TenantCtx(tenant_id="acme"), TenantCtx(tenant_id="acme", user_id="bob")]
)
async def test_an_unreadable_record_is_removed_by_no_other_caller(
    harness: RedisHarness, caller: TenantCtx
) -> None:
    store = await harness.open()
    ann = TenantCtx(tenant_id="acme", user_id="ann")
    mine: Any = session()
    await store.put(
        type(mine)(key=KEY, cursor=mine.cursor, meta=SessionMeta.of(ann), context={}, ttl_secs=60)
    )
    await spoil(harness, "at", "soon")
    with pytest.raises(TenantMismatchError):
        await store.delete(KEY, ctx=caller)
    assert await store.delete(KEY, ctx=ANN) is True


async def test_a_delete_needs_an_owner_and_a_token_that_can_be_read(
    harness: RedisHarness,
) -> None:
    store = await harness.open()
    token = await store.put(session(ttl_secs=60))
    await spoil(harness, "at", "soon")
    other = Cas(value=token.value + 1, incarnation=token.incarnation)
    with pytest.raises(CasConflictError):
        await store.delete(KEY, ctx=CTX, expected=other)
    await spoil(harness, "cas", "one")
    with pytest.raises(DecodeError):
        await store.delete(KEY, ctx=CTX, expected=token)
    await spoil(harness, "owner", None)
    before = await snapshot(harness.client, harness.config.namespace)
    with pytest.raises(DecodeError):
        await store.delete(KEY, ctx=CTX)
    assert await snapshot(harness.client, harness.config.namespace) == before


@pytest.mark.parametrize(
    ("field", "value"),
    [("at", "soon"), ("ttl", "long"), ("cas", "one"), ("fence", "x"), ("since", "y")],
)
async def test_an_unreadable_record_that_waits_is_named_and_removed(
    harness: RedisHarness, field: str, value: str
) -> None:
    store = await harness.open()
    waits: WaitRegistry[Any] = WaitRegistry(store)
    await waits.register_wait(ANN, "ann", HERE, ANNS)
    await spoil(harness, field, value)
    before = await snapshot(harness.client, harness.config.namespace)
    for call in (
        lambda: waits.claim(ANN, "ann", HERE),
        lambda: waits.register_wait(ANN, "ann", HERE, ANNS),
    ):
        with pytest.raises(DecodeError):
            await call()
    record = record_of(harness).encode()
    after = await snapshot(harness.client, harness.config.namespace)
    assert after[record] == before[record]
    assert await store.delete(KEY, ctx=ANN) is True
    with pytest.raises(WaitNotFoundError):
        await waits.claim(ANN, "ann", HERE)


async def test_unreadable_records_stop_neither_get_many_nor_scan(harness: RedisHarness) -> None:
    store = await harness.open()
    keys = [SessionKey(f"c{number}") for number in range(6)]
    for key in keys:
        await store.put(session(key))
    spoiled = {1: "inc", 3: "owner", 4: "cas"}
    name = f"{harness.config.namespace}:default:acme:"
    for number, field in spoiled.items():
        await harness.client.read("HSET", f"{name}{{{keys[number]}}}", field, "\xff")
    await harness.client.read("HDEL", f"{name}{{{keys[3]}}}", "owner")
    for number in (0, 5):  # another type of value
        await harness.client.read("DEL", f"{name}{{{keys[number]}}}")
        await harness.client.read("RPUSH", f"{name}{{{keys[number]}}}", "x")
    bad = [0, 1, 3, 4, 5]
    found = await store.get_many(keys, ctx=CTX, on_error="return")
    for number in bad:
        one = found[number]
        assert isinstance(one, UnreadableSession)
        assert one.key == one.error.key == keys[number]
    assert isinstance(found[2], Versioned)
    skipped = await store.get_many(keys, ctx=CTX, on_error="skip")
    assert [number for number, one in enumerate(skipped) if one is None] == bad
    given = [one async for one in store.scan(CTX, on_error="return")]
    unreadable = [one.key for one in given if isinstance(one, UnreadableSession)]
    assert sorted(unreadable) == [keys[number] for number in bad]
    assert [one.session.key async for one in store.scan(CTX, on_error="skip")] == [keys[2]]
