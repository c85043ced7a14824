"""Events of sessions: scheduled, cancelled, and handled in order with the session's messages."""

from __future__ import annotations

from .._exports import export_from as _export_from
from .model import (
    Alarm,
    Cancelled,
    DeadEvent,
    Event,
    EventShard,
    EventStatistics,
    PackedEvent,
)
from .service import SessionEvents
from .turn import EventTurn

__all__ = [
    "Alarm",
    "Cancelled",
    "DeadEvent",
    "Event",
    "EventShard",
    "EventStatistics",
    "EventTurn",
    "PackedEvent",
    "SessionEvents",
]

_export_from(__name__, globals())
