"""Commands to a server under test, without the client that is tested."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

import hiredis

__all__ = ["Argument", "RefusedError", "ask"]

Argument = str | bytes | int
Reply = Any  # Any: whatever RESP carries; each caller knows the type of its command's reply

_LINK_SECS: Final = 5.0


class RefusedError(Exception):
    """The server answered by an error, which is the message."""


async def ask(port: int, *command: Argument, secs: float = _LINK_SECS) -> Reply:
    """Send one command on a connection of its own, and return the reply.

    A connection per command is slow and never stale: servers under test are killed and restarted.

    :param port: of 127.0.0.1.
    :param secs: limit in seconds, for a server that is paused.
    :raises RefusedError: if the reply is an error.
    :raises OSError: if there is none in time (``TimeoutError``), or no server.
    """
    async with asyncio.timeout(secs):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(_packed(command))
            replies = hiredis.Reader()
            reply: Reply = False  # which a reader of RESP2 returns as long as a reply is incomplete
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
