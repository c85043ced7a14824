"""Tests of an embedded store's folder: valid folders, paths to the socket, configuration."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest

from greentic_session import (
    EmbeddedConfig,
    InvalidInputError,
    ManualClock,
    StoreUnavailableError,
    create_session_store,
)
from greentic_session.config.backends import config_from_url
from greentic_session.embedded import binary
from greentic_session.embedded import folder as folders
from greentic_session.embedded.folder import Folder, short_link, socket_path

from ..support.embedded import (
    CTX,
    KEY,
    folder,
    is_gone,
    ps,
    server_of,
    store_in,
    supervisor_of,
    until_gone,
    url_of,
)
from ..support.redis import session, until_async

__all__ = ["folder"]

pytestmark = [
    pytest.mark.anyio,
    # Processes are started and awaited, twenty times.
    pytest.mark.timeout(180),
]


# --- the folder ----------------------------------------------------------------------------------


async def test_a_long_path_is_reached_by_a_short_one(folder: Path) -> None:
    long = folder.parent / ("x" * 120) / ("y" * 120) / "state"
    long.parent.mkdir(parents=True)
    link = Path(short_link(str(long)))
    async with store_in(long) as store:
        await store.put(session())
        assert link.readlink() == long
        assert link.parent.stat().st_mode & 0o077 == 0
        server = server_of(long)
        link.unlink()  # as cleanup services do with old files there
        os.kill(server, signal.SIGKILL)
        assert await store.get(KEY, ctx=CTX)
        assert link.readlink() == long
    assert not os.path.lexists(link)


async def test_a_link_that_leads_elsewhere_is_replaced(folder: Path) -> None:
    long = folder.parent / ("x" * 120) / "state"
    long.parent.mkdir()
    async with store_in(long):
        link = Path(short_link(str(long)))
        link.unlink()
        link.symlink_to(folder.parent)
        async with store_in(long) as store:
            await store.ping()
            assert link.readlink() == long


async def test_a_folder_for_links_that_others_may_enter_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_LINKS", str(folder.parent / "links"))
    links = folder.parent / f"links-{os.geteuid()}"
    links.mkdir(mode=0o777)
    links.chmod(0o777)
    long = folder.parent / ("x" * 120) / "state"
    long.parent.mkdir()
    with pytest.raises(StoreUnavailableError, match="not this user's alone"):
        await store_in(long).__aenter__()
    assert not [*links.iterdir()]
    links.rmdir()
    links.symlink_to(folder.parent)
    with pytest.raises(StoreUnavailableError, match="not this user's alone"):
        await store_in(long).__aenter__()


@pytest.mark.parametrize("end", ["", "/"])
async def test_a_link_to_a_folder_is_refused(folder: Path, end: str) -> None:
    folder.mkdir(mode=0o700)
    link = folder.parent / "link"
    link.symlink_to(folder)
    with pytest.raises(StoreUnavailableError, match="symbolic link"):
        await create_session_store(f"embedded://{link}{end}").__aenter__()
    assert not [*folder.iterdir()]
    dangling = folder.parent / "dangling"
    dangling.symlink_to(folder.parent / "nowhere")
    with pytest.raises(StoreUnavailableError, match="symbolic link"):
        await create_session_store(f"embedded://{dangling}{end}").__aenter__()


@pytest.mark.parametrize("is_there", [False, True], ids=["made", "there"])
async def test_a_folder_in_a_world_writable_one_is_refused(folder: Path, *, is_there: bool) -> None:
    parent = folder.parent / "open to all"
    parent.mkdir()
    parent.chmod(0o777)
    within = parent / "state"
    if is_there:
        within.mkdir(mode=0o700)
    with pytest.raises(StoreUnavailableError, match="any user may write"):
        await store_in(within).__aenter__()
    assert [*parent.iterdir()] == ([within] if is_there else [])
    assert not is_there or not [*within.iterdir()]


async def test_a_folder_in_a_world_writable_one_with_the_sticky_bit_is_taken(folder: Path) -> None:
    # As in /tmp, where other users cannot rename the user's folder.
    folder.parent.chmod(0o1777)
    Folder(str(folder)).close()


async def test_a_folder_that_was_deleted_and_created_again_has_a_new_server(folder: Path) -> None:
    async with store_in(folder) as store:
        await store.put(session())
        old = server_of(folder)
        shutil.rmtree(folder)
        async with store_in(folder) as other:
            assert await other.get(KEY, ctx=CTX) is None
            await other.put(session(count=7))
            new = server_of(folder)
            assert new != old
            os.kill(old, signal.SIGKILL)

            async def is_found() -> bool:
                return bool(await store.get(KEY, ctx=CTX))

            await until_async(is_found)
            await until_gone(old)
    assert is_gone(new)


def contents(folder: Path) -> list[tuple[str, bytes]]:
    if not folder.is_dir():
        return []
    return [(str(path), path.read_bytes() if path.is_file() else b"") for path in folder.rglob("*")]


async def refused(folder: Path) -> str:
    """Return the reason why a folder is refused.

    Entering fails at once, and a call fails by its deadline. Nothing changes.
    """
    before = contents(folder), oct(folder.stat().st_mode) if folder.exists() else ""
    with pytest.raises(StoreUnavailableError) as entering:
        async with store_in(folder):
            raise AssertionError("it must not be entered")
    store = store_in(folder, deadline=0.2)
    with pytest.raises(StoreUnavailableError) as calling:
        await store.put(session())
    await store.aclose()
    assert (contents(folder), oct(folder.stat().st_mode) if folder.exists() else "") == before
    for error in (entering.value, calling.value):
        # It names the folder and says what to do.
        assert re.search(f"folder {re.escape(repr(str(folder)))} .+: .+", error.reason)
    assert entering.value.reason == calling.value.reason
    return entering.value.reason


async def test_a_folder_with_other_things_in_it_is_refused(folder: Path) -> None:
    folder.mkdir()
    (folder / "letters.txt").write_text("Dear reader")
    assert "not empty" in await refused(folder)


async def test_a_file_is_refused(folder: Path) -> None:
    folder.write_text("a file")
    assert "is no folder" in await refused(folder)


async def test_a_folder_without_a_parent_is_refused(folder: Path) -> None:
    assert "does not exist: create" in await refused(folder / "sub" / "state")
    assert not folder.exists()


async def test_a_folder_that_others_may_write_is_refused(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o770)
    assert "other users" in await refused(folder)


async def test_a_folder_of_another_user_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir(0o700)
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    assert "another user" in await refused(folder)


async def test_a_folder_of_another_version_is_refused(folder: Path) -> None:
    async with store_in(folder):
        pass
    (folder / "greentic-session").write_text("greentic_session embedded 2\n")
    assert "another version" in await refused(folder)


async def test_a_mark_that_was_being_made_is_ours(folder: Path) -> None:
    folder.mkdir(0o700)
    (folder / "greentic-session").write_text("greentic_s")
    async with store_in(folder) as store:
        await store.ping()


async def test_a_folder_that_may_not_be_written_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir(0o700)
    # With a stand-in, because root may write everywhere and may run the tests.
    monkeypatch.setattr(os, "access", lambda *_args, **_options: False)
    assert "may not be entered or written" in await refused(folder)


async def test_a_file_system_without_locks_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir(0o700)

    def no_locks(_fd: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert "without locks" in await refused(folder)


async def test_a_full_file_system_is_a_reason(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    monkeypatch.setattr(os, "mkdir", full)
    assert "is full" in await refused(folder)


def test_a_folder_is_open_to_its_user_alone(folder: Path) -> None:
    Folder(str(folder)).close()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "greentic-session").stat().st_mode & 0o777 == 0o600


async def test_its_files_are_open_to_its_user_alone(folder: Path) -> None:
    async with store_in(folder) as store:
        await store.put(session())
        modes = {path: path.stat().st_mode & 0o077 for path in folder.rglob("*")}
        assert len(modes) > 5
        assert not [path for path, open_to_others in modes.items() if open_to_others]


# --- configuration -------------------------------------------------------------------------------


def test_a_url_stands_for_a_configuration() -> None:
    assert config_from_url("embedded:///var/lib/state") == EmbeddedConfig(path="/var/lib/state")
    assert config_from_url(
        "embedded:///a%20b?fsync=everysec&start_timeout=3&namespace=n&deadline=1&max_payload=9"
        "&max_connections=2&protocol=2&verify=no"
    ) == EmbeddedConfig(
        path="/a b",
        fsync="everysec",
        start_secs=3,
        namespace="n",
        deadline_secs=1,
        max_payload_bytes=9,
        max_connections=2,
        protocol=2,
        verify=False,
    )


def test_a_relative_path_and_a_clock_are_refused(folder: Path) -> None:
    with pytest.raises(InvalidInputError, match="absolute"):
        create_session_store(EmbeddedConfig(path="state"))
    with pytest.raises(InvalidInputError, match="clock"):
        create_session_store(url_of(folder), clock=ManualClock())


def test_without_the_extra_it_is_refused_before_anything_is_touched(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binary, "find_spec", lambda _name: None)
    with pytest.raises(InvalidInputError, match=r"\[embedded\]"):
        create_session_store(url_of(folder))
    monkeypatch.undo()
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(InvalidInputError, match="interpreter"):
        create_session_store(url_of(folder))
    monkeypatch.undo()
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(InvalidInputError, match="platform"):
        create_session_store(url_of(folder))
    assert not folder.exists()


@pytest.mark.parametrize("fsync", ["always", "everysec", "no"])
async def test_the_server_writes_as_it_was_asked_to(folder: Path, fsync: str) -> None:
    async with store_in(folder, fsync=fsync):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(socket_path(str(folder)))
            client.sendall(b"CONFIG GET appendfsync\r\n")
            assert fsync.encode() in client.recv(4096)


async def test_no_command_line_holds_the_path(folder: Path) -> None:
    async with store_in(folder):
        server = server_of(folder)
        for pid in (server, supervisor_of(server)):
            assert str(folder) not in ps(pid, "args")
