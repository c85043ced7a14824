"""Tests of affinity among processes: they agree, and survive the deaths of others."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from greentic_session.abc.affinity import affinity_key, rendezvous
from greentic_session.ordering import SessionAffinity
from greentic_session.testing.harness import RedisHarness

from ..support.affinity_worker import CTX, KEYS, asked
from ..support.redis import SEED, until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

LONG_SECS: Final = 60
SHORT_SECS: Final = 3
"""Lease in seconds of the workers that die. The others need a third of it to renew."""


class Worker:
    """A worker process of this test."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.process = process
        self.fence = 0

    async def hear(self, word: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        said: dict[str, Any] = json.loads(await self.process.stdout.readline())
        assert said.pop("word") == word
        return said

    async def ask(self, seed: int) -> dict[str, str]:
        assert self.process.stdin is not None
        print(f"{self.name} asks in the order of seed {seed}")  # noqa: T201 - for a failure
        self.process.stdin.write(f"{seed}\n".encode())
        answers: dict[str, str] = (await self.hear("asked"))["answers"]
        assert set(answers) == set(KEYS)
        return answers


@asynccontextmanager
async def hired(harness: RedisHarness, name: str, lease: float) -> AsyncIterator[Worker]:
    """A worker on the harness's namespace. It does not outlive the block."""
    url = f"unix://{harness.config.unix_path}?namespace={harness.config.namespace}&deadline=20"
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-W",
            "error",
            "-m",
            "tests.support.affinity_worker",
            url,
            name,
            str(lease),
        ),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
        cwd=Path(__file__).parents[2],
    )
    try:
        yield Worker(name, process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def all_asked(workers: list[Worker], seed: int) -> dict[str, str]:
    """Let the workers ask at the same time, and return the answers of all."""
    told = await asyncio.gather(
        *(worker.ask(seed * 100 + number) for number, worker in enumerate(workers))
    )
    assert all(answers == told[0] for answers in told)
    return told[0]


async def test_processes_agree_and_only_the_keys_of_the_dead_move(valkey_url: str) -> None:
    async with (
        asyncio.timeout(50),
        RedisHarness(valkey_url) as harness,
        AsyncExitStack() as stack,
    ):
        affinity = SessionAffinity(await harness.open())
        leases = {"one": LONG_SECS, "two": LONG_SECS, "killed": SHORT_SECS, "stopped": SHORT_SECS}
        workers = {
            name: await stack.enter_async_context(hired(harness, name, lease))
            for name, lease in leases.items()
        }
        for worker in workers.values():
            worker.fence = (await worker.hear("joined"))["fence"]
        survivors = [workers["one"], workers["two"]]
        seen = {member.worker: member.fence for member in await affinity.members()}
        assert seen == {worker.name: worker.fence for worker in workers.values()}

        before = await all_asked([*workers.values()], SEED)
        places: dict[str, str] = {key: affinity_key("default/acme", key) for key in KEYS}
        assert before == {key: rendezvous(places[key], leases) for key in KEYS}
        assert set(before.values()) == set(leases)

        # One is killed, and the others notice at the end of its lease.
        workers["killed"].process.send_signal(signal.SIGKILL)
        assert await workers["killed"].process.wait() == -signal.SIGKILL

        async def is_gone(name: str) -> bool:
            return all(member.worker != name for member in await affinity.members())

        await until_async(lambda: is_gone("killed"))
        present = [*survivors, workers["stopped"]]
        after = await all_asked(present, SEED + 1)
        left = [worker.name for worker in present]
        assert after == {
            key: rendezvous(places[key], left) if worker == "killed" else worker
            for key, worker in before.items()
        }

        # One is paused past its lease, and another has its name when it continues.
        workers["stopped"].process.send_signal(signal.SIGSTOP)
        await until_async(lambda: is_gone("stopped"))
        async with affinity.member("stopped", lease=LONG_SECS) as successor:
            assert successor.fence > workers["stopped"].fence
            workers["stopped"].process.send_signal(signal.SIGCONT)
            assert await workers["stopped"].hear("lost") == {"cancellations": 1}
            assert not await is_gone("stopped")
            # The name is back before any request, so nothing moves.
            assert await all_asked(survivors, SEED + 2) == after
            assert await asked(affinity, SEED) == after

        # Workers that leave give their keys up at once.
        told = await all_asked(survivors, SEED + 3)
        assert told == {
            key: rendezvous(places[key], ["one", "two"]) if worker == "stopped" else worker
            for key, worker in after.items()
        }
        for worker in survivors:
            assert worker.process.stdin is not None
            worker.process.stdin.close()
            assert await worker.hear("left") == {"ended": True}
            assert await worker.process.wait() == 0
        assert await affinity.members() == ()
        assert [placed async for placed in affinity.keys_of("one", ctx=CTX)] == []
