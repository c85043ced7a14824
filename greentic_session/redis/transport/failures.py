"""Classification of the failures of the driver and the server.

Error classes of the driver are incomplete (BUSY, NOREPLICAS, MISCONF and WRONGTYPE have none), so
replies are told apart by the word that starts them (https://redis.io/docs/latest/develop/reference/
protocol-spec/#simple-errors), which Redis 6.2 buries inside a script's own error.
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
"""The word that stands for a refusal which has none: of a request that is too large."""
MALFORMED_REPLY: Final = "the server's answer cannot be read"


class UnknownServerError(OSError):
    """Nobody could be found who knows which server to ask.

    :ivar reason: why, in the library's words.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Redirect(NamedTuple):
    """Where a cluster keeps a slot (Redis cluster specification, "MOVED Redirection").

    :ivar slot: its number.
    :ivar host: empty for that of the server that says so.
    :ivar port: TCP port.
    :ivar is_ask: whether this is for one command only, while the slot moves.
    """

    slot: int
    host: str
    port: int
    is_ask: bool


class ForeignValueError(SessionError):
    """A name of ours holds another type of value. Inside this package only: the store says whose.

    :ivar index: which of the call's commands met it.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        super().__init__("a name of this store holds another type of value")


class FailureKind(Enum):
    """What may be done about a fault."""

    NOT_EXECUTED = auto()
    """The server did nothing: try again."""
    NO_SCRIPT = auto()
    """The server did nothing, for want of the script's text: try again with it."""
    AMBIGUOUS = auto()
    """Bytes had left and no answer came: try again under the same operation id, if there is one."""
    PERMANENT = auto()
    """The server did nothing and will not: raise."""


class Failure(NamedTuple):
    """A judged failure.

    :ivar kind: what may be done.
    :ivar reason: why, in words that hold nothing of the session.
    :ivar code: for the error that a caller gets if nothing helps.
    :ivar error: for ``PERMANENT``, the error to raise.
    :ivar from_server: whether the server said so itself.
    :ivar code_word: the word by which it did.
    :ivar redirect: for MOVED and ASK.
    :ivar names_cause: whether the reason says more than that there was no answer.
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
        """Whether nothing is known but that the time for an answer is over."""
        return self.code == "timeout" and self.error is None and not self.names_cause

    @property
    def is_topology_error(self) -> bool:
        """Whether another server than the one that was asked may know better."""
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
"""The least that a server's ``client-query-buffer-limit`` may be. It closes without a word."""
_NO_TLS: Final = frozenset(
    ("HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "WRONG_VERSION_NUMBER")
)
_OTHER_PROTOCOLS: Final = {
    "H": "an HTTP server answers, and no Redis server",
    r"\x15": "the server speaks TLS on this port: use rediss://",
}
_FIRST_BYTE: Final = re.compile(r'got "(.*?)" as reply type byte')
_REDIRECT: Final = re.compile(r"(?:MOVED |ASK )?([0-9]{1,5}) (.*):([0-9]{1,5})")
_WORD: Final = re.compile(r"[A-Z][A-Z0-9]+(?= |$)")
_WORD_IN_SCRIPT_ERROR: Final = re.compile(r"-([A-Z][A-Z0-9]+) ")


def classify(error: BaseException, *, sent: bool, index: int = 0, size: int = 0) -> Failure:
    """Judge a failure.

    :param error: what the driver, the socket or the timeout raised.
    :param sent: whether bytes of the command may have left.
    :param index: which of the call's commands failed.
    :param size: bytes of the request that was sent.
    """
    if isinstance(error, UnknownServerError):
        return Failure(FailureKind.NOT_EXECUTED, error.reason)
    if isinstance(error, UnreadableGreetingError):
        return Failure(FailureKind.NOT_EXECUTED, str(error))
    word = _word(error)
    if word is None and not sent:
        # While it connects, the driver wraps the server's refusal in an error of its own.
        words = (_word(inner) for inner in _behind(error))
        word = next((inner for inner in words if inner is not None), None)
    if word is not None:
        in_script = "script" in str(error)  # as each engine says where it was
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
        what = f"{what} on a request of {size} bytes, which may be more than it accepts"
        return Failure(FailureKind.AMBIGUOUS, f"the server {what}", names_cause=True)
    if sent:
        return Failure(FailureKind.AMBIGUOUS, f"the server {what}", _code(error))
    return Failure(FailureKind.NOT_EXECUTED, "the server could not be reached", _code(error))


def _judge_reply(word: str, index: int, *, in_script: bool) -> Failure:
    if word == "NOSCRIPT":
        return Failure(FailureKind.NO_SCRIPT, "the server has lost the script")
    if word in _NOT_EXECUTED:
        where = ", as one of a cluster does" if word == "MOVED" else ""
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
        # The scripts look before they write, but no look tells what an account may do.
        may_not = word == "NOPERM"
        reason = "the account may not run all of its commands" if may_not else "a script failed"
        error = OutcomeUnknownError(f"{reason} on the server")
        return Failure(FailureKind.PERMANENT, reason, error.code, error)
    if word == "OOM":
        error = StoreFullError()
    elif word == "WRONGTYPE":
        error = ForeignValueError(index)
    elif word == "NOPERM":
        error = StoreUnavailableError(
            "the server's account may not do this", code="permission_denied"
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
    """Return the word that starts the server's error reply; ``None`` if there was no reply."""
    for cls, word in _WORD_OF_CLASS:
        if isinstance(error, cls):
            return word
    text = str(error)
    if "max number of clients" in text:
        return "MAXCLIENTS"
    if not isinstance(error, ResponseError):
        return None
    named = getattr(error, "status_code", None)  # newer drivers cut the word off and keep it here
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
    """Return the failure for an error that says why a connection cannot be opened."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _unauthenticated("the server's certificate is not trusted")
    if isinstance(error, ssl.SSLError):
        return _tls_failure(getattr(error, "reason", None) or "")
    if isinstance(error, ConnectionAbortedError) and "SSL handshake" in str(error):
        # Redis waits for the end of a line, which a TLS handshake never has.
        return _unavailable("the server does not answer the TLS handshake: does it speak TLS?")
    if isinstance(error, InvalidResponse):
        first = _FIRST_BYTE.search(str(error))
        answers = _OTHER_PROTOCOLS.get(first[1] if first else "", "what answers is no Redis server")
        return _unavailable(answers)
    if isinstance(error, ConnectionResetError) or "closed by server" in str(error):
        return _unavailable("the server closed the connection before it answered")
    return None


def _tls_failure(reason: str) -> Failure:
    """Return the failure for what OpenSSL calls the reason of an error."""
    if "CERTIFICATE_REQUIRED" in reason:
        return _unauthenticated("the server wants a client certificate")
    if "ALERT_HANDSHAKE_FAILURE" in reason:  # what TLS 1.2 says of a missing certificate, too
        return _unauthenticated(
            "the server refused the TLS handshake: it may want a client certificate"
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
    """Return an error and what it was raised from or while handling, down to the first."""
    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(inner)
    return chain


def _code(error: BaseException) -> ErrorCode:
    return "timeout" if _is_timeout(error) else "unavailable"


def malformed_reply() -> StoreUnavailableError:
    """Return the error for an answer to a read that no Redis or Valkey gives."""
    return StoreUnavailableError(MALFORMED_REPLY, code="internal")
