"""Contract tests of ending turns: state, outbox and messages change in one step or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from ....errors import (
    CasConflictError,
    InvalidInputError,
    LeaseLostError,
    PayloadTooLargeError,
    SessionError,
    TenantMismatchError,
)
from ....model import Cas, OutboxEntry
from ....ordering import SessionLocks
from ..assertions import kept
from ..samples import GLOBEX, KEY, LIFE, PART, ctx, evolve, session
from .helpers import LEASE, OWNER, PATIENCE, InboxHarness, counted, desk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ....ordering import InboxTurn
    from ...harness import StoreHarness

    Step = Callable[[InboxTurn[Any]], Awaitable[object]]

_STEPS: Final[dict[str, Step]] = {
    "commit": lambda turn: turn.commit(counted(turn), 1),
    "commit mail": lambda turn: turn.commit(None, 1),
    "finish": lambda turn: turn.finish(counted(turn)),
    "finish mail": lambda turn: turn.finish(),
    "remove": lambda turn: turn.remove(),
    "renew": lambda turn: turn.renew(),
}


@pytest.mark.anyio
class InboxEndingContract:
    """A turn ends in one step."""

    @pytest.mark.parametrize("there", [True, False], ids=["there", "new"])
    async def test_finish_writes_the_state_and_drops_the_mail(
        self, harness: StoreHarness, *, there: bool
    ) -> None:
        at = await desk(harness)
        before = await at.store.put(session()) if there else Cas.none()
        await at.admit("e1", "e2")
        async with at.turn() as turn:
            cas = await turn.finish(counted(turn))
            assert turn.cas == cas
            assert turn.mail == ()
        found = await at.record()
        assert found.cas == cas
        assert cas.value == before.value + 1
        assert cas.incarnation == before.incarnation or not there
        assert found.session.context == {"told": ["e1", "e2"]}
        assert await at.is_idle()

    async def test_what_a_turn_returns_is_what_a_read_would(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.admit("e1", "e2")
        async with at.turn() as turn:
            await turn.commit(counted(turn, ttl_secs=LIFE), 1)
            found = await at.record()
            assert (turn.session, turn.cas) == (found.session, found.cas)
            await turn.finish(counted(turn))
            found = await at.record()
            assert (turn.session, turn.cas) == (found.session, found.cas)

    async def test_commit_goes_on_with_the_rest(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        peer = await at.peer()
        await at.admit("e1", "e2", "e3")
        async with at.turn() as turn:
            first = await turn.commit(counted(turn), 2)
            assert [mail.event_id for mail in turn.mail] == ["e3"]
            assert (await at.admit("e4")).waiting == 2
            assert await peer.is_idle()
            second = await turn.commit(evolve(counted(turn), context={"told": "all"}), 1)
            assert turn.mail == ()
            assert second.value == first.value + 1
            await turn.finish()
        assert (await at.record()).session.context == {"told": "all"}
        assert await peer.handle() == ["e4"]

    async def test_mail_may_be_dropped_without_a_state(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        cas = await at.store.put(session())
        await at.admit("e1", "e2", "e3")
        async with at.turn() as turn:
            assert await turn.commit(None, 1) == cas
            assert await turn.finish() == cas
        assert (await at.record()).cas == cas
        assert await at.is_idle()

    async def test_a_state_may_be_written_without_dropping_mail(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        await at.admit("e1")
        async with at.turn() as turn:
            await turn.commit(session(context={"told": []}), 0)
            assert [mail.event_id for mail in turn.mail] == ["e1"]
        assert await at.handle() == ["e1"]
        assert await at.told() == ["e1"]

    async def test_remove_takes_session_and_mail(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.store.put(session())
        await at.admit("e1")
        async with at.turn() as turn:
            await at.admit("e2")
            await turn.remove()
        assert await at.store.get(KEY, ctx=OWNER) is None
        async with at.turn() as turn:
            assert turn.session is None
            assert [mail.event_id for mail in turn.mail] == ["e2"]
            await turn.remove()
        assert await at.store.get(KEY, ctx=OWNER) is None

    @pytest.mark.parametrize("handled", [0, 1, 2])
    async def test_remove_leaves_mail_that_is_not_handled(
        self, harness: StoreHarness, handled: int
    ) -> None:
        at = await desk(harness)
        await at.store.put(session())
        await at.admit("e1", "e2", "e3")
        async with at.turn() as turn:
            await turn.commit(counted(turn), 1)
            await turn.remove(handled=handled)
            assert turn.ended
            assert [mail.event_id for mail in turn.mail] == ["e2", "e3"][handled:]
            assert (turn.session, turn.cas) == (None, Cas.none())
        assert await at.store.get(KEY, ctx=OWNER) is None
        told = await at.drain()
        assert told == ([(KEY, ["e2", "e3"][handled:])] if handled < 2 else [])

    async def test_no_more_is_removed_than_there_is(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.admit("e1", "e2")
        async with at.turn() as turn:
            wrong: Any
            for wrong in (-1, 3, 1.0, True):
                with pytest.raises(InvalidInputError) as caught:
                    await turn.remove(handled=wrong)
                assert caught.value.field == "handled"
            assert not turn.ended

    async def test_the_outbox_goes_with_the_state_once_each(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.admit("e1", "e2")
        entry = OutboxEntry.for_payload(1, b"reply")
        async with at.turn() as turn:
            await turn.commit(session(outbox=(entry,)), 1)
            assert turn.session is not None
            await turn.finish(evolve(turn.session, outbox=(entry, entry)))
        assert (await at.record()).session.outbox == (entry,)

    async def test_finishing_a_turn_starts_a_new_lifetime(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.store.put(session(ttl_secs=LIFE))
        await harness.advance(PART)
        await at.admit("e1")
        async with at.turn() as turn:
            await turn.finish(counted(turn))
        await harness.advance(PART)
        assert await at.told() == ["e1"]
        await harness.advance(PART)
        assert await at.store.get(KEY, ctx=OWNER) is None
        assert await at.store.get(KEY) is None  # and the lookup has expired with it

    @pytest.mark.parametrize("step", ["commit", "finish", "remove"])
    @pytest.mark.parametrize("there", [True, False], ids=["changed", "made"])
    async def test_a_write_by_others_is_a_conflict_and_the_turn_goes_on(
        self, harness: StoreHarness, step: str, *, there: bool
    ) -> None:
        at = await desk(harness)
        if there:
            await at.store.put(session())
        await at.admit("e1")
        async with at.turn() as turn:
            newer = await at.store.put(session(context={"by": "another"}))
            with pytest.raises(CasConflictError) as caught:
                await _STEPS[step](turn)
            assert caught.value.current == newer
            assert caught.value.expected == turn.cas
            assert not turn.ended
            assert len(turn.mail) == 1
        assert (await at.record()).cas == newer
        assert await at.handle() == ["e1"]

    @pytest.mark.parametrize("end", ["deleted", "expired"])
    async def test_a_session_that_went_meanwhile_is_a_conflict(
        self, harness: StoreHarness, end: str
    ) -> None:
        at = await desk(harness)
        await at.store.put(session(ttl_secs=5))
        await at.admit("e1")
        async with at.turn() as turn:
            if end == "deleted":
                await at.store.delete(KEY, ctx=OWNER)
            else:
                await harness.advance(5)
            with pytest.raises(CasConflictError) as caught:
                await turn.finish(counted(turn))
            assert caught.value.current == Cas.none()
        async with at.turn() as turn:
            assert turn.session is None
            await turn.finish(session())

    async def test_a_session_of_another_owner_is_refused(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.store.put(session(owner=ctx(team_id="red")))
        await at.admit("e1", owner=ctx(team_id="red"))
        async with at.turn() as turn, kept(at.store):
            others = (ctx(GLOBEX), ctx(team_id="blue"), ctx(), ctx(env="staging"))
            for owner in (*others, ctx(GLOBEX, team_id="red")):
                with pytest.raises(TenantMismatchError):
                    await turn.finish(session(owner=owner))
            assert not turn.ended

    async def test_what_is_no_session_of_this_turn_is_refused(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.admit("e1", "e2")
        async with at.turn() as turn:
            wrong: Any
            for wrong, field in ((session("other"), "session"), ("text", "session")):
                with pytest.raises(InvalidInputError) as caught:
                    await turn.finish(wrong)
                assert caught.value.field == field
            for wrong in (-1, 3, 1.0, True, None):
                with pytest.raises(InvalidInputError) as caught:
                    await turn.commit(session(), wrong)
                assert caught.value.field == "handled"
            assert len(turn.mail) == 2
            await turn.finish(session())

    async def test_a_session_too_large_is_refused(self, harness: StoreHarness) -> None:
        at = InboxHarness(harness, await harness.open(max_payload_bytes=2000))
        await at.admit("e1")
        async with at.turn() as turn:
            with pytest.raises(PayloadTooLargeError):
                await turn.finish(session(context={"text": "x" * 2000}))
            await turn.finish(session())

    @pytest.mark.parametrize("how", ["ended", "released", "run out", "taken by another"])
    async def test_what_is_held_no_longer_is_refused(self, harness: StoreHarness, how: str) -> None:
        at = await desk(harness)
        cas = await at.store.put(session())
        for number, step in enumerate(_STEPS.values()):
            key = f"conversation-{number}"
            await at.admit("e1", "e2", key=key)
            if how in ("ended", "released"):
                async with at.turn() as turn:
                    await (turn.finish() if how == "ended" else turn.release())
                    with pytest.raises(LeaseLostError):
                        await step(turn)
                    assert turn.ended
                    assert await turn.release() is False
            else:
                async with at.doomed() as turn:
                    await at.die(turn)
                    if how == "run out":
                        with pytest.raises(LeaseLostError):
                            await step(turn)
                    else:
                        async with at.turn("worker-2") as other:
                            assert (other.key, turn.key) == (key, key)
                            with pytest.raises(LeaseLostError):
                                await step(turn)
                            await other.renew()
                    assert turn.ended
                    assert await turn.release() is False
            await at.drain()
        assert (await at.record()).cas.incarnation == cas.incarnation

    async def test_a_turn_guards_writes_by_the_stores_own_verbs(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        await at.admit("e1")
        async with at.turn() as turn:
            cas = await at.store.put(session(context={"n": 1}), fence=turn)
            cas = await at.store.update_cas(session(context={"n": 2}), cas, fence=turn)
            with pytest.raises(InvalidInputError):
                await at.store.put(session("other"), fence=turn)
            with pytest.raises(CasConflictError) as caught:  # the token has changed
                await turn.finish(session(context={"n": 3}))
            assert caught.value.current == cas
            await turn.finish()
        async with kept(at.store):
            with pytest.raises(LeaseLostError):
                await at.store.put(session(context={"n": 4}), fence=turn)
            await at.admit("e2")
            async with at.turn() as later:
                assert later.fence > turn.fence
                with pytest.raises(LeaseLostError):
                    await at.store.update_cas(session(context={"n": 4}), cas, fence=turn)

    async def test_a_turn_whose_lease_has_ended_guards_no_write(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        await at.admit("e1")
        async with at.doomed() as turn:
            await at.die(turn)
            with pytest.raises(LeaseLostError):
                await at.store.put(session(), fence=turn)
            assert await at.store.get(KEY, ctx=OWNER) is None
            assert not await turn.release()

    async def test_a_lock_is_no_turn(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        locks = SessionLocks(at.store)
        await at.admit("e1")
        async with locks.hold(KEY, ctx=OWNER) as lease, at.turn() as turn:
            assert lease.guard != turn.guard
            await at.store.put(session(), fence=lease)
            await at.store.put(session(), fence=turn)
            assert await lease.release()
            with pytest.raises(LeaseLostError):
                await at.store.put(session(), fence=lease)
            await at.store.put(session(), fence=turn)
            await turn.finish()

    async def test_a_turn_left_open_is_given_back_at_once(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.admit("e1", "e2")
        for _ in range(10):  # more often than the attempts allowed
            async with at.turn() as turn:
                assert [(mail.event_id, mail.attempt) for mail in turn.mail] == [
                    ("e1", 1),
                    ("e2", 1),
                ]
        assert await at.handle() == ["e1", "e2"]

    async def test_release_gives_back_what_is_left(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.admit("e1", "e2", "e3")
        async with at.turn() as turn:
            await turn.commit(counted(turn), 1)
            assert await turn.release() is True
            assert await turn.release() is False
            async with at.turn() as again:
                assert [mail.event_id for mail in again.mail] == ["e2", "e3"]
                assert again.mail[0].attempt == 1
                await again.finish()

    async def test_a_turn_that_is_cancelled_was_no_attempt(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.admit("e1", "e2")
        with anyio.CancelScope() as scope:
            async with at.turn():
                scope.cancel()
                await anyio.sleep_forever()
        async with at.turn() as turn:
            assert [(mail.event_id, mail.attempt) for mail in turn.mail] == [("e1", 1), ("e2", 1)]
            await turn.finish()

    async def test_a_taker_that_is_cancelled_leaves_nothing(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        with anyio.move_on_after(0.02):
            async with at.take(wait=None):
                raise AssertionError
        await at.admit("e1")
        assert await at.handle() == ["e1"]

    async def test_a_lost_lease_cancels_the_block_once(self, harness: StoreHarness) -> None:
        at = await desk(harness, lease=0.3)
        await at.admit("e1")
        cancelled = 0
        with anyio.fail_after(PATIENCE):
            async with at.doomed():
                await harness.advance(LEASE)
                try:
                    await anyio.sleep_forever()
                except anyio.get_cancelled_exc_class():
                    cancelled += 1
                    raise
            assert cancelled == 1
            async with at.turn() as again:
                assert again.mail[0].attempt == 2
                await again.finish()

    async def test_a_waiting_session_keeps_its_wait(self, harness: StoreHarness) -> None:
        from ....model import ReplyScope
        from ....waits import WaitRegistry

        at = await desk(harness)
        owner = ctx(user_id="ann")
        waits: WaitRegistry[Any] = WaitRegistry(at.store)
        scope = ReplyScope(conversation="chat")
        await waits.register_wait(owner, "ann", scope, session(owner=owner, ttl_secs=LIFE))
        await harness.advance(PART)
        await at.admit("e1", "e2", owner=owner)
        async with at.turn() as turn:
            await turn.commit(counted(turn), 1)
            await harness.advance(PART / 2)
            assert await waits.find_wait_by_scope(owner, "ann", scope) == KEY
            with pytest.raises(SessionError):
                await turn.commit(session(owner=ctx()), 1)
            await turn.remove()
        assert await waits.find_wait_by_scope(owner, "ann", scope) is None
        assert await waits.list_waits_for_user(owner, "ann") == []
