"""The arguments and results of a store's primitives, such as records, verdicts and outcomes."""

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
    SchemaVersionError,
    SessionError,
    TenantMismatchError,
)
from ..model import Cas, SessionKey

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "ANY_OWNER",
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
    """Return a random incarnation for a new record: a UUID in 32 hex digits."""
    return uuid4().hex


class Record(msgspec.Struct, frozen=True, gc=False):
    """A stored session. It only holds bytes and scalars, so the garbage collector never visits it.

    :ivar value: version of the token.
    :ivar incarnation: incarnation of the token, 32 hex digits.
    :ivar owner: ``team/user``, as :mod:`greentic_session._core.tenancy` writes it.
    :ivar ttl_ms: lifetime in milliseconds. 0 never expires.
    :ivar at_ms: time of the last write or touch, in milliseconds since the epoch by the store's
        clock.
    :ivar body: the bytes that the codec encoded.
    """

    value: int
    incarnation: str
    owner: str
    ttl_ms: int
    at_ms: int
    body: bytes

    def __repr__(self) -> str:
        """Return the token and the size without the body, because it is private state."""
        return f"Record({self.value}-{self.incarnation}, {len(self.body)} bytes)"


class UnreadableRecord(NamedTuple):
    """A stored record with a field that cannot be read. It replaces a :class:`Record`.

    :ivar owner: as in :class:`Record`, ``None`` if it cannot be read either.
    :ivar error: the error of a read.
    """

    owner: str | None
    error: DecodeError


class UnreadableSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session that cannot be read. It replaces a :class:`Versioned`.

    ``scan`` and ``get_many`` return it with ``on_error="return"``.

    :ivar key: the session's key.
    :ivar error: the error that :meth:`AsyncSessionStore.get` raises for the session.
    """

    key: SessionKey
    error: DecodeError


class EncodedSession(msgspec.Struct, frozen=True, gc=False):
    """A session that passed every check and is encoded for a write.

    :ivar scope: ``env/tenant``. With ``key``, it is the record's address.
    :ivar key: the session's key.
    :ivar owner: as in :class:`Record`.
    :ivar ttl_ms: as in :class:`Record`.
    :ivar body: as in :class:`Record`.
    :ivar schema_version: version of the state, which the record keeps next to its body. The live
        record must not have a higher one. 0 makes no check and leaves the stored version.
    :ivar labels: texts of the indexed labels, one a line. ``"-"`` in a store without indexed
        labels, and then the stored ones stay.
    """

    scope: str
    key: str
    owner: str
    ttl_ms: int
    body: bytes
    schema_version: int = 0
    labels: str = "-"

    def __repr__(self) -> str:
        """Return the address and the size without the body, because it is private state."""
        return f"EncodedSession({self.scope}, {self.key!r}, {len(self.body)} bytes)"


class Verdict(IntEnum):
    """The result of a primitive that writes. The Lua scripts return these numbers."""

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
    NEWER = -10
    UNINDEXED = -11


# Python 3.11 calls a function of the enum for each lookup of a member. In a verb that succeeds,
# that would be a tenth of the memory backend's time.
DONE: Final = Verdict.DONE


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """The outcome of a primitive that writes.

    :ivar verdict: the verdict. Every verdict except ``DONE`` means that nothing changed.
    :ivar value: version of the current token, with ``DONE`` and ``CONFLICT``. Otherwise 0.
    :ivar incarnation: incarnation of that token, otherwise empty.
    :ivar at_ms: time of the write in milliseconds since the epoch, otherwise 0.
    :ivar shortfall: if too few replicas confirmed the answer, the number that did and the number
        that must. The caller finishes the steps after the write, and then calls
        :meth:`raise_shortfall`.
    """

    verdict: Verdict
    value: int = 0
    incarnation: str = ""
    at_ms: int = 0
    shortfall: tuple[int, int] | None = None

    @property
    def token(self) -> Cas:
        """The current token, ``Cas.none()`` if the outcome has none."""
        return Cas(value=self.value, incarnation=self.incarnation) if self.value else Cas.none()

    def raise_shortfall(self) -> None:
        """Check that enough replicas confirmed the answer.

        :raises DurabilityError: too few replicas confirmed it.
        """
        if self.shortfall is not None:
            raise DurabilityError(*self.shortfall)


def error_for(key: str, outcome: Outcome) -> SessionError:
    """Return the error for a verdict that has the same meaning in every verb.

    :param key: the session's key.
    :param outcome: an outcome other than ``DONE`` that the verb does not handle itself.
    """
    if outcome.verdict is Verdict.MISMATCH:
        return TenantMismatchError(key)
    if outcome.verdict is Verdict.AMBIGUOUS:
        return AmbiguousKeyError(key)
    if outcome.verdict is Verdict.UNKNOWN:
        return OutcomeUnknownError("the operation log no longer covers this write")
    if outcome.verdict is Verdict.LOST:
        return LeaseLostError()
    if outcome.verdict is Verdict.NEWER:
        return SchemaVersionError(key, "the stored record has a higher schema version")
    return SessionError(f"key {key!r}: the backend returned {outcome.verdict.name}")


class AllowedOwners(NamedTuple):
    """The owners whose live record a call may act on. See :func:`.tenancy.allowed_owners_of`.

    :ivar exact: ``team/user`` of the caller.
    :ivar shared: the caller's team without a user.
    """

    exact: str
    shared: str


ANY_OWNER: Final = AllowedOwners("*", "*")
"""Every owner of the tenant. The text is no owner, because an owner contains a ``/``."""


class Page(NamedTuple):
    """A page of the live records of a scope.

    :ivar records: the records with their keys. A page before the last one may be empty, too.
    :ivar position: position of the next page, in the backend's own form. ``None`` after the last
        page.
    """

    records: Sequence[tuple[SessionKey, Record | UnreadableRecord]]
    position: object | None
