"""Real servers for tests: started on a unix socket in a folder of their own, stopped by pid."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, final

from ..embedded.binary import ServerNotFoundError, valkey_binary
from .ports import PortClaim

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["LocalServer", "ServerNotFoundError", "redis_binary", "valkey_binary"]

_START_SECS: Final = 20.0
_DRAWS: Final = 3
_CLASH: Final = "Address already in use"
_STOP_SECS: Final = 10.0


def redis_binary() -> Path:
    """Return the ``redis-server`` on PATH.

    :raises ServerNotFoundError: if there is none.
    """
    found = shutil.which("redis-server")
    if found is None:
        raise ServerNotFoundError("no redis-server on PATH")
    return Path(found)


@final
class LocalServer:
    """A server process on a unix socket and, optionally, on a loopback port.

    Use with ``with``. The end of the block removes the server's folder. Its files survive
    :meth:`kill`.

    :param binary: ``valkey-server`` or ``redis-server``.
    :param options: further command-line options, e.g. ``("--maxmemory", "50mb")``.
    :param tcp: whether to listen on a free port of 127.0.0.1 as well.
    :param durable: whether each write is in an append-only file before it is acknowledged. A killed
        server then has all acknowledged writes after a restart. Otherwise nothing is persisted.
    :param config: text of a configuration file, which Sentinel requires. ``None`` means no file.
    :ivar port: port on 127.0.0.1. A restart keeps it. Set it before the start to choose it.
    """

    def __init__(
        self,
        binary: Path,
        options: tuple[str, ...] = (),
        *,
        tcp: bool = False,
        durable: bool = False,
        config: str | None = None,
    ) -> None:
        self._binary: Final = binary
        self._options: Final = options
        self._tcp: Final = tcp
        self._durable: Final = durable
        self._config: Final = config
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._claim: PortClaim | None = None
        self.port: int = 0

    @property
    def folder(self) -> Path:
        """Folder of the socket and the log."""
        assert self._folder is not None, "the server is not started"
        return Path(self._folder.name)

    @property
    def url(self) -> str:
        """URL of the unix socket."""
        return f"unix://{self.folder}/server.sock"

    @property
    def tcp_url(self) -> str:
        """URL of the port."""
        assert self.port, "the server does not listen on TCP"
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Process id, for signals."""
        assert self._process is not None, "the server is not started"
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        """Whether the process exists. It may be paused."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it answers.

        :raises RuntimeError: if it does not answer within 20 s. The message has the end of its log.
        """
        for draw in range(1, _DRAWS + 1):
            self.launch()
            ends_at = time.monotonic() + _START_SECS
            while not self._answers():
                if not self.is_running or time.monotonic() > ends_at:
                    break
                time.sleep(0.01)  # the server does not announce its start, so poll
            else:
                return
            tail, has_claim = self.log_tail(), self._claim is not None
            self.stop()
            # Another process took the port first. Try another one.
            if draw == _DRAWS or not has_claim or _CLASH not in tail:
                raise RuntimeError(f"{self._binary.name} did not start:\n{tail}")

    def launch(self) -> None:
        """Start the process without waiting for an answer."""
        if self._folder is None:
            # Not in the test runner's folder, because a socket's path is limited to about 100
            # bytes.
            self._folder = tempfile.TemporaryDirectory(prefix="gsrv-", dir=_short_folder())
            if self._config is not None:
                (self.folder / "server.conf").write_text(self._config, "utf-8")
        if self._tcp and not self.port:
            self._claim = PortClaim()
            self.port = self._claim.port
        config = () if self._config is None else (str(self.folder / "server.conf"),)
        arguments = [
            *(str(self._binary), *config, "--port", str(self.port), "--bind", "127.0.0.1"),
            *("--unixsocket", str(self.folder / "server.sock"), "--unixsocketperm", "700"),
            *("--dir", str(self.folder), "--save", ""),
            *("--appendonly", "yes" if self._durable else "no", "--appendfsync", "always"),
            *("--logfile", str(self.folder / "server.log"), "--daemonize", "no", *self._options),
        ]
        self._process = subprocess.Popen(  # noqa: S603 - a binary the caller chose
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        )

    def log_tail(self) -> str:
        """Return the end of the server's log."""
        log = self.folder / "server.log"
        return log.read_text(errors="replace")[-2000:] if log.exists() else "no log"

    def pause(self) -> None:
        """Stop the process with SIGSTOP. It keeps its connections and does not answer."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Continue a paused process."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Kill the process and start it again on the same socket and port.

        :raises RuntimeError: as for :meth:`start`.
        """
        self.kill()
        self.start()

    def kill(self) -> None:
        """Kill the process with SIGKILL. :meth:`start` starts it again, on the same socket."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_STOP_SECS)
            self._process = None

    def stop(self) -> None:
        """End the process and remove its folder. Repeated calls do nothing."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(_STOP_SECS)
            self._process = None
        if self._claim is not None:
            self._claim.release()
            self._claim, self.port = None, 0
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(1.0)
                client.connect(str(self.folder / "server.sock"))
                client.sendall(b"PING\r\n")
                return client.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


def _short_folder() -> str | None:
    return "/tmp" if Path("/tmp").is_dir() else None  # noqa: S108 - a fresh folder is made inside
