"""Folders, processes and a harness for the tests of embedded stores."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
import pytest

from greentic_session import (
    CodecFactory,
    EmbeddedConfig,
    JsonCodec,
    SessionKey,
    TenantCtx,
    create_session_store,
)
from greentic_session.config import DEFAULT_MAX_PAYLOAD_BYTES
from greentic_session.config.backends import config_from_url
from greentic_session.embedded.folder import socket_path
from greentic_session.testing.harness import RedisHarness

from .redis import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from greentic_session import AsyncSessionStore
    from greentic_session._core.evolution import Upgrades
    from greentic_session.config.backends import OnUnknown

CTX: Final = TenantCtx(tenant_id="acme")
KEY: Final = SessionKey("conversation")
ROOT: Final = Path(__file__).parents[2]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that does not exist yet, with a path short enough for a socket."""
    # Not in the test runner's folder, because a socket's path is limited to about 100 bytes.
    with tempfile.TemporaryDirectory(prefix="gemb-", dir="/tmp") as parent:
        yield Path(parent) / "state"
        # After workers were killed, the server is still about to stop.
        wait_ends_at = time.monotonic() + 10
        locks = [*Path(parent).rglob("*.lock")]
        while any(map(is_locked, locks)) and time.monotonic() < wait_ends_at:
            time.sleep(0.005)  # a lock gives no notification


def is_locked(path: Path, how: int = fcntl.LOCK_EX) -> bool:
    with path.open("rb") as lock:
        try:
            fcntl.flock(lock, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def url_of(folder: Path, **options: object) -> str:
    given = {"deadline": 20, **options}
    return f"embedded://{folder}?" + "&".join(f"{name}={value}" for name, value in given.items())


def store_in(folder: Path, **options: object) -> AsyncSessionStore[Any]:
    return create_session_store(url_of(folder, **options))


def server_of(folder: Path) -> int:
    """Return the pid of the folder's server, as the server reports it."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(socket_path(str(folder)))
        client.sendall(b"INFO server\r\n")
        told = b""
        while b"process_id:" not in told or not told.endswith(b"\r\n"):
            told += client.recv(4096)
    return int(told.partition(b"process_id:")[2].split()[0])


def ps(pid: int, field: str) -> str:
    done = subprocess.run(
        ["ps", "-ww", "-o", f"{field}=", "-p", str(pid)],
        check=False,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def is_gone(pid: int) -> bool:
    # An ended process that is not yet reaped counts as gone.
    return ps(pid, "stat")[:1] in ("", "Z")


def supervisor_of(server: int) -> int:
    supervisor = int(ps(server, "ppid"))
    assert "supervisor.py" in ps(supervisor, "args")
    return supervisor


async def until_gone(*pids: int) -> None:
    await until(lambda: all(is_gone(pid) for pid in pids))


class Worker:
    """Another process that uses a folder."""

    def __init__(self, url: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.support.embedded_worker", url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def heard(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    async def ask(self, command: str) -> str:
        self.tell(command)
        return await asyncio.to_thread(self.heard)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


class EmbeddedHarness(AsyncExitStack):
    """Harness of embedded stores. It reads the server like any other.

    :param url: URL of the folder, without a namespace. Another process holds the folder.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        config = config_from_url(url)
        assert isinstance(config, EmbeddedConfig)
        server = RedisHarness(f"unix://{socket_path(config.path)}")
        self._server: Final = server
        self._config: Final = msgspec.structs.replace(config, namespace=server.config.namespace)
        self.advance: Final = server.advance
        self.residue: Final = server.residue
        self.forget_indexes: Final = server.forget_indexes

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        # The store that is entered first is left last, and empties the namespace.
        await self.enter_async_context(self._server)
        return self

    async def open(
        self,
        context_type: Any = dict,  # Any: as in `StoreHarness`
        *,
        codec: CodecFactory = JsonCodec,
        max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
        verify: bool = True,
        require_ctx: bool = False,
        unknown_fields: OnUnknown = "keep",
        schema_version: int | None = None,
        upgrades: Upgrades | None = None,
        beside: AsyncSessionStore[Any] | None = None,
        indexed_labels: tuple[str, ...] = (),
    ) -> AsyncSessionStore[Any]:
        del beside
        config = msgspec.structs.replace(
            self._config,
            max_payload_bytes=max_payload_bytes,
            verify=verify,
            require_ctx=require_ctx,
            indexed_labels=indexed_labels,
        )
        store = create_session_store(
            config,
            context_type=context_type,
            codec=codec,
            unknown_fields=unknown_fields,
            schema_version=schema_version,
            upgrades=upgrades,
        )
        return await self.enter_async_context(store)


@contextmanager
def worker(url: str) -> Iterator[Worker]:
    started = Worker(url)
    try:
        yield started
    finally:
        started.kill()
