"""Early events of a reply scope: stored until a session waits there, then moved to its mailbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast, final

from ...abc.inbox import MailboxRef
from ...abc.records import Verdict, error_for
from ...errors import (
    DurabilityError,
    InboxFullError,
    OutcomeUnknownError,
    StoreUnavailableError,
    TenantMismatchError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ...abc.inbox import EarlyEventQueue, InboxBackend
    from ...abc.waits import EventMemory
    from ...model import SessionKey
    from .messages import Admitted

    Moved = dict[str, tuple[bool, Admitted]]

__all__ = ["EarlyEvents"]


@final
class EarlyEvents:
    """Stores and moves the early events of one reply scope.

    :param backend: the store's inbox backend.
    :param queue: address of the events.
    :param limit: how many events are stored, and for how long.
    :param find_wait: returns the key of the session that waits there.
    :param admit: adds a message at the end of a mailbox. It gets the mailbox, the event id, the
        payload and the headers.
    """

    def __init__(
        self,
        backend: InboxBackend,
        queue: EarlyEventQueue,
        limit: EventMemory,
        *,
        find_wait: Callable[[], Awaitable[SessionKey | None]],
        admit: Callable[[MailboxRef, str, bytes, bytes], Awaitable[Admitted]],
    ) -> None:
        self._backend: Final = backend
        self._queue: Final = queue
        self._limit: Final = limit
        self._find_wait: Final = find_wait
        self._admit: Final = admit

    async def store_and_move(
        self, event_id: str, payload: bytes, headers: bytes
    ) -> tuple[bool, Moved]:
        """Store an event, and move the events of the queue.

        :returns: whether the queue had room, and the result of :meth:`move`.
        :raises DurabilityError: the event is stored, or in the mailbox, on fewer replicas.
        :raises OutcomeUnknownError: the event is stored, and may be in the mailbox.
        """
        shortfall: DurabilityError | None = None
        has_room = True
        try:
            outcome = await self._backend.call().store_early(
                self._queue, event_id, payload, self._limit, headers
            )
        except DurabilityError as error:  # the event is stored, and a session may wait for it
            shortfall = error
        else:
            if outcome.verdict not in (Verdict.DONE, Verdict.SEEN, Verdict.FULL):
                raise error_for("", outcome)
            has_room = outcome.verdict is not Verdict.FULL
        try:
            moved = await self.move()
        except (StoreUnavailableError, OutcomeUnknownError) as error:
            if shortfall is not None:
                raise shortfall from error
            if has_room:  # "nothing was written" would be wrong, because the event is stored
                raise OutcomeUnknownError(error.reason) from error
            raise
        if shortfall is not None and event_id not in moved:  # the mailbox confirms its messages
            raise shortfall
        return has_room, moved

    async def move(self) -> Moved:
        """Admit the events of the queue, if a session waits there.

        :returns: by event id, whether the event was for that session, and the result of ``admit``.
        """
        key = await self._find_wait()
        if key is None:
            return {}
        moved: Moved = {}
        try:
            await self._move_to(key, moved)
        except StoreUnavailableError as error:
            if moved:  # "nothing was written" would be wrong
                raise OutcomeUnknownError(error.reason) from error
            raise
        return moved

    async def _move_to(self, key: SessionKey, moved: Moved) -> None:
        backend, queue, limit = self._backend, self._queue, self._limit
        full: set[SessionKey] = set()
        gone, position = "", cast("int | None", 0)
        # Events are admitted one by one, and deleted only when confirmed. So a concurrent call also
        # admits each event after those before it. The later call finds the event known.
        while position is not None:
            page = await backend.call().assign_early(queue, key, gone, limit, position)
            start, position, gone = position, page.position, ""
            for assigned_key, message in page.events:
                if assigned_key in full:
                    continue
                mailbox = MailboxRef(queue.wait_owner.scope, assigned_key)
                try:
                    admitted = await self._admit(
                        mailbox, message.event_id, message.payload, message.headers
                    )
                except InboxFullError:
                    if assigned_key == key:
                        raise
                    full.add(assigned_key)  # this does not delay the events of other sessions
                except TenantMismatchError:
                    if assigned_key == key:
                        raise
                    # Its session is gone, and a session of another owner has that key now.
                    gone, position = assigned_key, start
                    break
                else:
                    moved[message.event_id] = assigned_key == key, admitted
                    await backend.call().delete_early(queue, assigned_key, message)
                    position = None if position is None else position - 1
