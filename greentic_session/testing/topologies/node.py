"""One server process of a rig."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, final

from ..ports import PortClaim
from ..servers import LocalServer
from .link import Argument, RefusedError, Reply, ask

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable
    from pathlib import Path
    from types import TracebackType

__all__ = ["Node", "Rig", "at_once", "until"]

T = TypeVar("T")

_START_SECS: Final = 20.0
_ANSWER_SECS: Final = 0.5
_STARTS: Final = 5
_ASK_AGAIN_SECS: Final = 0.02
_CLASHES: Final = ("Address already in use", "Failed listening on")


@final
class Node:
    """A server process on a loopback port, which the node keeps for its lifetime.

    :param binary: ``valkey-server`` or ``redis-server``.
    :param options: command-line options.
    :param durable: as for :class:`LocalServer`.
    :param config: as for :class:`LocalServer`.
    """

    def __init__(
        self,
        binary: Path,
        options: tuple[str, ...] = (),
        *,
        durable: bool = False,
        config: str | None = None,
    ) -> None:
        self._make: Final[Callable[[], LocalServer]] = lambda: LocalServer(
            binary, options, tcp=True, durable=durable, config=config
        )
        self._server: LocalServer | None = None
        self._claim: PortClaim | None = None
        self.is_paused: bool = False

    @property
    def server(self) -> LocalServer:
        """The process."""
        assert self._server is not None, "the node is not started"
        return self._server

    @property
    def port(self) -> int:
        """Port on 127.0.0.1."""
        return self.server.port

    @property
    def address(self) -> str:
        """``127.0.0.1:port``."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Process id, for signals."""
        return self.server.pid

    @property
    def is_live(self) -> bool:
        """Whether the process runs and is not paused."""
        return self._server is not None and self._server.is_running and not self.is_paused

    def __repr__(self) -> str:
        """Return port and state."""
        if self._server is None:
            return "Node(not started)"
        running = "paused" if self.is_paused else "running"
        return f"Node({self.address}, {running if self.server.is_running else 'not running'})"

    async def start(self) -> None:
        """Start the process and wait until it answers. A restart uses the same port and folder.

        :raises RuntimeError: if it does not answer within 20 s. The message has the end of its log.
        """
        if self._server is not None:
            await self._start(self._server)
            return
        for attempt in range(1, _STARTS + 1):
            self._claim = PortClaim()
            self._server = self._make()
            self._server.port = self._claim.port
            try:
                await self._start(self._server)
            except BaseException as error:
                text = str(error)
                self.stop()
                # Another process took the port first. Try another one.
                if attempt == _STARTS or not any(clash in text for clash in _CLASHES):
                    raise
            else:
                return

    async def ask(self, *command: Argument, secs: float = 5.0) -> Reply:
        """Send one command and return the reply.

        :param secs: limit in seconds.
        :raises RefusedError: if the reply is an error.
        :raises OSError: if there is no reply in time (``TimeoutError``), or no server.
        """
        return await ask(self.port, *command, secs=secs)

    async def info(self, section: str) -> dict[str, str]:
        """Return a section of INFO.

        :raises OSError: as for :meth:`ask`.
        """
        text: bytes = await self.ask("INFO", section)
        lines = text.decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def kill(self) -> None:
        """Kill the process with SIGKILL. :meth:`start` starts it again, on the same port."""
        self.server.kill()
        self.is_paused = False

    def pause(self) -> None:
        """Stop the process with SIGSTOP. It keeps its connections and does not answer."""
        self.server.pause()
        self.is_paused = True

    def resume(self) -> None:
        """Continue a paused process."""
        self.server.resume()
        self.is_paused = False

    def stop(self) -> None:
        """End the process and remove its folder. Repeated calls do nothing."""
        server, self._server = self._server, None
        if server is not None:
            # SIGTERM would not end a paused process, and a master waits for its replicas first.
            server.kill()
            server.stop()
        if self._claim is not None:
            self._claim.release()
            self._claim = None
        self.is_paused = False

    async def _start(self, server: LocalServer) -> None:
        server.launch()

        async def answers() -> bool:
            if not server.is_running:
                raise RuntimeError(f"the server did not start:\n{server.log_tail()}")
            try:
                # After a port clash, another process answers on that port.
                told: bytes = await ask(server.port, "INFO", "server", secs=_ANSWER_SECS)
                # A server that loads its append-only file answers INFO but not PING.
                await ask(server.port, "PING", secs=_ANSWER_SECS)
            except (RefusedError, OSError):
                return False
            return b"process_id:%d\r\n" % server.pid in told

        await until(answers, secs=_START_SECS, why=server.log_tail)


class Rig:
    """Nodes that start together and end together.

    :ivar nodes: every server that keeps sessions, in creation order.
    """

    def __init__(self) -> None:
        self.nodes: tuple[Node, ...] = ()

    @property
    def live(self) -> tuple[Node, ...]:
        """The nodes that run and are not paused."""
        return tuple(node for node in self.nodes if node.is_live)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.callback(self._stop)
            await self._form()
            stack.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    async def kill(self, node: Node) -> None:
        """Kill a node's process with SIGKILL."""
        node.kill()

    async def restart(self, node: Node) -> None:
        """Start a node again on its port and in its folder. Kill it first if it runs.

        :raises RuntimeError: as for :meth:`Node.start`.
        """
        node.kill()
        await node.start()

    def pause(self, node: Node) -> None:
        """Stop a node's process with SIGSTOP."""
        node.pause()

    def resume(self, node: Node) -> None:
        """Continue a paused node."""
        node.resume()

    def _everything(self) -> Iterable[Node]:
        return self.nodes

    def _stop(self) -> None:
        for node in self._everything():
            node.stop()

    async def _form(self) -> None:
        await at_once(node.start() for node in self._everything())


async def at_once(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await coroutines together. The first failure cancels the rest and is raised unchanged."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


async def until(
    condition: Callable[[], Awaitable[bool]], *, secs: float, why: Callable[[], str] = str
) -> None:
    """Poll servers until a condition holds.

    :param secs: limit in seconds, generous because the machine may be busy.
    :param why: returns the reason why the condition does not hold.
    :raises RuntimeError: with that reason, after the limit.
    """
    try:
        async with asyncio.timeout(secs):
            while not await condition():  # noqa: ASYNC110 - servers do not notify
                await asyncio.sleep(_ASK_AGAIN_SECS)
    except TimeoutError:
        raise RuntimeError(f"not met within {secs} s: {why() or condition.__qualname__}") from None
