"""The export of a lifecycle's metrics as OpenTelemetry instruments."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import CallbackOptions, Meter, Observation

    from .lifecycle import SessionLifecycle
    from .metrics import LifecycleMetrics

__all__ = ["export_metrics"]


def export_metrics(lifecycle: SessionLifecycle, meter: Meter | None = None) -> None:
    """Let OpenTelemetry observe a lifecycle for as long as the meter's provider lives.

    Nothing is pushed. The instruments read the lifecycle when they are collected. No attribute
    contains a session's key.

    * Current values: ``greentic_session.lifecycle.live`` and ``.due``.
    * Counts since the lifecycle was made: ``.started``, ``.messages``, ``.closed`` (by attribute
      ``reason``) and ``.stalled``.

    :param meter: meter that creates the instruments. ``None`` is a meter of the global provider.
    :raises ModuleNotFoundError: ``opentelemetry-api`` (extra ``otel``) is not installed.
    """
    # Imported here, because only a call of this function needs the extra.
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
        ("live", "Sessions that are live.", one(lambda found: found.live)),
        ("due", "Live sessions that should be closed.", one(lambda found: found.due)),
    )
    counters = (
        ("started", "Sessions that were started.", one(lambda found: found.started)),
        ("messages", "Messages of all sessions.", one(lambda found: found.messages)),
        ("closed", "Sessions that were closed.", closed),
        ("stalled", "Times that open work stalled.", one(lambda found: found.stalled_ever)),
    )
    for name, text, observe in gauges:
        chosen.create_observable_up_down_counter(
            f"{prefix}.{name}", [observe], unit="{session}", description=text
        )
    for name, text, observe in counters:
        unit = {"messages": "{message}", "stalled": "{stall}"}.get(name, "{session}")
        chosen.create_observable_counter(f"{prefix}.{name}", [observe], unit=unit, description=text)
