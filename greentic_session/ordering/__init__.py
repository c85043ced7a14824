"""Ordering: messages of one key one after the other, those of different keys at once."""

from __future__ import annotations

from .dispatcher import Discard, DispatcherStatistics, SessionDispatcher
from .lanes import Overflow
from .lifecycle import LifecycleHooks, LifecycleLimits, SessionLifecycle
from .metrics import CloseReason, LifecycleMetrics, SessionMetrics, export_metrics

__all__ = [
    "CloseReason",
    "Discard",
    "DispatcherStatistics",
    "LifecycleHooks",
    "LifecycleLimits",
    "LifecycleMetrics",
    "Overflow",
    "SessionDispatcher",
    "SessionLifecycle",
    "SessionMetrics",
    "export_metrics",
]
