"""Contract tests of waiting for messages: each wakes one waiter, and none gets lost."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import pytest

from ...._core.subscribers import Subscribers
from ..assertions import asleep
from ..samples import KEY
from .helpers import PATIENCE, counted, desk

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ....abc.notifications import Subscription
    from ...harness import StoreHarness
    from .helpers import InboxHarness


class _Taker:
    """A worker that waits for one turn and holds it until told to leave.

    :ivar key: key of the session whose turn it has.
    :ivar took: event that is set when the worker has a turn.
    :ivar leave: event that lets the worker end the turn.
    :ivar scope: cancel scope of its task.
    """

    def __init__(self, at: InboxHarness) -> None:
        self.at = at
        self.key = ""
        self.took = anyio.Event()
        self.leave = anyio.Event()
        self.scope = anyio.CancelScope()

    async def run(self) -> None:
        with self.scope:
            async with self.at.inbox.take("worker-1") as turn:
                self.key = turn.key
                self.took.set()
                await self.leave.wait()
                await turn.finish(counted(turn))


class _NoNotifications:
    """Subscriptions without notifications, as for an account that may not subscribe."""

    def __init__(self) -> None:
        self._subscribers = Subscribers()

    @asynccontextmanager
    async def subscribe(self, _inbox: str, _scope: str) -> AsyncGenerator[Subscription]:
        with self._subscribers.subscribed(is_notified=False) as subscription:
            yield subscription


@pytest.mark.anyio
class InboxWakingContract:
    """A waiter is woken for available work, even if other waiters end."""

    async def test_as_many_are_woken_as_there_is_work_for(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        peer = await at.peer()
        takers = [_Taker(one) for one in (at, at, at, peer, peer)]
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for taker in takers:
                    tasks.start_soon(taker.run)
                await asleep(at.store)
                for number in range(5):
                    await at.admit("e1", key=f"k{number}")
                for taker in takers:
                    await taker.took.wait()  # while the other takers hold theirs
                for taker in takers:
                    taker.leave.set()
        assert sorted(taker.key for taker in takers) == [f"k{number}" for number in range(5)]

    async def test_mail_is_taken_although_the_woken_worker_is_cancelled(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        takers = [_Taker(at) for _ in range(5)]
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for taker in takers:
                    tasks.start_soon(taker.run)
                    await asleep(at.store)
                await at.admit("e1")
                for taker in takers[:-1]:
                    taker.scope.cancel()
                    await anyio.lowlevel.checkpoint()
                await takers[-1].took.wait()
                takers[-1].leave.set()
        assert await at.told() == ["e1"]

    async def test_a_waiting_worker_takes_a_session_when_its_backoff_ends(
        self, harness: StoreHarness
    ) -> None:
        rest_secs = 0.2
        at = await desk(harness, retry_delay=rest_secs)
        await at.admit("e1")
        assert await at.fail() == (["e1"], 1)
        takers = [_Taker(at) for _ in range(3)]
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for taker in takers:
                    tasks.start_soon(taker.run)
                    await asleep(at.store)
                await at.admit("e1", key="other")  # for the longest waiter
                await takers[0].took.wait()
                await harness.advance(rest_secs)
                await takers[1].took.wait()
                for taker in takers[:2]:
                    taker.leave.set()
                takers[2].scope.cancel()
        assert {taker.key for taker in takers[:2]} == {KEY, "other"}

    async def test_a_newcomer_that_knows_when_mail_is_due_takes_it_then(
        self, harness: StoreHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rest_secs = 0.2
        at = await desk(harness, retry_delay=rest_secs)
        monkeypatch.setattr(at.backend, "subscribe", _NoNotifications().subscribe)
        taker, newcomer = _Taker(at), _Taker(at)
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(taker.run)
                await asleep(at.store)  # for the maximum time, because no message is due
                peer = await at.peer(retry_delay=rest_secs)
                await peer.admit("e1")
                assert await peer.fail() == (["e1"], 1)
                tasks.start_soon(newcomer.run)
                await asleep(at.store)
                await harness.advance(rest_secs)
                await newcomer.took.wait()
                newcomer.leave.set()
                taker.scope.cancel()
        assert await at.told() == ["e1"]
