"""Adapters of the driver, which open, use and close its connections."""

from __future__ import annotations

import asyncio
import socket
from functools import cache
from importlib import import_module
from importlib.metadata import version
from inspect import signature
from typing import TYPE_CHECKING, Any, Final, cast

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as DriverConnectionError
from redis.exceptions import RedisError, ResponseError

from ..._compat import override
from .resolver import is_literal, open_socket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ...config import Address, RedisConfig, SentinelConfig

__all__ = [
    "UnreadableGreetingError",
    "ask",
    "ask_all",
    "ask_all_once",
    "ask_once",
    "close_without_loop",
    "connect",
    "disconnect",
    "new_connection",
    "take_over",
]


_HANDSHAKE_SHARE: Final = 0.35
"""Share of a call's deadline for a TLS handshake. The whole opening gets half of the deadline."""


class UnreadableGreetingError(OSError):
    """The driver cannot parse the server's reply during the handshake."""


class _TakesSocket:
    """Lets a connection use a socket that is already connected to its host.

    :ivar opened: the socket, until the connection uses it.
    """

    opened: socket.socket | None = None

    def take_socket(self, given: Mapping[str, Any]) -> dict[str, Any]:  # Any: of differing types
        """Return the arguments of ``asyncio.open_connection``, with the socket for the host."""
        opened, self.opened = self.opened, None
        if opened is None:
            return dict(given)
        kept = {name: value for name, value in given.items() if name not in ("host", "port")}
        if kept.get("ssl"):
            kept["server_hostname"] = given["host"]  # the name in the server's certificate
        return {**kept, "sock": opened}

    def close_unused(self) -> None:
        """Close the socket if the connection has not used it."""
        if self.opened is not None:
            self.opened.close()
            self.opened = None


class _NamedConnection(_TakesSocket, Connection):
    """A connection to a host name, over a socket that :func:`connect` opens."""

    @override
    def _connection_arguments(self) -> Mapping[str, Any]:  # Any: as above
        return self.take_socket(_arguments_of(super()))


class _TlsConnection(_TakesSocket, SSLConnection):
    """A connection with a separate timeout for the TLS handshake, so that its failure has a name.

    :param handshake_secs: the timeout, in seconds.
    """

    def __init__(self, *, handshake_secs: float, **fields: Any) -> None:  # Any: the driver's
        cast("Callable[..., None]", super().__init__)(**fields)  # partly untyped there
        self._handshake_secs: Final = handshake_secs

    @override
    def _connection_arguments(self) -> Mapping[str, Any]:  # Any: as above
        given = self.take_socket(_arguments_of(super()))
        return {**given, "ssl_handshake_timeout": self._handshake_secs}


def _arguments_of(driver: object) -> Mapping[str, Any]:  # Any: as above
    """Return the arguments that the driver's class passes to ``asyncio.open_connection``."""
    return cast("Callable[[], Mapping[str, Any]]", getattr(driver, "_connection_arguments"))()  # noqa: B009


def new_connection(
    config: RedisConfig, address: Address | None, *, of: SentinelConfig | None = None
) -> AbstractConnection:
    """Return a connection that is not open yet.

    :param config: the configuration of the store.
    :param address: address of the server. ``None`` takes the address of ``config``.
    :param of: the configuration of the sentinels, if the server is one of them.
    """
    account = config if of is None else of
    fields: dict[str, Any] = {  # Any: keyword arguments of differing types
        "db": config.db if of is None else 0,
        "username": account.username,
        "password": account.password,
        "protocol": config.protocol,
        # This package handles retries and timeouts.
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": None,
        "socket_connect_timeout": None,
        **_arguments_of_newer_drivers(AbstractConnection),
    }
    if address is None and config.unix_path is not None:
        return UnixDomainSocketConnection(path=config.unix_path, **fields)
    host, port = address or (config.host, config.port)
    fields |= {"host": host, "port": port, "socket_keepalive": True}
    tls = config.tls
    if tls is None:
        return Connection(**fields) if is_literal(host) else _NamedConnection(**fields)
    return _TlsConnection(
        handshake_secs=config.deadline_secs * _HANDSHAKE_SHARE,
        ssl_ca_certs=tls.ca_file,
        ssl_certfile=tls.cert_file,
        ssl_keyfile=tls.key_file,
        ssl_cert_reqs="required" if tls.verify else "none",  # older drivers accept only texts
        ssl_check_hostname=tls.verify,
        **fields,
    )


@cache
def _arguments_of_newer_drivers(connection: type) -> dict[str, Any]:  # Any: as above
    """Return the arguments that only some versions of the driver have.

    :param connection: the connection class of the driver.
    """
    if "maint_notifications_config" not in signature(connection).parameters:
        return {}
    notifications = import_module("redis.maint_notifications")
    return {"maint_notifications_config": notifications.MaintNotificationsConfig(enabled=False)}


async def connect(connection: AbstractConnection) -> None:
    """Open a connection and complete its handshake.

    :raises OSError: the host name has no address, or no address answers.
    :raises UnreadableGreetingError: the server's reply has a form that the driver does not expect.
    :raises RuntimeError: this version of the driver does not work with :func:`take_over`.
    """
    try:
        await _open_socket(connection)
        await cast("Callable[[], Awaitable[None]]", connection.connect)()  # untyped there
    except DriverConnectionError as error:
        # Until the driver has a stream, it wraps every error, even its own bugs.
        bug = error.__cause__
        if bug is None or isinstance(bug, (RedisError, OSError, EOFError, UnicodeError)):
            raise
        raise bug from None
    except (TypeError, ValueError, AttributeError) as error:
        if not connection.is_connected:
            raise
        raise UnreadableGreetingError("the server's reply to a greeting cannot be read") from error
    finally:
        if isinstance(connection, _TakesSocket):
            connection.close_unused()
    _check_private_parts(connection)


async def _open_socket(connection: AbstractConnection) -> None:
    """Open the socket of a connection whose host is a name."""
    if isinstance(connection, (_NamedConnection, _TlsConnection)) and not is_literal(
        connection.host
    ):
        connection.opened = await open_socket(connection.host, connection.port)


def _check_private_parts(connection: AbstractConnection) -> None:
    stream: object = getattr(connection, "_writer", None)
    reader: object = getattr(connection, "_reader", None)
    if not (
        isinstance(stream, asyncio.StreamWriter)
        and isinstance(reader, asyncio.StreamReader)
        and isinstance(getattr(reader, "_buffer", None), bytearray)
    ):
        raise RuntimeError(  # noqa: TRY004 - the driver is wrong, not an argument
            f"version {version('redis')} of the package redis does not work with this release of "
            "greentic_session: install another version"
        )


async def ask(connection: AbstractConnection, *command: str) -> Any:  # Any: as in `Reply`
    """Send a command on an open connection that only this caller uses, and return the reply.

    :raises ResponseError: an error reply.
    """
    send = cast("Callable[..., Awaitable[None]]", connection.send_command)  # untyped there
    await send(*command)
    reply: Any = await cast("Callable[[], Awaitable[Any]]", connection.read_response)()  # as above
    return reply


async def ask_all(connection: AbstractConnection, *commands: tuple[str, ...]) -> list[Any]:
    """Send several commands in one write, and return the replies. An error reply is a value here.

    A server that receives them in one packet runs no other command between them.
    """
    pack = cast("Callable[..., list[bytes]]", connection.pack_commands)  # untyped there
    await cast("Callable[..., Awaitable[None]]", connection.send_packed_command)(pack(commands))
    replies: list[Any] = []  # Any: as in `Reply`
    for _ in commands:
        try:
            replies.append(await cast("Callable[[], Awaitable[Any]]", connection.read_response)())
        except ResponseError as error:
            replies.append(error)
    return replies


def take_over(connection: AbstractConnection) -> tuple[asyncio.StreamWriter, bytes]:
    """Take over a connection's stream from the driver.

    The driver offers no public access to its stream or transport. Without the stream, the driver's
    object counts as disconnected, and does not close the transport.

    :returns: the stream, which must live as long as its transport, and the bytes received so far.
    """
    stream = cast("asyncio.StreamWriter", getattr(connection, "_writer"))  # noqa: B009
    reader: Any = getattr(connection, "_reader")  # noqa: B009 # Any: private parts
    setattr(connection, "_writer", None)  # noqa: B010
    setattr(connection, "_reader", None)  # noqa: B010
    return stream, bytes(reader._buffer)  # noqa: SLF001 - bytes after the handshake


def close_without_loop(stream: asyncio.StreamWriter) -> None:
    """Close a stream's socket after its loop was closed, because that leaves transports open."""
    transport: object = stream.transport
    transport = getattr(getattr(transport, "_ssl_protocol", None), "_transport", transport)
    opened: object = getattr(transport, "_sock", None)  # other loops close it themselves
    if isinstance(opened, socket.socket):
        opened.close()


async def disconnect(connection: AbstractConnection) -> None:
    """Close a connection immediately. A regular close of TLS would wait for the other side."""
    stream = cast("asyncio.StreamWriter | None", getattr(connection, "_writer", None))
    if stream is not None:
        stream.transport.abort()
    await connection.disconnect(nowait=True)


async def ask_once(
    config: RedisConfig, address: Address | None, *command: str, secs: float
) -> Any:  # Any: as in `Reply`
    """Open a connection for one command, and return the reply.

    :param secs: timeout in seconds, including the connection.
    :raises TimeoutError: at that time.
    :raises ResponseError: an error reply.
    """
    (reply,) = await ask_all_once(config, address, command, secs=secs)
    if isinstance(reply, ResponseError):
        raise reply
    return reply


async def ask_all_once(
    config: RedisConfig,
    address: Address | None,
    *commands: tuple[str, ...],
    secs: float,
    of: SentinelConfig | None = None,
) -> list[Any]:  # Any: as in `Reply`
    """Open a connection for several commands, and return the replies. An error reply is a value.

    :param secs: timeout in seconds, including the connection.
    :param of: as in :func:`new_connection`.
    :raises TimeoutError: at that time.
    """
    connection = new_connection(config, address, of=of)
    try:
        async with asyncio.timeout(secs):
            await connect(connection)
            return await ask_all(connection, *commands)
    finally:
        await disconnect(connection)
