"""Tests of each writing verb's result and effect, with and without a replica's confirmation."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest

from greentic_session import DurabilityError, LeaseLostError, create_session_store
from greentic_session.redis import scripts as lua
from greentic_session.redis.transport.acks import TOUCH_FOR_WAIT

from ..support.redis import until_async
from ..support.truth_table import (
    GOLDEN,
    Column,
    Observer,
    ReplicatedRig,
    columns,
    table,
)
from ..support.truth_verbs import CASES, HERE, Bench

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from greentic_session.testing.topologies.node import Node

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

UNCONFIRMED: Final = {
    lua.RENEW_CLAIM,
    lua.RELEASE_CLAIM,
    lua.RENEW_TURN,
    lua.RELEASE_TURN,
    lua.RENEW_LOCK,
    lua.RELEASE_LOCK,
    lua.AFFINITY_RENEW,
    lua.AFFINITY_LEAVE,
}
"""Scripts of renewals and releases, which replicas need not confirm."""


@pytest.fixture
async def rig() -> AsyncIterator[ReplicatedRig]:
    async with ReplicatedRig() as rig:
        yield rig


async def test_each_verb_returns_and_stores_what_the_table_says(rig: ReplicatedRig) -> None:
    runs = columns()
    for run in runs:
        await run.run(rig)
    assert table(runs).splitlines() == GOLDEN.read_text("utf-8").splitlines()
    assert lost_after_failover(runs[-1]) == {}


def lost_after_failover(run: Column) -> dict[str, tuple[str, str]]:
    """Return the acknowledged writes that the promoted replica lacks."""
    lost = {}
    for name, (script, _) in CASES.items():
        seen, stored = run.rows[name][-1]
        if seen.startswith("**") and "DuplicateEvent" not in seen:
            continue  # refused, or of unknown outcome
        if script in UNCONFIRMED or name == "resume":  # leaving its block releases the claim
            continue
        if essentials(stored) != essentials(run.promoted[name]):
            lost[name] = stored, run.promoted[name]
    return lost


def essentials(state: str) -> set[str]:
    """What is stored, without index entries and moved early events, which repair themselves."""
    words = {word for word in state.split(", ") if not re.match(r"indexed|due", word)}
    if any("mail" in word for word in words):
        words = {word for word in words if "early" not in word}
    return words - {"nothing"}


# --- the barrier ----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_full", [False, True])
async def test_the_barrier_is_replicated_and_changes_nothing(
    rig: ReplicatedRig, is_full: bool
) -> None:
    ask = rig.master.ask
    await ask("SET", "permanent", "x")
    await ask("SET", "expiring", "x", "PX", 90_000)
    if is_full:
        await ask("CONFIG", "SET", "maxmemory", "1")
    for names in (["absent"], ["absent", "other"], ["absent", "permanent"], ["expiring"]):
        before = await offset(rig.master)
        await ask("EVAL", TOUCH_FOR_WAIT.source, len(names), *names)
        # A ping of the master alone takes less time.
        assert await offset(rig.master) > before + 40, names
    assert set(await ask("KEYS", "*")) == {b"permanent", b"expiring"}
    assert await ask("PTTL", "permanent") == -1
    assert 80_000 < await ask("PTTL", "expiring") <= 90_001


async def offset(node: Node) -> int:
    return int((await node.info("replication"))["master_repl_offset"])


# --- steps that follow an unconfirmed write -------------------------------------------------------


async def forget_scripts(rig: ReplicatedRig, _: Bench) -> None:
    await rig.master.ask("SCRIPT", "FLUSH")


async def squat_index(rig: ReplicatedRig, bench: Bench) -> None:
    (index,) = await rig.master.ask("KEYS", f"*:inbox:{{{bench.name}}}")
    await rig.master.ask("SET", index, "foreign")


@pytest.mark.parametrize("break_index", [forget_scripts, squat_index])
async def test_a_failed_step_after_an_unconfirmed_admit_does_not_replace_its_error(
    rig: ReplicatedRig, break_index: Callable[[ReplicatedRig, Bench], Awaitable[None]]
) -> None:
    async with AsyncExitStack() as stack:
        bench, observer = await bench_on(rig, stack, deadline=0.6)
        await bench.admit("before")
        await rig.until_equal()
        rig.link.black_hole()
        admitting = asyncio.create_task(bench.admit("e1"))

        async def is_in_mailbox() -> bool:
            return "2 mail" in await observer.state(bench.name)

        await until_async(is_in_mailbox)
        await break_index(rig, bench)
        with pytest.raises(DurabilityError):
            await admitting
        rig.link.heal()


async def test_a_known_event_is_acknowledged_only_when_a_replica_has_it(
    rig: ReplicatedRig,
) -> None:
    async with AsyncExitStack() as stack:
        bench, _ = await bench_on(rig, stack, deadline=0.6)
        await bench.admit("before")
        await rig.until_equal()
        rig.link.black_hole()
        for _ in range(2):  # the second call finds the event, which rests on the first call's write
            with pytest.raises(DurabilityError):
                await bench.admit("e1")
        rig.link.heal()
        await rig.until_equal()
        await bench.admit("e1")


async def bench_on(
    rig: ReplicatedRig, stack: AsyncExitStack, *, deadline: float, node: Node | None = None
) -> tuple[Bench, Observer]:
    namespace = f"test:{uuid4().hex}"
    url = f"redis://{(node or rig.master).address}?namespace={namespace}&acks=1"
    store = await stack.enter_async_context(create_session_store(f"{url}&deadline={deadline}"))
    observer = Observer(rig.master, namespace)
    stack.push_async_callback(observer.aclose)
    return Bench(f"user-{uuid4().hex[:8]}", store, stack), observer


async def test_a_write_is_executed_while_an_earlier_one_waits_for_replicas(
    rig: ReplicatedRig,
) -> None:
    """WAIT blocks its connection, so the server waits in short turns."""
    async with AsyncExitStack() as stack:
        namespace = f"test:{uuid4().hex}"
        url = f"redis://{rig.master.address}?namespace={namespace}&acks=1"
        store = await stack.enter_async_context(
            create_session_store(f"{url}&deadline=20&max_connections=1")
        )
        observer = Observer(rig.master, namespace)
        stack.push_async_callback(observer.aclose)
        await Bench("before", store, stack).created()
        rig.link.black_hole()
        writes: list[asyncio.Task[object]] = []
        for name in ("first", "second", "third"):
            writes.append(asyncio.create_task(Bench(name, store, stack).created()))

            async def is_written(name: str = name) -> bool:
                return await observer.state(name) == "v1"

            await until_async(is_written)
        assert not any(write.done() for write in writes)
        rig.link.heal()
        await asyncio.gather(*writes)


# --- renewals -------------------------------------------------------------------------------------


async def test_a_renewal_that_no_replica_confirms_keeps_the_holder_going(
    rig: ReplicatedRig,
) -> None:
    """Test a lock, claim, turn and membership, with the replica away for more than a lease."""
    lease_secs = 0.9
    async with AsyncExitStack() as stack:
        bench, _ = await bench_on(rig, stack, deadline=0.5)
        await bench.register()
        await bench.admit()
        inbox = type(bench.inbox)(bench.store, bench.ctx, name=bench.name, lease=lease_secs)
        lock = await stack.enter_async_context(bench.locks.hold(bench.key, lease=lease_secs))
        claim = await bench.waits.claim(bench.ctx, bench.name, HERE, lease=lease_secs)
        await stack.enter_async_context(claim.auto_renew())
        turn: Any = await stack.enter_async_context(inbox.take("w"))
        member = await stack.enter_async_context(bench.affinity.member("w", lease=lease_secs))
        await rig.until_equal()
        rig.link.black_hole()
        first = [lock.until, claim.lease_until, turn.lease_until, member.lease_until]

        async def are_renewed() -> bool:
            now = [lock.until, claim.lease_until, turn.lease_until, member.lease_until]
            return all(
                (later - earlier).total_seconds() > 1.5 * lease_secs
                for earlier, later in zip(first, now, strict=True)
            )

        await until_async(are_renewed)
        assert not any(held.ended for held in (lock, claim, turn, member))
        rig.link.heal()


async def test_after_a_failover_an_unconfirmed_renewal_is_fenced(rig: ReplicatedRig) -> None:
    """The new master has an older lease. So another holder gets a higher token."""
    lease_secs = 0.9
    with suppress(LeaseLostError):
        async with AsyncExitStack() as stack:
            bench, observer = await bench_on(rig, stack, deadline=0.5)
            stale = await stack.enter_async_context(bench.locks.hold(bench.key, lease=lease_secs))
            await rig.until_equal()
            rig.link.black_hole()
            await stale.renew(60)
            await rig.promote()
            url = f"redis://{rig.replica.address}?namespace={observer.namespace}"
            async with create_session_store(url) as store:
                other = Bench(bench.name, store, stack)
                async with other.locks.hold(other.key, lease=60, wait=20) as lease:
                    assert not stale.ended  # it does not know
                    assert lease.fence > stale.fence
                    with pytest.raises(LeaseLostError):
                        await store.put(bench.session, fence=stale)
                    await store.put(bench.session, fence=lease)
