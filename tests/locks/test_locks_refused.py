"""Tests of locks on a server that refuses, is silent, or does not notify."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from greentic_session import (
    LeaseLostError,
    LockHeldError,
    OutcomeUnknownError,
    SessionKey,
    StoreFullError,
    StoreUnavailableError,
)
from greentic_session.ordering import SessionLocks
from greentic_session.testing.harness import RedisHarness
from greentic_session.testing.servers import LocalServer, valkey_binary

from ..support.redis import KEY, control, session, store_at, until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from greentic_session import AsyncSessionStore
    from greentic_session.redis.transport.client import RedisClient

    Store = AsyncSessionStore[Any]

pytestmark = pytest.mark.anyio

OTHER: Final = SessionKey("another")
PLACE_SECS: Final = 1.0
SILENCE: Final = (StoreUnavailableError, OutcomeUnknownError)


@pytest.fixture
async def harness(server: LocalServer) -> AsyncIterator[RedisHarness]:
    async with RedisHarness(server.url) as harness:
        yield harness


def waiting(client: RedisClient, namespace: str, count: int = 1) -> Callable[[], Awaitable[bool]]:
    """Return a condition that this number of callers waits for the lock."""

    async def is_so() -> bool:
        found: int = await client.read("ZCARD", f"{namespace}:lock:{{{KEY}}}:queue")
        return found == count

    return is_so


async def test_a_full_server_grants_no_lock_and_keeps_those_that_are_held(
    harness: RedisHarness,
) -> None:
    store = await harness.open()
    locks = SessionLocks(store, place=PLACE_SECS)
    served = False

    async def wait() -> None:
        nonlocal served
        async with locks.hold(KEY) as lease:
            served = True
            await lease.renew(60)

    with anyio.fail_after(20):
        async with asyncio.TaskGroup() as tasks, locks.hold(KEY) as lease:
            tasks.create_task(wait())
            await until_async(waiting(harness.client, harness.config.namespace))
            await harness.client.read("CONFIG", "SET", "maxmemory", "1")
            before = await harness.residue()
            with pytest.raises(StoreFullError):
                await locks.hold(OTHER).__aenter__()
            with pytest.raises(StoreFullError):
                await locks.hold(KEY, wait=1).__aenter__()
            with pytest.raises(LockHeldError):
                await locks.hold(KEY, wait=0).__aenter__()
            with pytest.raises(StoreFullError):
                await store.put(session(), fence=lease)
            assert await lease.renew() == lease.until
            assert await harness.residue() == before
            await asyncio.sleep(PLACE_SECS / 2)  # until the waiter has retried
        assert served
        assert await harness.residue() == []
        await harness.client.read("CONFIG", "SET", "maxmemory", "0")


async def assert_free(client: RedisClient, pattern: str = "n:*") -> None:
    """Check that only the fencing token of each lock is left."""
    for name in await client.read("KEYS", pattern):
        assert b"lock" not in name or await client.read("HKEYS", name) == [b"fence"]


@pytest.mark.parametrize("denied", ["-publish", "-subscribe", "resetchannels"])
async def test_a_caller_that_may_not_subscribe_polls(server: LocalServer, denied: str) -> None:
    async with control(server) as client:
        rules = ("on", ">s3cret", "~*", "&*", "+@all", denied)
        await client.read("ACL", "SETUSER", "ann", *rules)
        url = server.url.replace("://", "://ann:s3cret@")
        async with store_at(url, namespace="n") as store:
            await all_served(client, SessionLocks(store, place=PLACE_SECS), "n")
            await assert_free(client)


async def test_a_caller_whose_connection_was_lost_is_served(server: LocalServer) -> None:
    async with control(server) as client, store_at(server.url, namespace="n") as store:

        async def cut_all() -> None:
            for kind in ("pubsub", "normal"):
                await client.read("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

        locks = SessionLocks(store, place=PLACE_SECS)
        await all_served(client, locks, "n", meanwhile=cut_all)
        await assert_free(client)


async def all_served(
    client: RedisClient,
    locks: SessionLocks,
    namespace: str,
    meanwhile: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Have three waiters, and check that each is served.

    The order is free, because a waiter without a notification may poll too late on a busy machine.
    """
    served: list[int] = []

    async def wait(number: int) -> None:
        async with locks.hold(KEY):
            served.append(number)

    with anyio.fail_after(20):
        async with asyncio.TaskGroup() as tasks, locks.hold(KEY):
            for number in range(3):
                tasks.create_task(wait(number))
                await until_async(waiting(client, namespace, number + 1))
            if meanwhile is not None:
                await meanwhile()
    assert sorted(served) == [0, 1, 2]


async def test_a_silent_server_ends_the_block_with_its_lease() -> None:
    """A renewal without a reply is not known, so the lease ends at its time."""
    cancelled = 0
    with LocalServer(valkey_binary()) as server:
        async with store_at(server.url, deadline=1) as store:
            locks = SessionLocks(store)

            async def hold() -> None:
                nonlocal cancelled
                async with locks.hold(KEY, 1.5):
                    server.pause()
                    try:
                        await anyio.sleep_forever()
                    except asyncio.CancelledError:
                        cancelled += 1
                        raise

            try:
                with anyio.fail_after(20), pytest.raises(LeaseLostError):
                    await hold()
                with pytest.raises(SILENCE):
                    await locks.hold(KEY).__aenter__()
                with pytest.raises(SILENCE):
                    await locks.holder(KEY)
            finally:
                server.resume()
    assert cancelled == 1


async def test_a_server_that_is_silent_for_less_than_the_lease_is_not_felt(
    server: LocalServer,
) -> None:
    async with control(server) as client, store_at(server.url, deadline=1) as store:
        async with SessionLocks(store).hold(KEY, 6) as lease:
            until = lease.until
            server.pause()
            try:
                with pytest.raises(SILENCE):
                    await lease.renew()
            finally:
                server.resume()
            with anyio.fail_after(20):
                while lease.until <= until:  # noqa: ASYNC110 - renewals are not notified
                    await asyncio.sleep(0.01)
            assert not lease.ended
        await assert_free(client, "*")
