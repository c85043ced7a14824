"""Waits: a flow pauses, its reply is routed to it, and exactly one worker resumes it."""

from __future__ import annotations

from .._exports import export_from as _export_from
from .claim import Claim
from .registry import WaitRegistry

__all__ = ["Claim", "WaitRegistry"]

_export_from(__name__, globals())
