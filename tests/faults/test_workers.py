"""Tests of workers that are paused past their lease, or die in their turns."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from greentic_session import Cas, DuplicateEventError, WaitClaimedError, WaitRegistry
from greentic_session.testing.harness import RedisHarness

from ..support.redis import until_async
from ..support.waits import (
    BLOCKS,
    CTX,
    ENDINGS,
    OPEN_BLOCK,
    USER,
    Orders,
    answered,
    chat,
    hired,
    owner,
    paused,
)
from .invariants import at_work

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from greentic_session.testing.topologies import StandaloneRig

    from ..support.waits import Registry, Store, Turn, Worker

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(150)]


@pytest.fixture
async def harness(standalone: StandaloneRig) -> AsyncIterator[RedisHarness]:
    async with RedisHarness(standalone.node.server.url) as harness:
        yield harness


@asynccontextmanager
async def turns_taken(
    harness: RedisHarness, waits: Registry
) -> AsyncIterator[tuple[Worker, list[dict[str, Any]]]]:
    """Return a worker process that has taken turns, and its report of each."""
    for verb in (*ENDINGS, *BLOCKS):
        await waits.register_wait(CTX, USER, chat(verb), paused(verb))
    async with hired(harness, "stale") as worker:
        await worker.begin(Orders())
        claims = [await worker.hear() for _ in (*ENDINGS, *BLOCKS)]
        assert {said["word"] for said in claims} == {"claimed"}
        yield worker, claims


async def wake_too_late(
    harness: RedisHarness, store: Store
) -> tuple[dict[str, dict[str, Any]], dict[str, Cas]]:
    """Return the report of a worker paused while others took its turns, and their tokens."""
    waits: Registry = WaitRegistry(store)
    async with turns_taken(harness, waits) as (worker, claims):
        worker.send(signal.SIGSTOP)
        tokens = {
            said["verb"]: await complete_when_open(waits, said["verb"], said["fence"])
            for said in claims
        }
        worker.send(signal.SIGUSR1)  # found after it continues
        worker.send(signal.SIGCONT)
        told = [await worker.hear() for _ in tokens]
        assert await worker.ended() == 0
    return {said["verb"]: said for said in told}, tokens


async def test_worker_stopped_past_its_lease_then_resumed(
    standalone: StandaloneRig, harness: RedisHarness
) -> None:
    async with at_work(standalone.url):
        await changes_nothing(harness)


async def changes_nothing(harness: RedisHarness) -> None:
    store = await harness.open()
    told, tokens = await wake_too_late(harness, store)
    outcomes = {verb: said["outcome"] for verb, said in told.items()}
    del outcomes[OPEN_BLOCK]
    assert outcomes.pop("release") == "False"
    assert set(outcomes.values()) == {"LeaseLostError"}
    assert not told["block"]["went_on"]
    assert told["sleeping block"]["was_cancelled"]
    for verb, token in tokens.items():
        found = await store.get(paused(verb).key, ctx=owner())
        assert found is not None
        assert found.cas == token
        assert found.session.context == {"turns": ["the winner"]}
        assert len(found.session.outbox) == 1
    assert await WaitRegistry(store).list_waits_for_user(CTX, USER) == []


async def test_worker_stopped_past_its_lease_then_resumed_is_not_left_in_silence(
    harness: RedisHarness,
) -> None:
    told, _ = await wake_too_late(harness, await harness.open())
    assert told[OPEN_BLOCK]["outcome"] == "LeaseLostError"


async def complete_when_open(waits: Registry, verb: str, stale_fence: int) -> Cas:
    won: list[Turn] = []

    async def claimed() -> bool:
        try:
            won.append(await waits.claim(CTX, USER, chat(verb), event_id=verb))
        except WaitClaimedError:
            return False
        return True

    await until_async(claimed)
    assert won[0].fence > stale_fence
    return await won[0].complete(answered(won[0].session, "the winner"))


async def test_worker_killed_between_claim_and_complete(
    standalone: StandaloneRig, harness: RedisHarness
) -> None:
    """Its turns are taken again, each by one of four workers."""
    store = await harness.open()
    waits: Registry = WaitRegistry(store)
    async with at_work(standalone.url):
        async with turns_taken(harness, waits) as (worker, claims):
            worker.kill()
            assert await worker.ended() == -signal.SIGKILL
        won: Counter[str] = Counter()

        async def rival(verb: str, fence: int) -> None:
            with suppress(DuplicateEventError):  # another worker was first
                await complete_when_open(waits, verb, fence)
                won[verb] += 1

        async with asyncio.TaskGroup() as tasks:
            for said in claims:
                for _ in range(4):
                    tasks.create_task(rival(said["verb"], said["fence"]))
        assert won == dict.fromkeys((*ENDINGS, *BLOCKS), 1)
        for verb in won:
            found = await store.get(paused(verb).key, ctx=owner())
            assert found is not None
            assert found.session.context == {"turns": ["the winner"]}
        assert await waits.list_waits_for_user(CTX, USER) == []
