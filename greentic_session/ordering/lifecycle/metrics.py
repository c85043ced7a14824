"""The structs of the metrics of a session and of a lifecycle."""

from __future__ import annotations

from typing import Literal

import msgspec

from ...model import SessionKey  # noqa: TC001 - msgspec reads it

__all__ = ["CloseReason", "LifecycleMetrics", "SessionMetrics"]

CloseReason = Literal["duration", "messages", "idle", "stopped"]
"""Why a session ended: one of its limits, or :meth:`SessionLifecycle.stop`."""


class SessionMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one session, at one moment.

    :ivar key: the session's key.
    :ivar age_secs: since its start.
    :ivar idle_secs: since it was last active; 0 while work is in hand.
    :ivar messages: since its start.
    :ivar messages_per_sec: over its whole age.
    :ivar in_hand: pieces of work that are in hand.
    :ivar is_stalled: whether they have made no progress for as long as that may take.
    :ivar closed: why it was closed; ``None`` if it is live.
    """

    key: SessionKey
    age_secs: float
    idle_secs: float
    messages: int
    messages_per_sec: float
    in_hand: int
    is_stalled: bool
    closed: CloseReason | None = None


class LifecycleMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """What all sessions of a lifecycle come to, since it was made.

    :ivar live: sessions that are live.
    :ivar started: sessions that were started.
    :ivar messages: messages of all of them.
    :ivar messages_per_sec: over the whole time.
    :ivar closed: how many were closed, by reason.
    :ivar due: live sessions that have reached a limit and have no work in hand.
    :ivar stalled_ever: how often work was found not to move.
    """

    live: int
    started: int
    messages: int
    messages_per_sec: float
    closed: dict[CloseReason, int]
    due: int
    stalled_ever: int
