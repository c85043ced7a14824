"""Tests of the stored form of affinity in Redis, byte by byte, and of other clients' data."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from greentic_session import (
    MemberExistsError,
    OutcomeUnknownError,
    SessionKey,
    StoreUnavailableError,
    TenantCtx,
)
from greentic_session.ordering import SessionAffinity
from greentic_session.redis.key_names import KeyNames
from greentic_session.testing.harness import RedisHarness

from ..support.redis import snapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

pytestmark = pytest.mark.anyio

CTX: Final = TenantCtx(tenant_id="acme", env="prod", user_id="ann")
KEY: Final = SessionKey("chat:1")
START: Final = "affinity:{bots%3A%7B1%7D}"
TOKEN = "\nfence"
"""The field with the highest fencing token of the group."""
MEMBERS, PLACES, ENDS, OPS = (f"{START}:{part}" for part in ("members", "places", "ends", "ops"))


class Rig:
    """Affinity, and the namespace as ``redis-cli`` shows it."""

    def __init__(self, harness: RedisHarness, affinity: SessionAffinity, backend: Any) -> None:
        self.harness = harness
        self.affinity = affinity
        self.backend = backend

    @classmethod
    async def of(cls, harness: RedisHarness) -> Rig:
        store: Any = await harness.open()
        return cls(harness, SessionAffinity(store, "bots:{1}", ttl=100), store._affinity_backend())

    async def join(self, worker: str, lease_ms: int = 60_000) -> int:
        fence: int = (await self.backend.join("bots:{1}", worker, "a" * 32, lease_ms)).fence
        return fence

    async def names(self) -> list[str]:
        start = f"{self.harness.config.namespace}:"
        return [name.removeprefix(start) for name in await self.harness.residue()]

    async def call(self, command: str, name: str, *arguments: str | int) -> Any:
        full = f"{self.harness.config.namespace}:{name}"
        return await self.harness.client.read(command, full, *arguments)

    async def hash(self, name: str) -> dict[str, str]:
        reply = await self.call("HGETALL", name)
        return {field.decode(): value.decode() for field, value in reply.items()}

    async def scores(self, name: str) -> dict[str, int]:
        reply = await self.call("ZRANGE", name, 0, -1, "WITHSCORES")
        return {member.decode(): int(score) for member, score in reply}

    async def expires_ms(self, name: str) -> int:
        return int(await self.call("PEXPIRETIME", name))


@pytest.fixture
async def rig(valkey_url: str) -> AsyncIterator[Rig]:
    async with RedisHarness(valkey_url) as harness:
        yield await Rig.of(harness)


async def test_members_have_the_documented_bytes(rig: Rig) -> None:
    async with rig.affinity.member("host:{1}", lease=30) as membership:
        assert await rig.names() == [MEMBERS]
        members = await rig.hash(MEMBERS)
        assert set(members) == {"host:{1}", TOKEN}
        assert members[TOKEN] == str(membership.fence)
        found = re.fullmatch(r"(\d{13}):(\d{16}):[0-9a-f]{32}:(\d{13})", members["host:{1}"])
        assert found is not None
        assert int(found[1]) == round(membership.lease_until.timestamp() * 1000)
        assert int(found[2]) == membership.fence
        assert int(found[3]) == int(found[1]) - 30_000
        # The server removes a key when now > its expiry. A token is kept for an hour.
        kept_until = membership.fence // 1000 + 3_600_000
        assert await rig.expires_ms(MEMBERS) == kept_until - 1
        longest = await rig.join("w2", 7_200_000)
        assert str(longest) in (await rig.hash(MEMBERS))["w2"]
        ends = int((await rig.hash(MEMBERS))["w2"].split(":")[0])
        assert await rig.expires_ms(MEMBERS) == ends - 1
        assert await rig.backend.leave("bots:{1}", "w2", "a" * 32) is True
        assert set(await rig.hash(MEMBERS)) == {"host:{1}", TOKEN}
        assert await rig.expires_ms(MEMBERS) == int(longest) // 1000 + 3_600_000 - 1
    assert await rig.names() == [OPS]


async def test_fences_grow_though_the_clock_is_set_back(rig: Rig) -> None:
    ahead = round(time.time() * 1e6) + 3_600_000_000
    # As one whose lease ended before the clock was set back by an hour.
    await rig.call("HSET", MEMBERS, "w1", f"1:{ahead}:{'b' * 32}")
    assert await rig.join("w1") == ahead + 1
    await rig.call("DEL", MEMBERS)
    for number, worker in enumerate(("w1", "w2"), 2):
        assert await rig.join(worker) == ahead + number


async def test_placements_have_the_documented_bytes(rig: Rig) -> None:
    await rig.join("w1")
    placement = await rig.affinity.worker_for(KEY, ctx=CTX)
    assert placement is not None
    expires = round(placement.expires_at.timestamp() * 1000)
    assert await rig.names() == sorted([MEMBERS, PLACES, ENDS])
    assert await rig.hash(PLACES) == {"prod/acme\nchat:1": f"{expires}:100000:w1\n"}
    assert await rig.scores(ENDS) == {"prod/acme\nchat:1": expires}
    for name in (PLACES, ENDS):
        assert await rig.expires_ms(name) == expires - 1
    await rig.affinity.pin(KEY, "w9", 200)
    pinned = (await rig.scores(ENDS))["chat:1"]
    assert (await rig.hash(PLACES))["chat:1"] == f"{pinned}:200000:\nw9"
    ((op, at),) = (await rig.scores(OPS)).items()
    assert re.fullmatch("[0-9a-f]{16}", op)
    assert at == pinned - 200_000
    for name in (PLACES, ENDS):
        assert await rig.expires_ms(name) == pinned - 1
    # The whole key expires with its longest part, in both directions.
    assert await rig.affinity.forget(KEY) is True
    for name in (PLACES, ENDS):
        assert await rig.expires_ms(name) == expires - 1
    assert await rig.affinity.forget(KEY, ctx=CTX) is True
    assert await rig.names() == sorted([MEMBERS, OPS])
    assert 0 < await rig.call("PTTL", OPS) <= 60_000


async def test_a_name_has_one_tag() -> None:
    assert KeyNames("ns").affinity("a:{b}") == tuple(
        f"ns:affinity:{{a%3A%7Bb%7D}}:{part}" for part in ("ops", "members", "places", "ends")
    )


async def test_expired_placements_go_a_few_at_a_time(rig: Rig) -> None:
    await rig.join("w1")
    await rig.affinity.pin(SessionKey("stays"), "w1", 10_000)
    for number in range(40):
        await rig.affinity.worker_for(SessionKey(f"{number}"))
    await rig.harness.advance(200)
    assert len(await rig.hash(PLACES)) == 41
    await rig.join("w1")
    left = 41
    while left > 2:
        await rig.affinity.worker_for(SessionKey("again"))
        before, left = left, len(await rig.hash(PLACES))
        assert before - 8 <= left < before
        assert set(await rig.scores(ENDS)) == set(await rig.hash(PLACES))
    assert set(await rig.hash(PLACES)) == {"stays", "again"}


async def test_dead_members_go_when_another_joins_renews_or_leaves(rig: Rig) -> None:
    for _ in range(3):
        await rig.join("dead", 1000)
        await rig.harness.advance(1)
        await rig.join("w1")
        assert set(await rig.hash(MEMBERS)) == {"w1", TOKEN}
        await rig.join("dead", 1000)
        await rig.harness.advance(1)
        await rig.backend.renew("bots:{1}", "w1", "a" * 32, 60_000)
        assert set(await rig.hash(MEMBERS)) == {"w1", TOKEN}
        await rig.join("dead", 1000)
        await rig.join("w2")
        await rig.harness.advance(1)
        assert await rig.backend.leave("bots:{1}", "w2", "a" * 32) is True
        assert set(await rig.hash(MEMBERS)) == {"w1", TOKEN}


# --- other clients' data --------------------------------------------------------------------------

VERBS: Final[dict[str, Callable[[Rig], Awaitable[object]]]] = {
    "join": lambda rig: rig.affinity.member("w2").__aenter__(),
    "renew": lambda rig: rig.backend.renew("bots:{1}", "w1", "a" * 32, 60_000),
    "leave": lambda rig: rig.backend.leave("bots:{1}", "w1", "a" * 32),
    "worker_for": lambda rig: rig.affinity.worker_for(KEY),
    "pin": lambda rig: rig.affinity.pin(KEY, "w1"),
    "unpin": lambda rig: rig.affinity.unpin(KEY),
    "touch": lambda rig: rig.affinity.touch(KEY),
    "forget": lambda rig: rig.affinity.forget(KEY),
    "members": lambda rig: rig.affinity.members(),
    "placement": lambda rig: rig.affinity.placement(KEY),
    "keys_of": lambda rig: anext(rig.affinity.keys_of("w1")),
}
NOT_LOOKED_AT: Final = {
    "members": (PLACES, ENDS, OPS),
    "placement": (ENDS, OPS),
    "keys_of": (ENDS, OPS),
}


@pytest.mark.parametrize("squatted", [MEMBERS, PLACES, ENDS, OPS], ids=lambda name: name[25:])
async def test_a_squatted_name_is_told_and_nothing_is_written(rig: Rig, squatted: str) -> None:
    await rig.join("w1")
    await rig.affinity.pin(KEY, "w1")
    await rig.call("DEL", squatted)
    await rig.call("SET", squatted, "squatter")
    before = await snapshot(rig.harness.client, rig.harness.config.namespace)
    for name, verb in VERBS.items():
        if squatted in NOT_LOOKED_AT.get(name, ()):
            await verb(rig)
            continue
        with pytest.raises(StoreUnavailableError) as caught:
            await verb(rig)
        assert caught.value.code == "internal", name
        assert "another type" in caught.value.reason
    assert await snapshot(rig.harness.client, rig.harness.config.namespace) == before


@pytest.mark.parametrize("junk", ["", "junk", ":", "12:junk", "9999999999999:5", "\n", "-1:1:w1\n"])
async def test_values_of_another_form_count_as_absent(rig: Rig, junk: str) -> None:
    await rig.call("HSET", MEMBERS, "w1", junk, "w2", junk)
    await rig.call("HSET", PLACES, KEY, junk, "other", junk)
    assert await rig.affinity.members() == ()
    assert await rig.affinity.placement(KEY) is None
    assert await rig.affinity.touch(KEY) is False
    assert await rig.affinity.unpin(KEY) is False
    assert await rig.affinity.forget(KEY) is False
    assert await rig.affinity.worker_for(KEY) is None
    await rig.join("w1")
    placement = await rig.affinity.worker_for(KEY)
    assert placement is not None
    assert placement.worker == "w1"
    assert [key async for key in rig.affinity.keys_of("w1")] == [KEY]
    with pytest.raises(MemberExistsError):
        await rig.affinity.member("w1").__aenter__()


@pytest.mark.parametrize("end", ["9" * 15, "9" * 400, "9" * 5000])
async def test_times_beyond_all_time_are_told(rig: Rig, end: str) -> None:
    await rig.join("w1")
    await rig.call("HSET", PLACES, KEY, f"{end}:1000:w1\n")
    for name in ("placement", "keys_of", "worker_for"):
        if name == "worker_for":  # it is in use, so its lifetime restarts
            await VERBS[name](rig)
            continue
        with pytest.raises(StoreUnavailableError, match="cannot be read") as caught:
            await VERBS[name](rig)
        assert caught.value.code == "internal"
    await rig.call("HSET", MEMBERS, "w2", f"{end}:5:{'b' * 32}")
    with pytest.raises(StoreUnavailableError, match="cannot be read"):
        await rig.affinity.members()
    with pytest.raises(OutcomeUnknownError):
        await rig.affinity.member("w2").__aenter__()
