"""The steps of inboxes that a backend implements: on mailboxes, indexes and early events.

Inboxes are an optional capability of a store. A session has one *mailbox* with its messages in
order, and with the lease of the worker that holds its turn. The mailbox lives next to the session's
record. So the end of a turn changes state, outbox, messages and lease in one step.

An inbox's *index* holds the sessions that have messages, and the time at which each is due. It may
live in another place than the mailboxes. Then an index and a mailbox change in two steps, and a
process can die between them. So an index entry may be stale:

* An entry is written before its message. A worker that finds no message yet does not remove it.
* An entry is deferred while a worker checks its session. A worker that finds the mailbox empty
  removes the entry, unless it was changed since.
* A stale entry costs one attempt to take a turn. A message without an entry cannot exist.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from ..errors import InvalidInputError
from .records import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from ..model import Cas, SessionKey
    from .notifications import Subscription
    from .records import AllowedOwners, EncodedSession, Record, Verdict
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
    "inbox_backend_of",
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

    :ivar event_id: id of the message, as the channel sent it.
    :ivar payload: opaque bytes.
    :ivar at_ms: when it was admitted, in milliseconds since the epoch by the store's clock.
    :ivar owner: ``team/user`` of the caller that admitted it, see
        :mod:`greentic_session._core.tenancy`.
    :ivar headers: opaque bytes, empty for none.
    """

    event_id: str
    payload: bytes
    at_ms: int
    owner: str
    headers: bytes = b""

    def __repr__(self) -> str:
        """Return the sizes without the payload, because it is private."""
        return f"StoredMessage({len(self.event_id)} characters, {len(self.payload)} bytes)"


class NewMessage(NamedTuple):
    """A message to enqueue.

    :ivar inbox: inbox that admits the message.
    :ivar mailbox: mailbox that gets the message.
    :ivar allowed: owners whose live session may get the message.
    :ivar event_id: id of the message. It is remembered within the limits of ``events``.
    :ivar payload: opaque bytes.
    :ivar most: maximum number of messages in the mailbox.
    :ivar events: limits of the memory of event ids.
    :ivar headers: opaque bytes, empty for none.
    :ivar headers_memory: limits of the stored headers. They are higher than those of messages and
        dead letters.
    """

    inbox: str
    mailbox: MailboxRef
    allowed: AllowedOwners
    event_id: str
    payload: bytes
    most: int
    events: EventMemory
    headers: bytes = b""
    headers_memory: EventMemory | None = None

    def __repr__(self) -> str:
        """Return the inbox and the size without the payload, because it is private."""
        return f"NewMessage({self.inbox!r}, {len(self.payload)} bytes)"


class EnqueueOutcome(Outcome, frozen=True, gc=False):
    """The outcome of an enqueue.

    :ivar waiting: number of messages in the mailbox after the step.
    :ivar worker: the worker that holds the turn, empty for none.
    """

    waiting: int = 0
    worker: str = ""


class TakeRequest(NamedTuple):
    """A worker's request to take a turn.

    :ivar inbox: inbox of the turn.
    :ivar worker: name of the worker, for people.
    :ivar lease_ms: length of the lease, in milliseconds.
    :ivar most: maximum number of messages to return.
    :ivar attempts: maximum number of attempts at a message as the head of its mailbox.
    :ivar dead_ms: retention of dead letters, in milliseconds.
    :ivar dead_most: maximum number of stored dead letters of one session.
    :ivar scope: ``env/tenant`` of the sessions, empty for those of all tenants.
    """

    inbox: str
    worker: str
    lease_ms: int
    most: int
    attempts: int
    dead_ms: int
    dead_most: int
    scope: str = ""


class TurnRef(NamedTuple):
    """A reference to a turn.

    :ivar inbox: inbox of the turn.
    :ivar mailbox: mailbox of the session.
    :ivar fence: fencing token of the turn, higher than that of every earlier turn of the session.
    :ivar index_score: the backend's own text, passed back to it when the turn ends.
    """

    inbox: str
    mailbox: MailboxRef
    fence: int
    index_score: str = ""


class GrantedTurn(NamedTuple):
    """A turn that was taken.

    :ivar ref: reference to the turn.
    :ivar lease_ms: when the lease ends, in milliseconds since the epoch by the store's clock.
    :ivar left_ms: milliseconds of the lease that were left when the turn was taken.
    :ivar messages: at least one message, in order. If the head was tried before, it is the only
        one. The caller of each may act on the session. If there is no session, all are of the same
        caller.
    :ivar attempt: number of this attempt at the head, from 1.
    :ivar record: record of the session, ``None`` if it is absent.
    :ivar dropped: number of dead letters that this call dropped because the session had more than
        ``dead_most`` of the request.
    """

    ref: TurnRef
    lease_ms: int
    left_ms: int
    messages: tuple[StoredMessage, ...]
    attempt: int
    record: Record | None
    dropped: int = 0


class NothingDue(NamedTuple):
    """The reply if no turn is available.

    :ivar due_secs: seconds until one may be available. 0 means to poll again immediately. ``None``
        if no session is known to become due.
    :ivar dropped: number of dead letters that this call dropped, as in :class:`GrantedTurn`.
    """

    due_secs: float | None
    dropped: int = 0


class TurnCommit(NamedTuple):
    """The result of a turn, to be committed.

    :ivar ref: reference to the turn.
    :ivar encoded: session to write, ``None`` to write none.
    :ivar removes: whether to remove the session.
    :ivar expected: last token that the turn has seen, ``Cas.none()`` for an absent session.
    :ivar handled: number of the turn's messages that are handled, counted from the start of the
        turn. The worker may not know whether an earlier commit was executed. So the step removes
        only those messages that are still stored.
    :ivar in_hand: number of the turn's messages that are left. An attempt at the next one begins.
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

    :ivar mailbox: mailbox that held the message.
    :ivar message: the message, unchanged.
    :ivar died_ms: when it became a dead letter, in milliseconds since the epoch by the store's
        clock.
    :ivar attempts: number of attempts at the message.
    """

    mailbox: MailboxRef
    message: StoredMessage
    died_ms: int
    attempts: int


class InboxSize(NamedTuple):
    """The size of an inbox's index.

    :ivar sessions: number of sessions with an entry.
    :ivar due: number of these sessions that are due.
    """

    sessions: int
    due: int


class EarlyEventQueue(NamedTuple):
    """A reference to a queue of early events.

    :ivar wait_owner: owner of the events.
    :ivar scope_hash: hash of the reply scope.
    """

    wait_owner: WaitOwner
    scope_hash: str


class EarlyPage(NamedTuple):
    """A page of the early events of a queue.

    :ivar events: the events in order, each with the key of its session. May be empty.
    :ivar position: position of the next page, ``None`` after the last one. If an event of this page
        is deleted, the position moves by one towards the start.
    """

    events: Sequence[tuple[SessionKey, StoredMessage]]
    position: int | None


class InboxCall(ABC):
    """The steps of a call on an inbox, under one deadline.

    The arguments have been checked. Each step on a mailbox is atomic. A caller may repeat it if its
    reply was lost. Any step may raise :class:`StoreUnavailableError`. A step that writes may also
    raise :class:`OutcomeUnknownError`.

    A turn is *held* while its lease lasts. When the lease has expired, the turn is over, even if no
    other worker has taken the next one.
    """

    # --- mailboxes ---------------------------------------------------------------------------

    @abstractmethod
    async def enqueue(self, message: NewMessage) -> EnqueueOutcome:
        """Add a message at the end of the mailbox, and notify unless a turn is held.

        :returns: the first verdict that applies. All except ``MISMATCH`` have ``waiting`` and
            ``worker``:

            * ``MISMATCH`` if a live session has none of the allowed owners.
            * ``SEEN`` if the event is known. This also notifies.
            * ``FULL`` if the mailbox is full.
            * ``DONE``.
        """

    @abstractmethod
    async def take(self, request: TakeRequest) -> GrantedTurn | NothingDue:
        """Take the turn of the session that has been due for longest.

        The step counts an attempt at the head of its mailbox. A head becomes a dead letter if it
        exhausted its attempts, or if its caller may not act on the live session. The second case
        occurs if the message was admitted before the session was created. Then the next message
        becomes the head. If a session has more dead letters than the request allows, the oldest
        ones are dropped.

        :raises DecodeError: this library did not write the record or the mailbox of a session. The
            session is not due again for a while.
        """

    @abstractmethod
    async def renew(self, ref: TurnRef, lease_ms: int) -> tuple[int, int]:
        """Extend the lease to at least ``lease_ms`` from now.

        :returns: when the lease ends, in milliseconds since the epoch, and the milliseconds that
            are left. Both are 0 if the turn is over.
        """

    @abstractmethod
    async def commit(self, result: TurnCommit) -> Outcome:
        """Write or remove the session, and remove the handled messages, in one step.

        The write follows the same rules as the store's own verbs. If the turn ends and messages are
        left, the session is due, and the step notifies a waiter.

        :returns: the first verdict that applies: ``LOST`` if the turn is not held, ``MISMATCH``,
            ``CONFLICT`` with the stored token, or ``DONE`` with the written token, if any.
        """

    @abstractmethod
    async def release(self, ref: TurnRef, backoff_ms: int | None) -> bool:
        """Release the turn. Its messages stay in the mailbox.

        :param backoff_ms: milliseconds until the session is due again after a failed attempt. If
            this was not an attempt, ``None``, and the session is due immediately.
        :returns: ``False`` if the turn is not held.
        """

    @abstractmethod
    async def size(self, inbox: str, scope: str) -> InboxSize:
        """Return the size of the index. It includes stale entries.

        :param scope: as in :class:`TakeRequest`.
        """

    # --- dead letters ------------------------------------------------------------------------

    @abstractmethod
    async def replay(self, inbox: str, mail: StoredDeadLetter, dead_ms: int, most: int) -> Outcome:
        """Move a dead letter to the end of its mailbox, as a new message, and notify.

        :param dead_ms: retention of dead letters, in milliseconds.
        :param most: maximum number of messages in the mailbox.
        :returns: ``ABSENT``, ``FULL``, or ``DONE``.
        """

    @abstractmethod
    async def discard(self, mail: StoredDeadLetter) -> bool:
        """Remove a dead letter.

        :returns: ``False`` if the dead letter was absent.
        """

    @abstractmethod
    async def withdraw(
        self,
        mailbox: MailboxRef,
        event_id: str,
        events: EventMemory,
        *,
        prefix: str = "",
        refuses: bool = False,
    ) -> Verdict:
        """Take back a message that no worker has begun. Its event stays known.

        :param events: limits of the memory of event ids, as in :class:`NewMessage`.
        :param prefix: messages whose ids start so are taken back as well, empty for none.
        :param refuses: whether an unknown event becomes known, so that a later :meth:`enqueue` of
            it has no effect.
        :returns: ``CLAIMED`` if a worker has or had the message, and nothing was taken back.
            ``DONE`` if a message was taken back or an event became known. ``ABSENT``.
        """

    # --- early events ------------------------------------------------------------------------

    @abstractmethod
    async def store_early(
        self,
        queue: EarlyEventQueue,
        event_id: str,
        payload: bytes,
        events: EventMemory,
        headers: bytes = b"",
    ) -> Outcome:
        """Store an event at the end of a queue.

        :param events: limits on the number of events in the queue, and on their retention.
        :returns: ``SEEN`` if the event is stored already, ``FULL``, or ``DONE``.
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
        """Assign a page of a queue's events to a session, except those of another session.

        The queue and the mailbox may live in different places, and a process can die between two
        steps. So an event is assigned before it is enqueued, and no other session can get it.

        :param key: key of the session.
        :param gone: key of another session whose events are reassigned, empty for none.
        :param position: position of the page, in a queue that other calls may change meanwhile.
        :returns: the page. It holds a bounded number of events, because they may be large.
        """

    @abstractmethod
    async def delete_early(
        self, queue: EarlyEventQueue, key: SessionKey, message: StoredMessage
    ) -> None:
        """Delete an event that is assigned to a session."""


class InboxBackend(ABC):
    """Creates calls on inboxes."""

    @abstractmethod
    def call(self) -> InboxCall:
        """Begin a call, with a deadline that starts now."""

    @abstractmethod
    def subscribe(self, inbox: str, scope: str) -> AbstractAsyncContextManager[Subscription]:
        """Subscribe to notifications on sessions of an inbox with messages and without a worker.

        :param scope: as in :class:`TakeRequest`.
        """

    @abstractmethod
    async def dead_letters(
        self, inbox: str, scope: str, dead_ms: int, position: object | None
    ) -> tuple[Sequence[StoredDeadLetter], object | None]:
        """Return a page of dead letters, and the position of the next page.

        Each page has its own deadlines.

        :param scope: as in :class:`TakeRequest`.
        :param dead_ms: retention of dead letters, in milliseconds.
        :param position: position of the page, ``None`` for the first one.
        :returns: the dead letters, and ``None`` in place of the position after the last page.
        """


class SupportsInbox(ABC):
    """A store with inboxes."""

    @abstractmethod
    def _inbox_backend(self) -> InboxBackend:
        """Return the backend of inboxes."""


def inbox_backend_of(store: object) -> InboxBackend:
    """Return the backend of inboxes of a store.

    :raises InvalidInputError: the store does not support inboxes.
    """
    if not isinstance(store, SupportsInbox):
        raise InvalidInputError("store", f"{type(store).__name__} does not support inboxes")
    return store._inbox_backend()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
