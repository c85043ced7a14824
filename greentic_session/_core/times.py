"""Conversions between a store's clock and aware datetimes, exact to the millisecond."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = ["datetime_of", "ms_of"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)


def datetime_of(at_ms: int) -> datetime:
    """Return a time as aware UTC.

    :param at_ms: milliseconds since the epoch.
    """
    return _EPOCH + at_ms * _MS


def ms_of(at: datetime) -> int:
    """Return an aware time as whole milliseconds since the epoch."""
    return (at - _EPOCH) // _MS
