"""Ordering: which messages wait for one another, and how each key's are handled in their order."""

from __future__ import annotations

from .._exports import export_from
from .affinity import Member, Membership, Placement, SessionAffinity
from .dispatcher import DispatcherStatistics, SessionDispatcher
from .extraction import SessionKeyExtractor, extractor_for, text_of
from .hooks import LifecycleHooks
from .inbox import SessionInbox
from .lanes import Overflow
from .lifecycle import LifecycleWork, SessionLifecycle
from .limits import LifecycleLimits
from .locks import LockHolder, SessionLease, SessionLocks
from .mail import Admitted, DeadLetter, InboxDepth, InboxLimits, Mail
from .metrics import CloseReason, LifecycleMetrics, SessionMetrics, export_metrics
from .outcomes import Discard
from .strategies import (
    AnyStrategy,
    CompositeKeyStrategy,
    CustomStrategy,
    DynamicStrategy,
    FallbackStrategy,
    KeyStrategy,
    NoOrderingStrategy,
    SessionKeyGenerator,
    SingleFieldStrategy,
    strategy_for,
)
from .time_partition import TimePartitionedStrategy
from .turns import InboxTurn

__all__ = [
    "Admitted",
    "AnyStrategy",
    "CloseReason",
    "CompositeKeyStrategy",
    "CustomStrategy",
    "DeadLetter",
    "Discard",
    "DispatcherStatistics",
    "DynamicStrategy",
    "FallbackStrategy",
    "InboxDepth",
    "InboxLimits",
    "InboxTurn",
    "KeyStrategy",
    "LifecycleHooks",
    "LifecycleLimits",
    "LifecycleMetrics",
    "LifecycleWork",
    "LockHolder",
    "Mail",
    "Member",
    "Membership",
    "NoOrderingStrategy",
    "Overflow",
    "Placement",
    "SessionAffinity",
    "SessionDispatcher",
    "SessionInbox",
    "SessionKeyExtractor",
    "SessionKeyGenerator",
    "SessionLease",
    "SessionLifecycle",
    "SessionLocks",
    "SessionMetrics",
    "SingleFieldStrategy",
    "TimePartitionedStrategy",
    "export_metrics",
    "extractor_for",
    "strategy_for",
    "text_of",
]

export_from(__name__, globals())
