"""The queue of an inbox's sessions, ordered by the time at which they are due."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from ..abc.inbox import MailboxRef

__all__ = ["DueQueue", "InboxQueues"]


@final
class DueQueue:
    """Orders sessions by the time at which they are due, and then by arrival."""

    __slots__ = ("_due", "_entered", "_heap")

    def __init__(self) -> None:
        self._due: Final[dict[MailboxRef, tuple[int, int]]] = {}
        self._heap: list[tuple[int, int, MailboxRef]] = []
        self._entered = 0

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, mailbox: MailboxRef) -> bool:
        return mailbox in self._due

    def move(self, mailbox: MailboxRef, at_ms: int) -> None:
        """Add a session, or change when it is due. It comes after all others with that time."""
        self._entered += 1
        self._due[mailbox] = at_ms, self._entered
        heapq.heappush(self._heap, (at_ms, self._entered, mailbox))
        if len(self._heap) > 2 * len(self._due) + 64:
            self._heap = [(at, entered, one) for one, (at, entered) in self._due.items()]
            heapq.heapify(self._heap)

    def move_all(self, by_ms: int) -> None:
        """Move the due time of each session by the same number of milliseconds. The order stays."""
        for mailbox, (at_ms, entered) in self._due.items():
            self._due[mailbox] = at_ms + by_ms, entered
        self._heap = [(at, entered, one) for one, (at, entered) in self._due.items()]
        heapq.heapify(self._heap)

    def discard(self, mailbox: MailboxRef) -> None:
        """Remove a session."""
        self._due.pop(mailbox, None)
        if not self._due:
            self._heap.clear()

    def first(self) -> tuple[int, MailboxRef] | None:
        """Return the due time of the first session, and the session.

        :returns: ``None`` if the queue is empty.
        """
        while self._heap:
            at_ms, entered, mailbox = self._heap[0]
            if self._due.get(mailbox) == (at_ms, entered):
                return at_ms, mailbox
            heapq.heappop(self._heap)
        return None

    def due(self, now_ms: int) -> int:
        """Return the number of due sessions."""
        return sum(at_ms <= now_ms for at_ms, _ in self._due.values())


@final
class InboxQueues:
    """The queues of one inbox: of all tenants, and of each tenant."""

    __slots__ = ("_all", "_tenants")

    def __init__(self) -> None:
        self._all: Final = DueQueue()
        self._tenants: Final[dict[str, DueQueue]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, mailbox: MailboxRef) -> bool:
        return mailbox in self._all

    def of(self, scope: str) -> DueQueue | None:
        """Return the queue of a tenant, or of all tenants if the scope is empty."""
        return self._tenants.get(scope) if scope else self._all

    def move(self, mailbox: MailboxRef, at_ms: int) -> None:
        """As :meth:`DueQueue.move`."""
        self._all.move(mailbox, at_ms)
        self._tenants.setdefault(mailbox.scope, DueQueue()).move(mailbox, at_ms)

    def move_all(self, by_ms: int) -> None:
        """As :meth:`DueQueue.move_all`."""
        for queue in (self._all, *self._tenants.values()):
            queue.move_all(by_ms)

    def discard(self, mailbox: MailboxRef) -> None:
        """As :meth:`DueQueue.discard`."""
        self._all.discard(mailbox)
        queue = self._tenants.get(mailbox.scope)
        if queue is not None:
            queue.discard(mailbox)
            if not queue:
                del self._tenants[mailbox.scope]
