"""Leases: rights that are one holder's for a time, and the numbers by which late holders are told.

A lease that has run out may have passed to somebody else without its holder knowing: a paused
process learns of it last. So each grant carries a *fence*, a number that grows from one grant of a
key to the next, and a write that presents one is refused, inside the step that writes, unless that
very lease holds (M. Kleppmann, "How to do distributed locking").

Fences are at least the store's time in microseconds: so they go on growing where a key's lease has
left no trace, be it that it ended or that the server came back without its data. Then, that is as
true as the clock: it may be set back, or be that of a server which takes over and is behind. For
one store object the numbers grow all the same, since it tells the server the last that it was given
of each kind; from one object to another they are as good as the clock.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, cast, final

from .._compat import override
from ..errors import InvalidInputError

if TYPE_CHECKING:
    from ..model import Cas, SessionKey
    from .records import EncodedSession, Outcome

__all__ = [
    "UNFENCED",
    "Fenced",
    "FencedWrites",
    "LeaseKind",
    "LeaseRef",
    "SupportsFencing",
    "lease_ref_of",
]


class LeaseKind(StrEnum):
    """What a lease was given for: each kind has fences of its own."""

    LOCK = "lock"
    """By :class:`SessionLocks`."""
    INBOX = "inbox"
    """By :class:`SessionInbox`: the turn of a session that has mail."""


class LeaseRef(NamedTuple):
    """A lease, as the backend knows it.

    :ivar kind: what it was given for.
    :ivar scope: ``env/tenant`` of the key; empty for a lock on the key in all tenants together.
    :ivar key: what it is a lease of: it guards the session under this key.
    :ivar fence: number of the grant.
    """

    kind: LeaseKind
    scope: str
    key: SessionKey
    fence: int


class Fenced(Protocol):
    """What guards a write: a :class:`SessionLease` or an inbox's turn."""

    @property
    def guard(self) -> LeaseRef:
        """The lease."""
        ...


@final
class _Unfenced:
    @override
    def __repr__(self) -> str:
        return "UNFENCED"


# Not `None`, which is what `try_hold` gives to who has no lease: that is to write nothing.
UNFENCED: Final = cast("Fenced", _Unfenced())
"""What stands for a lease where a write is guarded by none."""


def lease_ref_of(fence: object, encoded: EncodedSession) -> LeaseRef:
    """Return the lease that is to guard a write.

    :raises InvalidInputError: naming ``fence``, if it is none of this session.
    """
    guard: object = getattr(fence, "guard", None)
    if not isinstance(guard, LeaseRef):
        raise InvalidInputError("fence", f"expected a lease, got {type(fence).__name__}")
    if guard.key != encoded.key:
        raise InvalidInputError("fence", "is the lease of another key")
    if guard.scope not in ("", encoded.scope):
        raise InvalidInputError("fence", "is the lease of another tenant's key")
    return guard


class FencedWrites(ABC):
    """Writes that are refused, inside the step that writes, when the lease does not hold.

    Both are as the store's primitives of the same name, but for the verdict ``LOST``: the lease
    has ended, whether or not somebody else holds one. That is judged first.
    """

    @abstractmethod
    async def put(self, encoded: EncodedSession, guard: LeaseRef) -> Outcome:
        """As ``_put``."""

    @abstractmethod
    async def update_cas(self, encoded: EncodedSession, expected: Cas, guard: LeaseRef) -> Outcome:
        """As ``_update_cas``."""


class SupportsFencing(ABC):
    """A store whose writes a lease can guard."""

    @abstractmethod
    def fenced_writes(self) -> FencedWrites:
        """Return the writes."""
