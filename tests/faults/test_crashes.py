"""Tests of killed servers, with and without persistence."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

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
from greentic_session.testing.history import Ending

from ..support.redis import CTX, patiently, session, store_at
from ..support.waits import USER, chat
from ..waits.test_wait_server_lost import endings, taken, turns_of
from .invariants import at_work

if TYPE_CHECKING:
    from greentic_session.testing.history import Operation
    from greentic_session.testing.servers import LocalServer
    from greentic_session.testing.topologies import StandaloneRig

    from ..support.waits import Registry

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(150)]


async def test_kill_9_while_writing_aof_on_restart(durable: StandaloneRig) -> None:
    async with at_work(durable.url, nodes=durable.nodes, deadline_secs=20) as company:
        await durable.kill(durable.node)
        await durable.restart(durable.node)
        await company.clients.has_done(50)
    # Retried under their operation ids. The histories show that no acknowledged write is lost.
    assert company.retries > 0
    assert not company.clients.met["StoreUnavailableError"]


async def test_kill_9_while_writing_without_persistence(standalone: StandaloneRig) -> None:
    """The histories before and after the kill each have an order, but not the two together."""
    key = SessionKey("before the kill")
    namespace = f"test:{uuid4().hex}"
    async with (
        store_at(standalone.url, namespace=namespace) as store,
        at_work(standalone.url, waits=False, namespace=namespace) as company,
    ):
        token = await store.create(session(key))
        await standalone.kill(standalone.node)
        killed_at = company.clients.clock()
        company.clients.parts = lambda whole: halves(whole, killed_at)
        await standalone.restart(standalone.node)
        await company.clients.has_done(100)
        # The loss misleads no client: a write over a lost version is refused, with an absent token.
        with pytest.raises(CasConflictError) as conflict:
            await store.update_cas(session(key), token)
        assert conflict.value.current == Cas.none()
        assert await store.get(key, ctx=CTX) is None


def halves(operations: list[Operation], parted_at: int) -> tuple[list[Operation], list[Operation]]:
    """Split a history at a time. Calls in progress then are in both halves.

    Their outcome is unknown, because either server may have executed them.
    """
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


async def test_kill_9_while_writing_without_persistence_waits_are_gone_and_fences_higher(
    server: LocalServer,
) -> None:
    async with store_at(server.url, deadline=5) as store:
        waits: Registry = WaitRegistry(store)
        turns = await turns_of(waits)
        highest = max(turn.fence for turn in turns.values())
        server.kill()
        server.start()
        assert await patiently(lambda: waits.list_waits_for_user(CTX, USER)) == []
        for verb, ending in endings(turns).items():
            assert await waits.find_wait_by_scope(CTX, USER, chat(verb)) is None
            with pytest.raises(WaitNotFoundError):
                await waits.claim(CTX, USER, chat(verb))
            if verb == "release":
                assert await ending(store) is False
                continue
            with pytest.raises(LeaseLostError):
                await ending(store)
        for verb in turns:
            assert (await taken(waits, verb)).fence > highest
