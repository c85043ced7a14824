"""The contract suite on events of sessions."""

from __future__ import annotations

from .contract import EventContract

__all__ = ["EventContract"]
