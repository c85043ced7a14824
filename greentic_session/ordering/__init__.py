"""Ordered handling of messages: strategies, dispatcher, inbox, locks, affinity and lifecycle."""

from __future__ import annotations

from .._exports import alias_modules as _alias_modules
from .._exports import export_from as _export_from
from . import inbox, lifecycle, strategies
from .affinity import Member, Membership, Placement, SessionAffinity
from .dispatcher import Discard, DispatcherStatistics, Overflow, SessionDispatcher
from .inbox import (
    Admitted,
    DeadLetter,
    InboxDepth,
    InboxLimits,
    InboxStatistics,
    InboxTurn,
    Mail,
    SessionInbox,
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
)
from .locks import LockHolder, SessionLease, SessionLocks
from .signals import Termination, release_on_sigterm
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
    "InboxStatistics",
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
    "Termination",
    "TimePartitionedStrategy",
    "export_metrics",
    "extractor_for",
    "release_on_sigterm",
    "strategy_for",
    "text_of",
]

_alias_modules(
    __name__,
    {
        "extraction": strategies,
        "hooks": lifecycle,
        "limits": lifecycle,
        "mail": inbox,
        "metrics": lifecycle,
        "time_partition": strategies,
        "turns": inbox,
    },
)
_export_from(__name__, globals())
