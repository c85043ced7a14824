"""An estimate of the size of a session before it is encoded."""

from __future__ import annotations

from datetime import date, time, timedelta
from typing import Final
from uuid import UUID

import msgspec

from .nesting import parts_of

__all__ = ["is_surely_small"]

_MAX_VALUES: Final = 256
_MAX_CHARS: Final = 8192
"""Even if each character needs an escape of six bytes, such a session is small."""
_SHORT: Final = (int, float, UUID, date, time, timedelta, type(None), msgspec.UnsetType)


def is_surely_small(value: object) -> bool:
    """Return whether a value has few parts and little text. It takes microseconds.

    ``False`` for a large value, and for any value of an unknown class.
    """
    left = [value]
    chars = 0
    for _ in range(_MAX_VALUES):
        if not left:
            return True
        one = left.pop()
        if isinstance(one, (str, bytes)):
            chars += len(one)
            if chars > _MAX_CHARS:
                return False
        elif not isinstance(one, _SHORT):
            found = parts_of(one)
            if found is None or len(found) > _MAX_VALUES:
                return False
            left += found
            if isinstance(one, dict):
                left += one
    return not left
