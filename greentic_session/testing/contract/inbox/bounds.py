"""Contract tests of bounds: dead letters and early events beyond a page or a limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from ....abc.inbox import EarlyEventQueue
from ....abc.waits import EventMemory
from ....model import ReplyScope, SessionKey
from ....ordering import InboxLimits
from ....waits import WaitRegistry
from ....waits.arguments import hash_of, owner_of
from ..samples import KEY, ctx, session
from .helpers import InboxHarness, desk

if TYPE_CHECKING:
    from ...harness import StoreHarness

_ANN: Final = ctx(team_id="red", user_id="ann")
_CHAT: Final = ReplyScope(conversation="chat")
_MANY: Final = 70
"""More than a backend moves, reads or returns in one step."""


async def _with_dead_letters(harness: StoreHarness, count: int, **options: Any) -> InboxHarness:
    """Return an inbox with dead letters of one session.

    Their caller may not act on the session, which is created afterwards. One call finds all of
    them.
    """
    at = await desk(harness, **options)
    for number in range(count):
        await at.admit(f"e{number}", owner=ctx(team_id="blue"))
    await at.store.put(session(owner=_ANN))
    assert await at.is_idle()
    return at


@pytest.mark.anyio
class InboxBoundsContract:
    """Stored items have a limit, and pages miss none of them."""

    async def test_many_messages_become_dead_letters_in_their_order(
        self, harness: StoreHarness
    ) -> None:
        at = await _with_dead_letters(harness, _MANY)
        letters = await at.dead()
        assert [letter.event_id for letter in letters] == [f"e{n}" for n in range(_MANY)]
        assert {letter.attempts for letter in letters} == {0}
        assert at.inbox.statistics().dropped_dead_letters == 0

    async def test_above_the_limit_the_oldest_dead_letters_are_dropped_and_counted(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness, attempts=1, limits=InboxLimits(dead_letters=2))
        await at.admit("e0", "e1", "e2", "e3", "e4")
        for _ in range(5):
            await at.fail()
        assert await at.is_idle()
        assert [letter.event_id for letter in await at.dead()] == ["e3", "e4"]
        seen = at.inbox.statistics()
        assert (seen.turns, seen.dropped_dead_letters) == (5, 3)

    async def test_dead_letters_dropped_by_one_call_are_all_counted(
        self, harness: StoreHarness
    ) -> None:
        limits = InboxLimits(dead_letters=3)
        at = await _with_dead_letters(harness, _MANY, limits=limits)
        assert [letter.event_id for letter in await at.dead()] == ["e67", "e68", "e69"]
        assert at.inbox.statistics().dropped_dead_letters == _MANY - 3

    async def test_a_lower_limit_drops_as_dead_letters_come(self, harness: StoreHarness) -> None:
        at = await _with_dead_letters(harness, 6)
        limits = InboxLimits(dead_letters=2)
        later = InboxHarness(harness, at.store, limits=limits)
        await at.store.delete(session().key, ctx=_ANN)
        await later.admit("last", owner=ctx(team_id="blue"))
        await at.store.put(session(owner=_ANN))
        assert await later.is_idle()
        assert [letter.event_id for letter in await at.dead()] == ["e5", "last"]

    @pytest.mark.parametrize("leaves", [1, 2])
    async def test_a_listing_misses_no_dead_letter_while_others_leave(
        self, harness: StoreHarness, leaves: int
    ) -> None:
        at = await _with_dead_letters(harness, _MANY)
        listed: list[str] = []
        async for letter in at.inbox.dead_letters():
            listed.append(letter.event_id)
            if len(listed) % leaves == 0:
                assert await at.inbox.discard(letter)
        assert listed == [f"e{number}" for number in range(_MANY)]
        assert len(await at.dead()) == _MANY - _MANY // leaves

    @pytest.mark.parametrize("place", [0, _MANY // 2, _MANY - 1])
    async def test_a_dead_letter_at_any_place_is_replayed_or_discarded(
        self, harness: StoreHarness, place: int
    ) -> None:
        at = await _with_dead_letters(harness, _MANY)
        await at.store.delete(session().key, ctx=_ANN)
        letters = await at.dead()
        assert await at.inbox.replay(letters.pop(place))
        assert await at.dead() == letters
        assert await at.inbox.discard(letters.pop(min(place, len(letters) - 1)))
        assert await at.dead() == letters
        assert await at.handle() == [f"e{place}"]

    async def test_many_early_events_are_collected_in_their_order(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        waits: WaitRegistry[Any] = WaitRegistry(at.store)
        for number in range(_MANY):
            await at.inbox.deliver(_ANN, "ann", _CHAT, f"e{number}", b"")
        await waits.register_wait(_ANN, "ann", _CHAT, session(owner=_ANN))
        assert await at.inbox.collect(_ANN, "ann", _CHAT) == _MANY
        assert await at.handle() == [f"e{number}" for number in range(_MANY)]

    async def test_many_early_events_of_a_full_mailbox_hold_up_no_other_sessions(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness, limits=InboxLimits(mail=1))
        waits: WaitRegistry[Any] = WaitRegistry(at.store)
        queue = EarlyEventQueue(owner_of(_ANN, "ann"), hash_of(_CHAT))
        for number in range(_MANY):
            await at.inbox.deliver(_ANN, "ann", _CHAT, f"e{number}", b"")
        position: int | None = 0
        while position is not None:
            page = await at.backend.call().assign_early(
                queue, SessionKey("first"), "", EventMemory(100, 1000_000), position
            )
            position = page.position
        await waits.register_wait(_ANN, "ann", _CHAT, session(owner=_ANN))
        assert await at.inbox.deliver(_ANN, "ann", _CHAT, "mine", b"") is not None
        assert sorted(await at.drain()) == sorted([(KEY, ["mine"]), ("first", ["e0"])])
