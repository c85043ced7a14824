"""Tests of a store and several event loops: it serves one of them, and leaves no socket behind."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from greentic_session.testing.servers import LocalServer

COMMON = """
import asyncio, os, sys, threading
from greentic_session import StoreUnavailableError, create_session_store

def sockets():
    links = []
    for number in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            pass
    return sum(link.startswith("socket:") for link in links)

async def outcome(call):
    try:
        await call
    except StoreUnavailableError as error:
        return str(error)
    return "served"

store = create_session_store(sys.argv[1])
"""
ALTERNATING = """
loops = [asyncio.new_event_loop(), asyncio.new_event_loop()]
before = sockets()
for _ in range(50):
    first, second = (loop.run_until_complete(outcome(store.ping())) for loop in loops)
    assert first == "served"
    assert "another event loop uses this store" in second, second
assert sockets() <= before + 2, sockets() - before
loops[0].run_until_complete(store.aclose())
assert sockets() == before
"""
THREADS = """
before = sockets()
outcomes = []
ready = threading.Barrier(3)

def work():
    async def main():
        ready.wait()
        found = [await outcome(store.ping()) for _ in range(50)]
        assert len(set(found)) == 1, found
        outcomes.append(found[0])
        ready.wait()
        if found[0] != "served":
            await store.aclose()  # closes what the other loop has open
        while sockets() > before + 6:
            await asyncio.sleep(0.01)
    asyncio.run(main())

threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert sorted(text == "served" for text in outcomes) == [False, False, True], outcomes
assert sockets() == before, sockets() - before
"""
ONE_AFTER_ANOTHER = """
before = sockets()
for _ in range(100):
    assert asyncio.run(outcome(store.ping())) == "served"
    assert sockets() <= before + 1, sockets() - before
asyncio.run(store.aclose())
assert sockets() == before
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts sockets in /proc")
@pytest.mark.parametrize(
    "program",
    [ALTERNATING, THREADS, ONE_AFTER_ANOTHER],
    ids=["alternating", "threads", "one after another"],
)
@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_no_socket_is_leaked(server: LocalServer, program: str, transport: str) -> None:
    url = server.url if transport == "unix" else server.tcp_url
    ended = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", COMMON + program, url],
        capture_output=True,
        check=False,
        timeout=50,
    )
    assert ended.returncode == 0, ended.stderr.decode()
