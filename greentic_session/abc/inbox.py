"""What a backend needs to keep inboxes: a capability of its own, beside the store's verbs.

A session has one *mailbox*: its mail in order, and the lease of whoever works on it. It lives
beside the session's record, so that a turn's end (state, outbox, mail handled, lease) is one step.

An inbox's *index* says which sessions have mail, and when each is to be looked at. It may live
elsewhere than the mailboxes, so it is a hint: a step on it and a step on a mailbox are two steps,
and a process can die between them. Therefore a hint is entered before the mail, and no look that
comes too early takes it out; it is put off while somebody looks at its session, and taken out by
who found the mailbox empty, unless it was touched since. A hint that leads to nothing costs one
look; mail without a hint cannot be.
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
    """Whose mail.

    :ivar scope: ``env/tenant``.
    :ivar key: the session's key.
    """

    scope: str
    key: SessionKey


class StoredMessage(NamedTuple):
    """A message as stored.

    :ivar event_id: names it, as the channel does.
    :ivar payload: opaque bytes.
    :ivar at_ms: when it was admitted, milliseconds since the epoch by the store's clock.
    :ivar owner: team and user of its admitter, see :mod:`greentic_session._core.tenancy`.
    """

    event_id: str
    payload: bytes
    at_ms: int
    owner: str

    def __repr__(self) -> str:
        """Return the sizes: a payload is somebody's message."""
        return f"StoredMessage({len(self.event_id)} characters, {len(self.payload)} bytes)"


class NewMessage(NamedTuple):
    """What is to come into a mailbox.

    :ivar inbox: by which inbox.
    :ivar mailbox: whose.
    :ivar allowed: the owners whose live session may get it.
    :ivar event_id: names the message; known for as long as ``events`` says.
    :ivar payload: opaque bytes.
    :ivar most: how many letters may wait there.
    :ivar events: how long event ids are known.
    """

    inbox: str
    mailbox: MailboxRef
    allowed: AllowedOwners
    event_id: str
    payload: bytes
    most: int
    events: EventMemory

    def __repr__(self) -> str:
        """Return the inbox and the size: a payload is somebody's message."""
        return f"NewMessage({self.inbox!r}, {len(self.payload)} bytes)"


class EnqueueOutcome(Outcome, frozen=True, gc=False):
    """The end of a posting.

    :ivar waiting: how many letters are in the mailbox now.
    :ivar worker: who has the turn now; empty for nobody.
    """

    waiting: int = 0
    worker: str = ""


class TakeRequest(NamedTuple):
    """What a worker asks for.

    :ivar inbox: where.
    :ivar worker: its name, for people.
    :ivar lease_ms: for how long, in milliseconds.
    :ivar most: how many letters to hand out.
    :ivar attempts: how often a letter may be tried as the head of its mailbox.
    :ivar dead_ms: how long a letter that was tried too often is kept, in milliseconds.
    """

    inbox: str
    worker: str
    lease_ms: int
    most: int
    attempts: int
    dead_ms: int


class TurnRef(NamedTuple):
    """A turn, as the mailbox knows it.

    :ivar inbox: where it was taken.
    :ivar mailbox: whose mail.
    :ivar fence: number of the turn, higher than that of every earlier one of the session.
    :ivar index_score: what the backend wants to be told again when the turn ends.
    """

    inbox: str
    mailbox: MailboxRef
    fence: int
    index_score: str = ""


class GrantedTurn(NamedTuple):
    """A turn that was taken.

    :ivar ref: the turn.
    :ivar lease_ms: when its lease ends, milliseconds since the epoch by the store's clock.
    :ivar left_ms: how much of the lease was left when it was taken.
    :ivar messages: in order, at least one; the head alone if it was tried before. All of callers to
        whom the session is open; if there is none, all of the same caller.
    :ivar attempt: which attempt at the head this is; 1 is the first.
    :ivar record: the session; ``None`` if there is none.
    """

    ref: TurnRef
    lease_ms: int
    left_ms: int
    messages: tuple[StoredMessage, ...]
    attempt: int
    record: Record | None


class NothingDue(NamedTuple):
    """There is no turn to take now.

    :ivar due_secs: in how many seconds there may be one, 0 being at once: look again. ``None`` if
        nothing is known of any.
    """

    due_secs: float | None


class TurnCommit(NamedTuple):
    """What a turn has come to.

    :ivar ref: the turn.
    :ivar encoded: the state to write; ``None`` writes none.
    :ivar removes: whether the session is removed.
    :ivar expected: the token that the turn has seen last; ``Cas.none()`` is an absent session.
    :ivar handled: how many of the turn's letters, from the first, are done with by now: those that
        are still there go. Counted from the start of the turn, for its holder may not know whether
        an earlier step was done.
    :ivar in_hand: how many of the turn's letters are left; the next of them is tried from now on.
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
    """A letter that was tried too often, or might not be handed out.

    :ivar mailbox: whose.
    :ivar letter: as it was.
    :ivar died_ms: when it was given up, milliseconds since the epoch by the store's clock.
    :ivar attempts: how often it was tried.
    """

    mailbox: MailboxRef
    message: StoredMessage
    died_ms: int
    attempts: int


class InboxSize(NamedTuple):
    """What an index says.

    :ivar sessions: how many sessions it leads to.
    :ivar due: how many of them may be taken now.
    """

    sessions: int
    due: int


class EarlyEventQueue(NamedTuple):
    """Where events are kept for which no session waits yet.

    :ivar wait_owner: whose they are.
    :ivar scope_hash: the reply scope.
    """

    wait_owner: WaitOwner
    scope_hash: str


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
        """Put a letter at the end of the mail; ring unless somebody has the turn.

        :returns: ``MISMATCH`` if a live session is of none of the owners; ``SEEN`` if the event is
            known, which rings all the same; ``FULL``; ``DONE``. Judged in this order, and each but
            the first with ``waiting`` and ``worker``.
        """

    @abstractmethod
    async def take(self, request: TakeRequest) -> GrantedTurn | NothingDue:
        """Take the turn of the session that has been due for longest.

        Counts an attempt at the head of its mail. A head that was tried as often as it may be goes
        to the dead letters, and the next one is the head; so does one of a caller to whom the live
        session is not open: it came before that session, else it had been refused.

        :raises DecodeError: a session's record, or its mailbox, is not of this library's making.
            It is not due again for a while.
        """

    @abstractmethod
    async def renew(self, ref: TurnRef, lease_ms: int) -> tuple[int, int]:
        """Let the lease end no sooner than ``lease_ms`` from now.

        :returns: when it ends, and in how many milliseconds that is; twice 0 if the turn is over.
        """

    @abstractmethod
    async def commit(self, result: TurnCommit) -> Outcome:
        """Write or remove the session, and drop the mail that was handled, in one step.

        What it writes is written as by the store's own verbs. A turn that ends with mail left
        makes the session due, and rings.

        :returns: ``LOST`` if the turn is not held; ``MISMATCH``; ``CONFLICT`` with the stored
            token; ``DONE`` with the token written, if one was. Judged in this order.
        """

    @abstractmethod
    async def release(self, ref: TurnRef, backoff_ms: int | None) -> bool:
        """Give the turn back, with its mail.

        :param backoff_ms: the attempt has failed, and the session is not due for so many
            milliseconds; ``None`` if it was no attempt, so that it is due at once.
        :returns: ``False`` if the turn is not held.
        """

    @abstractmethod
    async def size(self, inbox: str) -> InboxSize:
        """Return what the index says: a hint."""

    # --- dead letters ------------------------------------------------------------------------

    @abstractmethod
    async def replay(self, inbox: str, mail: StoredDeadLetter, dead_ms: int, most: int) -> Outcome:
        """Put a dead letter at the end of its mailbox, as a new one; ring.

        :param dead_ms: how long dead letters are kept, in milliseconds.
        :param most: how many letters may wait there.
        :returns: ``ABSENT`` if it is not there; ``FULL``; ``DONE``.
        """

    @abstractmethod
    async def discard(self, mail: StoredDeadLetter) -> bool:
        """Remove a dead letter.

        :returns: ``False`` if it was not there.
        """

    # --- events that came before their wait --------------------------------------------------

    @abstractmethod
    async def store_early(
        self, queue: EarlyEventQueue, event_id: str, payload: bytes, events: EventMemory
    ) -> Outcome:
        """Keep an event at the end of those of a place.

        :param events: how many may be kept there, and for how long.
        :returns: ``SEEN`` if it is kept there; ``FULL``; ``DONE``.
        """

    @abstractmethod
    async def assign_early(
        self, queue: EarlyEventQueue, key: SessionKey, gone: str, events: EventMemory
    ) -> Sequence[tuple[SessionKey, StoredMessage]]:
        """Have each event that is kept at a place be for this session, unless it is for another.

        An event and the mailbox that it comes into may live in different places, so that a process
        can die between two steps. What it is for is said first: so no other session gets it as
        well.

        :param gone: the key of a session whose events are to be for this one; empty for none.
        :returns: the events in order, each with whom it is for.
        """

    @abstractmethod
    async def delete_early(
        self, queue: EarlyEventQueue, key: SessionKey, message: StoredMessage
    ) -> None:
        """Keep an event no longer that is for this session."""


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
        """Return dead letters from ``position`` on (``None``: the start), and what follows.

        Each page has its own deadlines.

        :param dead_ms: how long they are kept, in milliseconds.
        """


class SupportsInbox(ABC):
    """A store that can keep inboxes."""

    @abstractmethod
    def inbox_backend(self) -> InboxBackend:
        """Return the backend of inboxes."""
