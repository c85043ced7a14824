"""The steps of waits that a backend implements: on records and on indexes.

Waits are an optional capability of a store. The record of a session decides about its wait. It
holds the reply scope under which the session waits, and the time of the registration. It also holds
the claim, with its attempt, its fencing token and the end of its lease. Each change of these is one
atomic step on the record.

The index of a user leads from a reply scope to the keys of sessions that may wait there. It may
live in another place than the records. Then an index and a record change in two steps, and a worker
can die between them. So an index entry may be stale. A reader of an entry reads the record, and
repairs the index if the record differs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from ..errors import InvalidInputError
from .records import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from ..model import Cas, SessionKey
    from .notifications import Subscription
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
    "wait_backend_of",
]

INTENT_ONLY: Final = -1
"""A value of :attr:`IndexRemoval.since_us`: remove the entry if it has only an index intent."""
KEEP_ENTRY: Final = -2
"""A value of :attr:`IndexRemoval.since_us`: keep the entry, and end this caller's intent."""


class WaitOwner(NamedTuple):
    """The owner of waits, which identifies one index.

    :ivar scope: ``env/tenant``.
    :ivar owner: ``team/user``, as :mod:`greentic_session._core.tenancy` writes it.
    """

    scope: str
    owner: str


class WaitStatus(NamedTuple):
    """The wait of a live record.

    :ivar owner: ``team/user`` of the record.
    :ivar scope_hash: hash of the reply scope where the session waits, empty if it does not wait.
    :ivar since_us: when the wait was registered, in microseconds since the epoch. Each registration
        on a reply scope has a higher value than the one before.
    :ivar expires_ms: when the record expires, in milliseconds since the epoch. 0 is never.
    """

    owner: str
    scope_hash: str
    since_us: int
    expires_ms: int


class ClaimRef(NamedTuple):
    """A reference to a claim.

    :ivar scope: ``env/tenant`` of the record.
    :ivar key: the session's key.
    :ivar owner: ``team/user`` of the record.
    :ivar fence: fencing token of the claim, higher than that of each earlier claim on the record.
    """

    scope: str
    key: SessionKey
    owner: str
    fence: int


class SeenEvent(NamedTuple):
    """An event that was completed.

    :ivar digest: digest of event, owner and reply scope.
    :ivar at_ms: when it was completed, in milliseconds since the epoch by the store's clock.
    """

    digest: str
    at_ms: int


class EventMemory(NamedTuple):
    """Limits of the memory of events.

    :ivar most: maximum number of remembered events of one session, and of one user.
    :ivar ttl_ms: time for which events are remembered, in milliseconds.
    """

    most: int
    ttl_ms: int


class WaitOutcome(Outcome, frozen=True, gc=False):
    """The outcome of a step on a record's wait.

    :ivar since_us: as in :class:`WaitStatus`.
    :ivar moved_from: hash of the reply scope where the session waited before, if it is another one.
    :ivar ttl_ms: lifetime of the record in milliseconds, after ``claim``.
    :ivar body: the encoded body, after ``claim``.
    :ivar fence: fencing token of the claim, after ``claim``.
    :ivar lease_ms: when the lease ends, in milliseconds since the epoch by the store's clock, after
        ``claim`` and ``renew``. With ``CLAIMED``, it is the lease of the other claim.
    :ivar left_ms: milliseconds of the lease that were left when the step was executed, after
        ``claim`` and ``renew``.
    """

    since_us: int = 0
    moved_from: str = ""
    ttl_ms: int = 0
    body: bytes = b""
    fence: int = 0
    lease_ms: int = 0
    left_ms: int = 0

    def __repr__(self) -> str:
        """Return the verdict and the token without the body, because it is private state."""
        return f"WaitOutcome({self.verdict.name}, {self.value}-{self.incarnation})"


class EndingMode(StrEnum):
    """The ways to end a claim, or to save under it."""

    COMPLETE = "complete"
    """Write the session, and end the claim and the wait."""
    WAIT = "wait"
    """Write the session, end the claim, and register the session as waiting again."""
    SAVE = "save"
    """Write the session. The claim continues."""
    FINISH = "finish"
    """Remove the session with its claim and its wait."""


class Registration(NamedTuple):
    """A session to register as waiting.

    :ivar encoded: the session.
    :ivar expected: the expected token, ``Cas.none()`` for an absent record, ``None`` for any token.
    :ivar scope_hash: hash of the reply scope where the session waits.
    :ivar event: digest of the event that the registration completes, empty for none.
    :ivar floor_us: a lower bound in microseconds. The new ``since_us`` is higher.
    """

    encoded: EncodedSession
    expected: Cas | None
    scope_hash: str
    event: str = ""
    floor_us: int = 0


class ClaimRequest(NamedTuple):
    """A request to claim a wait.

    :ivar scope: ``env/tenant`` of the record.
    :ivar key: the session's key.
    :ivar owner: ``team/user`` of the record.
    :ivar scope_hash: hash of the reply scope where the session must wait.
    :ivar attempt: text that identifies the attempt.
    :ivar event: digest of the event, empty for none.
    :ivar lease_ms: length of the lease, in milliseconds.
    """

    scope: str
    key: SessionKey
    owner: str
    scope_hash: str
    attempt: str
    event: str
    lease_ms: int


class ClaimEnding(NamedTuple):
    """The end of a claim, or a save under it.

    :ivar ref: reference to the claim.
    :ivar how: the mode.
    :ivar encoded: the session to write, ``None`` with ``FINISH``.
    :ivar expected: last token that the claim has seen.
    :ivar event: digest of the event that the step completes, empty for none.
    :ivar scope_hash: with ``WAIT``, hash of the reply scope where the session waits again.
    :ivar floor_us: with ``WAIT``, a lower bound in microseconds. The new ``since_us`` is higher.
    """

    ref: ClaimRef
    how: EndingMode
    encoded: EncodedSession | None
    expected: Cas
    event: str = ""
    scope_hash: str = ""
    floor_us: int = 0


class IndexEntry(NamedTuple):
    """An index entry for a session that may wait under a reply scope.

    :ivar key: the session's key.
    :ivar since_us: start of the wait according to the index, in microseconds since the epoch. 0 if
        there is only an intent.
    :ivar expires_ms: when the entry expires, in milliseconds since the epoch. 0 is never.
    """

    key: SessionKey
    since_us: int
    expires_ms: int


class IndexEntries(NamedTuple):
    """The index entries of a reply scope.

    :ivar entries: the entries.
    :ivar seen: whether the given event was completed.
    """

    entries: Sequence[IndexEntry]
    seen: bool


class IndexIntent(NamedTuple):
    """An index intent, which marks an index entry that was written before its record.

    :ivar intent_id: id of the intent.
    :ivar is_new: whether the entry was absent before.
    :ivar others: the other entries of the reply scope.
    """

    intent_id: str
    is_new: bool
    others: Sequence[IndexEntry]


class IndexUpsert(NamedTuple):
    """An index entry to write.

    :ivar scope_hash: hash of the reply scope.
    :ivar key: the session's key.
    :ivar since_us: start of the wait, as in the record. 0 creates no entry, but prolongs an
        existing one.
    :ivar expires_ms: when the record expires, in milliseconds since the epoch. 0 is never.
    :ivar intent_id: id of the intent that :meth:`WaitCall.index_intent` returned to this caller.
        This write ends the intent. Empty for none.
    """

    scope_hash: str
    key: str
    since_us: int
    expires_ms: int
    intent_id: str = ""


class IndexRemoval(NamedTuple):
    """An index entry to remove, unless it belongs to a later registration.

    :ivar scope_hash: hash of the reply scope.
    :ivar key: the session's key.
    :ivar since_us: the last registration to remove, or :data:`INTENT_ONLY`, or :data:`KEEP_ENTRY`.
    :ivar intent_id: as in :class:`IndexUpsert`.
    """

    scope_hash: str
    key: str
    since_us: int
    intent_id: str = ""


class IndexChange(msgspec.Struct, frozen=True, kw_only=True):
    """A change of a user's index in one step.

    :ivar upsert: the entry to write, ``None`` for none.
    :ivar removals: the entries to remove.
    :ivar events: completed events to remember, the newest last.
    :ivar confirms: whether an answer rests on the change, and on no index intent that replicas have
        confirmed with the record. If so, replicas have to confirm the change.
    """

    upsert: IndexUpsert | None = None
    removals: tuple[IndexRemoval, ...] = ()
    events: tuple[SeenEvent, ...] = ()
    confirms: bool = False


class WaitCall(ABC):
    """The steps of a call on waits, under one deadline.

    The arguments have been checked. Each step is atomic. A caller may repeat it if its reply was
    lost. Any step may raise :class:`StoreUnavailableError`. A step that writes may also raise
    :class:`OutcomeUnknownError`.

    A claim on a record is *held* under a fencing token until it is ended, released, or superseded
    by a later claim or registration. If its lease expires, it stays held, but another worker may
    claim the wait. While a claim is held, the record's lifetime counts from the end of the lease if
    that is later. An index never expires before a record that it leads to.
    """

    # --- on a record -------------------------------------------------------------------------

    @abstractmethod
    async def register(self, registration: Registration, events: EventMemory) -> WaitOutcome:
        """Write the session and register it as waiting. This supersedes a claim on it.

        :returns: the first verdict that applies: ``SEEN`` if the event was completed, ``MISMATCH``,
            ``CONFLICT``, or ``DONE`` with ``since_us`` and ``moved_from``.
        """

    @abstractmethod
    async def claim(self, request: ClaimRequest, events: EventMemory) -> WaitOutcome:
        """Claim the wait, which changes the token, or renew the lease of the attempt's own claim.

        :returns: the first verdict that applies:

            * ``SEEN`` if the event was completed.
            * ``ABSENT`` if the session is absent, has another owner, or does not wait there.
            * ``CLAIMED`` with ``lease_ms`` and ``left_ms``, if another attempt holds a claim with a
              valid lease.
            * ``DONE`` with the record and the claim.
        """

    @abstractmethod
    async def renew(self, ref: ClaimRef, lease_ms: int) -> WaitOutcome:
        """Extend the lease to at least ``lease_ms`` from now.

        :returns: ``DONE`` with ``lease_ms`` and ``left_ms``, or ``LOST``.
        """

    @abstractmethod
    async def end_claim(self, ending: ClaimEnding, events: EventMemory) -> WaitOutcome:
        """Save under the claim, or end it and remember the event, in one step.

        :returns: ``DONE`` with ``since_us``, ``LOST``, or ``CONFLICT``.
        """

    @abstractmethod
    async def release(self, ref: ClaimRef, attempt: str) -> WaitOutcome:
        """Release the claim. The record's lifetime restarts.

        :param attempt: the attempt that holds the claim, if the caller does not know the fencing
            token. Otherwise empty.
        :returns: ``DONE`` or ``LOST``.
        """

    @abstractmethod
    async def supersede(self, scope: str, key: SessionKey, scope_hash: str, since_us: int) -> None:
        """End the wait of a session, if it was registered there at exactly ``since_us``.

        A claim on the record stays held.
        """

    @abstractmethod
    async def events_of(self, scope: str, keys: Sequence[SessionKey]) -> Sequence[SeenEvent]:
        """Return the completed events of all sessions in ``keys`` together.

        The events of a session that finished or expired are remembered as long as other ones.
        """

    @abstractmethod
    async def clear(self, scope: str, key: SessionKey, owner: str, scope_hash: str) -> WaitOutcome:
        """Remove the session and its events, if it has that owner and waits there.

        :returns: ``DONE`` or ``ABSENT``.
        """

    @abstractmethod
    async def read_status(
        self, scope: str, keys: Sequence[SessionKey]
    ) -> Sequence[WaitStatus | None]:
        """Return the waits of the live records, in the order of ``keys``.

        :param keys: at least one key.
        """

    # --- on an index -------------------------------------------------------------------------

    @abstractmethod
    async def entries(
        self, wait_owner: WaitOwner, scope_hash: str, event: str, events: EventMemory
    ) -> IndexEntries:
        """Return the entries of a reply scope, and whether the event was completed there."""

    @abstractmethod
    async def all_entries(self, wait_owner: WaitOwner) -> Sequence[tuple[str, IndexEntry]]:
        """Return every entry of the owner, each with the hash of its reply scope."""

    @property
    def confirms(self) -> bool:
        """Whether replicas confirm writes. If so, each acknowledged wait has an index entry."""
        return False

    async def confirm(  # noqa: B027 - a backend without replicas has nothing to do
        self, wait_owner: WaitOwner, keys: Sequence[SessionKey]
    ) -> None:
        """Wait until replicas confirm the earlier writes that an answer rests on.

        :param wait_owner: the owner whose index shows an earlier write.
        :param keys: keys of that owner's sessions that are known to be involved.
        :raises DurabilityError: too few replicas confirmed the writes.
        """

    @abstractmethod
    async def index_intent(
        self, wait_owner: WaitOwner, scope_hash: str, key: SessionKey, ttl_ms: int
    ) -> IndexIntent:
        """Write an index entry before the record, so that each wait has an entry.

        No other caller removes the entry while the call may still run. The protection ends when
        this caller writes or removes the entry.

        :param ttl_ms: lifetime of the future record, in milliseconds.
        """

    @abstractmethod
    async def update_index(
        self, wait_owner: WaitOwner, change: IndexChange, events: EventMemory
    ) -> None:
        """Write and remove index entries, and remember events.

        :raises DurabilityError: it is done, and too few replicas confirmed it. Only with
            :attr:`IndexChange.confirms`.
        """


class WaitBackend(ABC):
    """Creates calls on waits."""

    @abstractmethod
    def call(self) -> WaitCall:
        """Begin a call, with a deadline that starts now."""

    @abstractmethod
    def subscribe(self, scope: str, key: SessionKey) -> AbstractAsyncContextManager[Subscription]:
        """Subscribe to the end of claims on a session, by an ending or a release."""

    @abstractmethod
    async def list_keys(
        self, scope: str, position: object | None
    ) -> tuple[Sequence[SessionKey], object | None]:
        """Return a page of a scope's keys, and the position of the next page.

        Each page has its own deadline.

        :param position: position of the page, ``None`` for the first one.
        :returns: the keys, and ``None`` in place of the position after the last page.
        """


class SupportsWaits(ABC):
    """A store with waits."""

    @abstractmethod
    def _wait_backend(self) -> WaitBackend:
        """Return the backend of waits."""


def wait_backend_of(store: object) -> WaitBackend:
    """Return the backend of waits of a store.

    :raises InvalidInputError: the store does not support waits.
    """
    if not isinstance(store, SupportsWaits):
        raise InvalidInputError("store", f"{type(store).__name__} does not support waits")
    return store._wait_backend()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
