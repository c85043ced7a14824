"""Durable session state for chat, connector and workflow runtimes.

Sessions belong to tenants. Any worker may handle a session, and each state transition happens
exactly once.

Importing the package loads no backend. ``InMemorySessionStore`` and ``RedisSessionStore`` are
loaded when their names are first used, or when :func:`create_session_store` makes one.
``WaitRegistry`` is also loaded when its name is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import keys
from ._exports import export_from as _export_from
from .abc.records import UnreadableSession
from .clock import Clock, ManualClock, SystemClock
from .codec import Codec, CodecFactory, JsonCodec, MessagePackCodec, SessionBody
from .config import (
    EmbeddedConfig,
    MemoryConfig,
    RedisConfig,
    SentinelConfig,
    SessionBackendConfig,
    TlsConfig,
)
from .errors import (
    AmbiguousKeyError,
    AmbiguousWaitError,
    CasConflictError,
    DecodeError,
    DispatcherClosedError,
    DispatcherFullError,
    DuplicateEventError,
    DurabilityError,
    ErrorCode,
    InboxFullError,
    InvalidInputError,
    LeaseLostError,
    LockHeldError,
    MemberExistsError,
    OutcomeUnknownError,
    PayloadTooLargeError,
    ReauthenticationRequiredError,
    SchemaVersionError,
    SessionConflictError,
    SessionEndedError,
    SessionError,
    SessionExistsError,
    SessionLimitError,
    SessionNotFoundError,
    SessionRevokedError,
    StoreFullError,
    StoreUnavailableError,
    TenantMismatchError,
    WaitClaimedError,
    WaitNotFoundError,
)
from .factory import create_session_store, from_env
from .model import (
    Cas,
    OutboxEntry,
    ReplyScope,
    Session,
    SessionCursor,
    SessionId,
    SessionKey,
    SessionMeta,
    TenantCtx,
    Versioned,
    new_session_key,
)
from .schema import json_schema
from .scoped import ScopedSessionStore, TenantSessionStore
from .statistics import StoreStatistics
from .store import AsyncSessionStore

if TYPE_CHECKING:
    from .memory import InMemorySessionStore
    from .redis import RedisSessionStore
    from .waits import Claim, WaitRegistry

__version__ = "0.1.0"

__all__ = [
    "AmbiguousKeyError",
    "AmbiguousWaitError",
    "AsyncSessionStore",
    "Cas",
    "CasConflictError",
    "Claim",
    "Clock",
    "Codec",
    "CodecFactory",
    "DecodeError",
    "DispatcherClosedError",
    "DispatcherFullError",
    "DuplicateEventError",
    "DurabilityError",
    "EmbeddedConfig",
    "ErrorCode",
    "InMemorySessionStore",
    "InboxFullError",
    "InvalidInputError",
    "JsonCodec",
    "LeaseLostError",
    "LockHeldError",
    "ManualClock",
    "MemberExistsError",
    "MemoryConfig",
    "MessagePackCodec",
    "OutboxEntry",
    "OutcomeUnknownError",
    "PayloadTooLargeError",
    "ReauthenticationRequiredError",
    "RedisConfig",
    "RedisSessionStore",
    "ReplyScope",
    "SchemaVersionError",
    "ScopedSessionStore",
    "SentinelConfig",
    "Session",
    "SessionBackendConfig",
    "SessionBody",
    "SessionConflictError",
    "SessionCursor",
    "SessionEndedError",
    "SessionError",
    "SessionExistsError",
    "SessionId",
    "SessionKey",
    "SessionLimitError",
    "SessionMeta",
    "SessionNotFoundError",
    "SessionRevokedError",
    "StoreFullError",
    "StoreStatistics",
    "StoreUnavailableError",
    "SystemClock",
    "TenantCtx",
    "TenantMismatchError",
    "TenantSessionStore",
    "TlsConfig",
    "UnreadableSession",
    "Versioned",
    "WaitClaimedError",
    "WaitNotFoundError",
    "WaitRegistry",
    "create_session_store",
    "from_env",
    "json_schema",
    "keys",
    "new_session_key",
]


_export_from(__name__, globals())


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    if name == "InMemorySessionStore":
        from .memory import InMemorySessionStore  # noqa: PLC0415 - backends load on first use

        return InMemorySessionStore
    if name == "RedisSessionStore":
        from .redis import RedisSessionStore  # noqa: PLC0415 - backends load on first use

        return RedisSessionStore
    if name in ("Claim", "WaitRegistry"):
        from . import waits  # noqa: PLC0415 - they load anyio

        return getattr(waits, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
