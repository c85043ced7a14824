"""The structs of the metrics of a session and of a lifecycle."""

from __future__ import annotations

from typing import Literal

import msgspec

from ...model import SessionKey  # noqa: TC001 - msgspec reads it

__all__ = ["CloseReason", "LifecycleMetrics", "SessionMetrics"]

CloseReason = Literal["duration", "messages", "idle", "stopped"]
"""The reason why a session ended: a limit, or :meth:`SessionLifecycle.stop`."""


class SessionMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics of one session at one moment.

    :ivar key: the session's key.
    :ivar age_secs: seconds since its start.
    :ivar idle_secs: seconds since its last activity. 0 if it has open work.
    :ivar messages: number of messages since its start.
    :ivar messages_per_sec: average rate since its start.
    :ivar in_hand: number of open pieces of work.
    :ivar is_stalled: whether its open work has stalled.
    :ivar closed: the reason why it was closed. ``None`` if it is live.
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
    """Metrics of all sessions of a lifecycle, since it was made.

    :ivar live: number of live sessions.
    :ivar started: number of sessions that were started.
    :ivar messages: number of messages of all sessions.
    :ivar messages_per_sec: average rate since the lifecycle was made.
    :ivar closed: number of sessions that were closed, by reason.
    :ivar due: number of live sessions that reached a limit and have no open work.
    :ivar stalled_ever: how many times open work has stalled.
    """

    live: int
    started: int
    messages: int
    messages_per_sec: float
    closed: dict[CloseReason, int]
    due: int
    stalled_ever: int
