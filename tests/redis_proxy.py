"""A proxy on loopback that loses, cuts and delays what passes, by schedule."""

from __future__ import annotations

import asyncio
import random
import re
from contextlib import contextmanager
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, Self

from .redis_rig import SEED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator


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
    """The server gets it when the delay is over, and the connection stays without a reply."""


class Proxy:
    """A TCP proxy on loopback, between a store and its server.

    :param port: the server's.
    :param fate: what becomes of the bytes that a client sent at once.
    :param delay_secs: for ``LATE`` and ``DELAY``.
    """

    def __init__(
        self, port: int, fate: Callable[[bytes], Fate], *, delay_secs: float = 0.0
    ) -> None:
        self._port = port
        self._fate = fate
        self._delay_secs = delay_secs
        self._ways: set[asyncio.Task[None]] = set()
        self.before_loss: Callable[[], Awaitable[None]] | None = None
        self.met = dict.fromkeys(Fate, 0)
        self.executed_late = 0
        self.never_executed = 0
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        ways = [*self._ways]
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, ahead = await asyncio.open_connection("127.0.0.1", self._port)
        fates: list[Fate] = []
        ways = {
            asyncio.create_task(self._requests(reader, ahead, fates)),
            asyncio.create_task(self._replies(behind, writer, fates)),
        }
        self._ways |= ways
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        self._ways -= ways
        writer.close()
        ahead.close()

    async def _requests(
        self, reader: asyncio.StreamReader, ahead: asyncio.StreamWriter, fates: list[Fate]
    ) -> None:
        while request := await reader.read(1 << 20):
            fate = self._fate(request)
            self.met[fate] += 1
            if fate is Fate.REFUSE:
                return
            fates.append(fate)
            if fate is Fate.DELAY:
                await asyncio.sleep(self._delay_secs)  # this is the fault
                ahead.write(request)
                await asyncio.Event().wait()  # until the server has answered
            elif fate is not Fate.SWALLOW:
                ahead.write(request)

    async def _replies(
        self, behind: asyncio.StreamReader, writer: asyncio.StreamWriter, fates: list[Fate]
    ) -> None:
        while reply := await behind.read(1 << 20):
            # Once silent, silent for ever: a later reply would be taken for the one kept back.
            if Fate.SILENCE in fates or Fate.SWALLOW in fates:
                continue
            if Fate.DELAY in fates:
                self.executed_late += 1
                return
            if Fate.LATE in fates:
                await asyncio.sleep(self._delay_secs)  # this is the fault
            if Fate.LOSE in fates:
                if self.before_loss is not None:
                    await self.before_loss()
                return
            if Fate.CUT in fates:
                writer.write(reply[: len(reply) // 2])
                return
            writer.write(reply)
        if Fate.DELAY in fates:  # the server had been told to end the connection
            self.never_executed += 1


def first_script_of_each_key(fate: Fate) -> Callable[[bytes], Fate]:
    seen: set[bytes] = set()

    def choose(request: bytes) -> Fate:
        key = re.search(rb"victim-\w+", request)
        if key is None or b"EVAL" not in request or key[0] in seen:
            return Fate.PASS
        seen.add(key[0])
        return fate

    return choose


class Line:
    """Lets one request meet a fate: that of a number, counted while the line is on.

    :param at: the request's number, or what it says.
    """

    def __init__(self, fate: Fate, at: int | str) -> None:
        self._fate = fate
        self._at = at
        self._is_on = False
        self._met = False
        self.seen = 0

    def __call__(self, request: bytes) -> Fate:
        if not self._is_on:
            return Fate.PASS
        number, self.seen = self.seen, self.seen + 1
        if isinstance(self._at, int):
            return self._fate if number == self._at else Fate.PASS
        if self._met or self._at.encode() not in request:
            return Fate.PASS
        self._met = True
        return self._fate

    @contextmanager
    def broken(self) -> Iterator[None]:
        self._is_on = True
        yield
        self._is_on = False


def at_random(chance: float) -> Callable[[bytes], Fate]:
    print(f"GREENTIC_SESSION_TEST_SEED={SEED}")  # noqa: T201 - pytest shows it with a failure
    dice = random.Random(SEED)

    def choose(_request: bytes) -> Fate:
        if dice.random() > chance:
            return Fate.PASS
        return dice.choice(BREAKS)

    return choose


BREAKS: Final = (Fate.REFUSE, Fate.LOSE, Fate.CUT)
LOSSES: Final = [fate for fate in Fate if fate not in (Fate.PASS, Fate.LATE, Fate.DELAY)]
