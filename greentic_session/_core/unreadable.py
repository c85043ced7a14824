"""Contains the choice between an error and an entry for a session that cannot be read."""

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
    """Return the function that makes a read's result of a record.

    :param decode: decodes a record, or raises :class:`DecodeError`.
    :param on_error: whether that error is raised, gives ``None``, or is returned.
    :raises InvalidInputError: naming ``on_error``.
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
        # The frames of a traceback hold what was stored.
        error = error.with_traceback(None)
        return UnreadableSession(key=key, error=error) if on_error == "return" else None

    return decode_or
