"""Tests of a private server in a folder: its start, its end, and the data that survives."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest

from greentic_session import OutcomeUnknownError, SessionKey, StoreUnavailableError
from greentic_session.embedded.binary import valkey_binary
from greentic_session.embedded.folder import Folder

from ..support.embedded import (
    CTX,
    KEY,
    folder,
    is_gone,
    is_locked,
    server_of,
    store_in,
    supervisor_of,
    until_gone,
    url_of,
    worker,
)
from ..support.redis import session, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from greentic_session import AsyncSessionStore

__all__ = ["folder"]

pytestmark = [
    pytest.mark.anyio,
    # Processes are started and awaited, twenty times.
    pytest.mark.timeout(180),
]


# --- start and end -------------------------------------------------------------------------------


async def test_sessions_outlive_the_server(folder: Path) -> None:
    async with store_in(folder) as store:
        first = server_of(folder)
        cas = await store.put(session(count=1))
        await store.create(session("other"))
    assert is_gone(first)
    for _ in range(3):
        async with store_in(folder) as store:
            assert server_of(folder) != first
            found = await store.get(KEY, ctx=CTX)
            assert found is not None
            assert found.session.context == {"count": 1}
            assert found.cas == cas


async def test_nothing_happens_before_the_first_use(folder: Path) -> None:
    store = store_in(folder)
    assert not folder.exists()
    await store.aclose()
    assert not folder.exists()


async def test_a_store_that_is_not_entered_starts_the_server_as_well(folder: Path) -> None:
    store = store_in(folder)
    await store.put(session())
    server = server_of(folder)
    await store.aclose()
    assert is_gone(server)


async def test_closing_the_last_store_leaves_no_process_and_no_socket(folder: Path) -> None:
    async with store_in(folder) as store:
        await store.ping()
        server = server_of(folder)
        supervisor = supervisor_of(server)
        async with store_in(folder):
            assert server_of(folder) == server
        assert not is_gone(server)  # the other process has not closed yet
        await store.ping()
    assert is_gone(server)
    assert is_gone(supervisor)
    assert not (folder / "server.sock").exists()
    shutil.rmtree(folder)  # no process writes there any more


async def test_two_processes_share_one_server(folder: Path) -> None:
    with worker(url_of(folder)) as other:
        async with store_in(folder) as store:
            await store.put(session(count=0))
            server = server_of(folder)
            assert await other.ask("open") == "open"
            assert await other.ask(f"count {KEY}") == "1"
        assert server_of(folder) == server
        assert await other.ask(f"count {KEY}") == "2"
        supervisor = supervisor_of(server)
        assert await other.ask("close") == "closed"
        assert is_gone(server)
        assert is_gone(supervisor)


async def test_the_server_goes_with_the_last_process_however_that_ends(folder: Path) -> None:
    with worker(url_of(folder)) as one, worker(url_of(folder)) as two:
        assert await one.ask("open") == "open"
        assert await two.ask("open") == "open"
        assert await one.ask(f"put {KEY}") == "1"
        server = server_of(folder)
        supervisor = supervisor_of(server)
        one.kill()
        assert await two.ask(f"count {KEY}") == "1"
        assert server_of(folder) == server
        two.kill()
        await until_gone(server, supervisor)
    async with store_in(folder) as store:
        found = await store.get(KEY, ctx=CTX)
        assert found is not None
        assert found.session.context == {"count": 1}


async def test_processes_that_open_at_the_same_instant_start_one_server(
    folder: Path, scaled: Callable[[int], int]
) -> None:
    rounds = scaled(20)
    url = url_of(folder)
    with worker(url) as one, worker(url) as two:
        for worked in (one, two):
            assert await worked.ask(f"get {KEY}") == "None"  # it has started, and so has a server
            assert await worked.ask("close") == "closed"
        servers: set[int] = set()
        before = (folder / "server.log").read_text().count("Ready to accept connections")
        for round_ in range(1, rounds + 1):
            answers = await asyncio.gather(one.ask("open"), two.ask("open"))
            assert set(answers) == {"open"}
            if round_ == 1:
                assert await one.ask(f"put {KEY}") == "1"
            server = server_of(folder)
            servers.add(server)
            counts = await asyncio.gather(one.ask(f"count {KEY}"), two.ask(f"count {KEY}"))
            assert sorted(int(count) for count in counts) == [2 * round_ - 1, 2 * round_]
            started = (folder / "server.log").read_text().count("Ready to accept connections")
            assert started == before + round_
            await asyncio.gather(one.ask("close"), two.ask("close"))
            assert is_gone(server)
        assert len(servers) == rounds


async def test_a_store_that_opens_while_the_last_user_closes_is_served(folder: Path) -> None:
    for turn in range(20):
        leaving = store_in(folder)
        await leaving.put(session(f"turn {turn}"))
        coming = store_in(folder)
        _, cas = await asyncio.gather(leaving.aclose(), coming.put(session("shared")))
        assert cas.value == turn + 1
        users = folder / "users.lock"
        assert is_locked(users)
        assert not is_locked(users, fcntl.LOCK_SH)  # locked as a user locks it
        assert await coming.get(SessionKey(f"turn {turn}"), ctx=CTX)
        await coming.aclose()


async def test_no_store_enters_while_the_supervisor_ends(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store_in(folder):
        pass
    opened: list[str] = []
    plain = Folder.open

    def noted(self: Folder, name: str) -> int:
        opened.append(name)
        return plain(self, name)

    monkeypatch.setattr(Folder, "open", noted)
    store = store_in(folder)
    with (folder / "users.lock").open("rb") as leaving:
        fcntl.flock(leaving, fcntl.LOCK_EX)  # locked as a supervisor does from its last user on
        coming = asyncio.create_task(store.put(session()))
        await until(lambda: len(opened) >= 3)
        assert set(opened) == {"users.lock"}  # no supervisor was started
    await coming
    assert "keeper.lock" in opened
    await store.aclose()


# --- killed --------------------------------------------------------------------------------------


class Writer:
    """Counts up a session of its own, and knows the required contents."""

    def __init__(self, store: AsyncSessionStore[Any], number: int) -> None:
        self.store = store
        self.key = SessionKey(f"writer {number}")
        self.acknowledged = 0
        self.doubts = 0
        self.stopped = False

    async def count(self) -> int:
        while True:
            with suppress(StoreUnavailableError):
                found = await self.store.get(self.key, ctx=CTX)
                assert found is not None
                return int(found.session.context["count"])

    async def write(self) -> None:
        cas = await self.store.create(session(self.key, count=0))
        while not self.stopped:
            following = session(self.key, count=self.acknowledged + 1)
            try:
                cas = await self.store.update_cas(following, cas)
            except StoreUnavailableError:
                continue  # it was not written
            except OutcomeUnknownError:
                self.doubts += 1
                found = await self.store.get(self.key, ctx=CTX)
                assert found is not None
                assert found.session.context["count"] - self.acknowledged in (0, 1)
                self.acknowledged, cas = found.session.context["count"], found.cas
            else:
                self.acknowledged += 1


async def until_all_went_on(writers: list[Writer]) -> None:
    aims = [writer.acknowledged + 20 for writer in writers]
    await until(
        lambda: all(writer.acknowledged >= aim for writer, aim in zip(writers, aims, strict=True))
    )


async def test_no_acknowledged_write_is_lost_when_the_server_is_killed(folder: Path) -> None:
    async with AsyncExitStack() as stack:
        writers = [
            Writer(await stack.enter_async_context(store_in(folder)), number) for number in range(8)
        ]
        async with asyncio.TaskGroup() as tasks:
            for writer in writers:
                tasks.create_task(writer.write())
            for _ in range(3):
                await until_all_went_on(writers)
                os.kill(server_of(folder), signal.SIGKILL)
            await until_all_went_on(writers)
            for writer in writers:
                writer.stopped = True
        for writer in writers:
            assert await writer.count() == writer.acknowledged > 60
            # One version per write, so none was applied twice.
            found = await writer.store.get(writer.key, ctx=CTX)
            assert found is not None
            assert found.cas.value == writer.acknowledged + 1


async def test_a_server_that_is_killed_is_started_again_by_its_supervisor(folder: Path) -> None:
    async with store_in(folder) as store:
        cas = await store.put(session())
        server = server_of(folder)
        supervisor = supervisor_of(server)
        for turn in range(3):
            os.kill(server, signal.SIGKILL)
            cas = await store.update_cas(session(count=turn), cas)
            following = server_of(folder)
            assert following != server
            assert supervisor_of(following) == supervisor
            server = following


async def test_a_server_without_a_supervisor_is_succeeded(folder: Path) -> None:
    """If the kernel does not tell a server that its supervisor was killed, the next one does."""
    async with store_in(folder) as store:
        await store.put(session(count=1))
    with (folder / "server.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        orphan = subprocess.Popen(  # noqa: ASYNC220 - it inherits the lock at once
            [
                *(str(valkey_binary()), "--port", "0", "--unixsocket", "server.sock"),
                *("--save", "", "--appendonly", "yes", "--appendfsync", "always"),
            ],
            cwd=folder,
            pass_fds=(lock.fileno(),),
            stdout=subprocess.DEVNULL,
        )
    try:
        await until((folder / "server.sock").exists)
        async with store_in(folder) as store:
            assert await asyncio.to_thread(orphan.wait, 10) == 0
            await store.ping()
            found = await store.get(KEY, ctx=CTX)
            assert found is not None
            assert found.session.context == {"count": 1}
            assert server_of(folder) != orphan.pid
    finally:
        orphan.kill()
        orphan.wait(10)


async def test_a_supervisor_that_is_killed_takes_its_server_along(folder: Path) -> None:
    async with store_in(folder) as store:
        cas = await store.put(session())
        server = server_of(folder)
        os.kill(supervisor_of(server), signal.SIGKILL)
        cas = await store.update_cas(session(count=2), cas)
        await until_gone(server)
        cas = await store.update_cas(session(count=3), cas)
        assert cas.value == 3
        successor = server_of(folder)
        assert successor != server
        supervisor = supervisor_of(successor)
    assert is_gone(successor)
    assert is_gone(supervisor)


async def test_supervisor_and_server_are_killed_together(folder: Path) -> None:
    async with store_in(folder) as store:
        cas = await store.put(session())
        server = server_of(folder)
        for pid in (supervisor_of(server), server):
            os.kill(pid, signal.SIGKILL)
        assert (await store.update_cas(session(count=2), cas)).value == 2
        assert server_of(folder) != server


async def test_a_supervisor_that_is_asked_to_end_ends_its_server(folder: Path) -> None:
    async with store_in(folder) as store:
        await store.put(session())
        server = server_of(folder)
        supervisor = supervisor_of(server)
        os.kill(supervisor, signal.SIGTERM)
        await until_gone(server, supervisor)
        assert await store.get(KEY, ctx=CTX)
        assert server_of(folder) != server


async def test_a_server_that_cannot_start_is_given_up_with_a_reason(folder: Path) -> None:
    async with store_in(folder) as store:
        await store.put(session())
    (manifest,) = (folder / "appendonlydir").glob("*.manifest")
    text = manifest.read_bytes()
    manifest.write_bytes(b"no manifest\n")
    with pytest.raises(StoreUnavailableError, match="does not start"):
        async with store_in(folder):
            raise AssertionError("there is no server")
    store = store_in(folder, deadline=1)
    with pytest.raises(StoreUnavailableError):
        await store.get(KEY)
    await store.aclose()
    assert not is_locked(folder / "users.lock")
    await until(lambda: not is_locked(folder / "keeper.lock"))
    manifest.write_bytes(text)
    async with store_in(folder) as store:
        assert await store.get(KEY, ctx=CTX)


async def test_a_start_that_is_cancelled_leaves_nothing(folder: Path) -> None:
    for steps in range(1, 30, 4):
        task = asyncio.create_task(store_in(folder).__aenter__())
        for _ in range(steps):
            await asyncio.sleep(0)
        await asyncio.sleep(0.002 * steps)  # some way into the start
        if task.done():
            await (await task).aclose()
            continue
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        def nobody_is_there() -> bool:
            locks = folder.glob("*.lock")
            return not any(is_locked(lock) for lock in locks)

        await until(nobody_is_there)
    assert not (folder / "server.sock").exists()


# --- forked --------------------------------------------------------------------------------------


async def test_a_forked_process_does_not_hold_its_parents_share(folder: Path) -> None:
    with worker(url_of(folder)) as parent:
        assert await parent.ask("open") == "open"
        assert await parent.ask(f"put {KEY}") == "1"
        server = server_of(folder)
        child = int(await parent.ask("fork stay"))
        assert not is_gone(child)
        assert await parent.ask("close") == "closed"
        assert is_gone(server)
        os.kill(child, signal.SIGKILL)


async def test_a_forked_process_that_uses_the_store_has_a_share_of_its_own(folder: Path) -> None:
    with worker(url_of(folder)) as parent:
        assert await parent.ask("open") == "open"
        server = server_of(folder)
        assert await parent.ask("fork put") == "1"  # the child's answer
        assert await asyncio.to_thread(parent.heard) == "0"  # it has ended
        assert await parent.ask("count forked") == "1"
        assert server_of(folder) == server
