"""The contract suite on events: inherit :class:`EventContract`, give it a ``harness`` fixture.

.. code-block:: python

    class TestEventsOnMyStore(EventContract):
        @pytest.fixture
        async def harness(self) -> AsyncIterator[MyHarness]:
            async with MyHarness() as harness:
                yield harness

For stores that can keep inboxes and timers. The fixture and the rest are as for
:class:`SessionStoreContract`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from ....abc.timers import TimerShard, timer_backend_of
from ....errors import InvalidInputError, SessionNotFoundError, TenantMismatchError
from ....events import PackedEvent, SessionEvents
from ....model import SessionKey
from ..samples import GLOBEX, KEY, LIFE, PART, ctx, evolve
from .helpers import LEASE, PATIENCE, Note, Reminder, desk

if TYPE_CHECKING:
    from ....events import Event, EventTurn
    from ...harness import StoreHarness

__all__ = ["EventContract"]

_BAD: Final[dict[str, dict[str, Any]]] = {
    "payload": {"payload": "text"},
    "delay": {"delay": -1},
    "at": {"at": datetime(2030, 1, 1)},  # noqa: DTZ001 - invalid on purpose
    "every": {"every": 0},
    "event_id": {"event_id": "a@b"},
}


@pytest.mark.anyio
class EventContract:
    """Requirements for events on every store that supports inboxes and timers."""

    # --- scheduling --------------------------------------------------------------------------

    async def test_an_event_is_handled_when_it_is_due_and_not_before(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        await at.create()
        event_id = await at.events.schedule(Note("one"), session=KEY, delay=LIFE)
        await harness.advance(PART)
        assert await at.drain() == []
        await harness.advance(PART)
        assert await at.drain() == ["one"]
        ((event, is_active),) = at.seen
        assert is_active
        assert (event.id, event.session, event.attempt, event.ctx) == (event_id, KEY, 1, ctx())
        assert event.due_at - event.scheduled_at == timedelta(seconds=LIFE)
        assert await at.count() == 1
        assert (await at.events.statistics()).scheduled == 0

    async def test_events_of_a_session_are_handled_in_due_order(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        await at.create()
        for number in (3, 1, 2):
            await at.events.schedule(Note(f"{number}"), session=KEY, delay=number)
        await harness.advance(LIFE)
        assert await at.drain() == ["1", "2", "3"]
        assert await at.count() == 3

    async def test_an_event_without_a_session_is_active(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.events.schedule(Reminder(7))
        await at.drain()
        ((event, is_active),) = at.seen
        assert (event.payload, event.session, is_active) == (Reminder(7), None, True)
        assert await at.events.is_session_active(event)

    async def test_an_id_is_scheduled_once_even_after_it_fired(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.create()
        ids = [
            await at.events.schedule(Note(text), session=KEY, event_id="welcome")
            for text in ("one", "two")
        ]
        assert ids[0] == ids[1]
        assert await at.drain() == ["one"]
        await at.events.schedule(Note("three"), session=KEY, event_id="welcome")
        assert await at.drain() == ["one"]

    async def test_the_same_id_of_two_sessions_is_two_events(self, harness: StoreHarness) -> None:
        at = await desk(harness, shards=1)
        for key in ("s1", "s2"):
            await at.create(key)
            await at.events.schedule(Note(key), session=SessionKey(key), event_id="welcome")
        async with at.processing():
            await at.until_handled(2)
        assert sorted(at.texts) == ["s1", "s2"]

    async def test_an_absent_session_is_refused_unless_the_event_follows(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        with pytest.raises(SessionNotFoundError):
            await at.events.schedule(Note("one"), session=KEY)
        await at.events.schedule(Note("two"), session=KEY, follow=True, delay=LIFE)
        await at.create()
        await harness.advance(2 * PART)
        assert await at.drain() == ["two"]
        assert await at.count() == 1

    async def test_an_absolute_time_is_on_the_clock_of_the_store(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        await at.events.schedule(Note("past"), at=datetime(2001, 1, 1, tzinfo=UTC))
        await at.events.schedule(Note("future"), at=datetime(2200, 1, 1, tzinfo=UTC))
        assert await at.drain() == ["past"]
        assert [event.payload async for event in at.events.list_scheduled()] == [Note("future")]

    # --- the session -------------------------------------------------------------------------

    async def test_an_event_of_an_ended_incarnation_is_not_active(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        await at.create()
        await at.events.schedule(Note("one"), session=KEY)
        await at.events.schedule(Note("two"), session=KEY, follow=True)
        await at.store.delete(KEY, ctx=ctx())
        await at.create()
        await at.drain()
        assert sorted((event.payload.text, active) for event, active in at.seen) == [  # type: ignore[union-attr]
            ("one", False),
            ("two", True),
        ]
        assert await at.count() == 1
        bound = next(event for event, active in at.seen if not active)
        assert not await at.events.is_session_active(bound)

    async def test_an_event_of_a_session_with_another_owner_is_not_lost(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        await at.create()
        await at.events.schedule(Note("one"), session=KEY)
        await at.store.delete(KEY, ctx=ctx())
        await at.create(owner=ctx(user_id="ann"))
        assert await at.drain() == ["one"]
        assert at.seen[0][1] is False

    async def test_an_update_is_applied_again_over_a_write_that_came_first(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        await at.create(context={"n": 10})
        await at.events.schedule(Note("one"), session=KEY)

        async def handle(event: Event[Any], turn: EventTurn[Any]) -> None:
            await at.handle(event, turn)
            found = await at.store.require(KEY, ctx=ctx())
            other = evolve(found.session, context={**found.session.context, "web": 1, "n": 20})
            await at.store.update_cas(other, found.cas)

        assert await at.drain(handle) == ["one"]
        found = await at.store.require(KEY, ctx=ctx())
        assert found.session.context == {"n": 21, "web": 1}

    async def test_an_update_of_a_session_that_ended_meanwhile_writes_nothing(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        await at.create()
        await at.events.schedule(Note("one"), session=KEY)

        async def handle(event: Event[Any], turn: EventTurn[Any]) -> None:
            await at.handle(event, turn)
            await at.store.delete(KEY, ctx=ctx())
            await at.create()

        assert await at.drain(handle) == ["one"]
        assert await at.count() == 0

    async def test_an_event_that_fails_writes_nothing_and_becomes_a_dead_letter(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness, attempts=1)
        await at.create()
        await at.events.schedule(Note("one"), session=KEY)

        async def fail(event: Event[Any], turn: EventTurn[Any]) -> None:
            await at.handle(event, turn)
            raise ValueError

        assert await at.drain(fail) == ["one"]
        assert await at.count() == 0
        assert (await at.events.statistics()).failed == 1
        (dead,) = [dead async for dead in at.events.dead_letters()]
        assert (dead.event.payload, dead.event.session) == (Note("one"), KEY)
        assert await at.events.inbox.replay(dead.letter)
        await at.drain()
        assert await at.count() == 1

    # --- recurring events --------------------------------------------------------------------

    async def test_a_recurring_event_is_due_once_a_period_until_cancelled(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        await at.create()
        event_id = await at.events.schedule(Note("tick"), session=KEY, every=2 * LIFE, delay=0)
        for number in (1, 2):
            assert await at.drain() == ["tick"] * number
            await harness.advance(2 * LIFE + 1)
        assert {event.id for event, _ in at.seen} == {event_id}
        assert await at.events.cancel(event_id) == "cancelled"
        assert await at.drain() == ["tick"] * 2

    async def test_a_recurring_event_ends_with_its_session(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.create()
        await at.events.schedule(Note("tick"), session=KEY, every=2 * LIFE, delay=0)
        await at.store.delete(KEY, ctx=ctx())
        await at.drain()
        assert [active for _, active in at.seen] == [False]
        assert (await at.events.statistics()).scheduled == 0

    # --- cancelling --------------------------------------------------------------------------

    async def test_a_cancelled_event_is_never_handled(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.create()
        event_id = await at.events.schedule(Note("one"), session=KEY)
        named = await at.events.schedule(Note("two"), session=KEY, event_id="named")
        assert named == f"named@{KEY}"
        assert await at.events.cancel(event_id) == "cancelled"
        assert await at.events.cancel(event_id) == "unknown"
        assert await at.events.cancel("named", session=KEY) == "cancelled"
        assert await at.drain() == []

    async def test_an_event_that_waits_behind_another_is_cancelled(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        await at.create()
        first = await at.events.schedule(Note("first"), session=KEY)
        second = await at.events.schedule(Note("second"), session=KEY, delay=0.001)
        results: list[str] = []

        async def handle(event: Event[Any], turn: EventTurn[Any]) -> None:
            if event.id == first:
                with anyio.fail_after(PATIENCE):
                    while [timer async for timer in at.events.list_scheduled()]:  # noqa: ASYNC110
                        await anyio.sleep(0.005)
                results.append(await at.events.cancel(first))
                results.append(await at.events.cancel(second))
            await at.handle(event, turn)

        await harness.advance(1)
        async with at.processing(handle):
            await at.until_handled(1)
        assert results == ["running", "cancelled"]
        assert at.texts == ["first"]

    async def test_a_deleted_session_takes_its_events_with_it(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.create()
        await at.create("other")
        await at.events.schedule(Note("one"), session=KEY, delay=LIFE)
        await at.events.schedule(Note("two"), session=SessionKey("other"), delay=LIFE)
        assert await at.events.delete(KEY, cancel_events=True)
        await harness.advance(2 * PART)
        assert await at.drain() == ["two"]

    # --- forwarding --------------------------------------------------------------------------

    async def test_an_event_whose_forwarder_died_is_handled_once(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness, shards=1)
        await at.create()
        await at.events.schedule(Note("one"), session=KEY)
        timers = timer_backend_of(at.store)
        shard = TimerShard("events/default/acme", 0)
        (timer,) = (await timers.take(shard, 1, round(LEASE * 1000), "dead")).timers
        assert (await at.events.statistics()).due == 0
        await harness.advance(2 * LEASE)
        assert await at.drain() == ["one"]
        assert timer.timer_id.endswith(f"@{KEY}")
        assert await at.count() == 1

    async def test_another_number_of_shards_is_refused(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.events.schedule(Note("one"), delay=LIFE)
        other: SessionEvents[Any, Note] = SessionEvents(
            at.store, ctx(), payload_type=Note, shards=8
        )
        with pytest.raises(InvalidInputError, match="shards"):
            await other.schedule(Note("two"))

    async def test_tenants_have_events_of_their_own(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        other: SessionEvents[Any, Note] = SessionEvents(
            at.store, ctx(GLOBEX), payload_type=Note, shards=8
        )
        await other.schedule(Note("theirs"))
        await at.events.schedule(Note("ours"))
        assert await at.drain() == ["ours"]
        with pytest.raises(TenantMismatchError):
            await at.events.schedule(Note("one"), ctx=ctx(GLOBEX))

    # --- other schedulers --------------------------------------------------------------------

    async def test_an_alarm_decides_when_events_fire(self, harness: StoreHarness) -> None:
        class Schedule:
            """Notes the events."""

            def __init__(self) -> None:
                self.events: dict[str, PackedEvent] = {}

            async def set(self, at: datetime, event: PackedEvent) -> None:
                assert at.tzinfo is UTC
                self.events.setdefault(event.id, event)

            async def clear(self, event_id: str) -> None:
                self.events.pop(event_id, None)

        alarm = Schedule()
        at = await desk(harness, alarm=alarm)
        await at.create()
        one = await at.events.schedule(Note("one"), session=KEY, delay=LIFE)
        two = await at.events.schedule(Note("two"), session=KEY, delay=LIFE)
        assert await at.events.cancel(two) == "cancelled"
        assert list(alarm.events) == [one]
        assert await at.events.fire(alarm.events[one])
        assert not await at.events.fire(alarm.events[one])
        assert await at.drain() == ["one"]
        assert await at.events.cancel(one) == "unknown"

    # --- arguments ---------------------------------------------------------------------------

    @pytest.mark.parametrize("field", _BAD)
    async def test_bad_arguments_name_their_field(self, harness: StoreHarness, field: str) -> None:
        at = await desk(harness)
        arguments: dict[str, Any] = {"payload": Note("one"), **_BAD[field]}
        with pytest.raises(InvalidInputError) as caught:
            await at.events.schedule(arguments.pop("payload"), **arguments)
        assert caught.value.field == field
        assert await harness.residue() == []
