"""Tests of messages of many sessions with killed workers: in order and once per session."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from greentic_session.testing.harness import RedisHarness

from ..support.inbox import Fifo
from ..support.redis import SEED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.anyio


@pytest.fixture
async def harness(valkey_url: str) -> AsyncIterator[RedisHarness]:
    async with RedisHarness(valkey_url) as harness:
        yield harness


@pytest.mark.timeout(180)  # seconds; about fifteen are needed on an idle machine
async def test_many_messages_are_handled_in_order_once_each_by_workers_that_are_killed(
    harness: RedisHarness, scaled: Callable[[int], int]
) -> None:
    store = await harness.open()
    fifo = Fifo(harness, keys=scaled(500), rounds=40, processes=4, kills=6, seed=SEED)
    began_at = time.monotonic()
    await fifo.run(store, patience_secs=150)
    print(  # noqa: T201 - pytest shows it with a failure
        f"GREENTIC_SESSION_TEST_SEED={SEED}: {time.monotonic() - began_at:.1f} s,",
        ", ".join(f"{count} {what}" for what, count in sorted(fifo.tally.items())),
    )
    await fifo.assert_in_order_once_each(store)
    assert fifo.tally["kills"] >= 5
    assert fifo.tally["halts"] == 1
    assert fifo.tally["failed"] > 0
