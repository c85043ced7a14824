"""Tests of the master that Sentinel names: failovers, and their effect at each durability."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec
import pytest
from msgspec.structs import replace as evolve

from greentic_session import (
    DurabilityError,
    ReplyScope,
    SessionKey,
    SessionMeta,
    StoreUnavailableError,
    WaitRegistry,
    create_session_store,
)
from greentic_session.ordering import SessionInbox
from greentic_session.testing.servers import valkey_binary
from greentic_session.testing.topologies import SentinelRig

from ..support.redis import SEED
from ..support.redis_proxy import Fate, Proxy, first_script_of_each_key
from ..support.writers import CTX, numbered, store_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from greentic_session import AsyncSessionStore

    Store = AsyncSessionStore[Any]

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(150)]

KEYS = [SessionKey(f"writer-{number}") for number in range(12)]


@pytest.fixture
async def rig() -> AsyncIterator[SentinelRig]:
    async with SentinelRig(valkey_binary()) as rig:
        yield rig


async def test_a_write_that_too_few_replicas_confirm_is_applied_and_says_so(
    rig: SentinelRig,
) -> None:
    async with store_of(rig, acks=3, deadline=1) as store:
        with pytest.raises(DurabilityError) as caught:
            await store.create(numbered(KEYS[0], 1))
        assert (caught.value.confirmed, caught.value.wanted) == (2, 3)
        assert caught.value.applied
        found = await store.get(KEYS[0], ctx=CTX)
        assert found is not None
        assert found.cas.value == 1


async def test_writes_of_one_tick_share_a_wait(rig: SentinelRig) -> None:
    async with store_of(rig, acks=2) as store:
        await store.create(numbered(SessionKey("first"), 1))
        master = await rig.master()

        async def waits() -> int:
            stats = await master.info("commandstats")
            return int(stats["cmdstat_wait"].split("calls=")[1].split(",")[0])

        before = await waits()
        keys = [SessionKey(f"many-{number}") for number in range(400)]
        cas = await asyncio.gather(*(store.create(numbered(key, 1)) for key in keys))
        assert [token.value for token in cas] == [1] * 400
        assert 1 <= await waits() - before <= 40


async def test_one_sentinel_is_enough(rig: SentinelRig) -> None:
    dice = random.Random(SEED)
    print(f"GREENTIC_SESSION_TEST_SEED={SEED}")  # noqa: T201 - pytest shows it with a failure
    dead, still, _ = dice.sample(rig.sentinels, 3)
    await rig.kill(dead)
    rig.pause(still)
    try:
        async with store_of(rig) as store:
            assert (await store.create(numbered(KEYS[0], 1))).value == 1
    finally:
        rig.resume(still)


async def test_without_a_sentinel_a_known_master_goes_on(rig: SentinelRig) -> None:
    async with store_of(rig) as store:
        cas = await store.create(numbered(KEYS[0], 1))
        master = await rig.master()
        for sentinel in rig.sentinels:
            await rig.kill(sentinel)
        await master.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert (await store.update_cas(numbered(KEYS[0], 2), cas)).value == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("/mymaster/", "/yourmaster/"), "the sentinels know no master of that name"),
        (("127.0.0.1", "127.0.0.2"), "the server could not be reached"),
    ],
)
async def test_what_the_sentinels_do_not_know_is_said(
    rig: SentinelRig, change: tuple[str, str], reason: str
) -> None:
    async with create_session_store(f"{rig.url.replace(*change)}?deadline=0.5") as store:
        with pytest.raises(StoreUnavailableError) as caught:
            await store.ping()
        assert caught.value.reason == reason


async def test_a_write_whose_reply_was_lost_is_confirmed_too(rig: SentinelRig) -> None:
    """WAIT covers its own connection's writes, so a retry answered from the log writes as well."""
    namespace = f"test:{uuid4().hex}"
    master, replicas = await rig.master(), await rig.replicas()
    query = f"namespace={namespace}&acks=2"
    async with (
        Proxy(master.port, first_script_of_each_key(Fate.LOSE)) as proxy,
        create_session_store(f"{proxy.url}?{query}&deadline=8") as lossy,
        create_session_store(f"{proxy.url}?{query}&deadline=1.5") as hasty,
        store_of(rig, namespace=namespace) as direct,
    ):
        await direct.create(numbered(SessionKey("other"), 1))  # the server has the script
        cas = await lossy.create(numbered(SessionKey("victim-confirmed"), 1))
        assert cas.value == 1
        assert lossy.statistics().retries == 1
        for replica in replicas:
            rig.pause(replica)
        try:
            with pytest.raises(DurabilityError) as caught:
                await hasty.create(numbered(SessionKey("victim-unconfirmed"), 1))
            assert caught.value.confirmed == 0
            assert hasty.statistics().retries == 1
        finally:
            for replica in replicas:
                rig.resume(replica)
        assert await direct.get(SessionKey("victim-unconfirmed"), ctx=CTX) is not None


async def test_reads_do_not_wait_for_replicas(rig: SentinelRig) -> None:
    """WAIT blocks its connection, so it has a separate one."""
    async with store_of(rig, acks=1, deadline=8, max_connections=1) as store:
        key, other = SessionKey("read"), SessionKey("written")
        await store.create(numbered(key, 1))
        replicas = await rig.replicas()
        for replica in replicas:
            rig.pause(replica)
        try:
            write = asyncio.create_task(store.create(numbered(other, 1)))
            for _ in range(50):
                assert await store.get(key, ctx=CTX) is not None
            assert not write.done()
        finally:
            for replica in replicas:
                rig.resume(replica)
        assert (await write).value == 1


async def test_a_full_master_does_not_turn_a_confirmed_retry_into_a_refusal(
    rig: SentinelRig,
) -> None:
    namespace = f"test:{uuid4().hex}"
    master = await rig.master()
    async with (
        Proxy(master.port, first_script_of_each_key(Fate.LOSE)) as proxy,
        create_session_store(f"{proxy.url}?namespace={namespace}&acks=1&deadline=8") as store,
        store_of(rig, namespace=namespace) as direct,
    ):
        for ttl in (0, 600):
            key = SessionKey(f"victim-{ttl}")
            session = msgspec.structs.replace(numbered(key, 1), ttl_secs=ttl)
            await direct.create(session)
            await direct.put(session)  # the server has the script

            async def fill() -> None:
                await master.ask("CONFIG", "SET", "maxmemory", "1")

            proxy.before_loss = fill
            assert (await store.put(session)).value == 3
            await master.ask("CONFIG", "SET", "maxmemory", "0")
            found = await direct.get(key, ctx=CTX)
            assert found is not None
            assert found.cas.value == 3


async def test_a_turn_that_no_replica_confirmed_has_ended(rig: SentinelRig) -> None:
    async with store_of(rig, acks=1, deadline=1) as store:
        inbox = SessionInbox(store, CTX, lease=60)
        waits: WaitRegistry[Any] = WaitRegistry(store)
        scope, ann = ReplyScope(conversation="unconfirmed"), evolve(CTX, user_id="ann")
        state = numbered(SessionKey("turn"), 1)
        waiting = evolve(numbered(SessionKey("claim"), 1), meta=SessionMeta.of(ann))
        await waits.register_wait(ann, "ann", scope, waiting)
        await inbox.admit(state.key, "e1", b"")
        await inbox.admit(state.key, "e2", b"")
        replicas = await rig.replicas()
        async with inbox.take("worker", most=1) as turn, waits.resume(ann, "ann", scope) as claim:
            for replica in replicas:
                rig.pause(replica)
            try:
                with pytest.raises(DurabilityError):
                    await turn.finish(state)
                with pytest.raises(DurabilityError):
                    await claim.complete(claim.session)
            finally:
                for replica in replicas:
                    rig.resume(replica)
            assert (turn.ended, turn.mail, claim.ended) == (True, (), True)
        async with inbox.take("worker") as turn:  # at once
            assert [mail.event_id for mail in turn.mail] == ["e2"]
            assert turn.cas.value == 1
            await turn.finish()
