"""The part of an embedded server in one store: starts the supervisor, and shares the folder."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import subprocess
import sys
import threading
import weakref
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from .._compat import override
from ..errors import StoreUnavailableError
from ..redis.transport.failures import UnknownServerError
from ..redis.transport.server_process import ServerProcess
from .binary import ServerNotFoundError, valkey_binary
from .folder import SERVER, SUPERVISOR, USERS, Folder, FolderError, locked, short_link, socket_path

if TYPE_CHECKING:
    from collections.abc import Generator

    from ..config import EmbeddedConfig

__all__ = ["EmbeddedServer"]

_LOOK_AGAIN_SECS: Final = 0.005
_LEAVE_SECS: Final = 20.0
_MOST_LAUNCHES: Final = 2
"""Limit on supervisors started in a row. One that ends while needed could not run its server."""
_SUPERVISOR: Final = Path(__file__).with_name("supervisor.py")
_NOT_STARTED: Final = "the embedded server does not start: see server.log in its folder"
_LATE: Final = "the embedded server was not ready in time"


@final
class EmbeddedServer(ServerProcess):
    """Keeps the server of a folder running while this process uses it.

    :param config: checked configuration.
    :raises ServerNotFoundError: this machine has no server to run.
    """

    def __init__(self, config: EmbeddedConfig) -> None:
        if not sys.executable:
            raise ServerNotFoundError("the path of the Python interpreter is not known")
        self._path: Final = config.path
        self._socket: Final = socket_path(config.path)
        self._start_secs: Final = config.start_secs
        self._server: Final = [str(valkey_binary()), *_options(config.fsync)]
        # All open lock files. A forked process shares them, and the locks with them.
        self._held: Final[set[int]] = set()
        self._users: int | None = None
        self._launched: subprocess.Popen[bytes] | None = None
        self._launches = 0
        _HOSTS.add(self)
        weakref.finalize(self, _free_all, self._held).atexit = False

    @override
    async def start(self) -> None:
        """As :meth:`ServerProcess.start`. The server has loaded its file when this returns."""
        is_up = False
        self._launches = 0
        try:
            async with asyncio.timeout(self._start_secs):
                await self.ensure_running()
                while not await self._answers():
                    await asyncio.sleep(_LOOK_AGAIN_SECS)
                    await self.ensure_running()
            is_up = True
        except TimeoutError:
            raise StoreUnavailableError(_LATE, code="timeout") from None
        except UnknownServerError as error:
            raise StoreUnavailableError(error.reason) from None
        except OSError as error:
            reason = os.strerror(error.errno or errno.EIO)
            raise StoreUnavailableError(f"{_NOT_STARTED}: {reason}") from None
        finally:
            if not is_up:  # the store is not entered, so no aclose follows
                self.release_locks()
                if self._launched is not None:
                    self._launched.wait(_LEAVE_SECS)  # the time that an interpreter takes to start

    @override
    async def ensure_running(self) -> None:
        """As :meth:`ServerProcess.ensure_running`."""
        try:
            while not self._is_up():  # noqa: ASYNC110 - locks and sockets can only be polled
                await asyncio.sleep(_LOOK_AGAIN_SECS)
        except FolderError as error:
            raise UnknownServerError(error.of(self._path)) from None

    @override
    async def aclose(self) -> None:
        """Release the folder. The last process returns when server and supervisor have ended."""
        if self._users is None:
            return
        with suppress(OSError, FolderError):
            self._ensure_supervisor_for_shutdown()
        self.release_locks()
        with suppress(TimeoutError, OSError, FolderError):
            async with asyncio.timeout(_LEAVE_SECS):
                while self._is_waited_for():  # noqa: ASYNC110 - as above
                    await asyncio.sleep(_LOOK_AGAIN_SECS)

    def release_locks(self) -> None:
        """Release all locks. In a forked process, the locks of its parent stay."""
        self._users = None
        _free_all(self._held)

    def _is_up(self) -> bool:
        """Share the folder, ensure a supervisor, and return whether its server listens."""
        if self._launched is not None and self._launched.poll() is not None:
            self._launched = None
        folder = Folder(self._path)
        try:
            if not self._join(folder):
                return False  # the supervisor is about to end
            self._ensure_supervisor(folder)
        finally:
            folder.close()
        return self._listens()

    def _join(self, folder: Folder) -> bool:
        if self._users is not None:
            with suppress(FileNotFoundError):
                there = os.stat(USERS, dir_fd=folder.fd)
                if os.path.samestat(there, os.fstat(self._users)):
                    return True
            self.release_locks()  # the folder was removed and created again
        users = self._opened(folder, USERS)
        if not locked(users, fcntl.LOCK_SH):
            self._let_go(users)
            return False
        self._users = users
        return True

    def _ensure_supervisor(self, folder: Folder) -> None:
        lock = self._opened(folder, SUPERVISOR)
        try:
            if locked(lock, fcntl.LOCK_EX):  # no supervisor runs, and the new one inherits the lock
                self._launch(folder, lock)
        finally:
            self._let_go(lock)

    def _ensure_supervisor_for_shutdown(self) -> None:
        """Ensure a supervisor that ends the server, if the earlier one was killed before that."""
        if self._listens():
            folder = Folder(self._path)
            try:
                self._ensure_supervisor(folder)
            finally:
                folder.close()

    def _launch(self, folder: Folder, lock: int) -> None:
        if self._launches == _MOST_LAUNCHES:
            self._launches = 0  # the cause may be gone by the next call
            raise UnknownServerError(_NOT_STARTED)
        self._launches += 1
        link = short_link(self._path) if self._socket.startswith(short_link(self._path)) else ""
        try:
            self._launched = subprocess.Popen(  # noqa: S603 - our own command
                [
                    *(sys.executable, "-I", "-S", str(_SUPERVISOR)),
                    *(str(folder.fd), str(lock), link, *self._server),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(folder.fd, lock),
                start_new_session=True,  # it must not get signals of our terminal
            )
        except OSError:
            raise UnknownServerError(_NOT_STARTED) from None

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            try:
                client.connect(self._socket)
            except BlockingIOError:
                return True  # its queue of new connections is full
            except OSError:
                return False
        return True

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_unix_connection(self._socket)
            try:
                writer.write(b"PING\r\n")
                return (await reader.readline()).startswith(b"+PONG")
            finally:
                writer.close()
                await writer.wait_closed()
        except OSError:
            return False

    def _is_waited_for(self) -> bool:
        """Return whether no process uses the folder, and its supervisor has not ended yet."""
        if self._launched is not None and self._launched.poll() is None:
            return True
        self._launched = None
        with _file(self._path, USERS) as users:
            if not locked(users, fcntl.LOCK_SH):
                return True  # the supervisor is ending
            if not locked(users, fcntl.LOCK_EX):
                return False  # other processes use the folder
        for name in (SUPERVISOR, SERVER):
            with _file(self._path, name) as lock:
                if not locked(lock, fcntl.LOCK_SH):
                    return True
        return False

    def _opened(self, folder: Folder, name: str) -> int:
        with _FORKING:  # a child that is forked in between would miss the new descriptor
            fd = folder.open(name)
            self._held.add(fd)
        return fd

    def _let_go(self, fd: int) -> None:
        if fd in self._held:  # a forked process has closed it before
            self._held.discard(fd)
            os.close(fd)


_FORKING: Final = threading.RLock()
_HOSTS: Final[weakref.WeakSet[EmbeddedServer]] = weakref.WeakSet()


def _after_in_child() -> None:
    _FORKING.release()
    for host in (*_HOSTS,):
        host.release_locks()


os.register_at_fork(
    before=_FORKING.acquire, after_in_parent=_FORKING.release, after_in_child=_after_in_child
)


def _free_all(held: set[int]) -> None:
    while held:
        os.close(held.pop())


@contextmanager
def _file(path: str, name: str) -> Generator[int]:
    fd = os.open(f"{path}/{name}", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _options(fsync: str) -> list[str]:
    return [
        *("--port", "0", "--unixsocket", "server.sock", "--unixsocketperm", "700"),
        *("--dir", ".", "--save", "", "--appendonly", "yes", "--appendfsync", fsync),
        *("--maxmemory", "0", "--maxmemory-policy", "noeviction", "--databases", "1"),
        *("--logfile", "server.log", "--daemonize", "no", "--supervised", "no"),
        # The server does not start if the environment names a locale that this machine lacks.
        *("--locale-collate", "C"),
    ]
