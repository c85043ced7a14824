"""Tests of a cluster: moving slots, lost masters, and calls that span its servers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from greentic_session import (
    DurabilityError,
    SessionKey,
    StoreUnavailableError,
    create_session_store,
)
from greentic_session.ordering import SessionInbox
from greentic_session.testing.servers import valkey_binary
from greentic_session.testing.topologies import ClusterRig, StandaloneRig

from ..support.redis import until_async
from ..support.writers import CTX, numbered, other_master, slot_of, store_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from greentic_session import AsyncSessionStore

    Store = AsyncSessionStore[Any]

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(150)]

KEYS = [SessionKey(f"writer-{number}") for number in range(12)]


@pytest.fixture
async def rig() -> AsyncIterator[ClusterRig]:
    async with ClusterRig(valkey_binary()) as rig:
        yield rig


async def test_one_reachable_seed_is_enough(rig: ClusterRig) -> None:
    alive = rig.nodes[-1]
    url = f"redis+cluster://127.0.0.1:1,127.0.0.1:2,{alive.address}?namespace=test:{uuid4().hex}"
    async with create_session_store(url) as store:
        for key in KEYS:
            assert (await store.create(numbered(key, 1))).value == 1
        assert store.statistics().connections == 3


async def test_unreachable_seeds_are_reported_by_the_deadline() -> None:
    url = "redis+cluster://127.0.0.1:1,127.0.0.1:2?deadline=0.5"
    async with create_session_store(url) as store:
        with pytest.raises(StoreUnavailableError, match="could not be reached"):
            await store.ping()


async def test_a_server_outside_a_cluster_is_reported() -> None:
    async with StandaloneRig(valkey_binary()) as rig:
        url = rig.url.replace("redis://", "redis+cluster://")
        async with create_session_store(f"{url}?deadline=0.5") as store:
            with pytest.raises(StoreUnavailableError) as caught:
                await store.ping()
            assert caught.value.reason == "the server is not part of a cluster"
        async with ClusterRig(valkey_binary(), replicas=0) as cluster:
            node = cluster.nodes[0].address
            async with create_session_store(f"redis://{node}?deadline=0.5") as store:
                with pytest.raises(StoreUnavailableError) as caught:
                    await asyncio.gather(*(store.get(key, ctx=CTX) for key in KEYS))
                assert caught.value.reason == "the server answered MOVED: it is part of a cluster"


async def test_get_many_and_scan_span_the_servers_while_slots_move(rig: ClusterRig) -> None:
    async with store_of(rig) as store:
        keys = [SessionKey(f"session-{number}") for number in range(400)]
        await asyncio.gather(*(store.create(numbered(key, 1)) for key in keys))
        moved = iter(keys)

        async def move_one() -> None:
            key = next(moved)
            await rig.move_slot(slot_of(key), await other_master(rig, key))

        found = await store.get_many([*keys, SessionKey("absent")], ctx=CTX)
        assert [one.session.key for one in found if one] == keys
        assert found[-1] is None
        seen: list[SessionKey] = []
        async for number, one in _counted(store):
            seen.append(one)
            if number % 50 == 0 and number <= 300:
                await move_one()
                again = await store.get_many(keys, ctx=CTX)
                assert [one.session.key for one in again if one] == keys
        assert sorted(seen) == sorted(keys)


async def _counted(store: Store) -> AsyncIterator[tuple[int, SessionKey]]:
    number = 0
    async for one in store.scan(CTX):
        number += 1
        yield number, one.session.key


async def test_a_slot_that_moves_behind_the_scan_hides_nothing(rig: ClusterRig) -> None:
    """From a master that was not yet scanned to one that was. The scanner makes no other call."""
    namespace = f"test:{uuid4().hex}"
    async with (
        store_of(rig, namespace=namespace) as writer,
        store_of(rig, namespace=namespace) as scanner,
    ):
        keys = [SessionKey(f"session-{number}") for number in range(90)]
        await asyncio.gather(*(writer.create(numbered(key, 1)) for key in keys))
        seen: list[SessionKey] = []
        moved = 0
        async for found in scanner.scan(CTX, batch_size=10):
            seen.append(found.session.key)
            first, last = [await rig.master_of(slot_of(key)) for key in (seen[0], seen[-1])]
            if not moved and last is not first:  # the scan of the first master has ended
                for key in [key for key in keys if key not in seen][:12]:
                    if await rig.master_of(slot_of(key)) is not first:
                        moved += await rig.move_slot(slot_of(key), first)
        assert moved > 0
        assert sorted(seen) == sorted(keys)


async def test_servers_that_hold_no_slots_any_more_are_left(rig: ClusterRig) -> None:
    async with store_of(rig) as store:
        for key in KEYS:
            await store.create(numbered(key, 1))
        for _ in range(2):
            for key in KEYS[:3]:
                master = await rig.master_of(slot_of(key))
                (replica,) = await rig.replicas_of(master)
                await rig.failover(replica)
                await rig.until_ok()
            await asyncio.gather(*(store.get(key, ctx=CTX) for key in KEYS))

        async def only_masters() -> bool:
            await store.get_many(KEYS, ctx=CTX)
            return len(store._client._topology.servers) == 3  # type: ignore[attr-defined]

        await until_async(only_masters)


async def test_mail_is_as_durable_as_its_index_entry(rig: ClusterRig) -> None:
    async with store_of(rig, namespace="n", acks=1, deadline=2) as store:
        inbox = SessionInbox(store, CTX, attempts=1)
        index = await rig.master_of(rig.slot_of("n:inbox:{inbox}"))
        (replica,) = await rig.replicas_of(index)
        keys = [key for key in KEYS if await rig.master_of(slot_of(key)) is not index]
        await inbox.admit(keys[0], "poison", b"")
        with pytest.raises(ZeroDivisionError):
            async with inbox.take("worker"):
                raise ZeroDivisionError
        rig.pause(replica)
        try:
            # The replica that would take over has no message and no dead letter.
            with pytest.raises(DurabilityError):
                await inbox.admit(keys[1], "e1", b"")
            with pytest.raises(DurabilityError):
                async with inbox.take("worker"):
                    pass
        finally:
            rig.resume(replica)
        assert not (await inbox.admit(keys[1], "e1", b"")).is_new
        async with inbox.take("worker", wait=20) as turn:
            assert turn is not None
            await turn.finish()
