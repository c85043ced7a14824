"""Tests that the next grant exceeds every stored fencing token, whatever the clock's time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest

from greentic_session import DecodeError, StoreUnavailableError, WaitRegistry
from greentic_session.ordering import SessionAffinity, SessionInbox, SessionLocks
from greentic_session.testing.harness import RedisHarness

from ..support.redis import CTX, KEY
from ..support.waits import CTX as ACME
from ..support.waits import USER, chat, paused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from greentic_session import AsyncSessionStore

    Store = AsyncSessionStore[Any]

pytestmark = pytest.mark.anyio

HALF_AN_HOUR_US: Final = 1_800_000_000
HOUR_MS: Final = 3_600_000


@pytest.fixture(params=["valkey_url", "redis_url"])
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[RedisHarness]:
    async with RedisHarness(request.getfixturevalue(request.param)) as harness:
        yield harness


async def _lock(store: Store) -> int:
    async with SessionLocks(store).hold(KEY, 1) as lease:
        return lease.fence


async def _turn(store: Store) -> int:
    inbox: SessionInbox[Any] = SessionInbox(store, CTX)
    await inbox.admit(KEY, uuid4().hex, b"hello")
    async with inbox.take("worker", wait=20) as turn:
        assert turn is not None
        await turn.finish()
        return turn.fence


async def _claim(store: Store) -> int:
    waits: WaitRegistry[Any] = WaitRegistry(store)
    await waits.register_wait(ACME, USER, chat(), paused("conversation"))
    turn = await waits.claim(ACME, USER, chat())
    await turn.finish()
    return turn.fence


async def _member(store: Store) -> int:
    async with SessionAffinity(store, "group").member("worker") as member:
        return member.fence


GRANTS: Final[dict[str, tuple[str, Callable[[Store], Awaitable[int]]]]] = {
    "lock": ("lock:{conversation}", _lock),
    "turn": ("default:acme:{conversation}:inbox:fence", _turn),
    "claim": ("default:acme:{conversation}:fence", _claim),
    "member": ("affinity:{group}:members", _member),
}
FIELDS: Final = {"member": "\nfence"}
each_grant = pytest.mark.parametrize("grant", GRANTS)


@each_grant
@pytest.mark.parametrize("ahead_us", [HALF_AN_HOUR_US, 90 * HALF_AN_HOUR_US])
async def test_a_grant_exceeds_the_kept_token_and_keeps_its_own_for_an_hour_or_two(
    harness: RedisHarness, grant: str, ahead_us: int
) -> None:
    name, take = GRANTS[grant]
    name = f"{harness.config.namespace}:{name}"
    store = await harness.open()
    secs, _ = await harness.client.read("TIME")
    ahead = int(secs) * 1_000_000 + ahead_us
    field = FIELDS.get(grant, "fence")
    await harness.client.read("HSET", name, field, ahead)
    fence = await take(store)
    assert fence == ahead + 1
    assert await harness.client.read("HGET", name, field) == str(fence).encode()
    left_ms = int(await harness.client.read("PTTL", name))
    kept_ms = min(ahead_us // 1000, HOUR_MS) + HOUR_MS
    assert kept_ms - 60_000 < left_ms <= kept_ms + 1000
    assert await take(await harness.open()) == fence + 1
    await harness.advance(2 * HOUR_MS / 1000 + 1)
    assert name not in [*await harness.tokens(), *await harness.residue()]


@pytest.mark.parametrize("grant", ["turn", "claim"])
async def test_a_squatted_token_is_told_and_left(harness: RedisHarness, grant: str) -> None:
    name, take = GRANTS[grant]
    name = f"{harness.config.namespace}:{name}"
    await harness.client.read("RPUSH", name, "somebody else's")
    with pytest.raises((DecodeError, StoreUnavailableError)):
        await take(await harness.open())
    assert await harness.client.read("LRANGE", name, 0, -1) == [b"somebody else's"]


async def test_leases_of_an_earlier_version_are_left_as_they_are(harness: RedisHarness) -> None:
    """They have no start, so nothing shows that the clock was set back."""
    store = await harness.open()
    secs, _ = await harness.client.read("TIME")
    ends = (int(secs) + 7200) * 1000
    name = f"{harness.config.namespace}:lock:{{conversation}}"
    await harness.client.read(
        *("HSET", name, "fence", 1, "lease", ends, "by", "other", "name", "earlier version")
    )
    for _ in range(2):
        async with SessionLocks(store).try_hold(KEY) as lease:
            assert lease is None
        assert await harness.client.read("HGET", name, "lease") == str(ends).encode()
