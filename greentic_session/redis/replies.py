"""Parsers of the scripts' replies, which ``lua/lib/record.lua`` describes."""

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
    "time_ms",
    "undecodable_record",
    "wrong_type",
    "wrong_type_of",
]


_WRONG_TYPE: Final = "holds another type of value"
_LAST_MS: Final = 253_402_300_799_999  # of the year 9999, the last one of a Python datetime
_VERDICTS: Final = {int(verdict): verdict for verdict in Verdict}  # faster than a call of the class


def outcome_of(key: str, reply: Reply) -> Outcome:
    """Return the verdict and the token in a script's reply.

    :raises DecodeError: a field of the record is not of its type.
    :raises OutcomeUnknownError: no script of this library sends such a reply.
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

    :raises OutcomeUnknownError: no script of this library sends such a reply.
    """
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError):
        raise OutcomeUnknownError(MALFORMED_REPLY) from None


@contextmanager
def parsing_read_reply() -> Generator[None]:
    """Parse, in a block, the reply to a command that changed nothing.

    :raises StoreUnavailableError: no Redis or Valkey server sends such a reply.
    """
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError):
        raise malformed_reply() from None


def time_ms(time: Reply) -> int:
    """Return the milliseconds since the epoch in a reply to ``TIME``.

    :raises StoreUnavailableError: the reply has another form.
    """
    try:
        secs, us = time
        return int(secs) * 1000 + int(us) // 1000
    except (TypeError, ValueError):
        raise malformed_reply() from None


def clock_ms(text: str | bytes | int) -> int:
    """Return a time by the server's clock, in milliseconds since the epoch.

    :raises ValueError: it is not a number, or later than the last :class:`datetime.datetime`.
    """
    ms = int(text)
    if ms > _LAST_MS:
        raise ValueError("time out of range")
    return ms


def scored(reply: Reply) -> list[tuple[bytes, int]]:
    """Return the members and scores of a sorted set.

    :param reply: pairs with RESP3, or a flat list with RESP2.
    :raises TypeError: the reply has another form. It may be a :class:`ValueError` as well.
    """
    in_pairs = reply and isinstance(reply[0], list)
    pairs = reply if in_pairs else zip(reply[::2], reply[1::2], strict=True)
    return [(member, int(float(score))) for member, score in pairs]


def undecodable_record(key: str) -> DecodeError:
    """Return the error for a record with a field that this library did not write."""
    return DecodeError(key, "a field of the stored record is not of its type")


def wrong_type(key: str) -> DecodeError:
    """Return the error for a session's key, or a field of its record, of another type."""
    return DecodeError(key, f"a key or a field of the session {_WRONG_TYPE}")


def wrong_type_of(subject: str) -> StoreUnavailableError:
    """Return the error for the key of another subject that holds another type of value."""
    return StoreUnavailableError(f"the key of {subject} {_WRONG_TYPE}", code="internal")
