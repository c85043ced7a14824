"""A dispatcher: FIFO per key, concurrent across keys, in one process."""

from __future__ import annotations

from .dispatcher import DispatcherStatistics, SessionDispatcher
from .lanes import Overflow
from .outcomes import Discard

__all__ = ["Discard", "DispatcherStatistics", "Overflow", "SessionDispatcher"]
