"""Fake sentinels with answers that a test chooses."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Self

import hiredis

if TYPE_CHECKING:
    from types import TracebackType

    from greentic_session.config import Address

__all__ = ["FakeSentinel"]

_GREETING: Final = b"%1\r\n$5\r\nproto\r\n:3\r\n"


class FakeSentinel:
    """A server on loopback that answers as a sentinel. Use with ``async with``.

    :ivar epoch: the config epoch that it reports. ``None`` refuses SENTINEL MASTER to the account.
    :ivar master: the master that it names. ``None`` means that it knows no master.
    :ivar before: the reply to SENTINEL MASTER during a failover.
    :ivar is_silent: whether it leaves commands without a reply.
    :ivar delay_secs: delay of a reply in seconds.
    :ivar role: its reply to ROLE, for use as a server that sentinels name.
    :ivar asked: number of requests for the master's address.
    """

    def __init__(self, epoch: int | None, master: Address | None) -> None:
        self.epoch = epoch
        self.master = master
        self.before: Address | None = None
        self.is_silent = False
        self.delay_secs = 0.0
        self.role = "master"
        self.asked = 0
        self.address: Address = ("127.0.0.1", 0)
        self._server: asyncio.Server | None = None
        self._open: Final[set[asyncio.StreamWriter]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = ("127.0.0.1", int(self._server.sockets[0].getsockname()[1]))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Refuse connections from now on."""
        if self._server is not None:
            self._server.close()
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests = hiredis.Reader()
        protocol = 2
        self._open.add(writer)
        try:
            while received := await reader.read(1 << 16):
                requests.feed(received)
                while (request := requests.gets()) is not False:
                    words = [word.upper() for word in request]
                    if words[0] == b"HELLO":
                        protocol = 3
                    if words[0] == b"SENTINEL":
                        if self.is_silent:
                            continue
                        await asyncio.sleep(self.delay_secs)  # a slow sentinel
                    writer.write(self._answer(words, protocol))
        except OSError:
            pass  # the client has disconnected
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    def _answer(self, words: list[bytes], protocol: int) -> bytes:
        if words[0] == b"HELLO":
            return _GREETING
        if words[0] == b"ROLE":
            return b"*1\r\n" + _bulk(self.role)
        if words[0] != b"SENTINEL":
            return b"+OK\r\n"
        if words[1] == b"MASTER":
            return self._state(protocol)
        self.asked += 1
        if self.master is None:
            return b"*-1\r\n" if protocol == 2 else b"_\r\n"
        return b"*2\r\n" + b"".join(map(_bulk, self.master))

    def _state(self, protocol: int) -> bytes:
        address = self.before or self.master
        if address is None:
            return b"-ERR No such master with that name\r\n"
        if self.epoch is None:
            return b"-NOPERM User has no permissions to run the 'sentinel|master' command\r\n"
        host, port = address
        fields = {"name": "mymaster", "ip": host, "port": port, "config-epoch": self.epoch}
        head = b"%%%d\r\n" % len(fields) if protocol == 3 else b"*%d\r\n" % (2 * len(fields))
        return head + b"".join(_bulk(name) + _bulk(value) for name, value in fields.items())


def _bulk(value: object) -> bytes:
    text = str(value).encode()
    return b"$%d\r\n%b\r\n" % (len(text), text)
