"""The Redis and Valkey backend. No other package imports the driver."""

from __future__ import annotations

from .._exports import export_from as _export_from
from .store import RedisSessionStore

__all__ = ["RedisSessionStore"]

_export_from(__name__, globals())
