"""Ordering: messages of one key one after the other, those of different keys at once."""

from __future__ import annotations

from .dispatcher import (
    Discard,
    DispatcherStatistics,
    SessionDispatcher,
)
from .lanes import Overflow

__all__ = [
    "Discard",
    "DispatcherStatistics",
    "Overflow",
    "SessionDispatcher",
]
