"""Contract tests of early events: stored for the wait that they answer, in order, once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from ....abc.inbox import EarlyEventQueue, EarlyPage
from ....abc.waits import EventMemory
from ....errors import InboxFullError
from ....model import ReplyScope, SessionKey
from ....ordering import InboxLimits
from ....waits import WaitRegistry
from ....waits.arguments import hash_of, owner_of
from ..samples import GLOBEX, KEY, LIFE, ctx, session
from .helpers import PATIENCE, InboxHarness, desk

if TYPE_CHECKING:
    from ....model import TenantCtx
    from ....ordering import Admitted
    from ...harness import StoreHarness

_ANN: Final = ctx(team_id="red", user_id="ann")
_CHAT: Final = ReplyScope(conversation="chat")
_THREAD: Final = ReplyScope(conversation="chat", thread="t")


async def _deliver(
    at: InboxHarness,
    event_id: str,
    scope: ReplyScope = _CHAT,
    owner: TenantCtx = _ANN,
) -> Admitted | None:
    return await at.inbox.deliver(owner, "ann", scope, event_id, event_id.encode())


async def _collect(at: InboxHarness, scope: ReplyScope = _CHAT) -> int:
    return await at.inbox.collect(_ANN, "ann", scope)


async def _wait(at: InboxHarness, key: str = KEY, scope: ReplyScope = _CHAT) -> None:
    waits: WaitRegistry[Any] = WaitRegistry(at.store)
    await waits.register_wait(_ANN, "ann", scope, session(key, owner=_ANN))


@pytest.mark.anyio
class InboxEarlyContract:
    """A reply may be faster than the flow that is about to wait for it."""

    async def test_an_event_for_a_wait_is_admitted(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await _wait(at)
        told = await _deliver(at, "e1")
        assert told is not None
        assert (told.is_new, told.waiting) == (True, 1)
        again = await _deliver(at, "e1")
        assert again is not None
        assert not again.is_new
        async with at.turn() as turn:
            assert turn.key == KEY
            assert [(mail.event_id, mail.payload) for mail in turn.mail] == [("e1", b"e1")]
            await turn.finish()
        assert await _collect(at) == 0

    async def test_events_before_the_wait_are_kept_for_it_in_order(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        for event_id in ("e1", "e2", "e1", "e3"):
            assert await _deliver(at, event_id) is None
        assert await at.is_idle()
        assert await _collect(at) == 0
        await _wait(at)
        assert await at.is_idle()  # before the collection or the next event
        assert await _collect(at) == 3
        assert await _collect(at) == 0
        async with at.turn() as turn:
            assert [mail.event_id for mail in turn.mail] == ["e1", "e2", "e3"]
            await turn.finish()

    async def test_the_next_event_brings_those_before_it(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        peer = await at.peer()
        await _deliver(at, "e1")
        await _wait(at)
        told = await _deliver(peer, "e2")
        assert told is not None
        assert told.waiting == 2
        async with at.turn() as turn:
            assert [mail.event_id for mail in turn.mail] == ["e1", "e2"]
            await turn.finish()

    async def test_events_wait_for_their_own_place(self, harness: StoreHarness) -> None:
        at = await desk(harness, tenants="all")
        await _deliver(at, "e1", _THREAD)
        await _deliver(at, "e2", owner=ctx(team_id="blue", user_id="ann"))
        await _deliver(at, "e3", owner=ctx(GLOBEX, team_id="red", user_id="ann"))
        await _wait(at)
        assert await _collect(at) == 0
        await _wait(at, "elsewhere", _THREAD)
        assert await _collect(at, _THREAD) == 1

    async def test_no_more_are_kept_than_may(self, harness: StoreHarness) -> None:
        at = await desk(harness, limits=InboxLimits(early=2))
        await _deliver(at, "e1")
        await _deliver(at, "e2")
        with pytest.raises(InboxFullError):
            await _deliver(at, "e3")
        assert await _deliver(at, "e2") is None  # it is stored already
        assert await _deliver(at, "e1", _THREAD) is None
        await _wait(at)
        assert await _collect(at) == 2

    async def test_where_no_more_may_be_kept_a_session_that_waits_makes_room(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness, limits=InboxLimits(early=1))
        await _deliver(at, "e1")
        await _wait(at)  # the worker died before it collected
        told = await _deliver(at, "e2")
        assert told is not None
        assert (told.is_new, told.waiting) == (True, 2)
        async with at.turn() as turn:
            assert [mail.event_id for mail in turn.mail] == ["e1", "e2"]
            await turn.finish()

    async def test_what_a_session_was_found_for_is_no_other_sessions(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        peer = await at.peer()
        queue = EarlyEventQueue(owner_of(_ANN, "ann"), hash_of(_CHAT))
        memory = EventMemory(10, 1000_000)
        backend = at.backend
        for event_id in ("e1", "e2"):
            await _deliver(at, event_id)
        assigned, _ = await backend.call().assign_early(queue, SessionKey("first"), "", memory)
        assert [(key, letter.event_id) for key, letter in assigned] == [
            ("first", "e1"),
            ("first", "e2"),
        ]
        await backend.call().delete_early(queue, *assigned[0])
        # The worker that moved them died here, and now another session waits.
        await _deliver(at, "e3")
        await _wait(at, "second")
        assert await _collect(peer) == 1  # the other event belongs to the first session
        assert await _collect(peer) == 0
        told = {}
        for _ in range(2):
            async with at.turn() as turn:
                told[turn.key] = [mail.event_id for mail in turn.mail]
                await turn.finish()
        assert told == {"first": ["e2"], "second": ["e3"]}

    async def test_what_was_for_a_session_that_is_anothers_now_is_for_the_next(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        queue = EarlyEventQueue(owner_of(_ANN, "ann"), hash_of(_CHAT))
        backend, memory = at.backend, EventMemory(10, 1000_000)
        await _deliver(at, "e1")
        await backend.call().assign_early(queue, SessionKey("first"), "", memory)
        await at.store.put(session("first", owner=ctx(team_id="red", user_id="bob")))
        await _deliver(at, "e2")
        await _wait(at)
        assert await _collect(at) == 2
        async with at.turn() as turn:
            assert (turn.key, [mail.event_id for mail in turn.mail]) == (KEY, ["e1", "e2"])
            await turn.finish()
        assert await backend.call().assign_early(queue, KEY, "", memory) == EarlyPage([], None)

    async def test_a_full_mailbox_holds_up_no_other_sessions_events(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness, limits=InboxLimits(mail=1))
        await at.store.put(session("first", owner=_ANN))
        await at.admit("e0", key="first", owner=_ANN)
        queue = EarlyEventQueue(owner_of(_ANN, "ann"), hash_of(_CHAT))
        backend, memory = at.backend, EventMemory(10, 1000_000)
        for event_id in ("e1", "e2"):
            await _deliver(at, event_id)
        await backend.call().assign_early(queue, SessionKey("first"), "", memory)
        await _wait(at)
        told = await _deliver(at, "e3")
        assert told is not None
        assert told.is_new
        assert await at.drain() == [("first", ["e0"]), (KEY, ["e3"])]
        assert await _collect(at) == 0  # the events are the other session's
        assert await at.drain() == [("first", ["e1"])]

    async def test_a_full_mailbox_leaves_the_rest_kept(self, harness: StoreHarness) -> None:
        at = await desk(harness, limits=InboxLimits(mail=2))
        for event_id in ("e1", "e2", "e3"):
            await _deliver(at, event_id)
        await _wait(at)
        with pytest.raises(InboxFullError):
            await _collect(at)
        async with at.turn() as turn:
            assert [mail.event_id for mail in turn.mail] == ["e1", "e2"]
            await turn.finish()
        assert await _collect(at) == 1

    async def test_an_event_is_kept_for_its_own_time(self, harness: StoreHarness) -> None:
        at = await desk(harness, limits=InboxLimits(early_ttl_secs=LIFE))
        await _deliver(at, "e1")
        await harness.advance(LIFE * 0.6)
        await _deliver(at, "e2")
        await harness.advance(LIFE * 0.6)
        await _wait(at)
        assert await _collect(at) == 1
        async with at.turn() as turn:
            assert [mail.event_id for mail in turn.mail] == ["e2"]
            await turn.finish()

    async def test_an_event_may_answer_the_wait_after_this_turn(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        waits: WaitRegistry[Any] = WaitRegistry(at.store)
        await _wait(at)
        async with waits.resume(_ANN, "ann", _CHAT, event_id="first") as turn:
            await turn.complete(turn.session)
        assert await _deliver(at, "second") is None  # the session does not wait at this moment
        await _wait(at)
        assert await _collect(at) == 1

    async def test_neither_is_lost_when_both_come_at_once(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        peer = await at.peer()
        for number in range(10):
            scope, key = ReplyScope(conversation=f"chat {number}"), f"session-{number}"

            async def wait(scope: ReplyScope = scope, key: str = key) -> None:
                await _wait(at, key, scope)
                await _collect(at, scope)

            async def answer(scope: ReplyScope = scope) -> None:
                await _deliver(peer, "e1", scope)
                await _deliver(peer, "e2", scope)

            with anyio.fail_after(PATIENCE):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(wait)
                    tasks.start_soon(answer)
            told: list[str] = []
            async with at.turn() as turn:
                assert turn.key == key
                told = [mail.event_id for mail in turn.mail]
                await turn.finish()
            assert told == ["e1", "e2"]
        assert await at.is_idle()
