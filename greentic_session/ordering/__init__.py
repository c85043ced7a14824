"""Ordered handling of messages: strategies, dispatcher, inbox, locks, affinity and lifecycle."""

from __future__ import annotations

import sys

from .._exports import export_from
from .affinity import Member, Membership, Placement, SessionAffinity
from .dispatcher import Discard, DispatcherStatistics, Overflow, SessionDispatcher
from .inbox import (
    Admitted,
    DeadLetter,
    InboxDepth,
    InboxLimits,
    InboxTurn,
    Mail,
    SessionInbox,
    messages,
)
from .lifecycle import (
    CloseReason,
    LifecycleHooks,
    LifecycleLimits,
    LifecycleMetrics,
    LifecycleWork,
    SessionLifecycle,
    SessionMetrics,
    export_metrics,
    hooks,
    limits,
    metrics,
)
from .locks import LockHolder, SessionLease, SessionLocks
from .strategies import (
    AnyStrategy,
    CompositeKeyStrategy,
    CustomStrategy,
    DynamicStrategy,
    FallbackStrategy,
    KeyStrategy,
    NoOrderingStrategy,
    SessionKeyExtractor,
    SessionKeyGenerator,
    SingleFieldStrategy,
    TimePartitionedStrategy,
    extractor_for,
    strategy_for,
    text_of,
    time_partition,
)

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

# Pickles of the first layout name these modules. Importing one of them imports this package first.
sys.modules.update(
    {
        f"{__name__}.hooks": hooks,
        f"{__name__}.limits": limits,
        f"{__name__}.mail": messages,
        f"{__name__}.metrics": metrics,
        f"{__name__}.time_partition": time_partition,
    }
)
export_from(__name__, globals())
