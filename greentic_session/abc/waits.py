"""What a backend needs to keep waits: a capability of its own, beside the store's verbs.

The record of a session is the truth about its wait. It says under which reply scope the session
waits and since when, and who has claimed it until when under which fence; each change of that is
one atomic step on the record.

The index of a user leads from a reply scope to the keys of sessions that may wait there. It may
live elsewhere than the records, so it is a hint: a step on it and a step on a record are two steps,
and a worker can die between them. Whoever reads a hint looks at the record, and mends the index if
the record says otherwise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from .records import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..model import Cas, SessionKey
    from .records import EncodedSession

__all__ = [
    "INTENT_ONLY",
    "KEEP_ENTRY",
    "ClaimEnding",
    "ClaimRef",
    "ClaimRequest",
    "EndingMode",
    "EventMemory",
    "IndexChange",
    "IndexEntries",
    "IndexEntry",
    "IndexIntent",
    "IndexRemoval",
    "IndexUpsert",
    "Registration",
    "SeenEvent",
    "SupportsWaits",
    "WaitBackend",
    "WaitCall",
    "WaitOutcome",
    "WaitOwner",
    "WaitStatus",
]

INTENT_ONLY: Final = -1
"""In place of :attr:`IndexRemoval.since_us`: take the hint out if it was announced only."""
KEEP_ENTRY: Final = -2
"""In place of :attr:`IndexRemoval.since_us`: leave the hint, and end this caller's announcement."""


class WaitOwner(NamedTuple):
    """Whose waits: the name of one index.

    :ivar scope: ``env/tenant``.
    :ivar owner: ``team/user``, as :mod:`greentic_session._core.tenancy` writes it.
    """

    scope: str
    owner: str


class WaitStatus(NamedTuple):
    """What a live record says about its wait.

    :ivar owner: ``team/user`` of the record.
    :ivar scope_hash: where the session waits; empty if it does not.
    :ivar since_us: when it was registered there: microseconds since the epoch, made to grow from
        one registration to the next on the same reply scope.
    :ivar expires_ms: when the record expires; 0 is never.
    """

    owner: str
    scope_hash: str
    since_us: int
    expires_ms: int


class ClaimRef(NamedTuple):
    """A claim, as the record knows it.

    :ivar scope: ``env/tenant`` of the record.
    :ivar key: the session's key.
    :ivar owner: ``team/user`` of the record.
    :ivar fence: number of the claim, higher than that of every earlier one on the record.
    """

    scope: str
    key: SessionKey
    owner: str
    fence: int


class SeenEvent(NamedTuple):
    """An event that was completed.

    :ivar digest: names event, owner and reply scope.
    :ivar at_ms: when, milliseconds since the epoch by the store's clock.
    """

    digest: str
    at_ms: int


class EventMemory(NamedTuple):
    """How long completed events are known.

    :ivar most: how many of one session, and of one user.
    :ivar ttl_ms: for how long, in milliseconds.
    """

    most: int
    ttl_ms: int


class WaitOutcome(Outcome, frozen=True, gc=False):
    """The end of a step on a record's wait.

    :ivar since_us: as in :class:`WaitStatus`.
    :ivar moved_from: the reply scope where the session waited before, if that is another.
    :ivar ttl_ms: life of the record (``claim``).
    :ivar body: what the codec wrote (``claim``).
    :ivar fence: number of the claim (``claim``).
    :ivar lease_ms: when the lease ends, milliseconds since the epoch by the store's clock
        (``claim``, ``renew``, and with ``CLAIMED`` that of the other claim).
    :ivar left_ms: how much of the lease was left when the step was done (``claim``, ``renew``).
    """

    since_us: int = 0
    moved_from: str = ""
    ttl_ms: int = 0
    body: bytes = b""
    fence: int = 0
    lease_ms: int = 0
    left_ms: int = 0

    def __repr__(self) -> str:
        """Return verdict and token: a body is somebody's state."""
        return f"WaitOutcome({self.verdict.name}, {self.value}-{self.incarnation})"


class EndingMode(StrEnum):
    """How a claim is settled."""

    COMPLETE = "complete"
    """Write the session; it waits no longer."""
    WAIT = "wait"
    """Write the session; it waits again."""
    SAVE = "save"
    """Write the session; the claim goes on."""
    FINISH = "finish"
    """Remove the session."""


class Registration(NamedTuple):
    """What is to wait, and where.

    :ivar encoded: the session.
    :ivar expected: only over this token, ``Cas.none()`` being an absent record; ``None`` is any.
    :ivar scope_hash: where it waits.
    :ivar event: digest of the event that is completed by this, empty for none.
    :ivar floor_us: the new ``since_us`` is higher than this.
    """

    encoded: EncodedSession
    expected: Cas | None
    scope_hash: str
    event: str = ""
    floor_us: int = 0


class ClaimRequest(NamedTuple):
    """A claim to make.

    :ivar scope: ``env/tenant`` of the record.
    :ivar key: the session's key.
    :ivar owner: ``team/user`` of the record.
    :ivar scope_hash: where the session has to wait.
    :ivar attempt: names the attempt.
    :ivar event: digest of the event, empty for none.
    :ivar lease_ms: how long, in milliseconds.
    """

    scope: str
    key: SessionKey
    owner: str
    scope_hash: str
    attempt: str
    event: str
    lease_ms: int


class ClaimEnding(NamedTuple):
    """How a claim ends.

    :ivar ref: the claim.
    :ivar how: what is to happen.
    :ivar encoded: what to write; ``None`` with ``FINISH``.
    :ivar expected: the token that the claim has seen last.
    :ivar event: digest of the event that is completed by this, empty for none.
    :ivar scope_hash: with ``WAIT``, where.
    :ivar floor_us: with ``WAIT``, the new ``since_us`` is higher than this.
    """

    ref: ClaimRef
    how: EndingMode
    encoded: EncodedSession | None
    expected: Cas
    event: str = ""
    scope_hash: str = ""
    floor_us: int = 0


class IndexEntry(NamedTuple):
    """A session that may wait under a reply scope.

    :ivar key: the session's key.
    :ivar since_us: since when, as far as the index heard; 0 if it was announced only.
    :ivar expires_ms: how long the index leads there, milliseconds since the epoch; 0 is for ever.
    """

    key: SessionKey
    since_us: int
    expires_ms: int


class IndexEntries(NamedTuple):
    """What the index knows of a reply scope.

    :ivar entries: sessions that may wait there.
    :ivar seen: whether the event asked about was completed.
    """

    entries: Sequence[IndexEntry]
    seen: bool


class IndexIntent(NamedTuple):
    """A hint that was entered before the record.

    :ivar intent_id: names the announcement.
    :ivar is_new: whether the hint was not there before.
    :ivar others: the other hints under the reply scope.
    """

    intent_id: str
    is_new: bool
    others: Sequence[IndexEntry]


class IndexUpsert(NamedTuple):
    """A hint to put into the index.

    :ivar scope_hash: the reply scope.
    :ivar key: the session's key.
    :ivar since_us: since when it waits there, as the record says; 0 enters nothing, but prolongs
        what is there.
    :ivar expires_ms: when its record expires, milliseconds since the epoch; 0 is never.
    :ivar intent_id: what ``announce`` returned to this caller; its announcement is over.
    """

    scope_hash: str
    key: str
    since_us: int
    expires_ms: int
    intent_id: str = ""


class IndexRemoval(NamedTuple):
    """A hint to take out of the index, unless a later registration stands behind it.

    :ivar scope_hash: the reply scope.
    :ivar key: the session's key.
    :ivar since_us: up to which registration; or :data:`UNCONFIRMED`, :data:`KEPT`.
    :ivar intent_id: what ``announce`` returned to this caller; its announcement is over.
    """

    scope_hash: str
    key: str
    since_us: int
    intent_id: str = ""


class IndexChange(msgspec.Struct, frozen=True, kw_only=True):
    """A change of a user's index, in one step.

    :ivar upsert: a session that waits.
    :ivar removals: hints to take out.
    :ivar events: completed events to remember, the newest last.
    """

    upsert: IndexUpsert | None = None
    removals: tuple[IndexRemoval, ...] = ()
    events: tuple[SeenEvent, ...] = ()


class WaitCall(ABC):
    """The steps on records and indexes that waits are made of, bound to one deadline.

    Arguments are checked. Each step is atomic, and safe to repeat when its reply was lost. Any step
    may raise :class:`StoreUnavailableError`. One that writes may raise :class:`OutcomeUnknownError`
    as well.

    A claim on a record is *held* under a fencing token until it is ended, released, or superseded
    by a later claim or registration. When its lease expires, it stays held, and another worker may
    claim the wait. While a claim is held, the record's lifetime counts from the end of the lease if
    that is later. An index never expires before a record that it leads to.
    """

    # --- on a record -------------------------------------------------------------------------

    @abstractmethod
    async def register(self, registration: Registration, events: EventMemory) -> WaitOutcome:
        """Write the session and let it wait; a claim on it is pushed aside.

        :returns: ``SEEN`` if the event was completed; ``MISMATCH``, ``CONFLICT``; ``DONE`` with
            ``since_us`` and ``moved_from``. Judged in this order.
        """

    @abstractmethod
    async def claim(self, request: ClaimRequest, events: EventMemory) -> WaitOutcome:
        """Claim the wait, which moves the token; or renew the lease of the same attempt's claim.

        :returns: ``DONE`` with the record and the claim; ``SEEN`` if the event was completed;
            ``ABSENT`` if the session is not there, another owner's or waits elsewhere; ``CLAIMED``
            with ``lease_ms``. Judged in this order.
        """

    @abstractmethod
    async def renew(self, ref: ClaimRef, lease_ms: int) -> WaitOutcome:
        """Let the lease end no sooner than ``lease_ms`` from now.

        :returns: ``DONE`` with ``lease_ms`` and ``left_ms``; ``LOST``.
        """

    @abstractmethod
    async def end_claim(self, ending: ClaimEnding, events: EventMemory) -> WaitOutcome:
        """End the claim, or save under it, and remember the event, in one step.

        :returns: ``DONE`` with ``since_us``; ``LOST``, ``CONFLICT``.
        """

    @abstractmethod
    async def release(self, ref: ClaimRef, attempt: str) -> WaitOutcome:
        """Give the claim back; the record's life begins anew.

        :param attempt: names the attempt that holds it, where the fence is not known; else empty.
        :returns: ``DONE``; ``LOST``.
        """

    @abstractmethod
    async def supersede(self, scope: str, key: SessionKey, scope_hash: str, since_us: int) -> None:
        """Let the session wait no longer, if it waits there since exactly then.

        A claim on it stays held.
        """

    @abstractmethod
    async def events_of(self, scope: str, keys: Sequence[SessionKey]) -> Sequence[SeenEvent]:
        """Return the completed events that the sessions remember, of all ``keys`` together.

        A session that finished or expired is remembered as long as its events.
        """

    @abstractmethod
    async def clear(self, scope: str, key: SessionKey, owner: str, scope_hash: str) -> WaitOutcome:
        """Remove the session and everything that hangs on it, if it is the owner's and waits there.

        :returns: ``DONE``; ``ABSENT``.
        """

    @abstractmethod
    async def read_status(
        self, scope: str, keys: Sequence[SessionKey]
    ) -> Sequence[WaitStatus | None]:
        """Return what the live records say, in the order of ``keys``, which are at least one."""

    # --- on an index -------------------------------------------------------------------------

    @abstractmethod
    async def entries(
        self, wait_owner: WaitOwner, scope_hash: str, event: str, events: EventMemory
    ) -> IndexEntries:
        """Return the hints under a reply scope, and whether the event was completed there."""

    @abstractmethod
    async def all_entries(self, wait_owner: WaitOwner) -> Sequence[tuple[str, IndexEntry]]:
        """Return every reply scope and hint of the owner."""

    @abstractmethod
    async def index_intent(
        self, wait_owner: WaitOwner, scope_hash: str, key: SessionKey, ttl_ms: int
    ) -> IndexIntent:
        """Enter a hint before the record is written, so that no wait exists without one.

        Nobody else takes it out for as long as the call may still be under way, or until this
        caller has entered or retired it.

        :param ttl_ms: the life that the record will have.
        """

    @abstractmethod
    async def update_index(
        self, wait_owner: WaitOwner, change: IndexChange, events: EventMemory
    ) -> None:
        """Change the index: enter, retire, remember."""


class WaitBackend(ABC):
    """Makes calls on waits."""

    @abstractmethod
    def call(self) -> WaitCall:
        """Begin a call. Its deadline counts from now."""

    @abstractmethod
    async def list_keys(
        self, scope: str, position: object | None
    ) -> tuple[Sequence[SessionKey], object | None]:
        """Return keys of a scope from ``position`` on (``None``: the start), and what follows.

        Each page has its own deadline.
        """


class SupportsWaits(ABC):
    """A store that can keep waits."""

    @abstractmethod
    def wait_backend(self) -> WaitBackend:
        """Return the backend of waits."""
