"""Contract tests of what stays after the last message: event ids and dead letters for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from ....errors import StoreUnavailableError, TenantMismatchError
from ....model import ReplyScope
from ....ordering import InboxLimits
from ..assertions import asleep
from ..samples import KEY, ctx, session
from .helpers import LEASE, OWNER, PATIENCE, counted, desk

if TYPE_CHECKING:
    from ...harness import StoreHarness

_AGES = 100 * 86_400.0


@pytest.mark.anyio
class InboxLeavingContract:
    """Idle sessions cost nothing."""

    @pytest.mark.parametrize(
        "end", ["finished", "removed", "committed", "died", "failed", "released", "discarded"]
    )
    async def test_nothing_is_left(self, harness: StoreHarness, end: str) -> None:
        at = await desk(harness, attempts=1)
        await at.admit("e1", "e2")
        if end == "removed":
            async with at.turn() as turn:
                await turn.commit(session(), 1)
                await turn.remove()
        elif end == "committed":
            async with at.turn() as turn:
                await turn.commit(None, 1)
                await turn.commit(None, 1)
        elif end == "died":
            async with at.doomed() as turn:
                await turn.commit(None, 2)
                await at.die(turn)
        elif end == "failed":
            for _ in range(2):
                await at.fail()
            assert await at.is_idle()
        elif end == "discarded":
            for _ in range(2):
                await at.fail()
            assert await at.is_idle()
            for letter in await at.dead():
                await at.inbox.discard(letter)
        elif end == "released":
            async with at.turn() as turn:
                await turn.release()
            await at.inbox.admit(KEY, "e3", b"")
            async with at.turn() as turn:
                await turn.finish()
            assert await at.is_idle()
        else:
            async with at.turn() as turn:
                await turn.finish(counted(turn, ttl_secs=1000))
        await harness.advance(_AGES)
        assert await at.is_idle()
        await harness.advance(_AGES)
        assert await harness.residue() == []
        assert await at.dead() == []

    async def test_nothing_is_left_of_early_events(self, harness: StoreHarness) -> None:
        at = await desk(harness, limits=InboxLimits(early_ttl_secs=5))
        await at.inbox.deliver(ctx(), "ann", ReplyScope(conversation="c"), "e1", b"")
        await harness.advance(5)
        assert await harness.residue() == []

    async def test_nothing_is_left_of_a_message_that_was_refused(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness, limits=InboxLimits(mail=1, events_ttl_secs=5))
        await at.store.put(session(owner=ctx(team_id="red"), ttl_secs=5))
        with pytest.raises(TenantMismatchError):
            await at.admit("e1")
        await harness.advance(1000)
        assert await at.is_idle()
        assert await harness.residue() == []

    async def test_deleting_a_session_leaves_its_mail(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.store.put(session())
        await at.admit("e1")
        assert await at.store.delete(KEY, ctx=OWNER)
        async with at.turn() as turn:
            assert turn.session is None
            assert len(turn.mail) == 1
            await turn.finish()

    async def test_a_session_left_by_a_dead_worker_is_no_bar(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.admit("e1")
        async with at.doomed() as turn:
            await turn.commit(counted(turn), 1)
            await harness.advance(LEASE)
            assert await at.is_idle()
            await at.admit("e2")
            assert await at.handle() == ["e2"]
        assert await at.told() == ["e1", "e2"]

    async def test_a_waiting_worker_is_woken_when_the_store_closes(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        ends: list[str] = []

        async def work() -> None:
            try:
                async with at.take(wait=None):
                    ends.append("taken")
            except StoreUnavailableError:
                ends.append("closed")

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(work)
                await asleep(at.store)
                await at.store.aclose()
        assert ends == ["closed"]
