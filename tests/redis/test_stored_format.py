"""Tests of the stored format in Redis, byte by byte. A change breaks running deployments."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest

from greentic_session import (
    MessagePackCodec,
    OutboxEntry,
    Session,
    SessionBody,
    SessionCursor,
    SessionKey,
    SessionMeta,
    TenantCtx,
)
from greentic_session.abc.generations import GenerationOwner
from greentic_session.abc.streams import StreamLimits, StreamRef, stream_backend_of
from greentic_session.testing.harness import RedisHarness

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from greentic_session import AsyncSessionStore
    from greentic_session.abc.generations import SupportsGenerations

pytestmark = pytest.mark.anyio

ACME = TenantCtx(tenant_id="acme")
CTX = TenantCtx(tenant_id="acme", env="prod", team_id="support", user_id="Ann:{1}")
FULL: Session[dict[str, Any]] = Session(
    key=SessionKey("chat:1"),
    cursor=SessionCursor(
        flow_id="onboarding", node_id="ask", pack_id="p", wait_reason="input", outbox_seq=3
    ),
    meta=SessionMeta.of(CTX, labels={"vip": True}),
    context={"n": 1, "list": [], "f": 1.0},
    outbox=(
        OutboxEntry(
            seq=2, payload_sha256=bytes(32), created_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        ),
    ),
    ttl_secs=12.5,
)
BARE: Session[dict[str, Any]] = Session(
    key=SessionKey("k"),
    cursor=SessionCursor(flow_id="f", node_id="n"),
    meta=SessionMeta(tenant_id="acme"),
)
FULL_BODY = (
    b'{"cursor":{"flow_id":"onboarding","node_id":"ask","pack_id":"p","wait_reason":"input",'
    b'"outbox_seq":3},"meta":{"tenant_id":"acme","env":"prod","team_id":"support",'
    b'"user_id":"Ann:{1}","labels":{"vip":true}},"context":{"n":1,"list":[],"f":1.0},'
    b'"outbox":[{"seq":2,"payload_sha256":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",'
    b'"created_at":"2026-01-02T03:04:05Z"}]}'
)
BARE_BODY = b'{"cursor":{"flow_id":"f","node_id":"n"},"meta":{"tenant_id":"acme"},"context":{}}'


@pytest.fixture
async def harness(valkey_url: str) -> AsyncIterator[RedisHarness]:
    async with RedisHarness(valkey_url) as harness:
        yield harness


def _marks(ring: bytes) -> list[str]:
    """Return the operation ids of a log, the newest first, without one that was cut off."""
    return [entry.split(":")[3] for entry in ring.decode().split(";")[:-1]]


class Raw:
    """Reads the namespace as ``redis-cli`` does."""

    def __init__(self, harness: RedisHarness) -> None:
        self.harness = harness
        self.ns = harness.config.namespace

    async def hash(self, name: str) -> dict[str, bytes]:
        reply = await self.harness.client.read("HGETALL", f"{self.ns}:{name}")
        return {field.decode(): value for field, value in reply.items()}  # a map in RESP3

    async def ttl_ms(self, name: str) -> int:
        return int(await self.harness.client.read("PTTL", f"{self.ns}:{name}"))


async def test_names_and_fields_of_a_full_session(harness: RedisHarness) -> None:
    store, raw = await harness.open(), Raw(harness)
    cas = await store.put(FULL)
    record_name, lookup_name = "prod:acme:{chat%3A1}", "lookup:{chat%3A1}"
    assert await harness.residue() == [f"{raw.ns}:{lookup_name}", f"{raw.ns}:{record_name}"]
    record = await raw.hash(record_name)
    at = int(record["at"])
    assert list(record) == ["cas", "inc", "owner", "ttl", "at", "body", "ops", "until"]
    assert record["until"] == str(at + 2 * 12_500).encode()
    assert record["cas"] == b"1"
    assert record["inc"] == cas.incarnation.encode()
    assert record["owner"] == b"support/Ann:{1}"
    assert record["ttl"] == b"12500"
    assert record["body"] == FULL_BODY
    assert re.fullmatch(rb"[0-9a-f]{16}:%d:(\d{1,6}):1;" % (at // 1000), record["ops"])
    assert await raw.hash(lookup_name) == {"prod/acme": str(at + 12_499).encode()}


async def test_defaults_are_left_out(harness: RedisHarness) -> None:
    store, raw = await harness.open(), Raw(harness)
    await store.create(BARE)
    record = await raw.hash("default:acme:{k}")
    assert record["owner"] == b"/"
    assert record["ttl"] == b"0"
    assert record["body"] == BARE_BODY
    assert await raw.hash("lookup:{k}") == {"default/acme": b"0"}
    assert await raw.ttl_ms("default:acme:{k}") == await raw.ttl_ms("lookup:{k}") == -1


async def test_what_an_earlier_release_wrote_is_read(harness: RedisHarness) -> None:
    store, raw = await harness.open(), Raw(harness)
    later = BARE_BODY[:-1] + b',"field_of_a_later_release":{"x":1}}'
    fields = ("cas", "7", "inc", "0" * 32, "owner", "/", "ttl", "0", "at", "1700000000000")
    await harness.client.read("HSET", f"{raw.ns}:default:acme:{{k}}", *fields, "body", later)
    found = await store.get(BARE.key, ctx=TenantCtx(tenant_id="acme"))
    assert found is not None
    assert (found.cas.value, found.session.cursor) == (7, BARE.cursor)
    assert found.session.updated_at == datetime.fromtimestamp(1_700_000_000, UTC)
    # A record without an operation log, as of another writer, can be overwritten all the same.
    assert (await store.update_cas(BARE, found.cas)).value == 8


class _State(msgspec.Struct):
    step: int = 0


async def test_a_typed_state_has_the_digest_of_its_type_and_its_version(
    harness: RedisHarness,
) -> None:
    plain, raw = await harness.open(_State), Raw(harness)
    given: Session[Any] = msgspec.structs.replace(BARE, context=_State(step=1))
    await plain.create(given)
    record = await raw.hash("default:acme:{k}")
    start = BARE_BODY[:-3] + b'{"step":1},"shape":'
    assert record["body"] == start + b'"c1ec7033aee0d041"}'
    assert "schema" not in record
    versioned = await harness.open(_State, schema_version=3)
    await versioned.put(given)
    record = await raw.hash("default:acme:{k}")
    assert record["body"] == start + b'"8e7acf4025db5a73","schema_version":3}'
    assert record["schema"] == b"3"


async def test_the_ring_names_the_last_writes(harness: RedisHarness) -> None:
    store, raw = await harness.open(), Raw(harness)
    cas = await store.create(BARE)
    for _ in range(30):
        cas = await store.update_cas(BARE, cas)
    await store.touch(BARE.key)
    record = await raw.hash("default:acme:{k}")
    marks = {name: _marks(record[name]) for name in record if name.startswith("op")}
    assert marks.pop("ops") == ["0", "1"]
    assert marks == {f"op{version % 8}": [str(version)] for version in range(24, 32)}


async def test_the_ring_is_cut(harness: RedisHarness) -> None:
    store, raw = await harness.open(), Raw(harness)
    for _ in range(30):
        await store.put(BARE)
    await store.touch(BARE.key)
    ring = (await raw.hash("default:acme:{k}"))["ops"]
    assert len(ring) <= 382
    assert _marks(ring)[:8] == ["0", "30", "29", "28", "27", "26", "25", "24"]


async def test_a_delete_folds_what_is_remembered(harness: RedisHarness) -> None:
    store, raw = await harness.open(), Raw(harness)
    cas = await store.create(BARE)
    await store.touch(BARE.key)
    for _ in range(3):
        cas = await store.update_cas(BARE, cas)
    await store.put(BARE)
    await store.delete(BARE.key)
    left = await raw.hash("default:acme:{k}")
    assert list(left) == ["ops"]
    assert _marks(left["ops"]) == ["d", "5", "4", "3", "2", "0", "1"]


async def test_a_delete_leaves_its_ring_for_twice_the_deadline(harness: RedisHarness) -> None:
    store, raw = await harness.open(), Raw(harness)
    await store.create(BARE)
    assert await store.delete(BARE.key)
    left = await raw.hash("default:acme:{k}")
    assert list(left) == ["ops"]
    assert _marks(left["ops"]) == ["d", "1"]
    assert 0 < await raw.ttl_ms("default:acme:{k}") <= 2000 * harness.config.deadline_secs
    assert await harness.residue() == [f"{raw.ns}:default:acme:{{k}}"]


async def test_the_codec_can_be_swapped(harness: RedisHarness) -> None:
    store, raw = await harness.open(codec=MessagePackCodec), Raw(harness)
    cas = await store.put(FULL)
    body = (await raw.hash("prod:acme:{chat%3A1}"))["body"]
    decoded = msgspec.msgpack.decode(body, type=SessionBody[dict[str, Any]])
    assert decoded.outbox == FULL.outbox
    found = await store.get(FULL.key, ctx=CTX)
    assert found is not None
    assert (found.session.context, found.cas) == (FULL.context, cas)


async def test_a_generation_is_one_text_in_the_slot_of_its_user(harness: RedisHarness) -> None:
    store = cast("SupportsGenerations", await harness.open())
    owner = GenerationOwner("prod/acme", "support/Ann:{1}")
    generation = await store._generation_backend().read(owner, 60_000)
    (name,) = await harness.residue()
    assert name == f"{harness.config.namespace}:generation:{{prod:acme:support:Ann%3A%7B1%7D}}"
    assert await harness.client.read("GET", name, key=name) == generation.encode()
    assert re.fullmatch(r"\d{16}-[0-9a-f]{32}", generation)


async def test_a_stream_is_in_the_slot_of_its_session(harness: RedisHarness) -> None:
    store = await harness.open()
    cas = await store.create(BARE)
    streams = stream_backend_of(store)
    name = f"{harness.config.namespace}:default:acme:{{{BARE.key}}}:out"
    ids: list[str] = []
    for body in (b"one", b"two"):
        sent = await streams.send(StreamRef("default/acme", BARE.key), body, 7, StreamLimits())
        assert sent is not None
        ids.append(str(sent.entry_id))
    found = await harness.client.read("XRANGE", name, "-", "+", key=name)
    assert [(entry_id.decode(), fields[2:]) for entry_id, fields in found] == [
        (ids[0], [b"prev", b"0-0", b"d", b"one"]),
        (ids[1], [b"prev", ids[0].encode(), b"d", b"two"]),
    ]
    assert all(re.fullmatch(rb"[0-9a-f]{16}", fields[1]) for _, fields in found)
    head = await harness.client.read("HMGET", f"{name}:head", "epoch", "last", key=name)
    assert head == [cas.incarnation.encode(), ids[1].encode()]


async def test_a_replaced_session_has_the_fields_of_a_new_one(harness: RedisHarness) -> None:
    store = await harness.open()
    cas = await store.update_cas(BARE, await store.create(BARE))
    new = await store.replace_incarnation(BARE, cas)
    name = f"{harness.config.namespace}:default:acme:{{k}}"
    fields = await harness.client.read("HKEYS", name, key=name)
    await store.create(msgspec.structs.replace(BARE, key=SessionKey("fresh")))
    other = f"{harness.config.namespace}:default:acme:{{fresh}}"
    assert set(fields) == set(await harness.client.read("HKEYS", other, key=other))
    assert await harness.client.read("HGET", name, "inc", key=name) == new.incarnation.encode()


def _with_ttl(ttl_secs: float) -> Session[dict[str, Any]]:
    return msgspec.structs.replace(BARE, ttl_secs=ttl_secs)


async def _update(store: AsyncSessionStore[dict[str, Any]], ttl_secs: float) -> None:
    found = await store.get(BARE.key, ctx=TenantCtx(tenant_id="acme"))
    assert found is not None
    await store.update_cas(_with_ttl(ttl_secs), found.cas)


VERBS: dict[str, tuple[Any, float]] = {  # Any: a coroutine function of a store
    "put longer": (lambda store: store.put(_with_ttl(900)), 900),
    "put shorter": (lambda store: store.put(_with_ttl(50)), 50),
    "put permanent": (lambda store: store.put(_with_ttl(0)), 0),
    "update_cas longer": (lambda store: _update(store, 900), 900),
    "update_cas shorter": (lambda store: _update(store, 50), 50),
    "update_cas permanent": (lambda store: _update(store, 0), 0),
    "mutate": (lambda store: store.mutate(BARE.key, lambda _: _with_ttl(70), ctx=ACME), 70),
    "touch": (lambda store: store.touch(BARE.key, ctx=ACME), 100),
    "touch longer": (lambda store: store.touch(BARE.key, 900, ctx=ACME), 900),
    "touch shorter": (lambda store: store.touch(BARE.key, 50, ctx=ACME), 50),
    "touch permanent": (lambda store: store.touch(BARE.key, 0, ctx=ACME), 0),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("before", [100.0, 0.0])
@pytest.mark.parametrize("other_ttl", [None, 300.0, 0.0])
async def test_record_and_lookup_have_the_same_life_after_every_verb(
    harness: RedisHarness, verb: str, before: float, other_ttl: float | None
) -> None:
    store, raw = await harness.open(), Raw(harness)
    if other_ttl is not None:
        other = SessionMeta(tenant_id="globex")
        await store.create(msgspec.structs.replace(_with_ttl(other_ttl), meta=other))
    await store.create(_with_ttl(before))
    act, ttl_secs = VERBS[verb]
    if verb == "touch":
        ttl_secs = before
    await act(store)
    record = await raw.hash("default:acme:{k}")
    lookup = await raw.hash("lookup:{k}")
    expires = 0 if ttl_secs == 0 else int(record["at"]) + round(ttl_secs * 1000)
    assert int(record["ttl"]) == round(ttl_secs * 1000)
    last = expires - 1 if expires else 0
    assert int(lookup["default/acme"]) == last
    lives = {name: await _expires_at(harness, name) for name in ("default:acme:{k}", "lookup:{k}")}
    assert lives["default:acme:{k}"] == (last or -1)
    longest = max(map(int, lookup.values())) if all(map(int, lookup.values())) else 0
    assert lives["lookup:{k}"] == (longest or -1)


async def _expires_at(harness: RedisHarness, name: str) -> int:
    full = f"{harness.config.namespace}:{name}"
    return int(await harness.client.read("PEXPIRETIME", full))


@pytest.mark.parametrize("gone", ["delete", "expire"])
async def test_the_lookup_follows_the_tenant_that_stays(harness: RedisHarness, gone: str) -> None:
    store, raw = await harness.open(), Raw(harness)
    await store.create(_with_ttl(100))
    globex = msgspec.structs.replace(_with_ttl(300), meta=SessionMeta(tenant_id="globex"))
    await store.create(globex)
    if gone == "delete":
        await store.delete(BARE.key, ctx=TenantCtx(tenant_id="globex"))
        assert set(await raw.hash("lookup:{k}")) == {"default/acme"}
        assert 0 < await raw.ttl_ms("lookup:{k}") <= 100_000
        return
    await harness.advance(100)
    # Fields of expired records are removed with another write, or when its lifetime is shortened.
    await store.touch(BARE.key, 150, ctx=TenantCtx(tenant_id="globex"))
    assert set(await raw.hash("lookup:{k}")) == {"default/globex"}
    await harness.advance(150)
    assert await harness.residue() == []


async def test_a_life_of_one_millisecond_leaves_nothing(harness: RedisHarness) -> None:
    store = await harness.open()
    cas = await store.put(_with_ttl(0.001))
    assert cas.value == 1
    assert await harness.residue() == []
