"""The errors that callers can get, as one tree.

.. code-block:: text

    SessionError                      .code names the family, for protocols and metrics
    ├── InvalidInputError             ValueError    refused before any I/O, nothing changed
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
    ├── SessionEndedError             web: the session ended while the request ran
    ├── SessionConflictError          web: two requests changed the same plain field
    ├── SessionRevokedError           web: the user's sessions were revoked during the login
    ├── SessionLimitError             web: the user has too many sessions
    ├── ReauthenticationRequiredError
    ├── DecodeError
    ├── SchemaVersionError            refused: it would lose or lower what a newer release stored
    ├── StoreUnavailableError         not written, as far as the store could find out
    │   └── StoreFullError
    ├── OutcomeUnknownError           written or not: the store could not find out
    └── DurabilityError               written, but on fewer replicas than required

Expected outcomes are values (``None``, ``False``). Every other outcome is one of these errors. No
message and no ``repr`` contains a payload, a secret, or an identifier of another tenant.
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
    "ReauthenticationRequiredError",
    "SchemaVersionError",
    "SessionConflictError",
    "SessionEndedError",
    "SessionError",
    "SessionExistsError",
    "SessionLimitError",
    "SessionNotFoundError",
    "SessionRevokedError",
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
        # Default unpickling calls the constructor with ``args``. That would fail, because the
        # constructors take fields, not the message.
        return _rebuild, (type(self), self.args, self.__dict__)


class InvalidInputError(SessionError, ValueError):
    """An argument is invalid. The error is raised before any I/O, so nothing was changed.

    :ivar field: the invalid argument or struct field, e.g. ``"ttl_secs"``.
    :ivar reason: what is wrong with it, without the value.
    """

    code: ErrorCode = "invalid_input"

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field}: {reason}")


class PayloadTooLargeError(InvalidInputError):
    """A session or message exceeds its size limit. Nothing was changed.

    The limit of an encoded session belongs to the store, that of a message to its inbox.

    :ivar size: size in bytes. For a session, the encoded size.
    :ivar limit: the limit of the store or the inbox in bytes.
    :ivar field: ``session``, or ``payload`` for a message.
    """

    def __init__(self, size: int, limit: int, field: str = "session") -> None:
        self.size = size
        self.limit = limit
        encoded = " encoded" if field == "session" else ""
        super().__init__(field, f"{size} bytes{encoded}, over the limit of {limit}")


class SessionNotFoundError(SessionError, LookupError):
    """The verb needs a live session, and the session is absent or expired.

    :ivar key: the requested key.
    """

    code: ErrorCode = "not_found"

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"no session under key {key!r}")


class SessionExistsError(SessionError):
    """``create`` found a live session. Nothing was changed.

    :ivar key: the key of that session.
    """

    code: ErrorCode = "conflict"

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"a live session exists under key {key!r}")


class CasConflictError(SessionError):
    """The stored token is not the expected one. Nothing was changed.

    :ivar key: the session's key.
    :ivar expected: the token that the caller passed.
    :ivar current: the stored token, or ``Cas.none()`` if the session is absent or expired.
    """

    code: ErrorCode = "conflict"

    def __init__(self, key: str, expected: Cas, current: Cas) -> None:
        self.key = key
        self.expected = expected
        self.current = current
        super().__init__(f"key {key!r}: expected token {expected}, the store has {current}")


class TenantMismatchError(SessionError):
    """The access check failed: the session has another team or user. Nothing was changed.

    The error does not reveal the other owner.

    :ivar key: the session's key.
    """

    code: ErrorCode = "permission_denied"

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"key {key!r} is not accessible to this caller's tenant, team and user")


class AmbiguousKeyError(SessionError):
    """Several tenants have the key, and the call has no ``ctx``. Nothing was changed.

    :ivar key: the key. Pass ``ctx`` to select the tenant.
    """

    code: ErrorCode = "conflict"

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"several tenants have key {key!r}: pass ctx")


class AmbiguousWaitError(SessionError):
    """Several waits are live, and the call can return only one.

    :ivar count: the number of live waits.
    """

    code: ErrorCode = "conflict"

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(f"{count} waits are live: select one by its reply scope")


class WaitNotFoundError(SessionError, LookupError):
    """No live wait is registered under the reply scope."""

    code: ErrorCode = "not_found"

    def __init__(self) -> None:
        super().__init__("no wait under this reply scope")


class WaitClaimedError(SessionError):
    """Another worker has claimed the wait.

    :ivar until: end of its lease unless renewed (aware UTC), by the store's clock.
    """

    code: ErrorCode = "conflict"

    def __init__(self, until: datetime) -> None:
        self.until = until
        super().__init__(f"the wait is claimed until {until.isoformat()}")


class DuplicateEventError(SessionError):
    """The event was completed before. Nothing was changed.

    :ivar event_id: the event's id, as passed by the caller.
    """

    code: ErrorCode = "conflict"

    def __init__(self, event_id: str) -> None:
        self.event_id = event_id
        super().__init__(f"event {event_id!r} was already completed")


class LeaseLostError(SessionError):
    """The lease expired, was released, or was taken over. Nothing was changed.

    A lease is taken over by a grant with a higher fencing token.
    """

    code: ErrorCode = "conflict"

    def __init__(self, reason: str = "the lease is no longer held") -> None:
        self.reason = reason
        super().__init__(reason)


class InboxFullError(SessionError):
    """A mailbox, or the early events of a reply scope, reached the limit of messages.

    Nothing was changed, with one exception. :meth:`SessionInbox.deliver` stores an event as early
    if the mailbox of the waiting session is full. The same message may be admitted or delivered
    again.

    :ivar limit: the limit that was reached.
    """

    code: ErrorCode = "rate_limited"

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(f"inbox full: limit of {limit} pending messages reached")


class LockHeldError(SessionError):
    """The lock has another holder, and the time to wait for it is over. Nothing was changed.

    :ivar key: the locked key.
    :ivar until: end of the holder's lease unless renewed (aware UTC), by the store's clock. It is
        in the past if the lock has waiters but no holder.
    """

    code: ErrorCode = "conflict"

    def __init__(self, key: str, until: datetime) -> None:
        self.key = key
        self.until = until
        super().__init__(f"the lock on key {key!r} is held until {until.isoformat()}")


class MemberExistsError(SessionError):
    """The group has a live member with the same name. Nothing was changed.

    :ivar worker: the name.
    :ivar until: end of that member's lease unless renewed (aware UTC), by the store's clock.
    """

    code: ErrorCode = "conflict"

    def __init__(self, worker: str, until: datetime) -> None:
        self.worker = worker
        self.until = until
        super().__init__(f"member {worker!r} exists: its lease lasts until {until.isoformat()}")


class DispatcherFullError(SessionError):
    """The dispatcher has no room, and the submitter does not wait. Nothing was changed.

    :ivar limit: the limit that was reached. ``key`` is the limit of the messages of this key, and
        ``total`` that of all messages.
    """

    code: ErrorCode = "rate_limited"

    def __init__(self, limit: Literal["key", "total"]) -> None:
        self.limit = limit
        name = "per-key" if limit == "key" else "total"
        super().__init__(f"dispatcher full: {name} limit reached")


class DispatcherClosedError(SessionError):
    """The dispatcher is closed or closing. The message was not submitted."""

    code: ErrorCode = "unavailable"

    def __init__(self) -> None:
        super().__init__("the dispatcher is closed")


class SessionEndedError(SessionError):
    """The web session ended while the request ran. Nothing was saved.

    It was deleted, it expired, or a login or a regeneration replaced its incarnation.
    """

    code: ErrorCode = "not_found"

    def __init__(self) -> None:
        super().__init__("the web session has ended")


class SessionConflictError(SessionError):
    """Two parallel requests changed the same plain fields of a web session. Nothing was saved.

    :ivar fields: names of these fields.
    """

    code: ErrorCode = "conflict"

    def __init__(self, fields: tuple[str, ...]) -> None:
        self.fields = fields
        names = ", ".join(fields)
        super().__init__(f"a parallel request changed the same fields of the session: {names}")


class SessionRevokedError(SessionError):
    """The user's sessions were revoked while the login ran. The login was undone."""

    code: ErrorCode = "unauthenticated"

    def __init__(self) -> None:
        super().__init__("the sessions of the user were revoked while the login ran")


class SessionLimitError(SessionError):
    """The user has as many web sessions as the policy allows. The login was refused.

    :ivar limit: the limit.
    """

    code: ErrorCode = "rate_limited"

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(f"the user has too many sessions: limit of {limit} reached")


class ReauthenticationRequiredError(SessionError):
    """The action requires a login that is more recent than that of the session."""

    code: ErrorCode = "unauthenticated"

    def __init__(self) -> None:
        super().__init__("the login is not recent enough for this action")


class DecodeError(SessionError):
    """Stored data cannot be decoded as the store's session type.

    :ivar key: the session's key.
    :ivar reason: where decoding failed, without stored values.
    """

    def __init__(self, key: str, reason: str) -> None:
        self.key = key
        self.reason = reason
        super().__init__(f"key {key!r}: {reason}")


class SchemaVersionError(SessionError):
    """The write would lose what another release of the application stored. Nothing was changed.

    Either the stored state has fields that the writer's type does not know, or the stored record
    has a higher schema version than the new state.

    :ivar key: the session's key.
    :ivar reason: what a write would lose, without stored values.
    """

    code: ErrorCode = "conflict"

    def __init__(self, key: str, reason: str) -> None:
        self.key = key
        self.reason = reason
        super().__init__(f"key {key!r}: {reason}")


class StoreUnavailableError(SessionError):
    """The store could not serve the call. If the call writes, nothing was written.

    :ivar reason: the cause, in the library's words.
    :ivar code: ``unavailable`` in general. ``timeout`` if the deadline ended the call.
        ``unauthenticated`` or ``permission_denied`` if the server refused the account.
    """

    code: ErrorCode = "unavailable"

    def __init__(self, reason: str, *, code: ErrorCode | None = None) -> None:
        self.reason = reason
        super().__init__(reason, code=code)


class StoreFullError(StoreUnavailableError):
    """The server is out of memory and does not evict. Nothing was written."""

    def __init__(self, reason: str = "the server is at its memory limit") -> None:
        super().__init__(reason)


class OutcomeUnknownError(SessionError):
    """The write may or may not have happened, and the store could not find out.

    Read the session again before any decision that depends on the write.

    :ivar reason: the cause, in the library's words.
    """

    code: ErrorCode = "timeout"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the write may or may not have happened: {reason}")


class DurabilityError(SessionError):
    """The write happened, but fewer replicas confirmed it than required.

    An earlier call may already have fulfilled a request, such as a repeated ``admit``. The later
    call raises this error while that write is not confirmed.

    :ivar applied: always true: the primary has the write.
    :ivar confirmed: number of replicas that confirmed in time.
    :ivar wanted: number of replicas that had to confirm.
    """

    code: ErrorCode = "unavailable"

    def __init__(self, confirmed: int, wanted: int) -> None:
        self.applied = True
        self.confirmed = confirmed
        self.wanted = wanted
        super().__init__(f"written, but confirmed by {confirmed} of {wanted} replicas")
