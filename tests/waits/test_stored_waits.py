"""Tests of the stored form of waits in Redis, byte by byte. A change breaks running deployments."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from greentic_session import (
    Cas,
    ReplyScope,
    Session,
    SessionCursor,
    SessionKey,
    SessionMeta,
    TenantCtx,
    WaitRegistry,
)
from greentic_session.testing.harness import RedisHarness

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from greentic_session import AsyncSessionStore

pytestmark = pytest.mark.anyio

ANN = TenantCtx(tenant_id="acme", env="prod", team_id="support", user_id="Ann:{1}")
CHAT = ReplyScope(conversation="chat-42")
CHAT_HASH = "f7ecd6bfcfa2b0aca9572a6eb70722dff50f63f93d2c8df9d55a23be46c4d923"
RECORD, LOOKUP = "prod:acme:{chat%3A1}", "lookup:{chat%3A1}"
INDEX = "waits:{prod:acme:support:Ann%3A%7B1%7D}"
PLAIN = ["cas", "inc", "owner", "ttl", "at", "body", "ops", "until"]


def session(key: str = "chat:1", ttl_secs: float = 0) -> Session[dict[str, Any]]:
    return Session(
        key=SessionKey(key),
        cursor=SessionCursor(flow_id="f", node_id="n"),
        meta=SessionMeta.of(ANN),
        ttl_secs=ttl_secs,
    )


class Rig:
    """A registry, and the namespace as ``redis-cli`` shows it."""

    def __init__(self, harness: RedisHarness, store: AsyncSessionStore[dict[str, Any]]) -> None:
        self.harness = harness
        self.store = store
        self.waits = WaitRegistry(store)

    async def register(self, key: str = "chat:1", ttl: float | None = None) -> Cas:
        return await self.waits.register_wait(ANN, "Ann:{1}", CHAT, session(key), ttl)

    async def names(self) -> list[str]:
        start = f"{self.harness.config.namespace}:"
        names = [name.removeprefix(start) for name in await self.harness.residue()]
        # tests/redis/test_finding.py pins the indexes of sessions.
        return [name for name in names if not name.startswith("find:")]

    async def read(self, command: str, name: str, *arguments: str | int) -> Any:
        full = f"{self.harness.config.namespace}:{name}"
        return await self.harness.client.read(command, full, *arguments)

    async def hash(self, name: str) -> dict[str, str]:
        reply = await self.read("HGETALL", name)
        return {field.decode(): value.decode() for field, value in reply.items()}

    async def expires_ms(self, name: str) -> int:
        return int(await self.read("PEXPIRETIME", name))


@pytest.fixture
async def rig(valkey_url: str) -> AsyncIterator[Rig]:
    async with RedisHarness(valkey_url) as harness:
        yield Rig(harness, await harness.open())


async def test_a_waiting_session_has_the_documented_bytes(rig: Rig) -> None:
    await rig.register()
    assert await rig.names() == sorted([LOOKUP, RECORD, INDEX])
    record = await rig.hash(RECORD)
    assert set(record) == {*PLAIN, "wait", "since"}
    assert record["wait"] == CHAT.scope_hash() == CHAT_HASH
    assert record["since"][:13] == record["at"]
    assert len(record["since"]) == 16
    assert await rig.hash(INDEX) == {CHAT_HASH: f"{record['since']}:0:0:chat:1\n"}
    assert await rig.expires_ms(INDEX) == -1


async def test_a_claimed_session_has_the_documented_bytes(rig: Rig) -> None:
    await rig.register(ttl=100)
    claim = await rig.waits.claim(ANN, "Ann:{1}", CHAT, attempt_id="a", event_id="e", lease=30)
    record = await rig.hash(RECORD)
    assert set(record) == {*PLAIN, "wait", "since", "lease", "start", "attempt", "fence"}
    assert (record["cas"], record["fence"]) == ("2", str(claim.fence))
    assert record["fence"][:13] == record["at"]
    assert int(record["lease"]) == int(record["at"]) + 30_000
    assert record["start"] == record["at"]
    assert re.fullmatch(r"[A-Za-z0-9_-]{22}", record["attempt"])
    # Its lifetime counts from the lease's end.
    assert await rig.expires_ms(RECORD) == int(record["lease"]) + 100_000 - 1
    assert await rig.expires_ms(LOOKUP) == int(record["lease"]) + 100_000 - 1
    await claim.release()
    assert set(await rig.hash(RECORD)) == {*PLAIN, "wait", "since", "fence"}


async def test_a_completed_event_has_the_documented_bytes(rig: Rig) -> None:
    await rig.register(ttl=100)
    claim = await rig.waits.claim(ANN, "Ann:{1}", CHAT, event_id="e")
    await claim.complete(session(ttl_secs=100))
    record = await rig.hash(RECORD)
    assert set(record) == {*PLAIN, "fence"}
    assert await rig.names() == sorted([LOOKUP, RECORD, f"{RECORD}:events", f"{INDEX}:events"])
    for name in (f"{RECORD}:events", f"{INDEX}:events"):
        events = await rig.read("ZRANGE", name, 0, -1, "WITHSCORES")
        assert events == [[b"N97EkzA2f-5P5E_1xnX67Q", int(record["at"])]]
    assert await rig.expires_ms(f"{RECORD}:events") == int(record["at"]) + 86_400_000 - 1


async def test_an_index_lives_as_long_as_its_longest_wait(rig: Rig) -> None:
    lives: list[float] = [50, 300, 100]
    for number, ttl in enumerate(lives):
        here = ReplyScope(conversation=str(number))
        await rig.waits.register_wait(ANN, "Ann:{1}", here, session(f"k{number}"), ttl)
    longest = int((await rig.hash("prod:acme:{k1}"))["at"]) + 300_000
    assert await rig.expires_ms(INDEX) == longest - 1
    forever = ReplyScope(conversation="forever")
    await rig.waits.register_wait(ANN, "Ann:{1}", forever, session("k9"))
    assert await rig.expires_ms(INDEX) == -1
    assert await rig.waits.clear_wait(ANN, "Ann:{1}", forever)
    assert await rig.expires_ms(INDEX) == longest - 1
    await rig.store.touch(SessionKey("k0"), 900, ctx=ANN)
    assert await rig.expires_ms(INDEX) == int((await rig.hash("prod:acme:{k0}"))["at"]) + 899_999


async def test_a_deleted_session_leaves_its_ring_only(rig: Rig) -> None:
    await rig.register()
    claim = await rig.waits.claim(ANN, "Ann:{1}", CHAT, event_id="e")
    await claim.wait_again(session(), CHAT)
    assert await rig.store.delete(SessionKey("chat:1"), ctx=ANN)
    assert await rig.names() == sorted([RECORD, f"{INDEX}:events"])
    assert list(await rig.hash(RECORD)) == ["ops"]


async def test_fences_of_claims_grow_though_the_clock_is_set_back(rig: Rig) -> None:
    ahead = round(time.time() * 1e6) + 3_600_000_000
    await rig.register()
    # As after a claim from before the clock was set back by an hour.
    await rig.read("HSET", RECORD, "fence", ahead)
    for number in (1, 2):
        async with rig.waits.resume(ANN, "Ann:{1}", CHAT) as turn:
            assert turn.fence == ahead + number
            await turn.finish()
        await rig.read("DEL", RECORD)  # and its trace
        await rig.register()
