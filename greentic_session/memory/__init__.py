"""The in-process backend."""

from .store import InMemorySessionStore

__all__ = ["InMemorySessionStore"]
