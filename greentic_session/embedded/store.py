"""The constructor of a store on an embedded server."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ..codec import CodecFactory, JsonCodec
from ..errors import InvalidInputError
from ..redis import RedisSessionStore
from .binary import ServerNotFoundError
from .folder import socket_path
from .server import EmbeddedServer

if TYPE_CHECKING:
    from .._core.evolution import Upgrades
    from ..config import EmbeddedConfig

__all__ = ["embedded_session_store"]

_T = TypeVar("_T")


def embedded_session_store(
    config: EmbeddedConfig,
    context_type: type[_T],
    *,
    codec: CodecFactory = JsonCodec,
    schema_version: int | None = None,
    upgrades: Upgrades | None = None,
) -> RedisSessionStore[_T]:
    """Make a store on the server of a folder. The server starts when the store is first used.

    :param config: the folder and its options.
    :param context_type: as in :class:`AsyncSessionStore`.
    :param codec: as in :class:`AsyncSessionStore`.
    :param schema_version: as in :class:`AsyncSessionStore`.
    :param upgrades: as in :class:`AsyncSessionStore`.
    :raises InvalidInputError: naming the invalid field of ``config``, or ``url_or_config`` if this
        machine has no server.
    """
    config.check()
    try:
        host = EmbeddedServer(config)
    except ServerNotFoundError as error:
        raise InvalidInputError("url_or_config", f"no embedded server: {error}") from None
    server = config.server(socket_path(config.path))
    return RedisSessionStore(
        server,
        context_type,
        codec=codec,
        host=host,
        schema_version=schema_version,
        upgrades=upgrades,
    )
