"""What the scripts answer, as the contract's outcomes: see ``lua/record.lua``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from ..errors import DecodeError
from ..record import Outcome, Verdict

if TYPE_CHECKING:
    from .client import Reply

__all__ = ["foreign", "outcome_of", "unreadable"]


_VERDICTS: Final = {int(verdict): verdict for verdict in Verdict}  # sooner than calling the class


def outcome_of(key: str, reply: Reply) -> Outcome:
    """Return the verdict and the token in a script's reply.

    :raises DecodeError: if a field of the record is not of its type.
    """
    verdict = _VERDICTS[reply[0]]
    if len(reply) == 1:
        return Outcome(verdict)
    value, incarnation, *more = cast("list[bytes]", reply[1:4])
    try:
        return Outcome(verdict, int(value), incarnation.decode(), int(more[0]) if more else 0)
    except ValueError:
        raise unreadable(key) from None


def unreadable(key: str) -> DecodeError:
    """Return the error for a record whose fields were not written by this library."""
    return DecodeError(key, "a field of the stored record is not of its type")


def foreign(key: str) -> DecodeError:
    """Return the error for a name under which something else stands."""
    return DecodeError(key, "a name of the session holds another type of value")
