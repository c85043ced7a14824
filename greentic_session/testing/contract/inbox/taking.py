"""Contract tests of taking turns: one worker at a time, in order, fairly, with the state."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from ....abc.fencing import LeaseKind
from ....errors import LeaseLostError
from ....model import Cas
from ..samples import GLOBEX, KEY, ctx, session
from .helpers import LEASE, OWNER, PATIENCE, desk

if TYPE_CHECKING:
    from ...harness import StoreHarness
    from .helpers import InboxHarness


@pytest.mark.anyio
class InboxTakingContract:
    """One worker at a time has a session's messages, in order."""

    async def test_without_mail_there_is_no_turn(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        assert await at.is_idle()
        for wait in (0, 0.0, timedelta(0), 0.01):
            async with at.inbox.take("worker-1", wait=wait) as turn:
                assert turn is None

    async def test_a_turn_has_the_mail_in_order_and_the_state(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        cas = await at.store.put(session(context={"n": 1}))
        await at.admit(*(f"e{n}" for n in range(12)))
        async with at.turn() as turn:
            assert turn.key == KEY
            assert turn.session is not None
            assert turn.session.context == {"n": 1}
            assert turn.cas == cas
            assert [mail.event_id for mail in turn.mail] == [f"e{n}" for n in range(12)]
            assert {mail.attempt for mail in turn.mail} == {1}
            guard = turn.guard
            assert (guard.kind, guard.key, guard.fence) == (LeaseKind.INBOX, KEY, turn.fence)
            assert guard.scope == "default/acme"
            assert not turn.ended
            await turn.finish()
            assert turn.ended

    async def test_a_session_that_is_not_there_is_none(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.admit("e1")
        async with at.turn() as turn:
            assert turn.session is None
            assert turn.cas == Cas.none()
            await turn.finish()

    @pytest.mark.parametrize("is_taken", [True, False])
    async def test_a_turn_granted_later_than_its_lease_is_handed_out_only_if_it_is_held(
        self, harness: StoreHarness, monkeypatch: pytest.MonkeyPatch, is_taken: bool
    ) -> None:
        """The grant waited for replicas, and another worker may have had the turn meanwhile."""
        at = await desk(harness)
        peer = await at.peer()
        await at.admit("e1")
        calls = type(at.backend.call())
        take = calls.take

        async def late(call: Any, request: Any) -> Any:
            taken: Any = await take(call, request)
            monkeypatch.setattr(calls, "take", take)
            if is_taken:
                await harness.advance(LEASE)
                assert await peer.handle() == ["e1"]
            return taken._replace(left_ms=0)

        monkeypatch.setattr(calls, "take", late)
        async with at.take() as turn:
            if is_taken:
                assert turn is None
                return
            assert turn is not None
            assert not turn.ended
            await turn.finish()
        assert await peer.is_idle()

    async def test_a_session_in_a_turn_is_not_taken_by_another_worker(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        peer = await at.peer()
        await at.admit("e1")
        async with at.turn() as turn:
            assert await peer.is_idle()
            await at.admit("e2")
            assert await peer.is_idle()
            await turn.finish()
        assert await peer.handle() == ["e2"]

    async def test_as_many_are_handed_out_as_asked_for(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.admit(*"abcde")
        assert await at.handle(most=2) == ["a", "b"]
        assert await at.handle(most=2) == ["c", "d"]
        assert await at.handle(most=2) == ["e"]
        assert await at.is_idle()

    async def test_sessions_are_served_in_the_order_in_which_they_came(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        for key in "cab":
            await at.admit("e1", "e2", key=key)
            await harness.advance(1)
        assert await at.drain() == [(key, ["e1", "e2"]) for key in "cab"]

    async def test_a_session_with_much_mail_does_not_starve_others(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        await at.admit("e1", "e2", "e3", key="chatty")
        await harness.advance(1)
        await at.admit("f1", key="terse")
        await harness.advance(1)
        assert await at.handle(most=1) == ["e1"]
        await harness.advance(1)
        assert await at.handle(most=1) == ["f1"]
        assert await at.handle(most=1) == ["e2"]

    async def test_tenants_do_not_share_messages(self, harness: StoreHarness) -> None:
        at = await desk(harness, tenants="all")
        owners = {"acme": ctx(), GLOBEX: ctx(GLOBEX)}
        for tenant_id, owner in owners.items():
            await at.store.put(session(owner=owner, context={"whose": tenant_id}))
            await at.admit(f"for {tenant_id}", owner=owner)
        seen: set[str] = set()
        for _ in owners:
            async with at.turn() as turn:
                tenant_id = turn.tenant.tenant_id
                assert turn.session is not None
                assert turn.session.context == {"whose": tenant_id}
                assert [mail.event_id for mail in turn.mail] == [f"for {tenant_id}"]
                seen.add(tenant_id)
                await turn.finish()
        assert seen == set(owners)

    async def test_inboxes_of_other_names_are_others(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        other = await at.peer(name="other")
        await at.admit("e1")
        assert await other.is_idle()
        await other.admit("f1", key="other")
        assert await at.drain() == [(KEY, ["e1"])]
        assert await other.drain() == [("other", ["f1"])]

    async def test_fences_grow(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        fences: list[int] = []
        for number in range(5):
            await at.admit(f"e{number}")
            async with at.turn() as turn:
                fences.append(turn.fence)
                await turn.finish()
        assert fences == sorted(set(fences))
        assert fences[0] > 10**15  # in microseconds, so they increase even if all trace is lost

    async def test_a_dead_workers_mail_is_taken_again_in_order(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        peer = await at.peer()
        await at.admit("e1", "e2", "e3")
        async with at.doomed() as turn:
            await at.die(turn)
            async with peer.turn("worker-2") as second:
                # The worker died at the first message, so that one comes alone.
                assert [(mail.event_id, mail.attempt) for mail in second.mail] == [("e1", 2)]
                assert second.fence > turn.fence
                await second.finish()
            with pytest.raises(LeaseLostError):
                await turn.finish()
        assert await peer.handle() == ["e2", "e3"]

    async def test_a_lease_is_kept_by_renewing(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        peer = await at.peer()
        await at.admit("e1")
        async with at.turn() as turn:
            for _ in range(3):
                await harness.advance(LEASE * 0.6)
                until = turn.lease_until
                assert await turn.renew() == turn.lease_until
                assert turn.lease_until >= until
                assert await peer.is_idle()
            await turn.finish()

    @pytest.mark.parametrize("most", [1, 3])
    async def test_many_workers_take_each_message_once(
        self, harness: StoreHarness, most: int
    ) -> None:
        at = await desk(harness)
        peers = [at, await at.peer()]
        for number in range(5):
            await at.admit(*(f"{number}{letter}" for letter in "abcdef"), key=f"k{number}")
        told: dict[str, list[str]] = {f"k{number}": [] for number in range(5)}
        in_hand: set[str] = set()
        left = 30

        async def work(peer: InboxHarness) -> None:
            nonlocal left
            while left:
                async with peer.take(most=most, wait=0.02) as turn:
                    if turn is None:
                        continue
                    assert turn.key not in in_hand
                    in_hand.add(turn.key)
                    await anyio.lowlevel.checkpoint()
                    told[turn.key] += [mail.event_id for mail in turn.mail]
                    left -= len(turn.mail)
                    in_hand.discard(turn.key)
                    await turn.finish()

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for number in range(6):
                    tasks.start_soon(work, peers[number % 2])
        assert told == {
            f"k{number}": [f"{number}{letter}" for letter in "abcdef"] for number in range(5)
        }
        assert await at.is_idle()

    async def test_depth_tells_what_there_is_to_do(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        assert (await at.inbox.depth()).sessions == 0
        for key in "abc":
            await at.admit("e1", key=key)
        depth = await at.inbox.depth()
        assert (depth.sessions, depth.due) == (3, 3)
        async with at.turn() as turn:
            depth = await at.inbox.depth()
            assert (depth.sessions, depth.due) == (3, 2)
            await turn.finish()
        assert (await at.inbox.depth()).sessions == 2
        await at.drain()
        assert (await at.inbox.depth()).sessions == 0

    async def test_an_expired_session_is_none(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.store.put(session(ttl_secs=5, owner=OWNER))
        await at.admit("e1")
        await harness.advance(5)
        async with at.turn() as turn:
            assert turn.session is None
            await turn.finish()
