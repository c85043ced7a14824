"""Classification of the failures of the driver and the server.

The driver has no error class for BUSY, NOREPLICAS, MISCONF and WRONGTYPE. So error replies are
classified by their first word
(https://redis.io/docs/latest/develop/reference/protocol-spec/#simple-errors). Redis 6.2 puts that
word inside the error message of a script.
"""

from __future__ import annotations

import re
import ssl
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, NamedTuple

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from ...errors import OutcomeUnknownError, SessionError, StoreFullError, StoreUnavailableError
from .connection import ConnectionLostError
from .driver import UnreadableGreetingError

if TYPE_CHECKING:
    from ...errors import ErrorCode

__all__ = [
    "MALFORMED_REPLY",
    "TOO_LARGE",
    "Failure",
    "FailureKind",
    "ForeignValueError",
    "Redirect",
    "UnknownServerError",
    "classify",
    "malformed_reply",
]

TOO_LARGE: Final = "TOOLARGE"
"""The library's own code word for a request that is too large. The server sends none for it."""
MALFORMED_REPLY: Final = "the server's reply cannot be read"


class UnknownServerError(OSError):
    """The server of a call is unknown, and no discovery found it.

    :ivar reason: the reason, as a text of this library.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Redirect(NamedTuple):
    """The server of a slot in a cluster (Redis cluster specification, "MOVED Redirection").

    :ivar slot: number of the slot.
    :ivar host: host of the server, empty for the host of the server that replied.
    :ivar port: TCP port of the server.
    :ivar is_ask: whether the redirection is for one command only, while the slot moves.
    """

    slot: int
    host: str
    port: int
    is_ask: bool


class ForeignValueError(SessionError):
    """A key of the store holds another type of value.

    It does not leave this package. The store raises an error that names the session or subject.

    :ivar index: index of the command that failed within its call.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        super().__init__("a key of this store holds another type of value")


class FailureKind(Enum):
    """What follows a failure."""

    NOT_EXECUTED = auto()
    """The server executed nothing. The call retries."""
    NO_SCRIPT = auto()
    """The server executed nothing, because it lacks the script. The call retries with its text."""
    AMBIGUOUS = auto()
    """Bytes were sent, and no reply came. The call retries with the same operation id, if any."""
    PERMANENT = auto()
    """A retry would not help. The call raises an error."""


class Failure(NamedTuple):
    """A classified failure.

    :ivar kind: what follows it.
    :ivar reason: the reason, without any content of a session.
    :ivar code: code of the error that the caller gets if no retry succeeds.
    :ivar error: with ``PERMANENT``, the error to raise.
    :ivar from_server: whether the failure is an error reply of the server.
    :ivar code_word: the first word of that reply.
    :ivar redirect: the redirection, with MOVED and ASK.
    :ivar names_cause: whether the reason says more than that no reply came.
    """

    kind: FailureKind
    reason: str
    code: ErrorCode = "unavailable"
    error: SessionError | None = None
    from_server: bool = False
    code_word: str = ""
    redirect: Redirect | None = None
    names_cause: bool = False

    @property
    def is_silence(self) -> bool:
        """Whether the failure is a timeout without a known cause."""
        return self.code == "timeout" and self.error is None and not self.names_cause

    @property
    def is_topology_error(self) -> bool:
        """Whether another server may serve the call."""
        return not self.from_server or self.code_word in _TOPOLOGY_WORDS


_TOPOLOGY_WORDS: Final = frozenset(("CLUSTERDOWN", "MASTERDOWN", "MOVED", "READONLY"))
_WORD_OF_CLASS: Final = (
    (NoScriptError, "NOSCRIPT"),
    (OutOfMemoryError, "OOM"),
    (ReadOnlyError, "READONLY"),
    (BusyLoadingError, "LOADING"),
    (NoPermissionError, "NOPERM"),
    (AuthorizationError, "NOPERM"),
    (AuthenticationError, "NOAUTH"),
)
_NOT_EXECUTED: Final = frozenset(
    (
        "ASK",
        "BUSY",
        "CLUSTERDOWN",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "MOVED",
        "NOREPLICAS",
        "READONLY",
        "TRYAGAIN",
    )
)
_LARGE_BYTES: Final = 1 << 20
"""The minimum of ``client-query-buffer-limit``, in bytes. Above the limit, a server disconnects."""
_NO_TLS: Final = frozenset(
    ("HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "WRONG_VERSION_NUMBER")
)
_OTHER_PROTOCOLS: Final = {
    "H": "the server is an HTTP server: expected Redis or Valkey",
    r"\x15": "the server speaks TLS on this port: use rediss://",
}
_FIRST_BYTE: Final = re.compile(r'got "(.*?)" as reply type byte')
_REDIRECT: Final = re.compile(r"(?:MOVED |ASK )?([0-9]{1,5}) (.*):([0-9]{1,5})")
_WORD: Final = re.compile(r"[A-Z][A-Z0-9]+(?= |$)")
_WORD_IN_SCRIPT_ERROR: Final = re.compile(r"-([A-Z][A-Z0-9]+) ")


def classify(error: BaseException, *, sent: bool, index: int = 0, size: int = 0) -> Failure:
    """Classify a failure.

    :param error: the exception of the driver, the socket or the timeout.
    :param sent: whether bytes of the command may have been sent.
    :param index: index of the command that failed within its call.
    :param size: size of the request that was sent, in bytes.
    """
    if isinstance(error, UnknownServerError):
        return Failure(FailureKind.NOT_EXECUTED, error.reason)
    if isinstance(error, UnreadableGreetingError):
        return Failure(FailureKind.NOT_EXECUTED, str(error))
    word = _word(error)
    if word is None and not sent:
        # While connecting, the driver wraps the server's error reply in another exception.
        words = (_word(inner) for inner in _behind(error))
        word = next((inner for inner in words if inner is not None), None)
    if word is not None:
        in_script = "script" in str(error)  # each engine names the script in such an error
        failure = _judge_reply(word, index, in_script=in_script)
        return failure._replace(
            from_server=True, code_word=word, redirect=_redirect(word, str(error))
        )
    if not sent:
        named = next(filter(None, map(_named_cause, _behind(error))), None)
        if named is not None:
            return named
    what = "did not answer in time" if _is_timeout(error) else "closed the connection"
    if sent and size > _LARGE_BYTES and not _is_timeout(error):
        what = f"{what} on a request of {size} bytes, which may be above its limit"
        return Failure(FailureKind.AMBIGUOUS, f"the server {what}", names_cause=True)
    if sent:
        return Failure(FailureKind.AMBIGUOUS, f"the server {what}", _code(error))
    return Failure(FailureKind.NOT_EXECUTED, "the server could not be reached", _code(error))


def _judge_reply(word: str, index: int, *, in_script: bool) -> Failure:
    if word == "NOSCRIPT":
        return Failure(FailureKind.NO_SCRIPT, "script not cached on the server (NOSCRIPT)")
    if word in _NOT_EXECUTED:
        where = ": it is part of a cluster" if word == "MOVED" else ""
        return Failure(FailureKind.NOT_EXECUTED, f"the server answered {word}{where}")
    if word == "MAXCLIENTS":
        return Failure(FailureKind.NOT_EXECUTED, "the server has too many clients")
    if word == TOO_LARGE:
        reason = "the request is larger than the server accepts (proto-max-bulk-len)"
        refused = StoreUnavailableError(reason, code="invalid_input")
        return Failure(FailureKind.PERMANENT, reason, refused.code, refused)
    reason = f"the server refused the command: {word}"
    error: SessionError
    if in_script and word not in ("OOM", "WRONGTYPE"):
        # The scripts check before they write, but they cannot check the account's permissions.
        may_not = word == "NOPERM"
        reason = "the account lacks permissions for a script" if may_not else "a script failed"
        error = OutcomeUnknownError(f"{reason} on the server")
        return Failure(FailureKind.PERMANENT, reason, error.code, error)
    if word == "OOM":
        error = StoreFullError()
    elif word == "WRONGTYPE":
        error = ForeignValueError(index)
    elif word == "NOPERM":
        error = StoreUnavailableError(
            "the account lacks permission for a command", code="permission_denied"
        )
    elif word in ("NOAUTH", "WRONGPASS"):
        error = StoreUnavailableError("the server refused the password", code="unauthenticated")
    else:
        error = StoreUnavailableError(reason, code="internal")
    return Failure(FailureKind.PERMANENT, reason, error.code, error)


def _redirect(word: str, text: str) -> Redirect | None:
    found = _REDIRECT.fullmatch(text) if word in ("MOVED", "ASK") else None
    if found is None:
        return None
    return Redirect(int(found[1]), found[2], int(found[3]), word == "ASK")


def _word(error: BaseException) -> str | None:
    """Return the first word of the server's error reply, ``None`` if there was no reply."""
    for cls, word in _WORD_OF_CLASS:
        if isinstance(error, cls):
            return word
    text = str(error)
    if "max number of clients" in text:
        return "MAXCLIENTS"
    if not isinstance(error, ResponseError):
        return None
    named = getattr(error, "status_code", None)  # newer drivers store the word here
    match = _WORD.match(text)
    word = named if isinstance(named, str) else match[0] if match else "ERR"
    if word == "ERR":
        if "NOAUTH" in text or "invalid username-password" in text:
            return "WRONGPASS"
        if "invalid bulk length" in text:  # "Protocol error: invalid bulk length"
            return TOO_LARGE
        if "unauthenticated" in text:  # "Protocol error: unauthenticated multibulk length"
            return "NOAUTH"
        if "ACL failure" in text or "can't run this command" in text:
            return "NOPERM"
        inner = _WORD_IN_SCRIPT_ERROR.search(text)
        if inner is not None:
            return inner[1]
    return word


def _is_timeout(error: BaseException) -> bool:
    if isinstance(error, ConnectionLostError):
        return error.is_late
    return isinstance(error, TimeoutError) or type(error).__name__ == "TimeoutError"


def _named_cause(error: BaseException) -> Failure | None:
    """Return the failure for an error with a known cause, ``None`` for any other error."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _unauthenticated("the server's certificate is not trusted")
    if isinstance(error, ssl.SSLError):
        return _tls_failure(getattr(error, "reason", None) or "")
    if isinstance(error, ConnectionAbortedError) and "SSL handshake" in str(error):
        # A plain Redis waits for the end of a line, which a TLS handshake does not contain.
        return _unavailable("the server does not answer the TLS handshake: does it speak TLS?")
    if isinstance(error, InvalidResponse):
        first = _FIRST_BYTE.search(str(error))
        answers = _OTHER_PROTOCOLS.get(first[1] if first else "", "the server does not speak RESP")
        return _unavailable(answers)
    if isinstance(error, ConnectionResetError) or "closed by server" in str(error):
        return _unavailable("the server closed the connection before it answered")
    return None


def _tls_failure(reason: str) -> Failure:
    """Return the failure for the ``reason`` of an OpenSSL error."""
    if "CERTIFICATE_REQUIRED" in reason:
        return _unauthenticated("the server requires a client certificate")
    if "ALERT_HANDSHAKE_FAILURE" in reason:  # with TLS 1.2, also for a missing certificate
        return _unauthenticated(
            "the server refused the TLS handshake: it may require a client certificate"
        )
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return _unauthenticated("the server refused the client certificate")
    if reason in _NO_TLS:
        return _unavailable("the server does not speak TLS on this port")
    named = reason.replace("_", " ").lower()
    return _unavailable(f"TLS with the server failed: {named}" if named else "TLS failed")


def _unauthenticated(reason: str) -> Failure:
    refused = StoreUnavailableError(reason, code="unauthenticated")
    return Failure(FailureKind.PERMANENT, reason, refused.code, refused)


def _unavailable(reason: str) -> Failure:
    return Failure(FailureKind.NOT_EXECUTED, reason, names_cause=True)


def _behind(error: BaseException) -> list[BaseException]:
    """Return the chain of an error: the error, its cause or context, and so on."""
    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(inner)
    return chain


def _code(error: BaseException) -> ErrorCode:
    return "timeout" if _is_timeout(error) else "unavailable"


def malformed_reply() -> StoreUnavailableError:
    """Return the error for a reply to a read that no Redis or Valkey server sends."""
    return StoreUnavailableError(MALFORMED_REPLY, code="internal")
