"""Valkey and Redis in containers, by testcontainers. Extra: ``[testing-containers]``.

A container is removed at the end of its ``with`` block. If the process is killed, our reaper
removes the container. If the reaper is killed too, the next run on this machine removes it.
Testcontainers' own reaper is a registry image, and it is not needed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, final
from urllib.parse import urlsplit
from uuid import uuid4

from docker.errors import DockerException, NotFound
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from . import container_reaper
from .engine import ENGINE_ERRORS, docker_engine, has_image, pull
from .image import LOCAL_IMAGE, build_image, is_built
from .servers import ServerNotFoundError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from types import TracebackType

__all__ = ["IMAGE_VARIABLE", "OFFICIAL_IMAGE", "ContainerServer", "find_image", "remove_strays"]

IMAGE_VARIABLE: Final = "GREENTIC_SESSION_TEST_IMAGE"
OFFICIAL_IMAGE: Final = "valkey/valkey:9-alpine"

_LABEL: Final = "greentic-session.test-server"
_RUN: Final = f"{_LABEL}.run"
_HOST: Final = f"{_LABEL}.host"
_PID: Final = f"{_LABEL}.pid"
_STARTED: Final = f"{_LABEL}.started"

_PORT: Final = 6379
# The entry points of the official images of Valkey and Redis accept it, and so does our own.
_COMMAND: Final = ["--save", "", "--appendonly", "no", "--protected-mode", "no"]
_UNASKED_PULL_SECS: Final = 30.0
_ASKED_PULL_SECS: Final = 300.0
_START_SECS: Final = 20.0
_PUBLISH_SECS: Final = 2.0
_STOP_SECS: Final = 10.0
_LOOPBACK: Final = "127.0.0.1"


def find_image(official: str = OFFICIAL_IMAGE) -> str:
    """Return an image for the tests that the engine has.

    The order of preference:

    * The image that ``GREENTIC_SESSION_TEST_IMAGE`` names, and no other.
    * A local image: the official one, or the one that ``scripts/test-image`` builds.
    * The official image, if it can be pulled within half a minute.
    * The image of ``scripts/test-image``, built now.

    :param official: the image to prefer if none is named.
    :raises ServerNotFoundError: if no engine answers, or no image is available.
    :raises RuntimeError: if the named image is not available.
    """
    named = os.environ.get(IMAGE_VARIABLE)
    with docker_engine() as client, _as_not_found():
        if named:
            if not has_image(client, named):
                try:
                    pull(named, timeout=_ASKED_PULL_SECS)
                except ServerNotFoundError as error:
                    raise RuntimeError(f"{IMAGE_VARIABLE}: {error}") from error
            return named
        if has_image(client, official):
            return official
        if is_built(client):
            return LOCAL_IMAGE
        try:
            pull(official, timeout=_UNASKED_PULL_SECS)
        except ServerNotFoundError as unreachable:
            try:
                return build_image(client)
            except ServerNotFoundError as error:
                raise ServerNotFoundError(f"{unreachable}; {error}") from error
        return official


def remove_strays() -> int:
    """Remove the containers of ended processes of this machine, and return their number."""
    removed = 0
    with docker_engine() as client, _as_not_found():
        for found in client.api.containers(all=True, filters={"label": _LABEL}):
            labels: dict[str, str] = found["Labels"]
            if labels.get(_HOST) == _this_host() and not _is_alive(labels):
                # Another run may remove the same container.
                with contextlib.suppress(DockerException):
                    client.api.remove_container(found["Id"], v=True, force=True)
                    removed += 1
    return removed


@final
class ContainerServer:
    """A server in a container. Use with ``with``.

    Nothing is persisted. On a local engine the server is published on 127.0.0.1 only.

    :param image: an image of Valkey or Redis that the engine has, see :func:`find_image`.
    """

    def __init__(self, image: str) -> None:
        self.image: Final = image
        self.url: str = ""
        self._run: Final = uuid4().hex
        self._container: DockerContainer | None = None
        self._reaper: subprocess.Popen[str] | None = None

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
    def container_id(self) -> str:
        """Id of the container at the engine."""
        assert self._container is not None, "the server is not started"
        return self._container.get_container_id()

    def start(self) -> None:
        """Start the container and wait until its server answers.

        :raises ServerNotFoundError: if no engine answers.
        :raises RuntimeError: if the server does not answer within 20 s. The message has the end of
            its log.
        """
        remove_strays()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        # Start the reaper first. If this process is killed, the reaper knows the container.
        self._reaper = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, container_reaper.__file__, f"{_RUN}={self._run}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # not stopped by Ctrl-C in the terminal
        )
        container = DockerContainer(self.image, docker_client_kw={"timeout": _START_SECS})
        self._container = container
        container.image = self.image  # without the prefix that testcontainers adds to names
        container.with_command(_COMMAND).with_kwargs(labels=self._labels())
        ports: dict[str, Any] = container.ports  # Any: the SDK also accepts addresses
        ports[f"{_PORT}/tcp"] = (_LOOPBACK, None) if _is_local(container) else None
        try:
            with _without_reaper():
                container.start()
        except ENGINE_ERRORS as error:
            raise RuntimeError(f"no container of {self.image} can be started: {error}") from error
        self.url = self._reached(container)

    def stop(self) -> None:
        """Remove the container. Repeated calls do nothing.

        :raises RuntimeError: if the engine refuses. The reaper has then tried as well.
        """
        container, self._container = self._container, None
        guard, self._reaper = self._reaper, None
        refusal: Exception | None = None
        if container is not None:
            try:
                container.stop()
            except NotFound:
                pass  # already removed
            except ENGINE_ERRORS as error:
                refusal = error
            finally:
                container.get_docker_client().client.close()
        if guard is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                guard.communicate("" if refusal else "done\n", timeout=_STOP_SECS)
            if guard.poll() is None:
                guard.kill()
                guard.wait(_STOP_SECS)
        if refusal is not None:
            raise RuntimeError(f"the container cannot be removed: {refusal}") from refusal

    def _labels(self) -> dict[str, str]:
        return {
            _LABEL: "valkey",
            _RUN: self._run,
            _HOST: _this_host(),
            _PID: str(os.getpid()),
            _STARTED: _started_at(os.getpid()),
        }

    def _reached(self, container: DockerContainer) -> str:
        """Wait until the server answers, and return its URL."""
        ends_at = time.monotonic() + _START_SECS
        settles_at = ends_at
        while time.monotonic() < ends_at:
            details: dict[str, Any] = _details(container)
            for rank, (host, port) in enumerate(_addresses(container, details)):
                if _answers(host, port):
                    if rank == 0 or time.monotonic() > settles_at:
                        return f"redis://{host}:{port}"
                    # The server is up. Its published port works by now or never will.
                    settles_at = min(settles_at, time.monotonic() + _PUBLISH_SECS)
            if details["State"]["Status"] in ("exited", "dead"):
                break
            time.sleep(0.01)  # the server does not announce its start, so poll
        log = b"".join(container.get_logs()).decode(errors="replace")[-2000:]
        raise RuntimeError(f"no answer from a container of {self.image}, with the log:\n{log}")


@contextmanager
def _as_not_found() -> Generator[None]:
    """Report an engine that fails at a simple query as not found."""
    try:
        yield
    except ENGINE_ERRORS as error:
        raise ServerNotFoundError(f"the Docker engine fails: {error}") from error


@contextmanager
def _without_reaper() -> Generator[None]:
    """Keep testcontainers from pulling its reaper, without a change for other containers."""
    before = testcontainers_config.ryuk_disabled
    testcontainers_config.ryuk_disabled = True
    try:
        yield
    finally:
        testcontainers_config.ryuk_disabled = before


def _is_local(container: DockerContainer) -> bool:
    """Return whether the engine publishes ports on this machine's loopback."""
    engine = urlsplit(container.get_docker_client().client.api.base_url)
    by_socket = engine.scheme == "http+docker" and engine.netloc != "ssh"
    elsewhere = testcontainers_config.tc_host_override is not None
    return not elsewhere and (by_socket or engine.hostname in ("localhost", _LOOPBACK))


def _details(container: DockerContainer) -> dict[str, Any]:
    wrapped: Any = container.get_wrapped_container()
    wrapped.reload()
    return dict(wrapped.attrs)


def _addresses(container: DockerContainer, details: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the server's addresses: the published port, then the container's own address.

    The second one is for tests that run in a container on the same network.
    """
    host = _LOOPBACK if _is_local(container) else container.get_container_host_ip()
    networks = details["NetworkSettings"]
    for published in networks["Ports"].get(f"{_PORT}/tcp") or ():
        yield host, int(published["HostPort"])
    for network in networks["Networks"].values():
        if network["IPAddress"]:
            yield network["IPAddress"], _PORT


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1.0) as client:
            client.sendall(b"PING\r\n")
            return client.recv(64).startswith(b"+PONG")
    except OSError:
        return False


def _this_host() -> str:
    """Return an id of this machine and its process-id namespace."""
    try:
        world = Path("/proc/self/ns/pid").readlink().name
    except OSError:
        world = ""
    return f"{socket.gethostname()} {world}".strip()


def _started_at(pid: int) -> str:
    """Return an id of a process that no later process with the same pid has.

    :returns: boot id and start time in ticks, from :manpage:`proc(5)`. ``?`` if there is no /proc,
        and ``""`` if there is no such process.
    """
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
        except PermissionError:
            pass  # alive, with another owner
        return "?"
    try:
        # The command's name may contain any character, but ends at the last parenthesis.
        after_name = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
    except OSError:
        return ""
    return f"{boot} {after_name.split()[19]}"


def _is_alive(labels: dict[str, str]) -> bool:
    pid = labels.get(_PID, "")
    return pid.isdigit() and _started_at(int(pid)) == labels.get(_STARTED)
