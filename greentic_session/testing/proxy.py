"""A faulty connection: a TCP proxy on loopback that loses, cuts, delays and drops requests.

.. code-block:: python

    async with FaultProxy(6379, at_random(seed=7, chance=0.1)) as proxy:
        async with create_session_store(proxy.url) as store:
            ...
    assert proxy.met[Fate.LOSE] > 0

The proxy does not parse the traffic, so it works for any client and any server. Its unit is the
*request*: all bytes that the proxy reads at once from the client's side of a connection. A client
may send several commands together, as this library does. They are one request, so one fault can
affect many calls.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable
from contextlib import contextmanager, suppress
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, Self, final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator, Sequence
    from types import TracebackType

__all__ = [
    "BREAKS",
    "LOSSES",
    "Fate",
    "FaultProxy",
    "Line",
    "Schedule",
    "always",
    "at_random",
    "first_of_each",
]

_CHUNK_BYTES: Final = 1 << 20


class Fate(Enum):
    """The fault that the proxy applies to a request."""

    PASS = auto()
    REFUSE = auto()
    """The connection breaks before the server gets the request."""
    SWALLOW = auto()
    """The server never gets the request, and the connection stays."""
    LOSE = auto()
    """The server executes the request. The connection breaks before the reply."""
    CUT = auto()
    """The server executes the request. The connection breaks in the middle of the reply."""
    SILENCE = auto()
    """The server executes the request, and the connection stays without a reply."""
    LATE = auto()
    """The server executes the request. The reply arrives after the delay."""
    DELAY = auto()
    """The server gets the request after the delay, and the connection ends without a reply."""
    HOLD = auto()
    """The server gets the request after the delay. There is no other fault."""


BREAKS: Final = (Fate.REFUSE, Fate.LOSE, Fate.CUT)
"""The fates that end the connection at once."""
LOSSES: Final = (Fate.REFUSE, Fate.SWALLOW, Fate.LOSE, Fate.CUT, Fate.SILENCE)
"""The fates that leave the request without a whole reply."""

Schedule = Callable[[bytes], Fate]
"""Chooses the fate of a request. It is called in the order in which requests arrive."""


def always(fate: Fate) -> Schedule:
    """Return a schedule that applies one fate to every request."""
    return lambda _request: fate


def at_random(seed: int, chance: float, fates: Sequence[Fate] = BREAKS) -> Schedule:
    """Return a schedule that applies fates at random.

    :param seed: seed of the random choices. The same seed makes the same choices in the same order.
        Which request gets which choice also depends on timing.
    :param chance: probability that a request does not pass, 0 to 1.
    :param fates: fates to choose from, all equally likely.
    """
    dice = random.Random(seed)

    def choose(_request: bytes) -> Fate:
        return dice.choice(fates) if dice.random() < chance else Fate.PASS

    return choose


def first_of_each(pattern: str | bytes, fate: Fate) -> Schedule:
    """Return a schedule that applies a fate once per distinct match of a pattern.

    :param pattern: a regular expression. For ``key-[0-9]+``, the fate applies to the first request
        that names ``key-1``, and to the first that names ``key-2``.
    :param fate: the fate of these requests. All others pass.
    """
    sought = re.compile(pattern.encode() if isinstance(pattern, str) else pattern)
    seen: set[bytes] = set()

    def choose(request: bytes) -> Fate:
        found = sought.search(request)
        if found is None or found[0] in seen:
            return Fate.PASS
        seen.add(found[0])
        return fate

    return choose


@final
class Line:
    """A schedule that applies a fate to one of the requests that arrive within :meth:`broken`.

    :param fate: the fate of that request.
    :param at: the request's number, from 0. A string selects the first request that contains it.
    :ivar seen: number of requests that arrived within :meth:`broken` blocks.
    """

    def __init__(self, fate: Fate, at: int | str) -> None:
        self._fate: Final = fate
        self._at: Final = at
        self._is_broken = False
        self._is_met = False
        self.seen: int = 0

    def __call__(self, request: bytes) -> Fate:
        """Choose a fate, as a :data:`Schedule` does."""
        if not self._is_broken:
            return Fate.PASS
        number, self.seen = self.seen, self.seen + 1
        if isinstance(self._at, int):
            return self._fate if number == self._at else Fate.PASS
        if self._is_met or self._at.encode() not in request:
            return Fate.PASS
        self._is_met = True
        return self._fate

    @contextmanager
    def broken(self) -> Generator[None]:
        """Count requests within the block, and apply the fate to the selected one."""
        self._is_broken = True
        try:
            yield
        finally:
            self._is_broken = False


class _Way:
    """A connection through the proxy: the client's end, the server's end, and its faults."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client: Final = client
        self.server: Final = server
        self.fates: Final[set[Fate]] = set()
        self.is_half_open = False
        self.tasks: set[asyncio.Task[None]] = set()

    def sever(self) -> None:
        """Break both ends. Unsent data is lost."""
        self.client.transport.abort()
        self.server.transport.abort()

    async def aclose(self) -> None:
        """Close both ends after their pending data is sent."""
        self.client.close()
        self.server.close()
        await asyncio.gather(self.client.wait_closed(), self.server.wait_closed())


@final
class FaultProxy:
    """Proxies connections from clients to one server. Use with ``async with``, on asyncio.

    :param port: port of the server.
    :param schedule: chooses the fate of each request.
    :param host: host of the server.
    :param delay_secs: delay for :attr:`Fate.LATE`, :attr:`Fate.DELAY` and :attr:`Fate.HOLD`, in
        seconds.
    :ivar url: ``redis://`` URL at which the proxy listens while it is open.
    :ivar port: port on 127.0.0.1 at which the proxy listens while it is open.
    :ivar met: number of requests for each fate.
    :ivar before_loss: callback, awaited before :attr:`Fate.LOSE` breaks a connection. It runs
        between a lost reply and the client's next attempt.
    :ivar executed_late: number of replies to delayed requests.
    :ivar never_executed: number of connections that the server closed before a delayed request
        arrived.
    :ivar accepted: number of connections that clients have made.
    """

    def __init__(
        self,
        port: int,
        schedule: Schedule,
        *,
        host: str = "127.0.0.1",
        delay_secs: float = 0.0,
    ) -> None:
        self._upstream: Final = (host, port)
        self.schedule = schedule
        self._delay_secs: Final = delay_secs
        self._ways: Final[set[_Way]] = set()
        self._serving: Final[set[asyncio.Task[None]]] = set()
        self._is_open: Final = asyncio.Event()
        self._is_open.set()
        self._server: asyncio.Server | None = None
        self.before_loss: Callable[[], Awaitable[None]] | None = None
        self.met: Final = dict.fromkeys(Fate, 0)
        self.executed_late: int = 0
        self.never_executed: int = 0
        self.accepted: int = 0
        self.port: int = 0
        self.url: str = ""

    @property
    def faults(self) -> int:
        """Number of requests that did not pass."""
        return sum(self.met.values()) - self.met[Fate.PASS]

    @property
    def connections(self) -> int:
        """Number of open connections through the proxy."""
        return len(self._ways)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = int(self._server.sockets[0].getsockname()[1])
        self.url = f"redis://127.0.0.1:{self.port}"
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        serving = [*self._serving]
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await self._server.wait_closed()

    def black_hole(self) -> None:
        """Forward nothing in either direction until :meth:`heal`.

        Connections stay open, the proxy accepts new ones, and no end gets an error. Data sent
        meanwhile arrives after :meth:`heal`, as with TCP's retransmissions. That includes requests
        that the sender has given up.
        """
        self._is_open.clear()

    def heal(self) -> None:
        """End a :meth:`black_hole`. Half-open connections stay half open."""
        self._is_open.set()

    def half_open(self) -> int:
        """Drop the server's ends of all connections without notice to the clients.

        This happens when the server's machine loses power or a firewall forgets the connection.
        Data that a client sends on such a connection is lost. New connections work.

        :returns: the number of connections that became half open.
        """
        sound = [way for way in self._ways if not way.is_half_open]
        for way in sound:
            way.is_half_open = True
            way.server.transport.abort()
        return len(sound)

    def sever(self) -> int:
        """Break all connections at both ends. Data in the proxy is lost.

        :returns: the number of connections.
        """
        ways = [*self._ways]
        for way in ways:
            way.sever()
        return len(ways)

    # --- the life of a connection ------------------------------------------------------------

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is not None and not self._server.is_serving():
            writer.transport.abort()  # arrived while the proxy was closing
            return
        self.accepted += 1
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        # Not in `_serve`, which may be cancelled before it begins. Without it, a client that does
        # not read blocks the close: from Python 3.12.1 on, a server waits for its connections.
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._is_open.wait()
        with suppress(OSError):  # the server or the client is gone, so the connection breaks
            behind, ahead = await asyncio.open_connection(*self._upstream)
            way = _Way(writer, ahead)
            self._ways.add(way)
            try:
                await self._carry(way, reader, behind)
                await way.aclose()
            finally:
                self._ways.discard(way)
                way.sever()

    async def _carry(
        self, way: _Way, reader: asyncio.StreamReader, behind: asyncio.StreamReader
    ) -> None:
        loop = asyncio.get_running_loop()
        tasks = {
            loop.create_task(self._requests(way, reader)),
            loop.create_task(self._replies(way, behind)),
        }
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _requests(self, way: _Way, reader: asyncio.StreamReader) -> None:
        while request := await reader.read(_CHUNK_BYTES):
            await self._is_open.wait()
            if way.is_half_open:
                continue
            fate = self.schedule(request)
            self.met[fate] += 1
            if fate is Fate.REFUSE:
                way.sever()
                return
            way.fates.add(fate)
            if fate is Fate.DELAY:
                await asyncio.sleep(self._delay_secs)  # this is the fault
                way.server.write(request)
                await asyncio.Event().wait()  # until the server has answered
            elif fate is not Fate.SWALLOW:
                if fate is Fate.HOLD:
                    await asyncio.sleep(self._delay_secs)  # this is the fault
                way.server.write(request)
                await way.server.drain()

    async def _replies(self, way: _Way, behind: asyncio.StreamReader) -> None:
        fates = way.fates
        while reply := await behind.read(_CHUNK_BYTES):
            await self._is_open.wait()
            # Drop all later replies too, or the client takes one for the reply that was dropped.
            if Fate.SILENCE in fates or Fate.SWALLOW in fates:
                continue
            if Fate.DELAY in fates:
                self.executed_late += 1
                way.sever()
                return
            if Fate.LATE in fates:
                fates.discard(Fate.LATE)  # one delay covers the replies behind it
                await asyncio.sleep(self._delay_secs)  # this is the fault
            if Fate.LOSE in fates:
                if self.before_loss is not None:
                    await self.before_loss()
                way.sever()
                return
            if Fate.CUT in fates:
                way.client.transport.set_write_buffer_limits(0)  # send all of it now
                way.client.write(reply[: len(reply) // 2])
                await way.client.drain()
                way.sever()
                return
            way.client.write(reply)
            await way.client.drain()
        if Fate.DELAY in fates:
            self.never_executed += 1
        if way.is_half_open:
            await asyncio.Event().wait()  # until the client gives up
