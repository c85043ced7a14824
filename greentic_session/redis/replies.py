"""Parsers of the scripts' replies: see ``lua/lib/record.lua``."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, cast

from ..abc.records import Outcome, Verdict
from ..errors import DecodeError, OutcomeUnknownError, StoreUnavailableError
from .transport.failures import MALFORMED_REPLY, malformed_reply

if TYPE_CHECKING:
    from collections.abc import Generator

    from .transport.protocol import Reply

__all__ = [
    "clock_ms",
    "outcome_of",
    "parsing_read_reply",
    "parsing_write_reply",
    "scored",
    "undecodable_record",
    "wrong_type",
    "wrong_type_of",
]


_WRONG_TYPE: Final = "holds another type of value"
_LAST_MS: Final = 253_402_300_799_999  # of the year 9999, with which times of Python end
_VERDICTS: Final = {int(verdict): verdict for verdict in Verdict}  # sooner than calling the class


def outcome_of(key: str, reply: Reply) -> Outcome:
    """Return the verdict and the token in a script's reply.

    :raises DecodeError: if a field of the record is not of its type.
    :raises OutcomeUnknownError: if no script of this library replies so. The outcome is unknown.
    """
    try:
        verdict = _VERDICTS[reply[0]]
        if len(reply) == 1:
            return Outcome(verdict)
        value, incarnation, *more = cast("list[bytes]", reply[1:4])
    except (TypeError, ValueError, LookupError):
        raise OutcomeUnknownError(MALFORMED_REPLY) from None
    try:
        return Outcome(verdict, int(value), incarnation.decode(), int(more[0]) if more else 0)
    except (TypeError, ValueError, AttributeError):
        raise undecodable_record(key) from None


@contextmanager
def parsing_write_reply() -> Generator[None]:
    """Parse a script's reply in a block.

    :raises OutcomeUnknownError: if no script of this library replies so. The outcome is unknown.
    """
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError):
        raise OutcomeUnknownError(MALFORMED_REPLY) from None


@contextmanager
def parsing_read_reply() -> Generator[None]:
    """Parse the reply to a command that changed nothing in a block.

    :raises StoreUnavailableError: if no Redis or Valkey replies so.
    """
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError):
        raise malformed_reply() from None


def clock_ms(text: str | bytes | int) -> int:
    """Return a time by the server's clock, in milliseconds since the epoch.

    :raises ValueError: if it is none, or further away than a :class:`datetime.datetime` can be.
    """
    ms = int(text)
    if ms > _LAST_MS:
        raise ValueError("no time of this library")
    return ms


def scored(reply: Reply) -> list[tuple[bytes, int]]:
    """Return a sorted set's members and scores, which come in pairs (RESP3) or in turn (RESP2).

    :raises TypeError: or :class:`ValueError`, if it is no such answer.
    """
    in_pairs = reply and isinstance(reply[0], list)
    pairs = reply if in_pairs else zip(reply[::2], reply[1::2], strict=True)
    return [(member, int(float(score))) for member, score in pairs]


def undecodable_record(key: str) -> DecodeError:
    """Return the error for a record whose fields were not written by this library."""
    return DecodeError(key, "a field of the stored record is not of its type")


def wrong_type(key: str) -> DecodeError:
    """Return the error for a name of a session, or a field of its record, of another type."""
    return DecodeError(key, f"a name or a field of the session {_WRONG_TYPE}")


def wrong_type_of(subject: str) -> StoreUnavailableError:
    """Return the error for the name of another subject that holds another type of value."""
    return StoreUnavailableError(f"the name of {subject} {_WRONG_TYPE}", code="internal")
