"""Configurations of backends, and parsers of their URLs."""

from __future__ import annotations

from .backends import (
    DEFAULT_CLOSE_SECS,
    DEFAULT_MAX_PAYLOAD_BYTES,
    DEFAULT_NAMESPACE,
    Address,
    EmbeddedConfig,
    MemoryConfig,
    RedisConfig,
    SentinelConfig,
    SessionBackendConfig,
    TlsConfig,
)

__all__ = [
    "DEFAULT_CLOSE_SECS",
    "DEFAULT_MAX_PAYLOAD_BYTES",
    "DEFAULT_NAMESPACE",
    "Address",
    "EmbeddedConfig",
    "MemoryConfig",
    "RedisConfig",
    "SentinelConfig",
    "SessionBackendConfig",
    "TlsConfig",
]
