"""The structs of events, and the protocol of another scheduler."""

from __future__ import annotations

import sys
from datetime import datetime  # noqa: TC003 - msgspec reads it
from typing import TYPE_CHECKING, Generic, Literal, Protocol

import msgspec

from ..model import SessionKey, TenantCtx  # noqa: TC001 - msgspec reads them
from ..ordering import DeadLetter  # noqa: TC001 - msgspec reads it

# A type parameter with a default, because it follows one with a default: see `..model`.
if TYPE_CHECKING:
    from typing_extensions import TypeVar

    P = TypeVar("P", default=object)
elif sys.version_info >= (3, 13):
    from typing import TypeVar

    P = TypeVar("P", default=object)
else:
    from typing import TypeVar

    P = TypeVar("P")

__all__ = [
    "Alarm",
    "Cancelled",
    "DeadEvent",
    "Event",
    "EventShard",
    "EventStatistics",
    "P",
    "PackedEvent",
]


Cancelled = Literal["cancelled", "running", "unknown"]
"""The result of cancelling an event. Only ``"cancelled"`` promises that no handler gets it."""


class Event(msgspec.Struct, Generic[P], frozen=True, kw_only=True):
    """An event, as its handler sees it.

    :ivar id: its id. All occurrences of a recurring event have the same one.
    :ivar payload: its payload.
    :ivar session: key of its session, ``None`` for an event without a session.
    :ivar scheduled_at: when it was scheduled, aware UTC. For a recurring event, when the occurrence
        before was due. With ``at=``, this is the time of the caller's clock.
    :ivar due_at: when it became due, aware UTC, by the store's clock.
    :ivar attempt: number of this attempt at it, from 1. 0 before it is handled.
    :ivar ctx: the caller that scheduled it.
    :ivar incarnation: the incarnation of the session in which it was scheduled. Empty with
        ``follow=True``, and without a session.
    """

    id: str
    payload: P
    session: SessionKey | None
    scheduled_at: datetime
    due_at: datetime
    attempt: int
    ctx: TenantCtx
    incarnation: str = ""

    def __repr__(self) -> str:
        """Return the fields without the payload, because it is private."""
        return f"Event(due_at={self.due_at.isoformat()}, attempt={self.attempt})"


class DeadEvent(msgspec.Struct, Generic[P], frozen=True, kw_only=True):
    """An event that exhausted its attempts, or whose caller may not act on the session.

    :ivar event: the event.
    :ivar letter: its dead letter, for :meth:`SessionInbox.replay` and :meth:`SessionInbox.discard`.
    """

    event: Event[P]
    letter: DeadLetter


class PackedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event for another scheduler.

    :ivar id: its id.
    :ivar data: the event as bytes, for :meth:`SessionEvents.fire`.
    """

    id: str
    data: bytes

    def __repr__(self) -> str:
        """Return the size without the data, because it is private."""
        return f"PackedEvent({len(self.data)} bytes)"


class Alarm(Protocol):
    """Another scheduler, which replaces the timers of the store.

    It calls :meth:`SessionEvents.fire` when an event is due. It may call it several times.
    """

    async def set(self, at: datetime, event: PackedEvent) -> None:
        """Schedule an event, unless one with the same id is scheduled.

        :param at: when to fire it, aware UTC.
        """
        ...

    async def clear(self, event_id: str) -> None:
        """Forget an event that has not fired."""
        ...


class EventShard(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of a shard of timers.

    :ivar scheduled: how many timers it has, due ones included.
    :ivar due: how many of them are due, and not being forwarded.
    :ivar oldest_due_at: when the oldest of these became due, ``None`` if there is none.
    """

    scheduled: int
    due: int
    oldest_due_at: datetime | None


class EventStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of the timers of all processes, and counters of one object.

    The timers of events, wait timeouts and watched sessions count.

    :ivar scheduled: how many timers there are, due ones included.
    :ivar due: how many of them are due, and not being forwarded.
    :ivar oldest_due_at: when the oldest of these became due, ``None`` if there is none.
    :ivar shards: the same for each shard.
    :ivar handled: events that this object has handled.
    :ivar failed: attempts of this object that failed.
    :ivar late_secs: by how many seconds its handled events were admitted late, in total.
    :ivar max_late_secs: the largest of these delays.
    """

    scheduled: int
    due: int
    oldest_due_at: datetime | None
    shards: tuple[EventShard, ...]
    handled: int
    failed: int
    late_secs: float
    max_late_secs: float
