"""What a backend needs to keep locks: a capability of its own, beside the store's verbs.

A lock is held by one *token*, for as long as its lease runs; who finds it held may keep a place in
its queue, under a token of its own. Nothing on the backend acts by itself: each step looks at the
time, and passes over holders and waiters whose time is up.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from ..model import SessionKey
    from .notifications import Subscription
    from .records import Verdict

__all__ = [
    "LockBackend",
    "LockCall",
    "LockOutcome",
    "LockRef",
    "LockRequest",
    "LockState",
    "SupportsLocks",
]


class LockRef(NamedTuple):
    """Who holds a lock, or wants to.

    :ivar scope: ``env/tenant`` of the key; empty for a lock on the key in all tenants together.
    :ivar key: what is locked.
    :ivar token: names one attempt at the lock, and what it was granted: random, 1 to 64 characters
        of ``[A-Za-z0-9_-]``.
    """

    scope: str
    key: SessionKey
    token: str


class LockRequest(NamedTuple):
    """An attempt to take a lock.

    :ivar ref: who asks for what.
    :ivar name: of the holder to be, for people.
    :ivar lease_ms: length of the lease.
    :ivar position_ms: how long a waiter keeps its queue position unless it asks again. A free lock
        is left to each waiter ahead for a quarter of that.
    :ivar queues: whether to keep a place if the lock is not to be had.
    """

    ref: LockRef
    name: str
    lease_ms: int
    position_ms: int
    queues: bool


class LockOutcome(msgspec.Struct, frozen=True, gc=False):
    """The end of a step on a lock.

    :ivar verdict: ``DONE``; ``CLAIMED``, by another holder or those who came before; ``LOST``.
    :ivar fence: of the lease, where the lock was granted.
    :ivar lease_ms: when the lease ends, the holder's if it is another's: milliseconds since the
        epoch by the backend's clock.
    :ivar left_ms: what is left of the lease, or until it is worth to ask again.
    """

    verdict: Verdict
    fence: int = 0
    lease_ms: int = 0
    left_ms: int = 0


class LockState(NamedTuple):
    """Who holds a lock now.

    :ivar name: of the holder, for people.
    :ivar fence: of its lease.
    :ivar lease_ms: when that ends, milliseconds since the epoch by the backend's clock.
    """

    name: str
    fence: int
    lease_ms: int


class LockCall(ABC):
    """The steps on locks, bound to one deadline. Each step is atomic.

    Any step may raise :class:`StoreUnavailableError`. One that writes may raise
    :class:`StoreFullError` and :class:`OutcomeUnknownError` as well.
    """

    @abstractmethod
    async def acquire(self, request: LockRequest) -> LockOutcome:
        """Take the lock, or tell until when it is another's: ``DONE`` or ``CLAIMED``.

        Granted if nobody holds it and those who wait have had their time, in their order. A token
        that holds already is told so; one that waits keeps its place.
        """

    @abstractmethod
    async def renew(self, ref: LockRef, lease_ms: int) -> LockOutcome:
        """Let a lease that still runs end later, never sooner: ``DONE`` or ``LOST``."""

    @abstractmethod
    async def release(self, ref: LockRef, lease_ms: int) -> bool:
        """Give back what the token has, be it the lock or a place, and ring for whoever is next.

        :param lease_ms: when the token's lease ends as far as it knows, 0 for none: so that one
            who did not hear the answer is told right when asking again.
        :returns: whether the token held the lock.
        """

    @abstractmethod
    async def holder(self, scope: str, key: SessionKey) -> LockState | None:
        """Return who holds the lock."""


class LockBackend(ABC):
    """Makes calls on locks.

    Fencing tokens grow from one grant of a key to the next. Each is at least the time in
    microseconds. It is higher than that of the key's last grant, and than every one that this
    object has granted.
    """

    @abstractmethod
    def call(self) -> LockCall:
        """Begin a call. Its deadline counts from now."""

    @abstractmethod
    def subscribe(self, token: str) -> AbstractAsyncContextManager[Subscription]:
        """Subscribe to the token's turn, as :meth:`SupportsNotifications.subscribe`."""


class SupportsLocks(ABC):
    """A store of a backend that can keep locks."""

    @abstractmethod
    def lock_backend(self) -> LockBackend:
        """Return the backend of locks."""
