"""The steps of locks that a backend implements.

Locks are an optional capability of a store. One *token* holds a lock until its lease ends. A caller
that finds the lock held may take a queue position with its own token. The backend runs no
background task. Each step reads the time, and skips holders whose lease has ended and waiters whose
position has lapsed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ..errors import InvalidInputError

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
    "lock_backend_of",
]


class LockRef(NamedTuple):
    """A lock, and the token of a holder or waiter.

    :ivar scope: ``env/tenant`` of the key, empty for a lock on the key in all tenants together.
    :ivar key: the locked key.
    :ivar token: random text that identifies one attempt at the lock and its grant. It has 1 to 64
        characters of ``[A-Za-z0-9_-]``.
    """

    scope: str
    key: SessionKey
    token: str


class LockRequest(NamedTuple):
    """An attempt to take a lock.

    :ivar ref: the lock and the token.
    :ivar name: name of the caller, for people.
    :ivar lease_ms: length of the lease, in milliseconds.
    :ivar position_ms: milliseconds until a queue position lapses, unless the waiter asks again. A
        free lock is reserved for each waiter in turn, for a quarter of that time.
    :ivar queues: whether to take a queue position if the lock is not granted.
    """

    ref: LockRef
    name: str
    lease_ms: int
    position_ms: int
    queues: bool


class LockOutcome(msgspec.Struct, frozen=True, gc=False):
    """The outcome of a step on a lock.

    :ivar verdict: ``DONE``, ``LOST``, or ``CLAIMED`` if it is held or reserved for a waiter.
    :ivar fence: fencing token of the lease, if the lock was granted.
    :ivar lease_ms: when the lease ends, in milliseconds since the epoch by the backend's clock.
        With ``CLAIMED``, it is the lease of the other holder.
    :ivar left_ms: milliseconds of the lease that are left. With ``CLAIMED``, milliseconds until the
        caller should ask again.
    """

    verdict: Verdict
    fence: int = 0
    lease_ms: int = 0
    left_ms: int = 0


class LockState(NamedTuple):
    """The current holder of a lock.

    :ivar name: name of the holder, for people.
    :ivar fence: fencing token of the lease.
    :ivar lease_ms: when the lease ends, in milliseconds since the epoch by the backend's clock.
    """

    name: str
    fence: int
    lease_ms: int


class LockCall(ABC):
    """The steps of a call on a lock, under one deadline. Each step is atomic.

    Any step may raise :class:`StoreUnavailableError`. A step that writes may also raise
    :class:`StoreFullError` and :class:`OutcomeUnknownError`.
    """

    @abstractmethod
    async def acquire(self, request: LockRequest) -> LockOutcome:
        """Acquire the lock, or return when the current lease ends.

        The lock is granted if it is free, and each earlier waiter has had its time. A token that
        holds the lock gets the same grant again. A token that waits keeps its queue position.

        :returns: ``DONE`` or ``CLAIMED``.
        """

    @abstractmethod
    async def renew(self, ref: LockRef, lease_ms: int) -> LockOutcome:
        """Extend a lease that has not ended. The lease never gets shorter.

        :returns: ``DONE`` or ``LOST``.
        """

    @abstractmethod
    async def release(self, ref: LockRef, lease_ms: int) -> bool:
        """Release the token's lock or queue position, and notify the next waiter.

        :param lease_ms: the end of the token's lease that the caller knows, in milliseconds since
            the epoch, 0 for none. With it, a retry after a lost reply returns the right result.
        :returns: whether the token held the lock.
        """

    @abstractmethod
    async def holder(self, scope: str, key: SessionKey) -> LockState | None:
        """Return the holder of the lock, ``None`` if it is free."""


class LockBackend(ABC):
    """Creates calls on locks.

    Fencing tokens grow from one grant of a key to the next. Each is at least the time in
    microseconds. It is higher than the token of the key's last grant, and than every token that
    this object has granted. :mod:`greentic_session.abc.fencing` describes what holds if the clock
    is set back, and how long a free lock keeps its last token.
    """

    @abstractmethod
    def call(self) -> LockCall:
        """Begin a call, with a deadline that starts now."""

    @abstractmethod
    def subscribe(self, token: str) -> AbstractAsyncContextManager[Subscription]:
        """Subscribe to notifications on the token's turn.

        The subscription works as in :meth:`SupportsNotifications.subscribe`.
        """


class SupportsLocks(ABC):
    """A store with locks."""

    @abstractmethod
    def _lock_backend(self) -> LockBackend:
        """Return the backend of locks."""


def lock_backend_of(store: object) -> LockBackend:
    """Return the backend of locks of a store.

    :raises InvalidInputError: the store does not support locks.
    """
    if not isinstance(store, SupportsLocks):
        raise InvalidInputError("store", f"{type(store).__name__} does not support locks")
    return store._lock_backend()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
