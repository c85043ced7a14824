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
    """A server process of one's own, on a unix socket and, if asked, a port of loopback.

    Use with ``with``. The folder goes with the server; what is in it outlives :meth:`kill`.

    :param binary: ``valkey-server`` or ``redis-server``.
    :param options: further command-line options, e.g. ``("--maxmemory", "50mb")``.
    :param tcp: whether to listen on a free port of 127.0.0.1 as well.
    :param durable: whether each write is in an append-only file before it is acknowledged, so
        that a server which was killed and started again has it. Otherwise nothing is persisted.
    :param config: text of a configuration file, which Sentinel cannot do without; ``None`` has
        none.
    :ivar port: the port of 127.0.0.1, the same after a restart; set it before the start to have
        a certain one.
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
        """Where socket and log are."""
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
        """Whether there is a process, be it paused."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it answers.

        :raises RuntimeError: with the end of its log, if it does not within 20 s.
        """
        for draw in range(1, _DRAWS + 1):
            self.launch()
            ends_at = time.monotonic() + _START_SECS
            while not self._answers():
                if not self.is_running or time.monotonic() > ends_at:
                    break
                time.sleep(0.01)  # a server that has come up tells nobody: it has to be asked again
            else:
                return
            tail, has_claim = self.log_tail(), self._claim is not None
            self.stop()
            # Somebody who makes no claims was faster: try elsewhere.
            if draw == _DRAWS or not has_claim or _CLASH not in tail:
                raise RuntimeError(f"{self._binary.name} did not start:\n{tail}")

    def launch(self) -> None:
        """Start the process, and do not wait for it to answer."""
        if self._folder is None:
            # Not below the test runner's folder: a socket's path is limited to about 100 bytes.
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
        """Stop the process with SIGSTOP: it keeps its connections and answers nobody."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Kill the process and start it again at the same place.

        :raises RuntimeError: as :meth:`start`.
        """
        self.kill()
        self.start()

    def kill(self) -> None:
        """End the process with SIGKILL; :meth:`start` starts it again at the same place."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_STOP_SECS)
            self._process = None

    def stop(self) -> None:
        """End the process and remove its folder. Stopping twice is fine."""
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
