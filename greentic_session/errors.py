"""The errors that callers can meet, as one tree.

.. code-block:: text

    SessionError                      .code names the family, for protocols and metrics
    ├── InvalidInputError             ValueError    refused before any I/O; nothing changed
    │   └── PayloadTooLargeError
    ├── SessionNotFoundError          LookupError
    ├── SessionExistsError
    ├── CasConflictError
    ├── TenantMismatchError           access check: wrong team or user in the right tenant
    ├── AmbiguousKeyError
    ├── AmbiguousWaitError
    ├── WaitNotFoundError             LookupError
    ├── WaitClaimedError
    ├── DuplicateEventError
    ├── LeaseLostError
    ├── InboxFullError
    ├── LockHeldError
    ├── MemberExistsError
    ├── DispatcherFullError
    ├── DispatcherClosedError
    ├── DecodeError
    ├── StoreUnavailableError         not written, as far as the store could find out
    │   └── StoreFullError
    ├── OutcomeUnknownError           written or not: the store could not find out
    └── DurabilityError               written, but on fewer replicas than asked

Expected outcomes are values (``None``, ``False``). Every other outcome is one of these errors. No
message and no ``repr`` holds a payload, a secret, or an identifier of another tenant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from .model import Cas

__all__ = [
    "AmbiguousKeyError",
    "AmbiguousWaitError",
    "CasConflictError",
    "DecodeError",
    "DispatcherClosedError",
    "DispatcherFullError",
    "DuplicateEventError",
    "DurabilityError",
    "ErrorCode",
    "InboxFullError",
    "InvalidInputError",
    "LeaseLostError",
    "LockHeldError",
    "MemberExistsError",
    "OutcomeUnknownError",
    "PayloadTooLargeError",
    "SessionError",
    "SessionExistsError",
    "SessionNotFoundError",
    "StoreFullError",
    "StoreUnavailableError",
    "TenantMismatchError",
    "WaitClaimedError",
    "WaitNotFoundError",
]

ErrorCode = Literal[
    "invalid_input",
    "not_found",
    "conflict",
    "timeout",
    "unauthenticated",
    "permission_denied",
    "rate_limited",
    "unavailable",
    "internal",
]


def _rebuild(
    cls: type[SessionError], args: tuple[object, ...], fields: dict[str, object]
) -> SessionError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


class SessionError(Exception):
    """Root of all errors of this library.

    :ivar code: one of the nine :data:`ErrorCode` words, stable across releases.
    """

    code: ErrorCode = "internal"

    def __init__(self, message: str, *, code: ErrorCode | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code

    def __reduce__(
        self,
    ) -> tuple[Callable[..., SessionError], tuple[object, ...]]:
        # The constructors take fields, not the message, so the default pickling (which calls
        # the constructor with ``args``) would fail on the way back from another process.
        return _rebuild, (type(self), self.args, self.__dict__)


class InvalidInputError(SessionError, ValueError):
    """An argument broke a rule. Raised before any I/O: nothing was changed.

    :ivar field: the argument or struct field at fault, e.g. ``"ttl_secs"``.
    :ivar reason: what is wrong with it, without repeating the value.
    """

    code: ErrorCode = "invalid_input"

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field}: {reason}")


class PayloadTooLargeError(InvalidInputError):
    """The encoded session is over the store's limit, or a message over its inbox's. Nothing was
    changed.

    :ivar size: size in bytes, of a session as encoded.
    :ivar limit: the store's or the inbox's limit in bytes.
    :ivar field: ``session``, or ``payload`` for a message.
    """

    def __init__(self, size: int, limit: int, field: str = "session") -> None:
        self.size = size
        self.limit = limit
        encoded = " encoded" if field == "session" else ""
        super().__init__(field, f"{size} bytes{encoded}, over the limit of {limit}")


class SessionNotFoundError(SessionError, LookupError):
    """The session is absent or expired, where the verb needs one.

    :ivar key: the key that was asked for.
    """

    code: ErrorCode = "not_found"

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"no session under key {key!r}")


class SessionExistsError(SessionError):
    """``create`` found a live session. Nothing was changed.

    :ivar key: the key that is taken.
    """

    code: ErrorCode = "conflict"

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"a live session exists under key {key!r}")


class CasConflictError(SessionError):
    """The stored token is not the expected one. Nothing was changed.

    :ivar key: the session's key.
    :ivar expected: the token the caller presented.
    :ivar current: the stored token; ``Cas.none()`` when the session is absent or expired.
    """

    code: ErrorCode = "conflict"

    def __init__(self, key: str, expected: Cas, current: Cas) -> None:
        self.key = key
        self.expected = expected
        self.current = current
        super().__init__(f"key {key!r}: expected token {expected}, the store has {current}")


class TenantMismatchError(SessionError):
    """The fence refused: the session belongs to another team or user. Nothing was changed.

    Says nothing about the other owner.

    :ivar key: the session's key.
    """

    code: ErrorCode = "permission_denied"

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"key {key!r} is not open to this caller's tenant, team and user")


class AmbiguousKeyError(SessionError):
    """A call without ``ctx`` met the same key in several tenants. Nothing was changed.

    :ivar key: the key; pass ``ctx`` to say whose session is meant.
    """

    code: ErrorCode = "conflict"

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"several tenants hold key {key!r}: pass ctx")


class AmbiguousWaitError(SessionError):
    """A call that can answer with one wait met several.

    :ivar count: how many waits are live.
    """

    code: ErrorCode = "conflict"

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(f"{count} waits are live: name one by its reply scope")


class WaitNotFoundError(SessionError, LookupError):
    """No live wait stands under the reply scope."""

    code: ErrorCode = "not_found"

    def __init__(self) -> None:
        super().__init__("no wait under this reply scope")


class WaitClaimedError(SessionError):
    """Another worker holds the wait.

    :ivar until: when its lease ends unless renewed (aware UTC), by the store's clock.
    """

    code: ErrorCode = "conflict"

    def __init__(self, until: datetime) -> None:
        self.until = until
        super().__init__(f"the wait is claimed until {until.isoformat()}")


class DuplicateEventError(SessionError):
    """The event was completed before. Nothing was changed.

    :ivar event_id: the event's id as the caller gave it.
    """

    code: ErrorCode = "conflict"

    def __init__(self, event_id: str) -> None:
        self.event_id = event_id
        super().__init__(f"event {event_id!r} was already completed")


class LeaseLostError(SessionError):
    """The lease ran out, or a holder with a higher fence took over. Nothing was changed."""

    code: ErrorCode = "conflict"

    def __init__(self, reason: str = "the lease is held no longer") -> None:
        self.reason = reason
        super().__init__(reason)


class InboxFullError(SessionError):
    """As many messages wait as may, of one session or for one reply scope.

    Nothing was changed, but that :meth:`SessionInbox.deliver` keeps an event whose session has a
    full mailbox. The same message may be brought again.

    :ivar limit: how many that is.
    """

    code: ErrorCode = "rate_limited"

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(f"{limit} messages wait, which is as many as may")


class LockHeldError(SessionError):
    """The lock is another's, and the caller does not wait (any longer). Nothing was changed.

    :ivar key: what is locked.
    :ivar until: when the holder's lease ends unless renewed (aware UTC), by the store's clock; past
        if nobody holds it and others wait for it.
    """

    code: ErrorCode = "conflict"

    def __init__(self, key: str, until: datetime) -> None:
        self.key = key
        self.until = until
        super().__init__(f"the lock on key {key!r} is held until {until.isoformat()}")


class MemberExistsError(SessionError):
    """A live member of the group has the name that a worker wants to join under. Nothing changed.

    :ivar worker: the name.
    :ivar until: when that member's lease ends unless renewed (aware UTC), by the store's clock.
    """

    code: ErrorCode = "conflict"

    def __init__(self, worker: str, until: datetime) -> None:
        self.worker = worker
        self.until = until
        super().__init__(f"a member {worker!r} lives until {until.isoformat()}")


class DispatcherFullError(SessionError):
    """A dispatcher has no room for the message, and its submitter may not wait. Nothing changed.

    :ivar limit: which limit is reached: ``key``, of the messages that wait under this key, or
        ``total``, of all that wait.
    """

    code: ErrorCode = "rate_limited"

    def __init__(self, limit: Literal["key", "total"]) -> None:
        self.limit = limit
        whose = "of this key" if limit == "key" else "in all"
        super().__init__(f"as many messages {whose} wait as may")


class DispatcherClosedError(SessionError):
    """The dispatcher is closed, or closing. The message was not submitted."""

    code: ErrorCode = "unavailable"

    def __init__(self) -> None:
        super().__init__("the dispatcher is closed")


class DecodeError(SessionError):
    """What is stored cannot be read as the store's session type.

    :ivar key: the session's key.
    :ivar reason: where decoding failed, without stored values.
    """

    def __init__(self, key: str, reason: str) -> None:
        self.key = key
        self.reason = reason
        super().__init__(f"key {key!r}: {reason}")


class StoreUnavailableError(SessionError):
    """The store could not serve the call. A write that ends so did not happen.

    :ivar reason: why, in the library's words.
    :ivar code: ``unavailable``; ``timeout`` when the deadline ended the call;
        ``unauthenticated`` or ``permission_denied`` when the server refused the account.
    """

    code: ErrorCode = "unavailable"

    def __init__(self, reason: str, *, code: ErrorCode | None = None) -> None:
        self.reason = reason
        super().__init__(reason, code=code)


class StoreFullError(StoreUnavailableError):
    """The server is out of memory and evicts nothing. The write did not happen."""

    def __init__(self, reason: str = "the server is at its memory limit") -> None:
        super().__init__(reason)


class OutcomeUnknownError(SessionError):
    """The write may or may not have happened, and the store could not find out.

    Read the session again before deciding anything.

    :ivar reason: what stood in the way.
    """

    code: ErrorCode = "timeout"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the write may or may not have happened: {reason}")


class DurabilityError(SessionError):
    """The write happened, but fewer replicas confirmed it than were asked for.

    A call whose request was fulfilled by an earlier call, such as a repeated ``admit``, raises it
    while that write is not confirmed.

    :ivar applied: always true: the primary has the write.
    :ivar confirmed: replicas that confirmed in time.
    :ivar wanted: replicas that were asked for.
    """

    code: ErrorCode = "unavailable"

    def __init__(self, confirmed: int, wanted: int) -> None:
        self.applied = True
        self.confirmed = confirmed
        self.wanted = wanted
        super().__init__(f"written, but confirmed by {confirmed} of {wanted} replicas")
