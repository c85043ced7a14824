"""Leases as a backend sees them, and the fencing tokens of their grants.

A paused or partitioned process may not know that its lease has expired and passed to another
holder. So each grant of a key carries a *fencing token*, a number higher than that of every earlier
grant. A write with a lease is refused inside the step that writes, unless that very lease holds
(M. Kleppmann, "How to do distributed locking").

Fencing tokens are at least the store's time in microseconds. So they grow also where a key's lease
has left no trace: because it ended, or because the server came back without its data. There, they
grow as reliably as the clock, which may be set back, or may belong to a server that takes over and
is behind. For one store object the numbers always grow: it sends the server the last number that it
saw of each kind. Between two objects they are as good as the clock.
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
    * checks the ``lease`` of ``_put`` and ``_update_cas`` inside the step that writes, before any
      other check,
    * returns the verdict ``LOST`` and changes nothing if the newest grant of that kind, scope and
      key has another number, has ended, or was given back.

    To every other store, ``put`` and ``update_cas`` pass no lease. They refuse ``fence=`` with an
    :class:`InvalidInputError`.
    """
