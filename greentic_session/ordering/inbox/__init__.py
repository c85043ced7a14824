"""An inbox: FIFO per session across processes, one turn at a time."""

from __future__ import annotations

from .inbox import SessionInbox
from .messages import Admitted, DeadLetter, InboxDepth, InboxLimits, InboxStatistics, Mail
from .turn import InboxTurn

__all__ = [
    "Admitted",
    "DeadLetter",
    "InboxDepth",
    "InboxLimits",
    "InboxStatistics",
    "InboxTurn",
    "Mail",
    "SessionInbox",
]
