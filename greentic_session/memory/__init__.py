"""The in-process backend."""

from __future__ import annotations

from .._exports import export_from as _export_from
from .store import InMemorySessionStore

__all__ = ["InMemorySessionStore"]

_export_from(__name__, globals())
