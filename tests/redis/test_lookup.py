"""The lookup of a key that many tenants hold: exact after every write, and not read on each."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

import pytest

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
WHO: Final = (OWNER, "red/")


class Tenants(ScriptRunner):
    """Runs the scripts as any of several tenants.

    :param is_old: leave out what Redis 6.2 does not have.
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
        """Compare lookup and records, each with the life that the server has of it."""
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
        assert await self.client.read("PEXPIRETIME", self.lookup) == longest


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


async def test_a_renewed_life_reads_nobody_elses(server: LocalServer) -> None:
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


async def test_what_expired_goes_as_tenants_come(harness: RedisHarness) -> None:
    tenants = Tenants(harness)
    await tenants.put("stays", 600_000)
    traces = [part for number in range(300) for part in (f"default/gone-{number}", "1")]
    await harness.client.read("HSET", tenants.lookup, *traces)
    live = {"stays"}
    for number in range(64):
        await tenants.put(f"comes-{number}", 600_000)
        live.add(f"comes-{number}")
    await tenants.check(live)
