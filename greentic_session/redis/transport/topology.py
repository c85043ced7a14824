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
"""The errors of the driver and of sockets. ``TimeoutError`` is an ``OSError``."""
_CLOSE_SECS: Final = 1.0
"""How long closing waits for the sockets. They close within a few ticks of the loop."""
_DISCOVERY_PAUSE_SECS: Final = 0.1
_MAX_DISCOVERIES: Final = 100
_MIN_DISCOVERY_SECS: Final = 1.0


class Topology(ABC):
    """Selects the servers of a store, within one event loop."""

    @abstractmethod
    def server_of(self, key: str | None) -> Server | None:
        """Return the server of a key, ``None`` if it has to be looked up.

        :param key: the key. ``None`` selects any server.
        """

    @abstractmethod
    async def locate(self, key: str | None, give_up_at: float) -> Server:
        """Look up the server of a key.

        :param key: as in :meth:`server_of`.
        :param give_up_at: the end of the lookup, on the loop's clock.
        :raises TimeoutError: at that time.
        :raises OSError: no server of the topology knows.
        """

    @abstractmethod
    async def refresh(self, give_up_at: float) -> None:
        """Update the known servers, if a server of the topology answers.

        :param give_up_at: the end of the update, on the loop's clock.
        :raises TimeoutError: at that time.
        """

    @abstractmethod
    def report_failure(self, server: Server, failure: Failure) -> None:
        """Report a failure of a server. This may start a discovery of its successor."""

    @abstractmethod
    def server_at(self, host: str, port: int, *, reported_by: Server) -> Server:
        """Return the server at an address that another server reported."""

    @property
    @abstractmethod
    def servers(self) -> Sequence[Server]:
        """The known servers that hold sessions."""

    @property
    @abstractmethod
    def version(self) -> int:
        """A number that changes when keys may have moved to another server."""

    @abstractmethod
    def close(self) -> list[asyncio.Future[None]]:
        """Close every connection, and return the futures of their ends."""

    def discard(self) -> None:
        """Close every connection after their loop was closed."""
        for server in self.servers:
            server.discard()


class ScanPosition(NamedTuple):
    """The position of a scan's next page.

    :ivar version: the topology's version when the scan started.
    :ivar starts: how often the scan has started.
    :ivar ahead: the servers that are not finished. The first one is in progress.
    :ivar cursor: the cursor on the first server.
    """

    version: int
    starts: int
    ahead: tuple[Server, ...]
    cursor: bytes | int


@final
class Standalone(Topology):
    """One server at one address.

    :param config: the checked configuration.
    :param host: the process of the server, if the store starts the server itself.
    """

    def __init__(self, config: RedisConfig, host: ServerProcess | None = None) -> None:
        self._server: Final = Server(config, None, host=host)

    @override
    def server_of(self, key: str | None) -> Server:
        """Return the only server."""
        return self._server

    @override
    async def locate(self, key: str | None, give_up_at: float) -> Server:
        """Return the only server."""
        return self._server

    @override
    async def refresh(self, give_up_at: float) -> None:
        """Do nothing, because there is no other server."""

    @override
    def report_failure(self, server: Server, failure: Failure) -> None:
        """Reconnect if the server became a replica, because its name may have a new address."""
        if failure.code_word == "READONLY":
            server.reconnect()

    @override
    def server_at(self, host: str, port: int, *, reported_by: Server) -> Server:
        """Return the only server. To follow redirections, a store needs the URL of a cluster."""
        return self._server

    @property
    @override
    def servers(self) -> Sequence[Server]:
        """The only server."""
        return (self._server,)

    @property
    @override
    def version(self) -> int:
        """The number of lost connections.

        A new connection may lead to another server, or to one that was restarted.
        """
        return self._server.losses

    @override
    def close(self) -> list[asyncio.Future[None]]:
        """As :meth:`Topology.close`."""
        return self._server.close()


class DiscoveringTopology(Topology):
    """Discovers its servers, and discovers them again when one of them fails.

    One task runs discoveries for all callers. After a failure it repeats them until the answer
    changes, or until the failed server answers a caller again.

    :param config: the checked configuration.
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
        """Run one discovery, and return whether the servers changed.

        :raises OSError: no server answered, or none knew.
        """

    @override
    async def locate(self, key: str | None, give_up_at: float) -> Server:
        """Wait for a discovery."""
        async with asyncio.timeout_at(give_up_at):
            while (server := self.server_of(key)) is None:
                task = self._start(None, 0)
                await asyncio.wait((task,))  # a cancelled caller leaves the task running
                if self.server_of(key) is None:
                    raise self._why or UnknownServerError("the servers are not known yet")
        return server

    @override
    async def refresh(self, give_up_at: float) -> None:
        """Run another discovery, after the one that may be in progress."""
        asked_at = self._loop.time()
        async with asyncio.timeout_at(give_up_at):
            while self._began_at < asked_at:
                await asyncio.wait((self._start(None, 0),))

    @override
    def report_failure(self, server: Server, failure: Failure) -> None:
        """Discover whether another server has replaced this one."""
        if failure.is_topology_error:
            self._start(server, self._loop.time())
        if failure.code_word == "READONLY":
            server.reconnect()
        elif failure.code_word == "NOREPLICAS":  # it was deposed, or its replicas are unreachable
            self._discover_soon()

    @property
    @override
    def version(self) -> int:
        """The number of changes of the servers, plus the number of lost connections."""
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
        """Discover whether a silent server was replaced, before the callers that wait time out.

        A server whose replicas do not confirm is checked as well, because it may have been deposed.
        """
        self._start(server, self._loop.time())

    def _discover_soon(self) -> None:
        """Run a discovery, at most once a second.

        One still follows the last report of several, so no report is ignored.
        """
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
                suspect.close()  # the callers that wait for its replies retry on another server
                return
            if suspect is None or changed or suspect.answered_at > since:
                return
            await asyncio.sleep(_DISCOVERY_PAUSE_SECS)  # a failover is not announced
            if suspect.answered_at > since:
                return

    def _replace_servers(self, *, old: Sequence[Server], abort: bool) -> None:
        """Disconnect from servers that left the topology.

        :param old: the servers.
        :param abort: whether the callers that wait for their replies fail immediately.
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
    """Close every connection of a topology, even if its loop was closed or another loop runs.

    :param topology: the topology.
    :param loop: the event loop of the topology.
    """
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:  # no loop of asyncio runs
        running = None
    if loop is running:
        if ends := topology.close():
            await asyncio.wait(ends, timeout=_CLOSE_SECS)
    elif loop.is_closed():
        topology.discard()
    else:
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(topology.close)


async def first_answer(asked: Iterable[Coroutine[Any, Any, _T]]) -> _T:
    """Run several coroutines concurrently, return the first result, and cancel the others.

    :param asked: the coroutines.
    :raises OSError: all of them failed. It is the error of the last one.
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
    """Run a step for each item concurrently, and raise the first error without a group."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for each in over:
                tasks.create_task(step(each))
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
