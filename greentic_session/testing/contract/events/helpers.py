"""Events on a store, and the payloads that the event contract uses."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, final

import anyio
import msgspec

from ....abc.timers import TimerShard, timer_backend_of
from ....events import Event, SessionEvents
from ....model import SessionKey
from ..samples import KEY, ctx, session

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from ....events import EventTurn
    from ....model import Cas
    from ....store import AsyncSessionStore
    from ...harness import StoreHarness

__all__ = ["LEASE", "PATIENCE", "EventHarness", "Note", "Reminder", "desk"]

LEASE: Final = 10.0
"""Less than ``PATIENCE``, as a stale index entry of the inbox stays for one lease.

Less than what is left of ``LIFE`` after ``PART`` as well. So a timer that is due sooner was taken.
"""
PATIENCE: Final = 20.0
"""Limit in seconds for an expected event, generous because the machine may be busy."""


class Note(msgspec.Struct, frozen=True, tag=True):
    """A payload."""

    text: str


class Reminder(msgspec.Struct, frozen=True, tag=True):
    """Another payload of the union."""

    number: int


@final
class EventHarness:
    """Events with short verbs, for the session ``KEY`` of the tenant ``acme``.

    :ivar harness: the test's harness.
    :ivar store: the store.
    :ivar events: the service.
    :ivar seen: the events that were handled, each with whether its session was active.
    """

    def __init__(
        self, harness: StoreHarness, store: AsyncSessionStore[Any], **options: Any
    ) -> None:
        given: dict[str, Any] = {"lease": LEASE, "payload_type": Note | Reminder, **options}
        self.harness: Final = harness
        self.store: Final = store
        self.events: Final[SessionEvents[Any, Note | Reminder]] = SessionEvents(
            store, ctx(), **given
        )
        self.seen: Final[list[tuple[Event[Note | Reminder], bool]]] = []

    async def create(self, key: str = KEY, **fields: Any) -> Cas:
        """Create a session."""
        return await self.store.create(session(key, **fields))

    async def handle(self, event: Event[Note | Reminder], turn: EventTurn[Any]) -> None:
        """Note an event, and count it in its session."""
        if turn.session is not None:
            await turn.update(lambda state: {**state, "n": state.get("n", 0) + 1})
        self.seen.append((event, turn.is_active))

    @asynccontextmanager
    async def processing(
        self, handle: Callable[[Any, Any], Awaitable[None]] | None = None
    ) -> AsyncGenerator[None]:
        """Handle events while the block runs."""
        async with self.events.process(handle or self.handle, worker="worker-1", concurrency=4):
            yield

    async def drain(self, handle: Callable[[Any, Any], Awaitable[None]] | None = None) -> list[str]:
        """Handle what is due, and return the texts of all events so far."""
        async with self.processing(handle):
            await self.until_idle()
        return self.texts

    async def until_handled(self, number: int) -> None:
        """Wait until a number of events were handled."""
        with anyio.fail_after(PATIENCE):
            while (await self.events.statistics()).handled < number:  # noqa: ASYNC110
                await anyio.sleep(0.005)

    async def until_idle(self) -> None:
        """Wait until no timer is due or taken, and no session is due or has a held turn."""
        timers = timer_backend_of(self.store)
        shards = [TimerShard("events/default/acme", number) for number in range(16)]
        with anyio.fail_after(PATIENCE):
            while True:
                due = [await timers.next_due(shard) for shard in shards]
                depth = await self.events.inbox.depth()
                taken = [secs for secs in due if secs is not None and secs <= LEASE]
                if not taken and not depth.sessions:
                    return
                await anyio.sleep(0.005)

    @property
    def texts(self) -> list[str]:
        """The texts of the handled events."""
        return [event.payload.text for event, _ in self.seen if isinstance(event.payload, Note)]

    async def count(self, key: str = KEY) -> int:
        """Return how many events the session counted."""
        found = await self.store.get(SessionKey(key), ctx=ctx())
        return 0 if found is None else int(found.session.context.get("n", 0))


async def desk(harness: StoreHarness, **options: Any) -> EventHarness:
    """Return events with these options on a fresh store."""
    return EventHarness(harness, await harness.open(), **options)
