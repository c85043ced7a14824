"""The limits of a lifecycle, configured in seconds and checked in milliseconds."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import msgspec

from ..._validation import (
    OptionalSeconds,
    default_optional_secs,
    duration_to_ms,
    timedeltas_to_secs,
)
from ...errors import InvalidInputError

__all__ = ["Bounds", "LifecycleLimits", "bounds_of"]


class LifecycleLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits after which a session should be closed.

    A limit is reached at exactly its value. ``None`` sets no limit. Durations are in seconds. A
    ``timedelta`` is accepted and becomes seconds.

    :ivar duration_secs: limit on the time since the start of a session.
    :ivar messages: limit on the messages since the start of a session.
    :ivar idle_secs: limit on the time without activity and without open work.
    :ivar stalled_secs: limit on the time without progress of open work. A stalled session is
        reported, not closed.
    :raises InvalidInputError: naming the invalid field, when a lifecycle is made.
    """

    duration_secs: OptionalSeconds = default_optional_secs(7200)
    messages: int | None = 1000
    idle_secs: OptionalSeconds = default_optional_secs(1800)
    stalled_secs: OptionalSeconds = default_optional_secs(300)

    def __post_init__(self) -> None:
        timedeltas_to_secs(self, "duration_secs", "idle_secs", "stalled_secs")


class Bounds(NamedTuple):
    """Limits after their check. A limit that is not set is infinite."""

    duration_ms: float
    messages: float
    idle_ms: float
    stalled_ms: float


def bounds_of(limits: LifecycleLimits) -> Bounds:
    """Check limits, and convert them.

    :raises InvalidInputError: naming ``limits``, or its invalid field.
    """
    if not isinstance(cast("object", limits), LifecycleLimits):
        given = type(limits).__name__
        raise InvalidInputError("limits", f"expected LifecycleLimits, got {given}")
    most = limits.messages
    if most is not None and (type(most) is not int or most < 1):
        raise InvalidInputError("messages", "expected an int of at least 1, or None")
    return Bounds(
        _ms(limits.duration_secs, "duration_secs"),
        math.inf if most is None else most,
        _ms(limits.idle_secs, "idle_secs"),
        _ms(limits.stalled_secs, "stalled_secs"),
    )


def _ms(secs: float | None, field: str) -> float:
    return math.inf if secs is None else duration_to_ms(secs, field)
