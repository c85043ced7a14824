"""Leases as a backend sees them, and the fencing tokens of their grants.

A paused or partitioned process may not know that its lease has expired and passed to another
holder. So each grant of a key carries a *fencing token*, a number higher than that of every earlier
grant. A write with a lease is refused inside the step that writes, unless that very lease holds
(M. Kleppmann, "How to do distributed locking").

A fencing token is at least the store's time in microseconds, and higher than the key's last one. A
server keeps the last one until its clock is one hour past that token's own time, also if nothing
else is left of the key. So while the data survives:

* A token never goes back while the clock falls by less than an hour below its highest reading. That
  holds for a clock that is set back, and for a replica that takes over and is behind.
* After a greater fall, a token may go back, if the key's last token was already forgotten. For one
  store object the numbers grow even then: it sends the server the last number that it saw.

Where the server lost its data, the numbers are as good as its clock.

A lease is stored with its end and its start. If the start is in the future, the clock was set back.
Then the lease ends one length after a step of the backend notices that. A holder that renews is not
cut off. If the clock is set forward, leases end early. Another holder then gets a higher token, and
what the first one writes with its token is refused. In that sense a key never has two holders.
"""

from __future__ import annotations

from abc import ABC
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, cast, final

from .._compat import override
from ..errors import InvalidInputError

if TYPE_CHECKING:
    from ..model import SessionKey
    from .records import EncodedSession

__all__ = [
    "UNFENCED",
    "Fenced",
    "LeaseKind",
    "LeaseRef",
    "SupportsFencing",
    "lease_ref_of",
]


class LeaseKind(StrEnum):
    """The purpose of a lease. Each kind has its own fencing tokens."""

    LOCK = "lock"
    """A lock of :class:`SessionLocks`."""
    INBOX = "inbox"
    """A turn of :class:`SessionInbox`."""


class LeaseRef(NamedTuple):
    """A lease, as the backend knows it.

    :ivar kind: its purpose.
    :ivar scope: ``env/tenant`` of the key. Empty for a lock on the key in all tenants together.
    :ivar key: key of the session that the lease protects.
    :ivar fence: fencing token of the grant.
    """

    kind: LeaseKind
    scope: str
    key: SessionKey
    fence: int


class Fenced(Protocol):
    """An object with a lease: a :class:`SessionLease` or the turn of an inbox."""

    @property
    def guard(self) -> LeaseRef:
        """The lease."""
        ...


@final
class _Unfenced:
    @override
    def __repr__(self) -> str:
        return "UNFENCED"


# Not `None`: `try_hold` returns that where the lease is not granted, and such a caller must not
# write.
UNFENCED: Final = cast("Fenced", _Unfenced())
"""The default of ``fence``: the write needs no lease."""


def lease_ref_of(fence: object, encoded: EncodedSession) -> LeaseRef:
    """Return the lease that must hold for a write.

    :raises InvalidInputError: naming ``fence``, if it is not a lease of this session.
    """
    guard: object = getattr(fence, "guard", None)
    if not isinstance(guard, LeaseRef):
        raise InvalidInputError("fence", f"expected a lease, got {type(fence).__name__}")
    if guard.key != encoded.key:
        raise InvalidInputError("fence", "is the lease of another key")
    if guard.scope not in ("", encoded.scope):
        raise InvalidInputError("fence", "is the lease of another tenant's key")
    return guard


class SupportsFencing(ABC):  # noqa: B024 - a marker: the writes are the store's own primitives
    """Marks a store that accepts a lease with a write.

    A backend that derives from it:

    * gives each grant a fencing token by the rule above,
    * lets no lease run for longer than its length if the clock is set back,
    * checks the ``lease`` of ``_put`` and ``_update_cas`` inside the step that writes, before any
      other check,
    * returns the verdict ``LOST`` and changes nothing if the newest grant of that kind, scope and
      key has another number, has ended, or was given back.

    To every other store, ``put`` and ``update_cas`` pass no lease. They refuse ``fence=`` with an
    :class:`InvalidInputError`.
    """
