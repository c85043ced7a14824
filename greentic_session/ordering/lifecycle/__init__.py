"""The lifecycle of sessions in one process: limits, hooks and metrics."""

from __future__ import annotations

from .export import export_metrics
from .hooks import LifecycleHooks
from .lifecycle import LifecycleWork, SessionLifecycle
from .limits import LifecycleLimits
from .metrics import CloseReason, LifecycleMetrics, SessionMetrics

__all__ = [
    "CloseReason",
    "LifecycleHooks",
    "LifecycleLimits",
    "LifecycleMetrics",
    "LifecycleWork",
    "SessionLifecycle",
    "SessionMetrics",
    "export_metrics",
]
