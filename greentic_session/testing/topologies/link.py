"""Commands to a server under test, without the client that is tested."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

import hiredis

__all__ = ["Argument", "RefusedError", "ask"]

Argument = str | bytes | int
Reply = Any  # Any: whatever RESP carries. Each caller knows the type of its command's reply.

_LINK_SECS: Final = 5.0


class RefusedError(Exception):
    """The server replied with an error. The message is the server's."""


async def ask(port: int, *command: Argument, secs: float = _LINK_SECS) -> Reply:
    """Send one command on a connection of its own, and return the reply.

    A connection per command is slow but never stale. Servers under test are killed and restarted.

    :param port: port on 127.0.0.1.
    :param secs: limit in seconds, for a paused server.
    :raises RefusedError: if the reply is an error.
    :raises OSError: if there is no reply in time (``TimeoutError``), or no server.
    """
    async with asyncio.timeout(secs):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(_packed(command))
            replies = hiredis.Reader()
            reply: Reply = False  # an RESP2 reader returns it while a reply is incomplete
            while reply is False:
                received = await reader.read(1 << 16)
                if not received:
                    raise ConnectionResetError("the server closed the connection")
                replies.feed(received)
                reply = replies.gets()
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
    if isinstance(reply, Exception):
        raise RefusedError(str(reply))
    return reply


def _packed(command: tuple[Argument, ...]) -> bytes:
    parts = [part if isinstance(part, bytes) else str(part).encode() for part in command]
    sized = (b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
    return b"*%d\r\n%b" % (len(parts), b"".join(sized))
