"""The workers of events: take turns of the inbox and call the handler."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, final

import anyio
import msgspec

from ..errors import (
    DecodeError,
    LeaseLostError,
    OutcomeUnknownError,
)
from ..model import C
from .model import P
from .packing import EventName, StoredEvent, name_of_message, unpack
from .turn import EventTurn, InboxCommit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskGroup

    from ..model import SessionKey
    from ..ordering import InboxTurn, Mail
    from .core import EventCore
    from .model import Event

    Handler = Callable[[Event[P], EventTurn[C]], Awaitable[None]]
    Other = Callable[[InboxTurn[C]], Awaitable[None]]

__all__ = ["Counters", "EventWorkers"]

_LOG: Final = logging.getLogger(__name__)
_IDLE: Final = 4
"""Limit on the workers of a process that wait for the store at a time."""
_RETRY_SECS: Final = 1.0
"""Pause of a worker after it could not take a turn."""


@final
class Counters:
    """Counters of handled events."""

    __slots__ = ("failed", "handled", "late_ms", "max_late_ms")

    def __init__(self) -> None:
        self.handled = self.failed = self.late_ms = self.max_late_ms = 0


@final
class EventWorkers(Generic[C, P]):
    """Takes the turns of events and calls their handlers.

    :param core: the shared steps of the service.
    :ivar counters: its counters.
    """

    def __init__(self, core: EventCore[C, P]) -> None:
        self._core: Final = core
        self.counters: Final = Counters()

    def start(
        self,
        tasks: TaskGroup,
        handle: Handler[P, C],
        other: Other[C] | None,
        worker: str,
        concurrency: int,
    ) -> None:
        """Start the workers in a task group."""
        idle = anyio.Semaphore(_IDLE)
        for _ in range(concurrency):
            tasks.start_soon(self._work, handle, other, worker, idle)

    async def _work(
        self, handle: Handler[P, C], other: Other[C] | None, worker: str, idle: anyio.Semaphore
    ) -> None:
        inbox = self._core.terms.inbox
        while True:
            key: SessionKey | None = None
            is_idle = False
            try:
                await idle.acquire()
                is_idle = True
                async with inbox.take(worker, most=1) as turn:
                    idle.release()
                    is_idle = False
                    key = turn.key
                    await self._handle(turn, handle, other)
            except (LeaseLostError, OutcomeUnknownError):
                pass  # the event comes again
            except Exception as error:  # noqa: BLE001 - one event must not end the worker
                self.counters.failed += key is not None
                _LOG.warning("an event failed with %s", type(error).__name__)
                if key is None:  # no turn could be taken
                    await anyio.sleep(_RETRY_SECS)
            finally:
                if is_idle:
                    idle.release()

    async def _handle(
        self, turn: InboxTurn[C], handle: Handler[P, C], other: Other[C] | None
    ) -> None:
        (mail,) = turn.mail
        stored = unpack(mail.payload)
        if stored is None:
            if other is None:
                raise DecodeError(turn.key, "the message is not an event")
            await other(turn)
            return
        name = name_of_message(mail.event_id, stored)
        await self._handle_event(turn, mail, name, stored, handle)
        late_ms = max(0, round(mail.admitted_at.timestamp() * 1000) - stored.due_ms)
        counters = self.counters
        counters.handled += 1
        counters.late_ms += late_ms
        counters.max_late_ms = max(counters.max_late_ms, late_ms)

    async def _handle_event(
        self,
        turn: InboxTurn[C],
        mail: Mail,
        name: EventName,
        stored: StoredEvent,
        handle: Handler[P, C],
    ) -> None:
        core = self._core
        try:
            event = core.event_of(name, stored, stored.due_ms, mail.attempt)
        except msgspec.MsgspecError:
            raise DecodeError(turn.key, "the payload of an event has another type") from None
        session, is_active = turn.session, name.session is None
        if turn.key != name.session or event.incarnation not in ("", turn.cas.incarnation):
            session = None
        is_active = is_active or session is not None
        if stored.every_ms:
            if not await core.terms.timers.exists(name):  # it was cancelled
                await turn.finish()
                return
            if not is_active:
                await core.terms.timers.cancel(name)
        commit = InboxCommit(turn, partial(core.read, event))
        its_turn = EventTurn(session, commit, key=turn.key, is_active=is_active, fence=turn.fence)
        await handle(event, its_turn)
        await its_turn.end()
