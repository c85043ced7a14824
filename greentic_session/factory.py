"""The function that makes a store from a URL. The caller imports and sees no driver."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, overload

from .codec import CodecFactory, JsonCodec
from .config import EmbeddedConfig, MemoryConfig, RedisConfig, SessionBackendConfig
from .config.backends import config_from_url
from .config.urls import public_part
from .errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .clock import Clock
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
) -> AsyncSessionStore[dict[str, Any]]: ...
@overload
def create_session_store(
    url_or_config: str | SessionBackendConfig,
    *,
    context_type: type[_T],
    codec: CodecFactory = ...,
    clock: Clock | None = ...,
) -> AsyncSessionStore[_T]: ...
@overload
def create_session_store(
    url_or_config: str | SessionBackendConfig,
    *,
    context_type: Any,  # Any: a union such as `A | B` is no `type[…]` to a checker
    codec: CodecFactory = ...,
    clock: Clock | None = ...,
) -> AsyncSessionStore[Any]: ...
def create_session_store(
    url_or_config: str | SessionBackendConfig,
    *,
    context_type: Any = dict,
    codec: CodecFactory = JsonCodec,
    clock: Clock | None = None,
) -> AsyncSessionStore[Any]:
    """Make the store that a URL or a configuration names.

    Hold it with ``async with``. Nothing is connected before the first call.

    :param url_or_config: a URL as :func:`greentic_session.config.urls.parse_url` reads it, or a
        configuration.
    :param context_type: type of :attr:`Session.context`.
    :param codec: makes the codec of that type.
    :param clock: the memory backend's clock; a server keeps its own.
    :raises InvalidInputError: an unknown scheme or option (listing the known ones), a value out of
        range, a context type that the codec cannot handle, or a clock where none is used.
    """
    config = config_from_url(url_or_config) if isinstance(url_or_config, str) else url_or_config
    if isinstance(config, MemoryConfig):
        from .memory import InMemorySessionStore  # noqa: PLC0415 - backends load on first use

        return InMemorySessionStore(context_type, config=config, codec=codec, clock=clock)
    if isinstance(config, RedisConfig):
        if clock is not None:
            raise InvalidInputError("clock", "a server's clock cannot be replaced")
        from .redis import RedisSessionStore  # noqa: PLC0415 - backends load on first use

        return RedisSessionStore(config, context_type, codec=codec)
    if isinstance(cast("object", config), EmbeddedConfig):
        if clock is not None:
            raise InvalidInputError("clock", "a server's clock cannot be replaced")
        if sys.platform == "win32":  # has neither the locks nor the server
            raise InvalidInputError("url_or_config", "no embedded server on this platform")
        from .embedded import embedded_session_store  # noqa: PLC0415 - backends load on first use

        return embedded_session_store(config, context_type, codec=codec)
    raise InvalidInputError(
        "url_or_config", f"expected a URL or a configuration, got {type(config).__name__}"
    )


@overload
def from_env(
    *, codec: CodecFactory = ..., environ: Mapping[str, str] = ..., allow_memory: bool = ...
) -> AsyncSessionStore[dict[str, Any]]: ...
@overload
def from_env(
    *,
    context_type: type[_T],
    codec: CodecFactory = ...,
    environ: Mapping[str, str] = ...,
    allow_memory: bool = ...,
) -> AsyncSessionStore[_T]: ...
@overload
def from_env(
    *,
    context_type: Any,  # Any: as in `create_session_store`
    codec: CodecFactory = ...,
    environ: Mapping[str, str] = ...,
    allow_memory: bool = ...,
) -> AsyncSessionStore[Any]: ...
def from_env(
    *,
    context_type: Any = dict,
    codec: CodecFactory = JsonCodec,
    environ: Mapping[str, str] = os.environ,
    allow_memory: bool = True,
) -> AsyncSessionStore[Any]:
    """Make the store that the environment names: ``GREENTIC_SESSION_URL``, else ``REDIS_URL``,
    else memory. An empty variable counts as absent.

    Logs at level ``INFO`` which variable it took, and the scheme and the place of its URL. Account
    and options, which may hold secrets, are left out.

    :param context_type: as in :func:`create_session_store`.
    :param codec: as in :func:`create_session_store`.
    :param environ: where to read the variables.
    :param allow_memory: ``False`` refuses the memory backend, whether a variable names it or none
        is set: a service that should have a server does not start without one.
    :raises InvalidInputError: as :func:`create_session_store`; naming the variable, if memory is
        refused.
    """
    variable = next((name for name in _VARIABLES if environ.get(name)), None)
    url = "memory://" if variable is None else environ[variable]
    config = config_from_url(url)
    if not allow_memory and isinstance(config, MemoryConfig):
        if variable is None:
            raise InvalidInputError(_VARIABLES[0], "is not set, and the memory backend is refused")
        raise InvalidInputError(variable, "names the memory backend, which is refused")
    store = create_session_store(config, context_type=context_type, codec=codec)
    if variable is None:
        _LOGGER.info("session store: memory:// (no variable is set)")
    else:
        _LOGGER.info("session store of %s: %s", variable, public_part(url))
    return store
