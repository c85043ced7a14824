"""What scheduling, forwarding and handling of events have in common."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, final

import msgspec

from .._core import tenancy
from .._core.times import datetime_of, ms_of
from ..errors import InvalidInputError, PayloadTooLargeError, TenantMismatchError
from ..model import C, TenantCtx, Versioned
from .model import Alarm, Event, P, PackedEvent
from .packing import EventName, StoredEvent, pack

if TYPE_CHECKING:
    from ..ordering import SessionInbox
    from ..store import AsyncSessionStore
    from .timers import EventTimers

__all__ = ["EventCore", "EventTerms", "now_ms"]


class EventTerms(NamedTuple, Generic[C]):
    """The arguments that the parts of the service have in common.

    :ivar store: the store.
    :ivar bound: the caller of the scoped view, ``None`` for a store.
    :ivar ctx: the caller of events that are scheduled without one.
    :ivar scope: ``env/tenant``.
    :ivar inbox: the inbox.
    :ivar timers: the timers.
    :ivar alarm: the scheduler that replaces the timers, ``None`` for none.
    :ivar payload_bytes: limit on the size of a stored event.
    :ivar lease_ms: length of a lease, in milliseconds.
    """

    store: AsyncSessionStore[C]
    bound: TenantCtx | None
    ctx: TenantCtx
    scope: str
    inbox: SessionInbox[C]
    timers: EventTimers
    alarm: Alarm | None
    payload_bytes: int
    lease_ms: int


@final
class EventCore(Generic[C, P]):
    """Encodes events, enters them into the timers, admits them, and reads their sessions.

    :param payload_type: type of the payloads.
    :ivar terms: the arguments of the service.
    """

    def __init__(self, terms: EventTerms[C], payload_type: type[P]) -> None:
        self.terms: Final = terms
        self._encoder: Final = msgspec.msgpack.Encoder()
        try:
            self._decoder: Final = msgspec.msgpack.Decoder(payload_type)
        except TypeError as error:
            raise InvalidInputError("payload_type", str(error)) from None

    async def enter(
        self, name: EventName, stored: StoredEvent, *, at_ms: int | None, delay_ms: int = 0
    ) -> None:
        """Enter an event into the timers or the alarm."""
        data = pack(stored)
        if len(data) + len(name.id) > self.terms.payload_bytes:
            raise PayloadTooLargeError(len(data), self.terms.payload_bytes, "payload")
        if self.terms.alarm is None:
            await self.terms.timers.enter(name, data, at_ms=at_ms, delay_ms=delay_ms)
            return
        due_ms = now_ms() + delay_ms if at_ms is None else at_ms
        stored = msgspec.structs.replace(stored, due_ms=due_ms)
        await self.terms.alarm.set(datetime_of(due_ms), PackedEvent(id=name.id, data=pack(stored)))

    async def read(self, event: Event[P]) -> Versioned[C] | None:
        """Return the session that an event belongs to, ``None`` if it has ended."""
        if event.session is None:
            return None
        try:
            found = await self.terms.store.get(event.session, ctx=event.ctx)
        except TenantMismatchError:
            return None
        if found is None or event.incarnation not in ("", found.cas.incarnation):
            return None
        return found

    async def admit(self, name: EventName, stored: StoredEvent, due_ms: int) -> bool:
        """Admit an event as a message. ``False`` if it was admitted before."""
        stored = msgspec.structs.replace(stored, key=name.session or "", due_ms=due_ms)
        ctx = self.ctx_of(stored)
        message_id, data = stored.message_id(name.token, due_ms), pack(stored)
        try:
            admitted = await self.terms.inbox.admit(name.mailbox, message_id, data, ctx=ctx)
        except TenantMismatchError:  # another incarnation, of another team or user
            admitted = await self.terms.inbox.admit(name.own_mailbox, message_id, data, ctx=ctx)
        return admitted.is_new

    def event_of(self, name: EventName, stored: StoredEvent, due_ms: int, attempt: int) -> Event[P]:
        """Return a stored event as its handler sees it.

        :raises msgspec.ValidationError: the payload has another type.
        """
        scheduled_ms = stored.scheduled_ms
        if stored.every_ms:
            scheduled_ms = -stored.every_ms
        if scheduled_ms <= 0:
            scheduled_ms += due_ms
        return Event(
            id=name.id,
            payload=self._decoder.decode(stored.payload),
            session=name.session,
            scheduled_at=datetime_of(scheduled_ms),
            due_at=datetime_of(due_ms),
            attempt=attempt,
            ctx=self.ctx_of(stored),
            incarnation=stored.incarnation.hex(),
        )

    async def is_scheduled(self, name: EventName) -> bool:
        """Return whether an event has a timer."""
        return await self.terms.timers.exists(name)

    async def stop(self, name: EventName) -> None:
        """Remove the timer of a recurring event, or of another one that is over."""
        await self.terms.timers.cancel(name)

    def encode_payload(self, payload: P) -> bytes:
        """Return a payload as bytes, after a check of its type.

        :raises InvalidInputError: naming ``payload``.
        """
        try:
            encoded = self._encoder.encode(payload)
            self._decoder.decode(encoded)
        except (TypeError, msgspec.MsgspecError, OverflowError, UnicodeEncodeError):
            reason = f"is not of the payload type: {type(payload).__name__}"
            raise InvalidInputError("payload", reason) from None
        return encoded

    def ctx_of(self, stored: StoredEvent) -> TenantCtx:
        """Return the caller that scheduled an event."""
        ctx = tenancy.ctx_of(self.terms.scope, stored.owner)
        return msgspec.structs.replace(ctx, attributes=stored.attributes)

    def caller(self, ctx: TenantCtx | None) -> TenantCtx:
        """Return the caller of a call.

        :raises TenantMismatchError: it is not of this tenant, or not of the scoped view.
        """
        if ctx is None:
            return self.terms.ctx
        tenancy.check_presents(self.terms.bound, ctx)
        if tenancy.scope_of(ctx) != self.terms.scope:
            raise TenantMismatchError("")
        return ctx


def now_ms() -> int:
    """Return the time of this process, in milliseconds since the epoch."""
    return ms_of(datetime.now(UTC))
