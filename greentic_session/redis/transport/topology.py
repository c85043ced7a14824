"""Topologies: the servers of a store, and the server that a key belongs to."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, final

from redis.exceptions import RedisError

from ..._compat import override
from .failures import UnknownServerError
from .server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from ...config import RedisConfig
    from .failures import Failure
    from .server_process import ServerProcess

__all__ = [
    "FAILURES",
    "DiscoveringTopology",
    "ScanPosition",
    "Standalone",
    "Topology",
    "close_from_any_loop",
    "first_answer",
    "run_concurrently",
]

_T = TypeVar("_T")
FAILURES: Final = (RedisError, OSError, EOFError)
"""What driver and socket raise; ``TimeoutError`` is an ``OSError``."""
_CLOSE_SECS: Final = 1.0
"""How long closing waits for the sockets to be closed, which takes the loop a tick or two."""
_DISCOVERY_PAUSE_SECS: Final = 0.1
_MAX_DISCOVERIES: Final = 100
_MIN_DISCOVERY_SECS: Final = 1.0


class Topology(ABC):
    """The servers that a store speaks to, within one loop."""

    @abstractmethod
    def server_of(self, key: str | None) -> Server | None:
        """Return the server of a name, or any for ``None``; ``None`` if it has to be looked up."""

    @abstractmethod
    async def locate(self, key: str | None, give_up_at: float) -> Server:
        """Look up the server of a name.

        :param give_up_at: on the loop's clock.
        :raises TimeoutError: at that time.
        :raises OSError: nobody knows.
        """

    @abstractmethod
    async def refresh(self, give_up_at: float) -> None:
        """Make sure of what is known, as far as anybody answers.

        :param give_up_at: on the loop's clock.
        """

    @abstractmethod
    def report_failure(self, server: Server, failure: Failure) -> None:
        """Hear what happened at a server: another may have taken its place."""

    @abstractmethod
    def server_at(self, host: str, port: int, *, reported_by: Server) -> Server:
        """Return the server at an address that another server gave."""

    @property
    @abstractmethod
    def servers(self) -> Sequence[Server]:
        """Those that hold sessions, as far as known."""

    @property
    @abstractmethod
    def version(self) -> int:
        """A number that changes when names may have come to be elsewhere."""

    @abstractmethod
    def close(self) -> list[asyncio.Future[None]]:
        """Close every connection; return what ends when they have ended."""

    def discard(self) -> None:
        """Close every connection after their loop was closed."""
        for server in self.servers:
            server.discard()


class ScanPosition(NamedTuple):
    """Where a scan goes on.

    :ivar version: of the topology when it began.
    :ivar starts: how often it began.
    :ivar ahead: servers not yet done, the one under way first.
    :ivar cursor: of that one.
    """

    version: int
    starts: int
    ahead: tuple[Server, ...]
    cursor: bytes | int


@final
class Standalone(Topology):
    """One server at one address.

    :param config: checked configuration.
    :param host: has the server run.
    """

    def __init__(self, config: RedisConfig, host: ServerProcess | None = None) -> None:
        self._server: Final = Server(config, None, host=host)

    @override
    def server_of(self, key: str | None) -> Server:
        """Return the one."""
        return self._server

    @override
    async def locate(self, key: str | None, give_up_at: float) -> Server:
        """Return the one."""
        return self._server

    @override
    async def refresh(self, give_up_at: float) -> None:
        """Do nothing: there is no other."""

    @override
    def report_failure(self, server: Server, failure: Failure) -> None:
        """Connect anew to a server that became a replica: its name may lead to another by now."""
        if failure.code_word == "READONLY":
            server.reconnect()

    @override
    def server_at(self, host: str, port: int, *, reported_by: Server) -> Server:
        """Return the one: a URL of a cluster would lead further."""
        return self._server

    @property
    @override
    def servers(self) -> Sequence[Server]:
        """The one."""
        return (self._server,)

    @property
    @override
    def version(self) -> int:
        """Connections lost: the server behind a new one may be another, or started anew."""
        return self._server.losses

    @override
    def close(self) -> list[asyncio.Future[None]]:
        """As :meth:`Topology.close`."""
        return self._server.close()


class DiscoveringTopology(Topology):
    """Knows its servers by asking; asks again when one of them fails.

    One task asks for everybody. After a failure it goes on asking until the answer is another one,
    or the server that failed has answered a caller again.

    :param config: checked configuration.
    """

    def __init__(self, config: RedisConfig) -> None:
        self._config: Final = config
        self._loop: Final = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._retired: list[Server] = []
        self._version = 0
        self._why: BaseException | None = None
        self._began_at = self._looked_at = 0.0
        self._later: asyncio.TimerHandle | None = None

    @abstractmethod
    async def _discover(self) -> bool:
        """Ask once, and tell whether the answer differs from what was known.

        :raises OSError: nobody answered, or knew.
        """

    @override
    async def locate(self, key: str | None, give_up_at: float) -> Server:
        """Wait for an answer."""
        async with asyncio.timeout_at(give_up_at):
            while (server := self.server_of(key)) is None:
                task = self._start(None, 0)
                await asyncio.wait((task,))  # which a caller's cancellation leaves running
                if self.server_of(key) is None:
                    raise self._why or UnknownServerError("the servers are not known yet")
        return server

    @override
    async def refresh(self, give_up_at: float) -> None:
        """Ask once more, after what may be under way."""
        asked_at = self._loop.time()
        async with asyncio.timeout_at(give_up_at):
            while self._began_at < asked_at:
                await asyncio.wait((self._start(None, 0),))

    @override
    def report_failure(self, server: Server, failure: Failure) -> None:
        """Ask whether another server has taken this one's place."""
        if failure.is_topology_error:
            self._start(server, self._loop.time())
        if failure.code_word == "READONLY":
            server.reconnect()
        elif failure.code_word == "NOREPLICAS":  # it was deposed, or its replicas are away
            self._discover_soon()

    @property
    @override
    def version(self) -> int:
        """Answers that differed, and connections lost."""
        return self._version + sum(server.losses for server in self.servers)

    @override
    def close(self) -> list[asyncio.Future[None]]:
        """As :meth:`Topology.close`."""
        ends = [end for server in (*self.servers, *self._retired) for end in server.close()]
        if self._later is not None:
            self._later.cancel()
        if self._task is not None:
            self._task.cancel()
            ends.append(self._task)
        return ends

    @override
    def discard(self) -> None:
        """As :meth:`Topology.discard`."""
        for server in (*self.servers, *self._retired):
            server.discard()

    def _check_silent(self, server: Server) -> None:
        """Ask about a server that is silent, before the callers that wait for it give up.

        Also about a server whose replicas do not confirm: it may have been deposed.
        """
        self._start(server, self._loop.time())

    def _discover_soon(self) -> None:
        """Ask, but not more often than once a second: also after the last of many reasons to."""
        if self._later is None:
            at = max(self._loop.time(), self._looked_at + _MIN_DISCOVERY_SECS)
            self._later = self._loop.call_at(at, self._discover_now)

    def _discover_now(self) -> None:
        self._later = None
        self._start(None, 0)

    def _start(self, suspect: Server | None, since: float) -> asyncio.Task[None]:
        task = self._task
        if task is None or task.done():
            self._task = task = self._loop.create_task(
                self._discover_until_changed(suspect, since), name="greentic_session topology"
            )
        return task

    async def _discover_until_changed(self, suspect: Server | None, since: float) -> None:
        self._retired = [server for server in self._retired if server.connections]
        for _ in range(_MAX_DISCOVERIES):
            changed = False
            self._why = None
            began_at = self._loop.time()
            try:
                changed = await self._discover()
            except Exception as error:  # noqa: BLE001 - callers raise it, a programming error too
                self._why = error
            self._looked_at, self._began_at = self._loop.time(), began_at
            if suspect is not None and suspect not in self.servers:
                suspect.close()  # whoever waits for its answers asks another
                return
            if suspect is None or changed or suspect.answered_at > since:
                return
            await asyncio.sleep(_DISCOVERY_PAUSE_SECS)  # a failover is not announced
            if suspect.answered_at > since:
                return

    def _replace_servers(self, *, old: Sequence[Server], abort: bool) -> None:
        """Part with servers.

        :param abort: whether callers who wait for their answers are told at once that none comes.
        """
        self._version += 1 + sum(server.losses for server in old)
        self._retired = [server for server in self._retired if server.connections]
        for server in old:
            if abort:
                server.close()
            else:
                server.drain()
            self._retired.append(server)


async def close_from_any_loop(topology: Topology, loop: asyncio.AbstractEventLoop) -> None:
    """Close every connection of a topology, also after its loop was closed or while another runs.

    :param loop: that of the topology.
    """
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:  # not one of asyncio
        running = None
    if loop is running:
        if ends := topology.close():
            await asyncio.wait(ends, timeout=_CLOSE_SECS)
    elif loop.is_closed():
        topology.discard()
    else:
        with suppress(RuntimeError):  # it was closed meanwhile
            loop.call_soon_threadsafe(topology.close)


async def first_answer(asked: Iterable[Coroutine[Any, Any, _T]]) -> _T:
    """Ask several at once, take the first answer, and leave the others alone.

    :raises OSError: none answered, with what the last one failed by.
    """
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(one) for one in asked]
    failure: BaseException | None = None
    try:
        for done in asyncio.as_completed(tasks):
            try:
                return await done
            except FAILURES as error:
                failure = error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    raise failure or UnknownServerError("there is no server to ask")


async def run_concurrently(
    step: Callable[[_T], Coroutine[Any, Any, None]], over: Iterable[_T]
) -> None:
    """Take a step for each, and raise the first error as it is."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for each in over:
                tasks.create_task(step(each))
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
