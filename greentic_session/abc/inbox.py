"""The steps of inboxes that a backend implements: on mailboxes, indexes and early events.

Inboxes are an optional capability of a store. A session has one *mailbox*: its messages in order,
and the lease of the worker that has its turn. It lives next to the session's record, so that the
end of a turn (state, outbox, handled messages, lease) is one step.

An inbox's *index* holds the sessions that have messages, and the time at which each is due. It may
live in another place than the mailboxes. So a step on the index and a step on a mailbox are two
steps, and a process can die between them. An index entry may therefore be stale:

* An entry is written before its message. A worker that comes too early does not remove it.
* An entry is deferred while a worker looks at its session. A worker that finds the mailbox empty
  removes the entry, unless it was changed since.
* A stale entry costs one attempt to take a turn. A message without an entry cannot exist.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from .records import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from ..model import Cas, SessionKey
    from .notifications import Subscription
    from .records import AllowedOwners, EncodedSession, Record
    from .waits import EventMemory, WaitOwner

__all__ = [
    "EarlyEventQueue",
    "EarlyPage",
    "EnqueueOutcome",
    "GrantedTurn",
    "InboxBackend",
    "InboxCall",
    "InboxSize",
    "MailboxRef",
    "NewMessage",
    "NothingDue",
    "StoredDeadLetter",
    "StoredMessage",
    "SupportsInbox",
    "TakeRequest",
    "TurnCommit",
    "TurnRef",
]


class MailboxRef(NamedTuple):
    """A reference to a mailbox.

    :ivar scope: ``env/tenant``.
    :ivar key: the session's key.
    """

    scope: str
    key: SessionKey


class StoredMessage(NamedTuple):
    """A message as stored.

    :ivar event_id: names it, as the channel does.
    :ivar payload: opaque bytes.
    :ivar at_ms: when it was admitted, in milliseconds since the epoch by the store's clock.
    :ivar owner: ``team/user`` of the caller that admitted it, see
        :mod:`greentic_session._core.tenancy`.
    """

    event_id: str
    payload: bytes
    at_ms: int
    owner: str

    def __repr__(self) -> str:
        """Return the sizes, without the payload, because it is private."""
        return f"StoredMessage({len(self.event_id)} characters, {len(self.payload)} bytes)"


class NewMessage(NamedTuple):
    """A message to enqueue.

    :ivar inbox: the inbox that admits it.
    :ivar mailbox: where to enqueue it.
    :ivar allowed: the owners whose live session may get it.
    :ivar event_id: names the message. It is known within the limits of ``events``.
    :ivar payload: opaque bytes.
    :ivar most: how many messages the mailbox may hold.
    :ivar events: limits of the memory of event ids.
    """

    inbox: str
    mailbox: MailboxRef
    allowed: AllowedOwners
    event_id: str
    payload: bytes
    most: int
    events: EventMemory

    def __repr__(self) -> str:
        """Return the inbox and the size, without the payload, because it is private."""
        return f"NewMessage({self.inbox!r}, {len(self.payload)} bytes)"


class EnqueueOutcome(Outcome, frozen=True, gc=False):
    """The outcome of an enqueue.

    :ivar waiting: how many messages are in the mailbox now.
    :ivar worker: the worker that has the turn now, empty for none.
    """

    waiting: int = 0
    worker: str = ""


class TakeRequest(NamedTuple):
    """A worker's request to take a turn.

    :ivar inbox: where to take it.
    :ivar worker: name of the worker, for people.
    :ivar lease_ms: length of the lease, in milliseconds.
    :ivar most: how many messages to return at most.
    :ivar attempts: how many attempts a message may have as the head of its mailbox.
    :ivar dead_ms: how long dead letters are stored, in milliseconds.
    :ivar dead_most: how many dead letters of one session are stored.
    """

    inbox: str
    worker: str
    lease_ms: int
    most: int
    attempts: int
    dead_ms: int
    dead_most: int


class TurnRef(NamedTuple):
    """A reference to a turn.

    :ivar inbox: where it was taken.
    :ivar mailbox: the mailbox of its session.
    :ivar fence: fencing token of the turn, higher than that of every earlier turn of the session.
    :ivar index_score: the backend's own text, passed back to it when the turn ends.
    """

    inbox: str
    mailbox: MailboxRef
    fence: int
    index_score: str = ""


class GrantedTurn(NamedTuple):
    """A turn that was taken.

    :ivar ref: the turn.
    :ivar lease_ms: when its lease ends, in milliseconds since the epoch by the store's clock.
    :ivar left_ms: milliseconds of the lease that were left when the turn was taken.
    :ivar messages: at least one, in order. If the head was tried before, the head alone. All of
        them are of callers that may act on the session. If there is no session, all are of the same
        caller.
    :ivar attempt: number of this attempt at the head, from 1.
    :ivar record: the session, ``None`` if it is absent.
    :ivar dropped: how many dead letters of the session this call dropped, because they were more
        than ``dead_most`` of the request.
    """

    ref: TurnRef
    lease_ms: int
    left_ms: int
    messages: tuple[StoredMessage, ...]
    attempt: int
    record: Record | None
    dropped: int = 0


class NothingDue(NamedTuple):
    """The reply if there is no turn to take now.

    :ivar due_secs: seconds until there may be one. 0 means to poll again immediately. ``None`` if
        no session is known to become due.
    :ivar dropped: how many dead letters this call dropped, as in :class:`GrantedTurn`.
    """

    due_secs: float | None
    dropped: int = 0


class TurnCommit(NamedTuple):
    """A commit of a turn.

    :ivar ref: the turn.
    :ivar encoded: the state to write, ``None`` to write none.
    :ivar removes: whether to remove the session.
    :ivar expected: the token that the turn has seen last, ``Cas.none()`` for an absent session.
    :ivar handled: how many of the turn's messages, from the first, are handled by now. The step
        removes those of them that are still stored. The count starts with the turn, because the
        worker may not know whether an earlier commit was executed.
    :ivar in_hand: how many of the turn's messages are left. An attempt at the next one begins.
    :ivar ends: whether the turn ends.
    """

    ref: TurnRef
    encoded: EncodedSession | None
    removes: bool
    expected: Cas
    handled: int
    in_hand: int
    ends: bool


class StoredDeadLetter(NamedTuple):
    """A message that exhausted its attempts or failed the access check.

    :ivar mailbox: where it was.
    :ivar message: as it was.
    :ivar died_ms: when it became a dead letter, in milliseconds since the epoch by the store's
        clock.
    :ivar attempts: how many attempts it had.
    """

    mailbox: MailboxRef
    message: StoredMessage
    died_ms: int
    attempts: int


class InboxSize(NamedTuple):
    """The size of an inbox's index.

    :ivar sessions: how many sessions have an entry.
    :ivar due: how many of them are due now.
    """

    sessions: int
    due: int


class EarlyEventQueue(NamedTuple):
    """A reference to a queue of early events.

    :ivar wait_owner: the owner of the events.
    :ivar scope_hash: the reply scope.
    """

    wait_owner: WaitOwner
    scope_hash: str


class EarlyPage(NamedTuple):
    """Some of the early events of a queue.

    :ivar events: in order, each with the key of its session. May be empty.
    :ivar position: where the next page starts, ``None`` after the last one. Each event of this page
        that is deleted since moves it by one towards the start.
    """

    events: Sequence[tuple[SessionKey, StoredMessage]]
    position: int | None


class InboxCall(ABC):
    """The steps that inboxes are made of, bound to one deadline.

    Arguments are checked. Each step on a mailbox is atomic, and safe to repeat when its reply was
    lost. Any step may raise :class:`StoreUnavailableError`. One that writes may raise
    :class:`OutcomeUnknownError` as well.

    A turn is *held* while its lease lasts. When the lease has expired, the turn is over, whether or
    not another worker has taken the next one.
    """

    # --- mailboxes ---------------------------------------------------------------------------

    @abstractmethod
    async def enqueue(self, message: NewMessage) -> EnqueueOutcome:
        """Add a message at the end of the mailbox, and notify unless a turn is held.

        :returns: the first that applies, each but ``MISMATCH`` with ``waiting`` and ``worker``:

            * ``MISMATCH`` if a live session has none of the allowed owners.
            * ``SEEN`` if the event is known. This notifies as well.
            * ``FULL``, or ``DONE``.
        """

    @abstractmethod
    async def take(self, request: TakeRequest) -> GrantedTurn | NothingDue:
        """Take the turn of the session that has been due for longest.

        This counts an attempt at the head of its mailbox. A head becomes a dead letter if it has
        exhausted its attempts, or if its caller may not act on the live session. In the second case
        it was admitted before that session was created. Then the next message is the head. Of more
        dead letters of a session than the request allows, the oldest ones are dropped.

        :raises DecodeError: the record or the mailbox of a session was not written by this library.
            It is not due again for a while.
        """

    @abstractmethod
    async def renew(self, ref: TurnRef, lease_ms: int) -> tuple[int, int]:
        """Extend the lease to at least ``lease_ms`` from now.

        :returns: when it ends, and in how many milliseconds. Both are 0 if the turn is over.
        """

    @abstractmethod
    async def commit(self, result: TurnCommit) -> Outcome:
        """Write or remove the session, and remove the handled messages, in one step.

        The write is like that of the store's own verbs. If the turn ends and messages are left, the
        session is due, and a waiter is notified.

        :returns: the first that applies: ``LOST`` if the turn is not held, ``MISMATCH``,
            ``CONFLICT`` with the stored token, or ``DONE`` with the written token, if any.
        """

    @abstractmethod
    async def release(self, ref: TurnRef, backoff_ms: int | None) -> bool:
        """Release the turn. Its messages stay in the mailbox.

        :param backoff_ms: milliseconds until the session is due again after a failed attempt.
            ``None`` if this was not an attempt: then the session is due immediately.
        :returns: ``False`` if the turn is not held.
        """

    @abstractmethod
    async def size(self, inbox: str) -> InboxSize:
        """Return the size of the index, whose entries may be stale."""

    # --- dead letters ------------------------------------------------------------------------

    @abstractmethod
    async def replay(self, inbox: str, mail: StoredDeadLetter, dead_ms: int, most: int) -> Outcome:
        """Move a dead letter to the end of its mailbox, as a new message, and notify.

        :param dead_ms: how long dead letters are stored, in milliseconds.
        :param most: how many messages the mailbox may hold.
        :returns: ``ABSENT``, ``FULL``, or ``DONE``.
        """

    @abstractmethod
    async def discard(self, mail: StoredDeadLetter) -> bool:
        """Remove a dead letter.

        :returns: ``False`` if it was absent.
        """

    # --- early events ------------------------------------------------------------------------

    @abstractmethod
    async def store_early(
        self, queue: EarlyEventQueue, event_id: str, payload: bytes, events: EventMemory
    ) -> Outcome:
        """Store an event at the end of a queue.

        :param events: how many events the queue may hold, and for how long.
        :returns: ``SEEN`` if it is stored already, ``FULL``, or ``DONE``.
        """

    @abstractmethod
    async def assign_early(
        self,
        queue: EarlyEventQueue,
        key: SessionKey,
        gone: str,
        events: EventMemory,
        position: int = 0,
    ) -> EarlyPage:
        """Assign a page of events of a queue to this session, except those of another session.

        The queue and the mailbox may live in different places, and a process can die between two
        steps. So an event is assigned before it is enqueued. Then no other session gets it as well.

        :param gone: key of a session whose events are reassigned to this one, empty for none.
        :param position: where the page starts, in a queue that other calls may change meanwhile.
        :returns: the page. It holds a bounded number of events, because they may be large.
        """

    @abstractmethod
    async def delete_early(
        self, queue: EarlyEventQueue, key: SessionKey, message: StoredMessage
    ) -> None:
        """Delete an event that is assigned to this session."""


class InboxBackend(ABC):
    """Makes calls on inboxes."""

    @abstractmethod
    def call(self) -> InboxCall:
        """Begin a call. Its deadline counts from now."""

    @abstractmethod
    def subscribe(self, inbox: str) -> AbstractAsyncContextManager[Subscription]:
        """Subscribe to the sessions of an inbox that have messages and no worker."""

    @abstractmethod
    async def dead_letters(
        self, inbox: str, dead_ms: int, position: object | None
    ) -> tuple[Sequence[StoredDeadLetter], object | None]:
        """Return a page of dead letters, and the position of the next page, ``None`` after the last
        one.

        Each page has its own deadlines.

        :param dead_ms: how long dead letters are stored, in milliseconds.
        :param position: of the page, ``None`` for the first one.
        """


class SupportsInbox(ABC):
    """A store with inboxes."""

    @abstractmethod
    def inbox_backend(self) -> InboxBackend:
        """Return the backend of inboxes."""
