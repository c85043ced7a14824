"""A bad line: a TCP proxy on loopback that loses, cuts, delays and swallows what passes.

.. code-block:: python

    async with FaultProxy(6379, at_random(seed=7, chance=0.1)) as proxy:
        async with create_session_store(proxy.url) as store:
            ...
    assert proxy.met[Fate.LOSE] > 0

It understands nothing of what it carries, so any client of any server can be put behind it. What
it judges is a *request*: the bytes that the client's side of a connection had sent when the proxy
read it. A client that sends commands together, as this library does, has them judged together:
one fate of the proxy may be met by many calls.
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
    """What becomes of a request."""

    PASS = auto()
    REFUSE = auto()
    """The connection breaks before the server has the request."""
    SWALLOW = auto()
    """The server never gets it, and the connection stays."""
    LOSE = auto()
    """The server executes it; the connection breaks before the reply."""
    CUT = auto()
    """The server executes it; the connection breaks in the middle of the reply."""
    SILENCE = auto()
    """The server executes it, and the connection stays without a reply."""
    LATE = auto()
    """The server executes it; the reply comes when the delay is over."""
    DELAY = auto()
    """The server gets it when the delay is over, and the connection ends without a reply."""
    HOLD = auto()
    """The server gets it when the delay is over. Nothing else is wrong."""


BREAKS: Final = (Fate.REFUSE, Fate.LOSE, Fate.CUT)
"""The fates that end the connection at once."""
LOSSES: Final = (Fate.REFUSE, Fate.SWALLOW, Fate.LOSE, Fate.CUT, Fate.SILENCE)
"""The fates after which no whole reply comes."""

Schedule = Callable[[bytes], Fate]
"""Chooses the fate of a request. Called in the order in which requests arrive."""


def always(fate: Fate) -> Schedule:
    """Return a schedule that chooses the same for every request."""
    return lambda _request: fate


def at_random(seed: int, chance: float, fates: Sequence[Fate] = BREAKS) -> Schedule:
    """Return a schedule that lets requests meet fates at random.

    :param seed: of the dice. The same seed makes the same choices in the same order; which request
        meets which of them is also up to the machine.
    :param chance: that a request does not pass, 0 to 1.
    :param fates: from which then to choose, each as likely as the others.
    """
    dice = random.Random(seed)

    def choose(_request: bytes) -> Fate:
        return dice.choice(fates) if dice.random() < chance else Fate.PASS

    return choose


def first_of_each(pattern: str | bytes, fate: Fate) -> Schedule:
    """Return a schedule for the first request that says something, for each thing said.

    :param pattern: a regular expression. For ``key-[0-9]+``, the first request that names ``key-1``
        meets the fate, and so does the first that names ``key-2``.
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
    """A schedule that lets one request meet a fate, of those that come while it is :meth:`broken`.

    :param fate: what it meets.
    :param at: the request's number, from 0; or what it says, for the first that does.
    :ivar seen: how many requests have come while the line was broken.
    """

    def __init__(self, fate: Fate, at: int | str) -> None:
        self._fate: Final = fate
        self._at: Final = at
        self._is_broken = False
        self._is_met = False
        self.seen: int = 0

    def __call__(self, request: bytes) -> Fate:
        """Choose, as a :data:`Schedule`."""
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
        """Count requests, and let the one meet its fate, within the block."""
        self._is_broken = True
        try:
            yield
        finally:
            self._is_broken = False


class _Way:
    """One connection through the proxy: the client's end, the server's, and what befell it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client: Final = client
        self.server: Final = server
        self.fates: Final[set[Fate]] = set()
        self.is_half_open = False
        self.tasks: set[asyncio.Task[None]] = set()

    def sever(self) -> None:
        """Break both ends; what has not been sent is lost."""
        self.client.transport.abort()
        self.server.transport.abort()

    async def aclose(self) -> None:
        """End the connection at both ends, once they have what was sent to them."""
        self.client.close()
        self.server.close()
        await asyncio.gather(self.client.wait_closed(), self.server.wait_closed())


@final
class FaultProxy:
    """Stands between clients and one server. Use with ``async with``, on asyncio.

    :param port: the server's.
    :param schedule: chooses the fate of each request.
    :param host: the server's.
    :param delay_secs: for :attr:`Fate.LATE`, :attr:`Fate.DELAY` and :attr:`Fate.HOLD`, in seconds.
    :ivar url: ``redis://`` and where the proxy listens, while it does.
    :ivar port: where on 127.0.0.1 the proxy listens, while it does.
    :ivar met: how many requests have met each fate.
    :ivar before_loss: awaited before a connection breaks by :attr:`Fate.LOSE`: what happens on
        the server between a lost reply and the client's next attempt.
    :ivar executed_late: how many replies have come back to requests that were delayed.
    :ivar never_executed: how many connections the server ended before a delayed request came.
    :ivar accepted: how many connections clients have made.
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
        """How many requests have met another fate than to pass."""
        return sum(self.met.values()) - self.met[Fate.PASS]

    @property
    def connections(self) -> int:
        """How many connections are open through the proxy."""
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
        """Carry nothing in either direction, until :meth:`heal`.

        Connections stay, and new ones are accepted; nobody is told of anything. What was sent
        meanwhile arrives when the line has healed, as TCP's retransmissions would make it: also
        what its sender has given up since.
        """
        self._is_open.clear()

    def heal(self) -> None:
        """End a :meth:`black_hole`. Connections that are half open stay so."""
        self._is_open.set()

    def half_open(self) -> int:
        """Let the server's ends of all connections vanish, without a word to the clients.

        As when the server's machine lost its power, or a firewall forgot the connection. What a
        client sends on such a connection goes nowhere; a new connection is a sound one.

        :returns: how many connections that were.
        """
        sound = [way for way in self._ways if not way.is_half_open]
        for way in sound:
            way.is_half_open = True
            way.server.transport.abort()
        return len(sound)

    def sever(self) -> int:
        """Break all connections, at both ends; what the proxy still held is lost.

        :returns: how many that were.
        """
        ways = [*self._ways]
        for way in ways:
            way.sever()
        return len(ways)

    # --- what becomes of a connection --------------------------------------------------------

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is not None and not self._server.is_serving():
            writer.transport.abort()  # came while the proxy was leaving
            return
        self.accepted += 1
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        # Not in `_serve`, which may be cancelled before it begins. A client that does not read must
        # not keep the proxy: from Python 3.12.1 on, a server's end waits for its connections'.
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._is_open.wait()
        with suppress(OSError):  # a server that is gone, a client that left: it breaks
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
            # Once silent, silent for ever: a later reply would be taken for the one kept back.
            if Fate.SILENCE in fates or Fate.SWALLOW in fates:
                continue
            if Fate.DELAY in fates:
                self.executed_late += 1
                way.sever()
                return
            if Fate.LATE in fates:
                fates.discard(Fate.LATE)  # what comes after it waits for it, and is late no more
                await asyncio.sleep(self._delay_secs)  # this is the fault
            if Fate.LOSE in fates:
                if self.before_loss is not None:
                    await self.before_loss()
                way.sever()
                return
            if Fate.CUT in fates:
                way.client.transport.set_write_buffer_limits(0)  # so that nothing is left to send
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
