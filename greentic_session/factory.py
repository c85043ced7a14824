"""Functions that make a store from a URL, a configuration or the environment.

The caller does not import a driver.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, overload

from .codec import CodecFactory, JsonCodec
from .config import EmbeddedConfig, MemoryConfig, RedisConfig, SessionBackendConfig
from .config.backends import config_from_url, with_options
from .config.urls import public_part
from .errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ._core.evolution import Upgrades
    from .clock import Clock
    from .config.backends import OnUnknown
    from .store import AsyncSessionStore

__all__ = ["create_session_store", "from_env"]

_T = TypeVar("_T")
_LOGGER: Final = logging.getLogger(__name__)
_VARIABLES: Final = ("GREENTIC_SESSION_URL", "REDIS_URL")


@overload
def create_session_store(
    url_or_config: str | SessionBackendConfig,
    *,
    codec: CodecFactory = ...,
    clock: Clock | None = ...,
    require_ctx: bool | None = ...,
    unknown_fields: OnUnknown | None = ...,
    schema_version: int | None = ...,
    upgrades: Upgrades | None = ...,
    indexed_labels: Sequence[str] | None = ...,
) -> AsyncSessionStore[dict[str, Any]]: ...
@overload
def create_session_store(
    url_or_config: str | SessionBackendConfig,
    *,
    context_type: type[_T],
    codec: CodecFactory = ...,
    clock: Clock | None = ...,
    require_ctx: bool | None = ...,
    unknown_fields: OnUnknown | None = ...,
    schema_version: int | None = ...,
    upgrades: Upgrades | None = ...,
    indexed_labels: Sequence[str] | None = ...,
) -> AsyncSessionStore[_T]: ...
@overload
def create_session_store(
    url_or_config: str | SessionBackendConfig,
    *,
    context_type: Any,  # Any: for checkers, a union `A | B` is not a `type[…]`
    codec: CodecFactory = ...,
    clock: Clock | None = ...,
    require_ctx: bool | None = ...,
    unknown_fields: OnUnknown | None = ...,
    schema_version: int | None = ...,
    upgrades: Upgrades | None = ...,
    indexed_labels: Sequence[str] | None = ...,
) -> AsyncSessionStore[Any]: ...
def create_session_store(
    url_or_config: str | SessionBackendConfig,
    *,
    context_type: Any = dict,
    codec: CodecFactory = JsonCodec,
    clock: Clock | None = None,
    require_ctx: bool | None = None,
    unknown_fields: OnUnknown | None = None,
    schema_version: int | None = None,
    upgrades: Upgrades | None = None,
    indexed_labels: Sequence[str] | None = None,
) -> AsyncSessionStore[Any]:
    """Make the store of a URL or a configuration.

    Use the store with ``async with``. Nothing is connected before the first call.

    :param url_or_config: a URL as :func:`greentic_session.config.urls.parse_url` reads it, or a
        configuration.
    :param context_type: type of :attr:`Session.context`.
    :param codec: factory of the codec of that type.
    :param clock: the memory backend's clock. A server uses its own clock.
    :param require_ctx: whether to refuse calls without ``ctx``, as in :class:`AsyncSessionStore`.
        ``None`` takes the value of the URL or configuration.
    :param unknown_fields: as in :class:`AsyncSessionStore`. ``None`` is that of the configuration.
    :param schema_version: as in :class:`AsyncSessionStore`.
    :param upgrades: as in :class:`AsyncSessionStore`.
    :param indexed_labels: as in :class:`AsyncSessionStore`, in place of those of the configuration.
    :raises InvalidInputError: an unknown scheme or option (the message lists the known ones), a
        value out of range, or a context type that the codec cannot handle. Also a clock for another
        backend than memory.
    """
    config = config_from_url(url_or_config) if isinstance(url_or_config, str) else url_or_config
    config = with_options(
        config,
        require_ctx=require_ctx,
        unknown_fields=unknown_fields,
        indexed_labels=indexed_labels,
    )
    if isinstance(config, MemoryConfig):
        from .memory import InMemorySessionStore  # noqa: PLC0415 - backends load on first use

        return InMemorySessionStore(
            context_type,
            config=config,
            codec=codec,
            clock=clock,
            schema_version=schema_version,
            upgrades=upgrades,
        )
    if isinstance(config, RedisConfig):
        if clock is not None:
            raise InvalidInputError("clock", "a server's clock cannot be replaced")
        from .redis import RedisSessionStore  # noqa: PLC0415 - backends load on first use

        return RedisSessionStore(
            config, context_type, codec=codec, schema_version=schema_version, upgrades=upgrades
        )
    if isinstance(cast("object", config), EmbeddedConfig):
        if clock is not None:
            raise InvalidInputError("clock", "a server's clock cannot be replaced")
        if sys.platform == "win32":  # it has neither file locks nor the server's program
            raise InvalidInputError("url_or_config", "no embedded server on this platform")
        from .embedded import embedded_session_store  # noqa: PLC0415 - backends load on first use

        return embedded_session_store(
            config, context_type, codec=codec, schema_version=schema_version, upgrades=upgrades
        )
    raise InvalidInputError(
        "url_or_config", f"expected a URL or a configuration, got {type(config).__name__}"
    )


@overload
def from_env(
    *,
    codec: CodecFactory = ...,
    environ: Mapping[str, str] = ...,
    allow_memory: bool = ...,
    unknown_fields: OnUnknown | None = ...,
    schema_version: int | None = ...,
    upgrades: Upgrades | None = ...,
) -> AsyncSessionStore[dict[str, Any]]: ...
@overload
def from_env(
    *,
    context_type: type[_T],
    codec: CodecFactory = ...,
    environ: Mapping[str, str] = ...,
    allow_memory: bool = ...,
    unknown_fields: OnUnknown | None = ...,
    schema_version: int | None = ...,
    upgrades: Upgrades | None = ...,
) -> AsyncSessionStore[_T]: ...
@overload
def from_env(
    *,
    context_type: Any,  # Any: as in `create_session_store`
    codec: CodecFactory = ...,
    environ: Mapping[str, str] = ...,
    allow_memory: bool = ...,
    unknown_fields: OnUnknown | None = ...,
    schema_version: int | None = ...,
    upgrades: Upgrades | None = ...,
) -> AsyncSessionStore[Any]: ...
def from_env(
    *,
    context_type: Any = dict,
    codec: CodecFactory = JsonCodec,
    environ: Mapping[str, str] = os.environ,
    allow_memory: bool = True,
    unknown_fields: OnUnknown | None = None,
    schema_version: int | None = None,
    upgrades: Upgrades | None = None,
) -> AsyncSessionStore[Any]:
    """Make the store of the URL in ``GREENTIC_SESSION_URL`` or ``REDIS_URL``.

    The first of these variables has precedence. If both are absent, the store is in memory. An
    empty variable counts as absent.

    Logs the name of the variable, and the scheme and location of its URL, at level ``INFO``. The
    account and the options are left out, because they may contain secrets.

    :param context_type: as in :func:`create_session_store`.
    :param codec: as in :func:`create_session_store`.
    :param environ: mapping to read the variables from.
    :param allow_memory: whether the memory backend is allowed, by a variable or because none is
        set. With ``False``, a service that needs a server does not start without one.
    :param unknown_fields: as in :func:`create_session_store`.
    :param schema_version: as in :func:`create_session_store`.
    :param upgrades: as in :func:`create_session_store`.
    :raises InvalidInputError: as :func:`create_session_store`. If memory is not allowed, the error
        names the variable.
    """
    variable = next((name for name in _VARIABLES if environ.get(name)), None)
    url = "memory://" if variable is None else environ[variable]
    config = config_from_url(url)
    if not allow_memory and isinstance(config, MemoryConfig):
        if variable is None:
            raise InvalidInputError(_VARIABLES[0], "is not set: the memory backend is not allowed")
        raise InvalidInputError(variable, "names the memory backend: expected a server")
    store = create_session_store(
        config,
        context_type=context_type,
        codec=codec,
        unknown_fields=unknown_fields,
        schema_version=schema_version,
        upgrades=upgrades,
    )
    if variable is None:
        _LOGGER.info("session store: memory:// (no variable is set)")
    else:
        _LOGGER.info("session store from %s: %s", variable, public_part(url))
    return store
