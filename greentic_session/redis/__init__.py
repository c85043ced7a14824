"""The Redis and Valkey backend. Nothing outside this package imports the driver."""

from .store import RedisSessionStore

__all__ = ["RedisSessionStore"]
