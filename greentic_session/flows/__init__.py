"""A runtime of flows: a connector's loop over an inbox."""

from __future__ import annotations

from .._exports import export_from as _export_from
from .messages import End, FlowMessage, Pause, Reply
from .runtime import FlowRuntime

__all__ = ["End", "FlowMessage", "FlowRuntime", "Pause", "Reply"]

_export_from(__name__, globals())
