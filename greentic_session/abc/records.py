"""Arguments and results of a store's primitives: encoded sessions, records, verdicts, outcomes."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import uuid4

import msgspec

from ..errors import (
    AmbiguousKeyError,
    DecodeError,
    DurabilityError,
    LeaseLostError,
    OutcomeUnknownError,
    SessionError,
    TenantMismatchError,
)
from ..model import Cas, SessionKey

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "DONE",
    "AllowedOwners",
    "EncodedSession",
    "Outcome",
    "Page",
    "Record",
    "UnreadableRecord",
    "UnreadableSession",
    "Verdict",
    "error_for",
    "mint_incarnation",
]


def mint_incarnation() -> str:
    """Return the random incarnation of a record that comes into being: a UUID in 32 hex digits."""
    return uuid4().hex


class Record(msgspec.Struct, frozen=True, gc=False):
    """A stored session: bytes and scalars only, so the garbage collector never visits it.

    :ivar value: version of the token.
    :ivar incarnation: incarnation of the token, 32 hex digits.
    :ivar owner: the owner's team and user, as :mod:`greentic_session._core.tenancy` writes them.
    :ivar ttl_ms: life in milliseconds; 0 is for ever.
    :ivar at_ms: last write or touch, milliseconds since the epoch by the store's clock.
    :ivar body: what the codec wrote.
    """

    value: int
    incarnation: str
    owner: str
    ttl_ms: int
    at_ms: int
    body: bytes

    def __repr__(self) -> str:
        """Return the token and the size: a body is somebody's state."""
        return f"Record({self.value}-{self.incarnation}, {len(self.body)} bytes)"


class UnreadableRecord(NamedTuple):
    """A stored record of which a field cannot be read, in the place of a :class:`Record`.

    :ivar owner: as in :class:`Record`. ``None`` if it cannot be read either.
    :ivar error: the reason.
    """

    owner: str | None
    error: DecodeError


class UnreadableSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session that cannot be read, in the place of a :class:`Versioned`.

    ``scan`` and ``get_many`` return it with ``on_error="return"``.

    :ivar key: the session's key.
    :ivar error: what :meth:`AsyncSessionStore.get` raises for it.
    """

    key: SessionKey
    error: DecodeError


class EncodedSession(msgspec.Struct, frozen=True, gc=False):
    """A session that passed every check, encoded and ready to be written.

    :ivar scope: ``env/tenant``: with ``key``, the record's address.
    :ivar key: the session's key.
    :ivar owner: as in :class:`Record`.
    :ivar ttl_ms: as in :class:`Record`.
    :ivar body: as in :class:`Record`.
    """

    scope: str
    key: str
    owner: str
    ttl_ms: int
    body: bytes

    def __repr__(self) -> str:
        """Return the address and the size: a body is somebody's state."""
        return f"EncodedSession({self.scope}, {self.key!r}, {len(self.body)} bytes)"


class Verdict(IntEnum):
    """How a primitive that writes ended. The Lua scripts return these numbers."""

    DONE = 1
    ABSENT = 0
    EXISTS = -1
    CONFLICT = -2
    MISMATCH = -3
    AMBIGUOUS = -4
    UNKNOWN = -5
    CLAIMED = -6
    SEEN = -7
    LOST = -8
    FULL = -9


# Python 3.11 runs a function of the enum's for each look-up of a member in its class: on the way of
# a verb that succeeds, that is a tenth of what the memory backend spends.
DONE: Final = Verdict.DONE


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """The end of a primitive that writes.

    :ivar verdict: what happened; everything but ``DONE`` changed nothing.
    :ivar value: version of the token now (``DONE``, ``CONFLICT``), else 0.
    :ivar incarnation: its incarnation, else empty.
    :ivar at_ms: the time the write was stamped with, else 0.
    :ivar shortfall: how many replicas confirmed the answer, and how many were wanted, if too few
        did. The caller finishes the steps that follow the write, then calls
        :meth:`raise_shortfall`.
    """

    verdict: Verdict
    value: int = 0
    incarnation: str = ""
    at_ms: int = 0
    shortfall: tuple[int, int] | None = None

    @property
    def token(self) -> Cas:
        """The token now; ``Cas.none()`` where there is none to tell."""
        return Cas(value=self.value, incarnation=self.incarnation) if self.value else Cas.none()

    def raise_shortfall(self) -> None:
        """Do nothing if enough replicas confirmed the answer.

        :raises DurabilityError: too few did.
        """
        if self.shortfall is not None:
            raise DurabilityError(*self.shortfall)


def error_for(key: str, outcome: Outcome) -> SessionError:
    """Return the error for a verdict that means the same to every verb.

    :param key: the session's key.
    :param outcome: anything but ``DONE``, and what the verb has its own word for.
    """
    if outcome.verdict is Verdict.MISMATCH:
        return TenantMismatchError(key)
    if outcome.verdict is Verdict.AMBIGUOUS:
        return AmbiguousKeyError(key)
    if outcome.verdict is Verdict.UNKNOWN:
        return OutcomeUnknownError("the record has seen too many writes since to tell")
    if outcome.verdict is Verdict.LOST:
        return LeaseLostError()
    return SessionError(f"key {key!r}: the backend answered {outcome.verdict.name}")


class AllowedOwners(NamedTuple):
    """The owners whose live record a call may act on: see :func:`.tenancy.allowed_owners_of`.

    :ivar exact: the caller's own team and user.
    :ivar shared: the caller's team without a user.
    """

    exact: str
    shared: str


class Page(NamedTuple):
    """Some live records of a scope.

    :ivar records: with their keys; may be empty before the end.
    :ivar position: where the next page starts, in the backend's own terms; ``None`` is the end.
    """

    records: Sequence[tuple[SessionKey, Record | UnreadableRecord]]
    position: object | None
