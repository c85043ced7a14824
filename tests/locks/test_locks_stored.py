"""Tests of the stored form of locks in Redis, byte by byte, and of keys with other values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from greentic_session import (
    DecodeError,
    OutcomeUnknownError,
    SessionKey,
    StoreUnavailableError,
    TenantCtx,
)
from greentic_session.abc.locks import LockRef, LockRequest, SupportsLocks
from greentic_session.ordering import SessionLocks
from greentic_session.redis.transport.client import RedisClient
from greentic_session.testing.harness import RedisHarness

from ..support.redis import session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from greentic_session import AsyncSessionStore

pytestmark = pytest.mark.anyio

CTX: Final = TenantCtx(tenant_id="acme", env="prod")
KEY: Final = SessionKey("chat:1")
EVERYBODYS, TENANTS = "lock:{chat%3A1}", "prod:acme:{chat%3A1}:lock"


class Rig:
    """Locks, and the namespace as ``redis-cli`` shows it."""

    def __init__(self, harness: RedisHarness, store: AsyncSessionStore[Any]) -> None:
        assert isinstance(store, SupportsLocks)
        self.harness = harness
        self.store = store
        self.backend = store._lock_backend()
        self.locks = SessionLocks(store, name="worker 1")

    async def ask(self, token: str, *, scope: str = "") -> int:
        """Request the lock for 30 s, with a queue position for 50 s. Return the fencing token."""
        bid = LockRequest(LockRef(scope, KEY, token), token, 30_000, 50_000, queues=True)
        return (await self.backend.call().acquire(bid)).fence

    async def names(self) -> list[str]:
        start = f"{self.harness.config.namespace}:"
        return [name.removeprefix(start) for name in await self.harness.residue()]

    async def read(self, command: str, name: str, *arguments: str | int) -> Any:
        full = f"{self.harness.config.namespace}:{name}"
        return await self.harness.client.read(command, full, *arguments, key=full)

    async def hash(self, name: str) -> dict[str, str]:
        reply = await self.read("HGETALL", name)
        return {field.decode(): value.decode() for field, value in reply.items()}


@pytest.fixture
async def rig(valkey_url: str) -> AsyncIterator[Rig]:
    async with RedisHarness(valkey_url) as harness:
        yield Rig(harness, await harness.open())


def kept_until_ms(fence: int) -> int:
    """Return the last millisecond of a fencing token: one hour past its own time."""
    return fence // 1000 + 3_600_000 - 1


@pytest.mark.parametrize(("ctx", "name"), [(None, EVERYBODYS), (CTX, TENANTS)])
async def test_a_held_lock_has_the_documented_bytes(
    rig: Rig, ctx: TenantCtx | None, name: str
) -> None:
    async with rig.locks.hold(KEY, 30, ctx=ctx) as lease:
        assert await rig.names() == [name]
        stored = await rig.hash(name)
        assert set(stored) == {"fence", "lease", "start", "by", "name"}
        assert (stored["fence"], stored["name"]) == (str(lease.fence), "worker 1")
        assert len(stored["fence"]) == 16
        assert len(stored["by"]) == 22
        assert int(stored["lease"]) == int(stored["fence"][:13]) + 30_000
        assert int(stored["start"]) == int(stored["lease"]) - 30_000
        assert await rig.read("PEXPIRETIME", name) == kept_until_ms(lease.fence)
    assert await rig.names() == []
    assert await rig.hash(name) == {"fence": str(lease.fence)}
    assert await rig.read("PEXPIRETIME", name) == kept_until_ms(lease.fence)


async def test_a_lock_that_is_waited_for(rig: Rig) -> None:
    fence = await rig.ask("holder", scope="prod/acme")
    for token in ("a", "b"):
        await rig.ask(token, scope="prod/acme")
    queue = f"{TENANTS}:queue"
    assert await rig.names() == sorted([TENANTS, queue])
    assert await rig.read("ZRANGE", queue, 0, -1, "WITHSCORES") == [[b"a", 1.0], [b"b", 2.0]]
    stored = await rig.hash(TENANTS)
    assert set(stored) == {"fence", "lease", "start", "by", "name", "kept", "w:a", "w:b"}
    assert (stored["fence"], stored["by"]) == (str(fence), "holder")
    assert int(stored["w:a"]) <= int(stored["w:b"]) == int(stored["kept"])
    assert int(stored["kept"]) >= int(stored["lease"]) + 20_000
    assert await rig.read("PEXPIRETIME", queue) == int(stored["kept"]) - 1
    assert await rig.read("PEXPIRETIME", TENANTS) == kept_until_ms(fence)
    await rig.backend.call().release(LockRef("prod/acme", KEY, "holder"), 0)
    left = await rig.hash(TENANTS)
    assert set(left) == {"fence", "lease", "kept", "w:a", "w:b"}
    assert int(left["lease"]) < int(stored["lease"])
    await rig.ask("a", scope="prod/acme")
    assert set(await rig.hash(TENANTS)) == {"fence", "lease", "start", "by", "name", "kept", "w:b"}
    await rig.backend.call().release(LockRef("prod/acme", KEY, "b"), 0)
    held = await rig.hash(TENANTS)
    assert set(held) == {"fence", "lease", "start", "by", "name"}
    assert await rig.names() == [TENANTS]
    assert await rig.read("PEXPIRETIME", TENANTS) == kept_until_ms(int(held["fence"]))


async def test_a_fenced_write_leaves_what_a_plain_one_does(rig: Rig) -> None:
    async with rig.locks.hold(KEY, ctx=TenantCtx(tenant_id="acme")) as lease:
        cas = await rig.store.put(session(KEY), fence=lease)
        cas = await rig.store.update_cas(session(KEY), cas, fence=lease)
    guarded = await rig.hash("default:acme:{chat%3A1}")
    assert await rig.names() == ["default:acme:{chat%3A1}", EVERYBODYS.replace("lock", "lookup")]
    await rig.store.delete(KEY, expected=cas)
    await rig.read("DEL", "default:acme:{chat%3A1}")
    await rig.store.update_cas(session(KEY), await rig.store.put(session(KEY)))
    plain = await rig.hash("default:acme:{chat%3A1}")
    assert set(guarded) == set(plain)
    assert [guarded[field] for field in ("cas", "owner", "ttl", "body")] == [
        plain[field] for field in ("cas", "owner", "ttl", "body")
    ]


STEPS: Final[dict[str, Callable[[Rig], Awaitable[object]]]] = {
    "hold": lambda rig: rig.locks.hold(KEY).__aenter__(),
    "try_hold": lambda rig: rig.locks.try_hold(KEY).__aenter__(),
    "wait": lambda rig: rig.ask("a"),
    "renew": lambda rig: rig.backend.call().renew(LockRef("", KEY, "a"), 1),
    "leave": lambda rig: rig.backend.call().release(LockRef("", KEY, "a"), 0),
    "holder": lambda rig: rig.locks.holder(KEY),
}


@pytest.mark.parametrize("name", [EVERYBODYS, f"{EVERYBODYS}:queue"], ids=["lock", "queue"])
@pytest.mark.parametrize("step", STEPS)
async def test_a_squatted_name_is_told_and_left(rig: Rig, step: str, name: str) -> None:
    await rig.read("RPUSH", name, "somebody else's")
    if step == "holder" and name != EVERYBODYS:
        return
    with pytest.raises(StoreUnavailableError, match="another type") as caught:
        await STEPS[step](rig)
    assert caught.value.code == "internal"
    assert await rig.names() == [name]
    assert await rig.read("LRANGE", name, 0, -1) == [b"somebody else's"]


async def test_a_squatted_lock_guards_nothing(rig: Rig) -> None:
    async with rig.locks.hold(KEY) as lease:
        await lease.release()
        await rig.read("DEL", EVERYBODYS)
        await rig.read("RPUSH", EVERYBODYS, "somebody else's")
        cas = await rig.store.put(session(KEY))
        for write in (
            rig.store.put(session(KEY), fence=lease),
            rig.store.update_cas(session(KEY), cas, fence=lease),
        ):
            with pytest.raises(DecodeError):
                await write
        found = await rig.store.get(KEY)
        assert found is not None
        assert found.cas == cas
        await rig.read("DEL", EVERYBODYS)
        await rig.read("HSET", EVERYBODYS, "by", lease.guard.fence)  # not one of our leases
        assert await rig.locks.holder(KEY) is None


async def test_what_is_no_number_is_no_lease(rig: Rig) -> None:
    await rig.read(
        "HSET", EVERYBODYS, "fence", "x", "lease", "y", "by", "z", "kept", "k", "w:a", ""
    )
    assert await rig.ask("a") > 0


@pytest.mark.parametrize("end", ["9" * 15, "9" * 400, "9" * 5000])
async def test_a_lease_beyond_all_time_is_told(rig: Rig, end: str) -> None:
    await rig.read("HSET", EVERYBODYS, "fence", "1", "lease", end, "by", "z", "name", "")
    with pytest.raises(StoreUnavailableError, match="cannot be read") as caught:
        await rig.locks.holder(KEY)
    assert caught.value.code == "internal"
    for take in (rig.locks.hold(KEY, wait=0), rig.locks.hold(KEY), rig.locks.try_hold(KEY)):
        with pytest.raises(OutcomeUnknownError):
            await take.__aenter__()


async def test_an_answer_to_renewing_that_is_none_of_ours_is_told(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(*_arguments: object, **_options: object) -> list[object]:
        return [1, b"1", b"2", b"3"]

    async with rig.locks.hold(KEY) as lease:
        with monkeypatch.context() as patch:
            patch.setattr(RedisClient, "run", run)
            with pytest.raises(OutcomeUnknownError):
                await lease.renew()
        await lease.renew()
