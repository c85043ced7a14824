"""What a lifecycle tells of its sessions, as records and to OpenTelemetry."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Literal

import msgspec

from ..model import SessionKey  # noqa: TC001 - msgspec reads it

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import CallbackOptions, Meter, Observation

    from .lifecycle import SessionLifecycle

__all__ = ["CloseReason", "LifecycleMetrics", "SessionMetrics", "export_metrics"]

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


def export_metrics(lifecycle: SessionLifecycle, meter: Meter | None = None) -> None:
    """Let OpenTelemetry observe a lifecycle, for as long as the meter's provider lives.

    Nothing is pushed: the instruments ask the lifecycle when they are collected. No attribute names
    a session. Instruments: ``greentic_session.lifecycle.live`` and ``.due`` (now), ``.started``,
    ``.messages``, ``.closed`` (by attribute ``reason``) and ``.stalled`` (since it was made).

    :param meter: whose instruments these become; that of the global provider if not given.
    :raises ModuleNotFoundError: without ``opentelemetry-api`` (extra ``otel``).
    """
    # Imported by name: nothing but this function, when it is called, needs the extra.
    api = import_module("opentelemetry.metrics")
    make: type[Observation] = api.Observation
    chosen: Meter = meter or api.get_meter("greentic_session")

    def one(read: Callable[[LifecycleMetrics], int]) -> Callable[..., Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return [make(read(lifecycle.metrics()))]

        return observe

    def closed(_: CallbackOptions) -> Iterable[Observation]:
        return [make(n, {"reason": why}) for why, n in lifecycle.metrics().closed.items()]

    prefix = "greentic_session.lifecycle"
    gauges = (
        ("live", "Sessions that are live.", one(lambda told: told.live)),
        ("due", "Live sessions that should be closed.", one(lambda told: told.due)),
    )
    counters = (
        ("started", "Sessions that were started.", one(lambda told: told.started)),
        ("messages", "Messages of all sessions.", one(lambda told: told.messages)),
        ("closed", "Sessions that were closed.", closed),
        ("stalled", "Times that work did not move.", one(lambda told: told.stalled_ever)),
    )
    for name, text, observe in gauges:
        chosen.create_observable_up_down_counter(
            f"{prefix}.{name}", [observe], unit="{session}", description=text
        )
    for name, text, observe in counters:
        unit = {"messages": "{message}", "stalled": "{stall}"}.get(name, "{session}")
        chosen.create_observable_counter(f"{prefix}.{name}", [observe], unit=unit, description=text)
