"""No acknowledged wait is lost with a server, whichever of its steps the replicas have."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch
from uuid import uuid4

import pytest

from greentic_session import (
    DuplicateEventError,
    DurabilityError,
    OutcomeUnknownError,
    SessionKey,
    StoreUnavailableError,
    WaitRegistry,
    create_session_store,
)
from greentic_session.redis.transport.cluster import slot_of
from greentic_session.redis.waits import RedisWaitCall
from greentic_session.testing.servers import valkey_binary
from greentic_session.testing.topologies import ClusterRig

from ..support.truth_table import ReplicatedRig
from ..support.waits import CTX, USER, chat, paused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from greentic_session.abc.waits import IndexChange

    Waits = WaitRegistry[Any]
    Verb = Callable[[Waits, str], Awaitable[object]]

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]

HERE, THERE = chat("here"), chat("there")
ATTEMPT: Final = "a"


async def _register(waits: Waits, name: str) -> None:
    await waits.register_wait(CTX, USER, THERE, paused(name))


async def _wait_again(waits: Waits, name: str) -> None:
    claim = await waits.claim(CTX, USER, HERE, attempt_id=ATTEMPT)
    assert claim.key == name
    await claim.wait_again(claim.session, THERE)


VERBS: Final[list[Verb]] = [_register, _wait_again]
verbs = pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)


@pytest.fixture
async def rig() -> AsyncIterator[ReplicatedRig]:
    async with ReplicatedRig() as rig:
        yield rig


@asynccontextmanager
async def waits_at(url: str, namespace: str, **options: object) -> AsyncIterator[Waits]:
    given = "".join(f"&{name}={value}" for name, value in options.items())
    async with create_session_store(f"{url}?namespace={namespace}{given}") as store:
        yield WaitRegistry(store)


@verbs
async def test_an_index_entry_that_no_replica_has_is_found_by_its_intent(
    rig: ReplicatedRig, verb: Verb
) -> None:
    """One server: WAIT for the record covers the intent, and not the entry written after it."""
    namespace = f"test:{uuid4().hex}"
    update_index = RedisWaitCall.update_index

    async def cut_off(self: RedisWaitCall, *arguments: Any) -> None:
        rig.link.black_hole()
        await update_index(self, *arguments)

    url = f"redis://{rig.master.address}"
    async with waits_at(url, namespace, acks=1, deadline=20) as waits:
        await waits.register_wait(CTX, USER, HERE, paused("form"))
        with patch.object(RedisWaitCall, "update_index", cut_off):
            await verb(waits, "form")
    await rig.promote()
    async with waits_at(f"redis://{rig.replica.address}", namespace) as waits:
        assert await waits.find_wait_by_scope(CTX, USER, THERE) == "form"
        assert await waits.list_waits_for_user(CTX, USER) == ["form"]
        claim = await waits.claim(CTX, USER, THERE)
        assert claim.key == "form"


@verbs
async def test_in_a_cluster_a_wait_is_acknowledged_when_a_replica_of_its_index_has_it(
    verb: Verb,
) -> None:
    """The replicas of the record are not those of the index."""
    namespace = f"test:{uuid4().hex}"
    async with ClusterRig(valkey_binary()) as rig, waits_at(rig.url, namespace, acks=1) as waits:
        store: Any = waits._store
        master = await rig.master_of(
            slot_of(store._names.wait_index("default", "acme", None, USER))
        )
        name = ""
        for number in range(100):
            name = f"form-{number}"
            record = store._names.record("default/acme", SessionKey(name))
            if await rig.master_of(slot_of(record)) is not master:
                break
        await waits.register_wait(CTX, USER, HERE, paused(name))
        (replica,) = await rig.replicas_of(master)
        rig.pause(replica)
        try:
            with pytest.raises(DurabilityError):
                await verb(waits, name)
        finally:
            rig.resume(replica)
        assert await waits.find_wait_by_scope(CTX, USER, THERE) == name
        await rig.until_ok()
        await waits.register_wait(CTX, USER, THERE, paused(name))  # which a replica confirms now


async def test_a_wait_whose_index_was_not_reached_is_not_acknowledged(rig: ReplicatedRig) -> None:
    """A failover between the intent and the record may have lost the intent."""
    namespace = f"test:{uuid4().hex}"
    down = patch.object(RedisWaitCall, "update_index", side_effect=StoreUnavailableError("down"))
    async with waits_at(f"redis://{rig.master.address}", namespace, acks=1, deadline=20) as waits:
        with down, pytest.raises(OutcomeUnknownError):
            await waits.register_wait(CTX, USER, HERE, paused("form"))
        assert await waits.find_wait_by_scope(CTX, USER, HERE) == "form"


async def test_a_wait_is_entered_in_the_index_although_the_one_before_it_is_out_of_reach(
    rig: ReplicatedRig,
) -> None:
    namespace = f"test:{uuid4().hex}"
    changes: list[IndexChange] = []
    update_index = RedisWaitCall.update_index

    async def noted(self: RedisWaitCall, wait_owner: Any, change: Any, events: Any) -> None:
        changes.append(change)
        await update_index(self, wait_owner, change, events)

    down = patch.object(RedisWaitCall, "supersede", side_effect=StoreUnavailableError("down"))
    async with waits_at(f"redis://{rig.master.address}", namespace, acks=1, deadline=20) as waits:
        await waits.register_wait(CTX, USER, HERE, paused("before"))
        with down, patch.object(RedisWaitCall, "update_index", noted):
            await waits.register_wait(CTX, USER, HERE, paused("form"), event_id="start")
        (change,) = changes
        assert change.upsert is not None
        assert change.upsert.key == "form"
        assert len(change.events) == 1
        assert await waits.find_wait_by_scope(CTX, USER, HERE) == "form"


async def test_a_repeated_registration_restores_the_index_entry_that_its_event_lost(
    valkey_url: str,
) -> None:
    """The record remembers the event, and the server of the index lost both."""
    namespace = f"test:{uuid4().hex}"
    async with waits_at(valkey_url, namespace) as waits:
        store: Any = waits._store
        await waits.register_wait(CTX, USER, HERE, paused("form"), event_id="start")
        index = store._names.wait_index("default", "acme", None, USER)
        await store._client.read("DEL", index, store._names.events(index), key=index)
        assert await waits.find_wait_by_scope(CTX, USER, HERE) is None
        with pytest.raises(DuplicateEventError):
            await waits.register_wait(CTX, USER, HERE, paused("form"), event_id="start")
        assert await waits.find_wait_by_scope(CTX, USER, HERE) == "form"
