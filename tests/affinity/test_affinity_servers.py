"""Tests of affinity on every supported server and protocol: the same results."""

from __future__ import annotations

import pytest

from greentic_session import InMemorySessionStore, ManualClock
from greentic_session.testing.harness import RedisHarness
from greentic_session.testing.servers import LocalServer

from ..faults.test_versions import SERVERS, binary_of
from ..support.affinity import VERBS, Caller, steps
from ..support.redis import SEED

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("name", SERVERS)
async def test_every_server_says_the_same(name: str) -> None:
    print(f"GREENTIC_SESSION_TEST_SEED={SEED}")  # noqa: T201 - pytest shows it with a failure
    async with InMemorySessionStore(clock=ManualClock()) as memory:
        expected = Caller(memory, "g")
        told = [(step, await expected.told(step)) for step in steps(SEED, 400)]
    assert {step[0] for step, _ in told} == set(VERBS)
    with LocalServer(binary_of(name)) as server:
        for protocol in (2, 3):
            async with RedisHarness(f"{server.url}?protocol={protocol}") as harness:
                caller = Caller(await harness.open(), "g")
                for step, answer in told:
                    assert await caller.told(step) == answer, step
