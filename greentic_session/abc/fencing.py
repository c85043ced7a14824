"""Leases as a backend sees them, and the fencing tokens of their grants.

A paused or partitioned process may not know that its lease has expired and that another process
holds it now. So each grant of a key has a *fencing token*, a number higher than that of every
earlier grant. The step that writes checks the lease, and refuses the write unless that same lease
is held (M. Kleppmann, "How to do distributed locking").

A fencing token is at least the store's time in microseconds, and higher than the key's last token.
A server keeps the last token until its clock is one hour past the token's own time, even if nothing
else of the key is left. So while the data survives:

* Tokens never go back while the clock stays less than an hour below its highest reading. That holds
  if the clock is set back, and if a replica takes over whose clock is behind.
* If the clock falls further, a token may go back if the key's last token was already removed. For
  one store object the tokens grow even then, because it sends the highest token that it has seen.

If the server lost its data, the fencing tokens derive from its clock.

A lease is stored with its end and its start. If the start is in the future, the clock was set back.
Then the lease ends one length after a step of the backend notices that. A holder that renews keeps
its lease. If the clock is set forward, leases end early. Then another holder gets a higher token,
and writes with the first holder's token are refused. In that sense a key never has two holders.
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
    """The identity of a lease in the backend.

    :ivar kind: purpose of the lease.
    :ivar scope: ``env/tenant`` of the key, empty for a lock on the key in all tenants together.
    :ivar key: key of the session that the lease protects.
    :ivar fence: fencing token of the grant.
    """

    kind: LeaseKind
    scope: str
    key: SessionKey
    fence: int


class Fenced(Protocol):
    """An object with a lease, such as a :class:`SessionLease` or the turn of an inbox."""

    @property
    def guard(self) -> LeaseRef:
        """The lease."""
        ...


@final
class _Unfenced:
    @override
    def __repr__(self) -> str:
        return "UNFENCED"


# The default is not `None`, because `try_hold` returns `None` if the lease is not granted. A caller
# that passes it on must not write.
UNFENCED: Final = cast("Fenced", _Unfenced())
"""The default of ``fence``. It means that the write needs no lease."""


def lease_ref_of(fence: object, encoded: EncodedSession) -> LeaseRef:
    """Return the lease that must be held for a write.

    :raises InvalidInputError: ``fence`` is not a lease of this session.
    """
    guard: object = getattr(fence, "guard", None)
    if not isinstance(guard, LeaseRef):
        raise InvalidInputError("fence", f"expected a lease, got {type(fence).__name__}")
    if guard.key != encoded.key:
        raise InvalidInputError("fence", "the lease is for a different key")
    if guard.scope not in ("", encoded.scope):
        raise InvalidInputError("fence", "the lease is for another tenant's key")
    return guard


class SupportsFencing(ABC):  # noqa: B024 - a marker: the writes are the store's own primitives
    """Marks a store that accepts a lease with a write.

    A backend that derives from it:

    * gives each grant a fencing token by the rule of this module,
    * lets no lease last longer than its length if the clock is set back,
    * checks the ``lease`` of ``_put`` and ``_update_cas`` inside the step that writes, before any
      other check,
    * returns the verdict ``LOST`` and changes nothing if the newest grant of that kind, scope and
      key has another number, has ended, or was released.

    For every other store, ``put`` and ``update_cas`` refuse ``fence=`` with an
    :class:`InvalidInputError`. So its primitives get no lease.
    """
