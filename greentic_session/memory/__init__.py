"""The backend within one process."""

from __future__ import annotations

from .._exports import export_from
from .store import InMemorySessionStore

__all__ = ["InMemorySessionStore"]

export_from(__name__, globals())
