"""The handling of sessions that cannot be read: raise, skip or return an entry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ..abc.records import UnreadableRecord, UnreadableSession
from ..errors import DecodeError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..abc.records import Record
    from ..model import C, SessionKey, Versioned

__all__ = ["OnError", "decoder_of"]

OnError = Literal["raise", "skip", "return"]


def decoder_of(
    decode: Callable[[SessionKey, Record], Versioned[C]], on_error: OnError
) -> Callable[[SessionKey, Record | UnreadableRecord], Versioned[C] | UnreadableSession | None]:
    """Return the function that converts a record into the result of a read.

    :param decode: the function that decodes a record or raises :class:`DecodeError`.
    :param on_error: ``"raise"`` raises that error, ``"skip"`` returns ``None``, and ``"return"``
        returns the error as an :class:`UnreadableSession`.
    :raises InvalidInputError: ``on_error`` is none of these.
    """
    if on_error not in ("raise", "skip", "return"):
        raise InvalidInputError("on_error", "expected 'raise', 'skip' or 'return'")

    def decode_or(
        key: SessionKey, record: Record | UnreadableRecord
    ) -> Versioned[C] | UnreadableSession | None:
        if isinstance(record, UnreadableRecord):
            error = record.error
        else:
            try:
                return decode(key, record)
            except DecodeError as caught:
                error = caught
        if on_error == "raise":
            raise error
        # The frames of a traceback hold the stored bytes.
        error = error.with_traceback(None)
        return UnreadableSession(key=key, error=error) if on_error == "return" else None

    return decode_or
