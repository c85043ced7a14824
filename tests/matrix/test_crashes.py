"""Servers and workers that are killed, or stopped past their lease."""

from __future__ import annotations

import asyncio
import signal
from itertools import count
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from greentic_session import (
    Cas,
    CasConflictError,
    LeaseLostError,
    SessionKey,
    WaitNotFoundError,
    WaitRegistry,
)
from greentic_session.testing.harness import RedisHarness
from greentic_session.testing.history import Ending, History

from ..history_rig import Clients
from ..redis_rig import CTX, SEED, patiently, session, store_at, until
from ..wait_rig import BLOCKS, ENDINGS, OPEN_BLOCK, USER, Orders, answered, chat, hired, owner
from ..wait_rig import paused
from .invariants import PAUSE_SECS, WRITERS, assert_orderly, at_work, nothing_left

if TYPE_CHECKING:
    from greentic_session.testing.history import Operation
    from greentic_session.testing.topologies import StandaloneRig

    from ..wait_rig import Registry, Store, Turn

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(150)]


async def test_kill_9_while_writing_aof_on_restart(durable: StandaloneRig) -> None:
    async with at_work(durable.url, nodes=durable.nodes, deadline_secs=20) as company:
        await durable.kill(durable.node)
        await durable.restart(durable.node)
        await company.clients.has_done(50)
    # Repeated under their operations' ids; that nothing acknowledged is lost, the histories say.
    assert company.retries > 0
    assert not company.clients.met["StoreUnavailableError"]


async def test_kill_9_while_writing_without_persistence(standalone: StandaloneRig) -> None:
    """What was before the kill and what is after it each has an order, and nothing else."""
    stamps = count(1)
    history = History(clock=stamps.__next__)
    async with nothing_left(standalone.nodes), store_at(standalone.url, deadline=8) as store:
        clients = Clients([history.client(store, "one")], store, pause_secs=PAUSE_SECS)
        keys = [SessionKey(f"key-{number}") for number in range(4)]
        tokens = {key: await store.create(session(f"old {key}")) for key in keys}
        over = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for number in range(WRITERS):
                client = history.client(store, f"c{number}")
                key = keys[number % len(keys)]
                tasks.create_task(clients.play_on(client, key, f"{SEED} {number}", over))
            await clients.has_done(100)
            await durable_kill(standalone)
            killed_at = next(stamps)
            await standalone.restart(standalone.node)
            await clients.has_done(100)
            over.set()
        reader = history.client(store, "reader")
        for key in keys:
            await reader.get(key, ctx=CTX)
        # Nobody is misled by what is gone: the token says of what there is none any more.
        for key, token in tokens.items():
            with pytest.raises(CasConflictError) as conflict:
                await store.update_cas(session(f"old {key}"), token)
            assert conflict.value.current == Cas.none()
    before, after = halves(history.operations(), killed_at)
    assert_orderly(before)
    assert_orderly(after)


async def durable_kill(rig: StandaloneRig) -> None:
    await rig.kill(rig.node)


def halves(
    operations: list[Operation], parted_at: int
) -> tuple[list[Operation], list[Operation]]:
    """A history's operations before and after a time; in both, as of unknown outcome, those that
    were under way at it: which server did them, nobody knows."""
    before: list[Operation] = []
    after: list[Operation] = []
    for one in operations:
        began_before = one.invoked_at < parted_at
        if began_before and one.returned_at is not None and one.returned_at < parted_at:
            before.append(one)
        elif not began_before:
            after.append(one)
        else:
            unknown = msgspec.structs.replace(
                one, ending=Ending.UNKNOWN, returned_at=None, token=None
            )
            before.append(unknown)
            after.append(unknown)
    return before, after
