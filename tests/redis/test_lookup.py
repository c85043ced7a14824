"""Tests of the lookup of a key with many tenants: exact after every write, and not read on each."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Any, Final

import pytest
from msgspec import structs

from greentic_session import AmbiguousKeyError, Session, SessionCursor, SessionKey, SessionMeta
from greentic_session.redis import scripts
from greentic_session.testing.harness import RedisHarness

from ..support.redis import KEY, SEED
from ..support.scripts import OWNER, ScriptRunner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from greentic_session.redis.transport.script import Script
    from greentic_session.testing.servers import LocalServer

pytestmark = pytest.mark.anyio

LIVES_MS: Final = (0, 400_000, 500_000, 600_000, 700_000)
EXACT: Final = 64
"""Up to this many tenants, the lookup expires with the longest-lived record, not later."""
WHO: Final = (OWNER, "red/")


class Tenants(ScriptRunner):
    """Runs the scripts as one of several tenants.

    :param is_old: whether to leave out commands that Redis 6.2 lacks.
    """

    def __init__(self, harness: RedisHarness, *, is_old: bool = False) -> None:
        super().__init__(harness)
        self._start = f"{harness.config.namespace}:default:"
        self._is_old = is_old
        self._calls = 0

    def record_of(self, tenant: str) -> str:
        return f"{self._start}{tenant}:{{{KEY}}}"

    async def call(self, script: Script, tenant: str, *arguments: object) -> Any:
        self._calls += 1
        record, source = self.record_of(tenant), script.source
        if self._is_old:
            assert b"redis.REDIS_VERSION_NUM" in source
            source = source.replace(b"redis.REDIS_VERSION_NUM", b"nil")
        names = (record, self.lookup, f"{record}:events")
        parts = f"{self._calls:016x}", "", f"default/{tenant}", *map(str, arguments)
        reply = await self.client.read("EVAL", source, 3, *names, *parts)
        assert (reply if type(reply) is int else reply[0]) > 0
        return reply

    async def put(self, tenant: str, ttl_ms: int) -> None:  # type: ignore[override] # as another
        await self.call(scripts.PUT, tenant, OWNER, ttl_ms, "{}", "a" * 32)

    async def update_of(self, tenant: str, ttl_ms: int) -> None:
        record = self.record_of(tenant)
        version, inc = await self.client.read("HMGET", record, "cas", "inc")
        token = inc.decode(), int(version), int(version) + 1, f"op{(int(version) + 1) % 8}"
        await self.call(scripts.UPDATE_CAS, tenant, OWNER, ttl_ms, "{}", *token)

    async def touch_of(self, tenant: str, ttl_ms: int) -> None:
        await self.call(scripts.TOUCH, tenant, *WHO, ttl_ms)

    async def delete_of(self, tenant: str) -> None:
        await self.call(scripts.DELETE, tenant, *WHO, "", "", 60_000)

    async def check(self, tenants: set[str]) -> None:
        """Compare lookup and records, each with its expiry on the server."""
        fields: dict[bytes, bytes] = await self.client.read("HGETALL", self.lookup)
        assert fields.keys() == {f"default/{tenant}".encode() for tenant in tenants}
        if not tenants:
            return
        ends: list[int] = await self.client.read_many(
            [("PEXPIRETIME", self.record_of(tenant)) for tenant in tenants], key=self.lookup
        )
        told = [int(fields[f"default/{tenant}".encode()]) or -1 for tenant in tenants]
        assert told == ends
        longest = -1 if -1 in ends else max(ends)
        lookup_end = await self.client.read("PEXPIRETIME", self.lookup)
        if len(tenants) <= EXACT:
            assert lookup_end == longest
        else:
            assert lookup_end == -1 or lookup_end >= longest != -1


@pytest.fixture(params=["valkey_url", "redis_url"])
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[RedisHarness]:
    async with RedisHarness(request.getfixturevalue(request.param)) as harness:
        yield harness


@pytest.mark.parametrize("most", [3, 90])
@pytest.mark.parametrize("is_old", [False, True], ids=["today", "Redis 6.2"])
async def test_it_has_the_life_of_the_longest_after_every_write(
    harness: RedisHarness, most: int, *, is_old: bool
) -> None:
    tenants, dice = Tenants(harness, is_old=is_old), random.Random(SEED)
    names = [f"tenant-{number}" for number in range(most)]
    live: set[str] = set()
    for name in names[: most - 2]:
        await tenants.put(name, dice.choice(LIVES_MS[1:]))
        live.add(name)
    for _ in range(150):
        name, ttl_ms = dice.choice(names), dice.choice(LIVES_MS)
        verb = dice.choice(("put", "update", "touch", "delete"))
        if verb == "delete" and name in live:
            await tenants.delete_of(name)
            live.remove(name)
        elif verb == "update" and name in live:
            await tenants.update_of(name, ttl_ms)
        elif verb == "touch" and name in live:
            await tenants.touch_of(name, ttl_ms)
        else:
            await tenants.put(name, ttl_ms)
            live.add(name)
        await tenants.check(live)


async def test_a_renewed_lifetime_reads_no_other_record(server: LocalServer) -> None:
    async with RedisHarness(server.url) as harness:
        tenants = Tenants(harness)
        names = [f"tenant-{number}" for number in range(200)]
        for name in names:
            await tenants.put(name, 600_000)
        await tenants.put("forever", 0)
        await harness.client.read("CONFIG", "RESETSTAT")
        for name in names[:50]:
            await tenants.update_of(name, 600_000)
            await tenants.touch_of(name, 600_000)
            await tenants.delete_of(name)
        await tenants.update_of("forever", 0)
        assert b"cmdstat_hgetall" not in await harness.client.read("INFO", "commandstats")
        await tenants.check({*names[50:], "forever"})


async def test_fields_of_expired_records_leave_as_tenants_come(harness: RedisHarness) -> None:
    tenants = Tenants(harness)
    await tenants.put("stays", 600_000)
    traces = [part for number in range(300) for part in (f"default/gone-{number}", "1")]
    await harness.client.read("HSET", tenants.lookup, *traces)
    for number in range(64):
        await tenants.put(f"comes-{number}", 600_000)
    # Each write samples 4 fields at random, so some of the 300 are left.
    assert await harness.client.read("HLEN", tenants.lookup) < 65 + 200


async def test_a_lookup_that_shrinks_to_few_tenants_gets_their_exact_lifetime(
    harness: RedisHarness,
) -> None:
    tenants = Tenants(harness)
    names = {f"tenant-{number}" for number in range(EXACT + 1)}
    for name in names:
        await tenants.put(name, 600_000)
    await tenants.put("permanent", 0)
    await tenants.delete_of("permanent")
    assert await harness.client.read("PTTL", tenants.lookup) == -1  # too many to find the next
    await tenants.delete_of("tenant-0")
    await tenants.check(names - {"tenant-0"})


@pytest.mark.parametrize("live", [0, 1])
async def test_a_call_without_a_caller_finds_the_live_record_among_many_expired(
    harness: RedisHarness, live: int
) -> None:
    store, tenants = await harness.open(), Tenants(harness)
    traces = [part for number in range(700) for part in (f"default/gone-{number}", "1")]
    await harness.client.read("HSET", tenants.lookup, *traces)
    meta = SessionMeta(tenant_id="live")
    cursor = SessionCursor(flow_id="f", node_id="n")
    session = Session(key=SessionKey(KEY), cursor=cursor, meta=meta, context=dict[str, Any]())
    await store.create(session)
    for number in range(live):
        other = SessionMeta(tenant_id=f"other-{number}")
        await store.create(structs.replace(session, meta=other))
    if live:
        with pytest.raises(AmbiguousKeyError):
            await store.get(session.key)
        with pytest.raises(AmbiguousKeyError):
            await store.delete(session.key)
    else:
        found = await store.get(session.key)
        assert found is not None
        assert found.session.meta == meta
        assert await store.delete(session.key)
        assert await store.get(session.key) is None


async def test_an_ambiguous_read_sends_as_many_commands_for_many_tenants_as_for_two(
    server: LocalServer,
) -> None:
    async with RedisHarness(server.url) as harness:
        store, tenants = await harness.open(), Tenants(harness)
        counts = []
        for number in range(300):
            await tenants.put(f"tenant-{number}", 0)
            if number + 1 not in (2, 300):
                continue
            await harness.client.read("CONFIG", "RESETSTAT")
            with pytest.raises(AmbiguousKeyError):
                await store.get(SessionKey(KEY))
            counts.append(calls_of(await harness.client.read("INFO", "commandstats")))
        assert counts == 2 * [{"hrandfield": 1, "hexists": 2}]


def calls_of(report: bytes) -> dict[str, int]:
    """Return how often each command on hashes was called."""
    found = re.findall(rb"cmdstat_(h\w+):calls=(\d+)", report)
    return {name.decode(): int(count) for name, count in found if name != b"hello"}
