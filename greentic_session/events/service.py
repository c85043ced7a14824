"""The service of events: schedules, cancels and handles them."""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Generic, cast, final

import anyio

from .._core import tenancy
from .._core.times import datetime_of, ms_of
from .._core.verbs.base import services_of
from .._validation import check_key, duration_to_ms, require_clean_text, require_int, wait_to_ms
from ..abc.inbox import MailboxRef, inbox_backend_of
from ..abc.records import Verdict
from ..abc.timers import timer_backend_of
from ..abc.waits import EventMemory
from ..errors import (
    InvalidInputError,
    SessionNotFoundError,
)
from ..model import C, SessionKey, TenantCtx
from ..ordering import InboxLimits, SessionInbox
from ..scoped import unscoped
from .core import EventCore, EventTerms, now_ms
from .forwarder import KEEP, Forwarder
from .model import (
    Alarm,
    Cancelled,
    DeadEvent,
    Event,
    EventShard,
    EventStatistics,
    P,
    PackedEvent,
)
from .packing import EventName, StoredEvent, given_name, name_of, name_of_message, unpack
from .timers import EventTimers
from .working import EventWorkers

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from ..abc.timers import Timer
    from ..ordering import InboxTurn
    from ..scoped import ScopedSessionStore
    from ..store import AsyncSessionStore
    from .turn import EventTurn

__all__ = ["SessionEvents"]


@final
class SessionEvents(Generic[C, P]):
    """Schedules events of sessions, and gives each due event to one worker at a time.

    A due event becomes a message of :class:`SessionInbox` in the mailbox of its session. So a
    session's events and other messages are handled one at a time, and a worker that dies delays an
    event by at most ``lease``. The inbox counts attempts, backs off, and keeps dead letters.

    * An event is handled at least once, and never early by the store's clock.
    * What :meth:`EventTurn.update` changes is committed once, in one step with the event.
    * An event belongs to the incarnation of the session in which it was scheduled. If that has
      ended, its handler is still called, and :attr:`EventTurn.is_active` is false.

    The caller opens and closes the store. Objects with the same ``inbox`` and tenant share their
    events, in any number of processes. They must agree on ``shards`` and ``payload_type``.

    Any verb may raise :class:`InvalidInputError` (before any I/O) and
    :class:`StoreUnavailableError` (nothing written). A verb that writes may also raise
    :class:`StoreFullError`, :class:`OutcomeUnknownError` and :class:`DurabilityError`, as those of
    :class:`SessionInbox`.

    :param store: a store whose backend has inboxes and timers, as all stores of this library do, or
        a scoped view of one.
    :param ctx: the tenant, and the caller of events that are scheduled without ``ctx``. ``None`` is
        the caller of the scoped view.
    :param inbox: name of the inbox that gets the due events.
    :param payload_type: type of the payloads: a msgspec struct, a tagged union of structs, or
        another type that msgspec encodes.
    :param shards: number of the shards of timers, 1 to 1024. It cannot be changed later.
    :param lease: how long a worker or forwarder that died delays an event, in seconds or as a
        :class:`datetime.timedelta`.
    :param attempts: how many attempts an event has, 1 to 1000.
    :param retry_delay: backoff of a session after a failed attempt, as in :class:`SessionInbox`.
    :param alarm: another scheduler that decides when events are due. ``None`` uses the timers of
        the store.
    :ivar inbox: the inbox. Use it for dead letters, and to admit other messages of the sessions.
    """

    def __init__(
        self,
        store: AsyncSessionStore[C] | ScopedSessionStore[C],
        ctx: TenantCtx | None = None,
        *,
        payload_type: type[P],
        inbox: str = "events",
        shards: int = 16,
        lease: timedelta | float = 30.0,
        attempts: int = 5,
        retry_delay: timedelta | float = 1.0,
        alarm: Alarm | None = None,
    ) -> None:
        plain, bound = unscoped(store)
        require_int(shards, "shards", 1, 1024)
        limits = InboxLimits()
        self.inbox: Final[SessionInbox[C]] = SessionInbox(
            store,
            ctx,
            name=inbox,
            lease=lease,
            attempts=attempts,
            retry_delay=retry_delay,
            limits=limits,
        )
        self._store: Final = plain
        self._check_open: Final = services_of(plain).check_open
        caller = cast("TenantCtx", bound if ctx is None else ctx)
        self._scope: Final = tenancy.scope_of(caller)
        self._inboxes: Final = inbox_backend_of(plain)
        self._known: Final = EventMemory(
            limits.events, duration_to_ms(limits.events_ttl_secs, "events_ttl_secs")
        )
        self._alarm: Final = alarm
        self._timers: Final = EventTimers(timer_backend_of(plain), f"{inbox}/{self._scope}", shards)
        terms = EventTerms(
            store=plain,
            bound=bound,
            ctx=caller,
            scope=self._scope,
            inbox=self.inbox,
            timers=self._timers,
            alarm=alarm,
            payload_bytes=limits.payload_bytes,
            lease_ms=duration_to_ms(lease, "lease"),
        )
        self._core: Final[EventCore[C, P]] = EventCore(terms, payload_type)
        self._workers: Final[EventWorkers[C, P]] = EventWorkers(self._core)

    # --- scheduling --------------------------------------------------------------------------

    async def schedule(
        self,
        payload: P,
        *,
        session: SessionKey | None = None,
        delay: timedelta | float | None = None,
        at: datetime | None = None,
        event_id: str | None = None,
        every: timedelta | float | None = None,
        follow: bool = False,
        ctx: TenantCtx | None = None,
    ) -> str:
        """Schedule an event.

        :param payload: the payload, of ``payload_type``.
        :param session: key of the session that the event belongs to. ``None`` for an event without
            a session, which has a mailbox of its own.
        :param delay: when it is due, in seconds from now or as a :class:`datetime.timedelta`.
            Without ``delay`` and ``at``, it is due now, or after ``every``.
        :param at: when it is due, an aware :class:`datetime.datetime` on the store's clock.
        :param event_id: id by which a repeated call is recognized, 1 to 256 characters without
            ``@`` and ``#``. It is unique within the session. A call for an event that is scheduled
            or was handled within a day changes nothing. ``None`` makes a random id.
        :param every: period of a recurring event, in seconds or as a :class:`datetime.timedelta`.
            Each occurrence is due one period after the one before, also if that was late. A
            recurring event ends with its session, or by :meth:`cancel`.
        :param follow: whether the event is for each incarnation of the session, and for a session
            that is created later.
        :param ctx: the caller, as in :meth:`SessionInbox.admit`. It must be one that may act on the
            session. ``None`` is the caller of this object.
        :returns: the event's id, for :meth:`cancel`. It contains the session's key.
        :raises SessionNotFoundError: the session is absent, and ``follow`` is false.
        :raises TenantMismatchError: the session has another team or user.
        :raises PayloadTooLargeError: the event is over 65,536 bytes.
        """
        self._check_open()
        caller = self._core.caller(ctx)
        name = self._new_name(event_id, None if session is None else check_key(session))
        every_ms = 0 if every is None else duration_to_ms(every, "every")
        if every_ms and self._alarm is not None:
            raise InvalidInputError("every", "needs the timers of the store")
        if delay is not None and at is not None:
            raise InvalidInputError("at", "is given together with delay")
        delay_ms = every_ms if delay is None else wait_to_ms(delay, "delay")
        at_ms = None if at is None else _at_ms(at)
        encoded = self._core.encode_payload(payload)
        incarnation = b""
        if session is not None and not follow:
            found = await self._store.get(session, ctx=caller)
            if found is None:
                raise SessionNotFoundError(session)
            incarnation = bytes.fromhex(found.cas.incarnation)
        stored = StoredEvent(
            payload=encoded,
            owner=tenancy.owner_of(caller).owner,
            incarnation=incarnation,
            scheduled_ms=-delay_ms if at_ms is None else now_ms(),
            every_ms=every_ms,
            attributes=dict(caller.attributes),
        )
        await self._core.enter(name, stored, at_ms=at_ms, delay_ms=delay_ms)
        return name.id

    async def cancel(self, event_id: str, *, session: SessionKey | None = None) -> Cancelled:
        """Cancel an event, also if it is due and no worker has begun it.

        A recurring event has no further occurrences after this.

        :param event_id: what :meth:`schedule` returned, or its ``event_id`` with ``session``.
        :param session: key of the event's session, if ``event_id`` is the one of the caller.
        :returns: ``"cancelled"`` if no handler gets the event. ``"running"`` if a handler has or
            had it, and it is not finished. ``"unknown"`` if it is neither scheduled nor waiting.
        """
        self._check_open()
        name = name_of(event_id) if session is None else given_name(event_id, check_key(session))
        if self._alarm is None:
            was_scheduled, was_taken = await self._timers.cancel(name)
        else:
            await self._alarm.clear(name.id)
            was_scheduled = was_taken = True
        verdicts: set[Verdict] = set()
        for mailbox in dict.fromkeys((name.mailbox, name.own_mailbox)):
            verdict = await self._inboxes.call().withdraw(
                MailboxRef(self._scope, mailbox),
                name.token,
                self._known,
                prefix=f"{name.token}#",
                refuses=was_taken,  # a forwarder may be about to admit the event
            )
            verdicts.add(verdict)
        if Verdict.CLAIMED in verdicts:
            return "running"
        if was_taken:  # a mailbox that refused to refuse it had it before
            return "unknown" if Verdict.ABSENT in verdicts else "cancelled"
        return "cancelled" if was_scheduled or Verdict.DONE in verdicts else "unknown"

    async def fire(self, event: PackedEvent | Event[P]) -> bool:
        """Make an event due now. Another scheduler calls this, for example a job of its worker.

        :param event: what :meth:`Alarm.set` got, or an event of :meth:`list_scheduled`.
        :returns: ``False`` if the event fired before.
        :raises InboxFullError: the mailbox of the session is full. Fire the event again.
        """
        self._check_open()
        if isinstance(event, PackedEvent):
            name, stored = name_of(event.id), unpack(event.data)
            if stored is None:
                raise InvalidInputError("event", "has data of another form")
        else:
            name = name_of(event.id)
            stored = StoredEvent(
                payload=self._core.encode_payload(event.payload),
                owner=tenancy.owner_of(event.ctx).owner,
                incarnation=bytes.fromhex(event.incarnation),
                scheduled_ms=ms_of(event.scheduled_at),
                attributes=dict(event.ctx.attributes),
                due_ms=ms_of(event.due_at),
            )
        return await self._core.admit(name, stored, stored.due_ms)

    # --- handling ----------------------------------------------------------------------------

    @asynccontextmanager
    async def process(
        self,
        handle: Callable[[Event[P], EventTurn[C]], Awaitable[None]],
        *,
        worker: str,
        concurrency: int = 32,
        other: Callable[[InboxTurn[C]], Awaitable[None]] | None = None,
    ) -> AsyncGenerator[None]:
        """Forward due events and handle them while the block runs.

        At its end, turns in progress are released.

        :param handle: handles an event. If it raises, the event is tried again, and finally becomes
            a dead letter. An event whose worker died is handled again as well.
        :param worker: name of the worker, for people. 1 to 128 characters.
        :param concurrency: how many events are handled at a time, 1 to 10000.
        :param other: handles and ends the turn of a message that is not an event. ``None`` lets
            such messages fail.
        """
        self._check_open()
        worker = require_clean_text(worker, "worker", 128)
        require_int(concurrency, "concurrency", 1, 10_000)
        if not callable(handle):
            raise InvalidInputError("handle", f"expected a function, got {type(handle).__name__}")
        await self._timers.declare()
        forwarder = Forwarder(self._timers, self._forward, _lane_of, self._core.terms.lease_ms)
        async with anyio.create_task_group() as tasks:
            if self._alarm is None:
                tasks.start_soon(forwarder.run)
            self._workers.start(tasks, handle, other, worker, concurrency)
            yield
            tasks.cancel_scope.cancel()

    async def is_session_active(self, event: Event[P]) -> bool:
        """Return whether the session of an event still exists, as :attr:`EventTurn.is_active`."""
        self._check_open()
        if event.session is None:
            return True
        return await self._core.read(event) is not None

    # --- operation ---------------------------------------------------------------------------

    async def statistics(self) -> EventStatistics:
        """Return the numbers of the timers, and the counters of this object."""
        self._check_open()
        found = [await self._timers.backend.statistics(shard) for shard in self._timers.shards]
        oldest = min((s.oldest_due_ms for s in found if s.oldest_due_ms is not None), default=None)
        counters = self._workers.counters
        return EventStatistics(
            scheduled=sum(shard.scheduled for shard in found),
            due=sum(shard.due for shard in found),
            oldest_due_at=None if oldest is None else datetime_of(oldest),
            shards=tuple(
                EventShard(
                    scheduled=shard.scheduled,
                    due=shard.due,
                    oldest_due_at=(
                        None if shard.oldest_due_ms is None else datetime_of(shard.oldest_due_ms)
                    ),
                )
                for shard in found
            ),
            handled=counters.handled,
            failed=counters.failed,
            late_secs=counters.late_ms / 1000,
            max_late_secs=counters.max_late_ms / 1000,
        )

    async def list_scheduled(self, session: SessionKey | None = None) -> AsyncIterator[Event[P]]:
        """Iterate over the events that are scheduled, in no particular order.

        It reads all timers of the shard of ``session``, or of all shards.

        :param session: key of their session. ``None`` for those of all sessions, and those without.
        """
        self._check_open()
        shards = self._timers.shards
        if session is not None:
            shards = [self._timers.shard_of(EventName("", check_key(session)))]
        async for timer in self._timers.timers(shards):
            name, stored = name_of(timer.timer_id), unpack(timer.payload)
            if stored is None:
                continue
            if session is None or name.session == session:
                yield self._core.event_of(name, stored, timer.due_ms, attempt=0)

    async def dead_letters(self) -> AsyncIterator[DeadEvent[P]]:
        """Iterate over the events that became dead letters of the inbox.

        :meth:`SessionInbox.replay` of :attr:`inbox` handles one again.
        """
        async for letter in self.inbox.dead_letters():
            stored = unpack(letter.payload)
            if stored is not None:
                name = name_of_message(letter.event_id, stored)
                event = self._core.event_of(name, stored, stored.due_ms, attempt=letter.attempts)
                yield DeadEvent(event=event, letter=letter)

    async def delete(
        self, key: SessionKey, *, ctx: TenantCtx | None = None, cancel_events: bool = False
    ) -> bool:
        """Delete a session, as :meth:`AsyncSessionStore.delete`.

        :param ctx: the caller. ``None`` is the caller of this object.
        :param cancel_events: whether to cancel the scheduled events of the session afterwards.
            Without it, their handlers are called, and find that the session is not active.
        """
        self._check_open()
        was_there = await self._store.delete(key, ctx=self._core.caller(ctx))
        if cancel_events:
            async for event in self.list_scheduled(key):
                await self.cancel(event.id)
        return was_there

    async def _forward(self, timer: Timer) -> int | None:
        stored = unpack(timer.payload)
        if stored is None:  # another program wrote it
            return KEEP
        await self._core.admit(name_of(timer.timer_id), stored, timer.due_ms)
        return timer.due_ms + stored.every_ms if stored.every_ms else None

    @staticmethod
    def _new_name(event_id: str | None, session: SessionKey | None) -> EventName:
        if event_id is not None:
            return given_name(event_id, session)
        return EventName(secrets.token_urlsafe(12), session)


def _lane_of(timer: Timer) -> str:
    return name_of(timer.timer_id).mailbox


def _at_ms(at: datetime) -> int:
    given = cast("object", at)
    if not isinstance(given, datetime) or given.utcoffset() is None:
        raise InvalidInputError("at", "expected an aware datetime")
    at_ms = ms_of(given)
    if at_ms < 0:
        raise InvalidInputError("at", "is before 1970")
    return at_ms
