"""Contract tests of the tenants of an inbox: its own one, or all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from ....errors import DuplicateEventError, InvalidInputError, TenantMismatchError
from ....model import ReplyScope, SessionKey
from ....ordering import SessionInbox
from ....waits import WaitRegistry
from ..samples import GLOBEX, KEY, OTHERS, RED_ANN, ctx, session
from .helpers import LEASE, PATIENCE, desk

if TYPE_CHECKING:
    from ...harness import StoreHarness

_CHAT: Final = ReplyScope(conversation="chat")


@pytest.mark.anyio
class InboxTenantContract:
    """An inbox takes the messages of its own tenant, unless it serves all tenants."""

    async def test_a_message_of_another_tenant_is_left_to_its_own_inbox(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        other = await at.peer(ctx=ctx(GLOBEX))
        staging = await at.peer(ctx=ctx(env="staging"))
        await other.admit("e1")
        await staging.admit("e2")
        assert await at.is_idle()
        await at.admit("e3")
        assert await at.drain() == [(KEY, ["e3"])]
        assert await other.drain() == [(KEY, ["e1"])]
        assert await staging.drain() == [(KEY, ["e2"])]

    async def test_an_inbox_of_all_tenants_takes_the_messages_of_each(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness, tenants="all")
        own, other = await at.peer(), await at.peer(ctx=ctx(GLOBEX))
        await own.admit("e1")
        await at.admit("e2", owner=ctx(GLOBEX))
        async with at.turn() as turn:
            assert await own.is_idle()  # the turn is held, so its own inbox does not get it
            await turn.release()
        assert await other.drain() == [(KEY, ["e2"])]
        assert await at.drain() == [(KEY, ["e1"])]
        assert await own.is_idle()
        assert await other.is_idle()

    async def test_due_sessions_of_another_tenant_delay_nothing(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        other = await at.peer(ctx=ctx(GLOBEX))
        for number in range(80):  # more than one call corrects
            await other.admit("e", key=f"other-{number}")
        await at.admit("e1")
        assert await at.drain() == [(KEY, ["e1"])]
        assert (await at.inbox.depth()).sessions == 0
        assert (await other.inbox.depth()).sessions == 80

    async def test_a_waiting_worker_is_woken_by_its_own_tenant(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        other = await at.peer(ctx=ctx(GLOBEX))
        taken: list[str] = []

        async def take(peer: Any) -> None:
            async with peer.turn() as turn:
                taken.append(turn.tenant.tenant_id)
                await turn.finish()

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(take, at)
                tasks.start_soon(take, other)
                await other.admit("e1")
                await at.admit("e1")
        assert sorted(taken) == ["acme", GLOBEX]

    async def test_a_dead_workers_turn_is_taken_by_its_own_tenant(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        every = await at.peer(tenants="all")
        await at.admit("e1")
        async with every.doomed():
            assert await at.is_idle()
            await harness.advance(2 * LEASE)
            assert await at.handle() == ["e1"]

    async def test_dead_letters_of_another_tenant_are_neither_listed_nor_moved(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness, attempts=1)
        other = await at.peer(ctx=ctx(GLOBEX), attempts=1)
        for peer in (at, other):
            await peer.admit("e1")
            await peer.fail()
            assert await peer.is_idle()
        (mine,), (letter,) = await at.dead(), await other.dead()
        assert (mine.ctx, letter.ctx) == (ctx(), ctx(GLOBEX))
        for verb in (at.inbox.replay, at.inbox.discard):
            with pytest.raises(TenantMismatchError):
                await verb(letter)
        assert await other.dead() == [letter]

    @pytest.mark.parametrize("other", ["tenant", "env"])
    async def test_a_caller_of_another_tenant_is_refused(
        self, harness: StoreHarness, other: str
    ) -> None:
        at = await desk(harness)
        caller = OTHERS[other]
        with pytest.raises(TenantMismatchError) as caught:
            await at.admit("e1", owner=caller)
        assert caught.value.key == KEY
        with pytest.raises(TenantMismatchError):
            await at.inbox.deliver(caller, "ann", _CHAT, "e1", b"")
        with pytest.raises(TenantMismatchError):
            await at.inbox.collect(caller, "ann", _CHAT)
        assert await harness.residue() == []

    @pytest.mark.parametrize("other", OTHERS)
    async def test_an_inbox_on_a_scoped_view_keeps_to_its_caller(
        self, harness: StoreHarness, other: str
    ) -> None:
        at = await desk(harness)
        inbox = SessionInbox(at.store.scoped(RED_ANN))
        caller = OTHERS[other]
        with pytest.raises(TenantMismatchError):
            await inbox.admit(SessionKey(KEY), "e1", b"", ctx=caller)
        with pytest.raises(TenantMismatchError):
            await inbox.deliver(caller, caller.user_id or "", _CHAT, "e1", b"")
        with pytest.raises(TenantMismatchError):
            SessionInbox(at.store.scoped(RED_ANN), caller)
        assert await harness.residue() == []
        assert (await inbox.admit(SessionKey(KEY), "e1", b"")).is_new
        async with at.turn() as turn:
            assert [mail.ctx for mail in turn.mail] == [RED_ANN]
            await turn.finish()

    async def test_only_a_tenants_view_takes_turns(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.admit("e1", owner=ctx(user_id="ann"))
        user = SessionInbox(at.store.scoped(ctx(user_id="ann")))
        with pytest.raises(TenantMismatchError):
            async with user.take("worker", wait=0):
                pytest.fail("the block must not be entered")
        with pytest.raises(TenantMismatchError):
            await user.depth()
        with pytest.raises(TenantMismatchError):
            [letter async for letter in user.dead_letters()]
        tenant = SessionInbox(at.store.scoped(ctx()))
        async with tenant.take("worker", wait=0) as turn:
            assert turn is not None
            await turn.finish()

    async def test_tenants_are_own_or_all(self, harness: StoreHarness) -> None:
        store = await harness.open()
        given: Any = "some"
        with pytest.raises(InvalidInputError, match="tenants"):
            SessionInbox(store, ctx(), tenants=given)
        with pytest.raises(InvalidInputError, match="tenants"):
            SessionInbox(store.scoped(ctx()), tenants="all")
        with pytest.raises(InvalidInputError, match="ctx"):
            SessionInbox(store)

    async def test_registering_collects_what_came_early(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        waits: WaitRegistry[Any] = WaitRegistry(at.store, inbox=at.inbox)
        await at.inbox.deliver(RED_ANN, "ann", _CHAT, "e1", b"one")
        await waits.register_wait(RED_ANN, "ann", _CHAT, session(owner=RED_ANN), event_id="start")
        assert await at.handle(owner=RED_ANN) == ["e1"]

    async def test_a_registration_of_a_known_event_collects_as_well(
        self, harness: StoreHarness
    ) -> None:
        """The worker died after it had registered the wait, and before it collected."""
        at = await desk(harness)
        await at.inbox.deliver(RED_ANN, "ann", _CHAT, "e1", b"one")
        forgetful: WaitRegistry[Any] = WaitRegistry(at.store)
        await forgetful.register_wait(
            RED_ANN, "ann", _CHAT, session(owner=RED_ANN), event_id="start"
        )
        assert await at.is_idle()
        waits: WaitRegistry[Any] = WaitRegistry(at.store, inbox=at.inbox)
        with pytest.raises(DuplicateEventError):
            await waits.register_wait(
                RED_ANN, "ann", _CHAT, session(owner=RED_ANN), event_id="start"
            )
        assert await at.handle(owner=RED_ANN) == ["e1"]

    async def test_waiting_again_collects_what_came_early(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        thread = ReplyScope(conversation="chat", thread="t")
        waits: WaitRegistry[Any] = WaitRegistry(at.store, inbox=at.inbox)
        await waits.register_wait(RED_ANN, "ann", _CHAT, session(owner=RED_ANN))
        await at.inbox.deliver(RED_ANN, "ann", thread, "e1", b"one")
        async with waits.resume(RED_ANN, "ann", _CHAT) as turn:
            await turn.wait_again(turn.session, thread)
        assert await at.handle(owner=RED_ANN) == ["e1"]
