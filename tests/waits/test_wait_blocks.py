"""Tests of turns that are interrupted from outside, in every way."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import anyio
import pytest

from greentic_session import DuplicateEventError, WaitRegistry
from greentic_session.testing.harness import MemoryHarness, RedisHarness

from ..support.redis import SEED, until
from ..support.waits import CTX, USER, answered, chat, owner, paused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from greentic_session.testing.harness import StoreHarness

    from ..support.waits import Registry

pytestmark = pytest.mark.anyio


@pytest.fixture
async def harness(valkey_url: str) -> AsyncIterator[RedisHarness]:
    async with RedisHarness(valkey_url) as harness:
        yield harness


class BlockCut:
    """The wait is free at once, and the interrupting code gets its error."""

    async def test_by_a_scope_that_is_cancelled(self, harness: StoreHarness) -> None:
        waits = await self.waiting(harness)
        with anyio.fail_after(20):
            with anyio.CancelScope() as scope:
                async with waits.resume(CTX, USER, chat()) as turn:
                    await turn.save(answered(turn.session, "a draft"))
                    scope.cancel()
                    await anyio.sleep_forever()
            assert scope.cancelled_caught
        await self.assert_free(waits)

    async def test_a_time_limit_within_a_block_frees_its_wait(self, harness: StoreHarness) -> None:
        waits = await self.waiting(harness)
        with anyio.fail_after(20):
            with anyio.move_on_after(0.005) as scope:
                async with waits.resume(CTX, USER, chat()):
                    await anyio.sleep_forever()
            assert scope.cancelled_caught
        await self.assert_free(waits)

    async def test_a_failing_task_next_to_a_block_frees_its_wait(
        self, harness: StoreHarness
    ) -> None:
        waits = await self.waiting(harness)
        inside = anyio.Event()

        async def fail() -> None:
            await inside.wait()
            raise ZeroDivisionError

        async def both() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(fail)
                async with waits.resume(CTX, USER, chat()):
                    inside.set()
                    await anyio.sleep_forever()

        with anyio.fail_after(20), pytest.raises(ExceptionGroup) as caught:
            await both()
        assert caught.group_contains(ZeroDivisionError)
        assert len(caught.value.exceptions) == 1
        await self.assert_free(waits)

    async def test_by_an_error_of_its_own(self, harness: StoreHarness) -> None:
        waits = await self.waiting(harness)
        with pytest.raises(ZeroDivisionError):
            async with waits.resume(CTX, USER, chat()):
                raise ZeroDivisionError
        await self.assert_free(waits)

    async def test_a_block_that_is_cancelled_after_its_completion_stays_completed(
        self, harness: StoreHarness
    ) -> None:
        waits = await self.waiting(harness)
        with anyio.fail_after(20):
            with anyio.CancelScope() as scope:
                async with waits.resume(CTX, USER, chat(), event_id="reply") as turn:
                    await turn.complete(answered(turn.session, "a turn"))
                    scope.cancel()
                    await anyio.sleep_forever()
            assert scope.cancelled_caught
        with pytest.raises(DuplicateEventError):
            await waits.claim(CTX, USER, chat(), event_id="reply")

    async def waiting(self, harness: StoreHarness) -> Registry:
        waits: Registry = WaitRegistry(await harness.open())
        await waits.register_wait(CTX, USER, chat(), paused("form"))
        return waits

    async def assert_free(self, waits: Registry) -> None:
        claim = await waits.claim(CTX, USER, chat())
        await claim.complete(answered(claim.session, "a turn"))
        assert await waits.list_waits_for_user(CTX, USER) == []


class TestBlockCutInMemory(BlockCut):
    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    async def harness(self) -> AsyncIterator[MemoryHarness]:
        async with MemoryHarness() as harness:
            yield harness


class TestBlockCutOnValkey(BlockCut):
    async def test_by_time_limits_of_any_length(self, harness: RedisHarness) -> None:
        print(f"GREENTIC_SESSION_TEST_SEED={SEED}")  # noqa: T201 - pytest shows it with a failure
        dice = random.Random(SEED)
        store = await harness.open()
        waits: Registry = WaitRegistry(store, max_events=200)
        before = asyncio.all_tasks()
        cut = 0
        for number in range(200):
            scope = chat(number)
            await waits.register_wait(CTX, USER, scope, paused(f"form {number}"))
            try:
                async with asyncio.timeout(dice.choice((0.008, 0.1)) * dice.random()):
                    async with waits.resume(CTX, USER, scope, event_id=f"{number}") as turn:
                        await turn.save(answered(turn.session, "a draft"))
                        await asyncio.sleep(0.002)  # work of the turn, which is interrupted
                        await turn.complete(answered(turn.session, "a turn"))
            except TimeoutError:
                cut += 1
        await until(lambda: asyncio.all_tasks() <= before)
        assert store.statistics().in_flight == 0
        for number in range(200):
            found = await store.get(paused(f"form {number}").key, ctx=owner())
            assert found is not None
            turns = found.session.context.get("turns", [])
            assert turns in ([], ["a draft"], ["a draft", "a turn"])
            if turns[1:]:
                with pytest.raises(DuplicateEventError):
                    await waits.claim(CTX, USER, chat(number), event_id=f"{number}")
                continue
            claim = await waits.claim(CTX, USER, chat(number), event_id=f"{number}")
            await claim.complete(answered(claim.session, "a turn"))
        assert 0 < cut < 200
        assert await waits.list_waits_for_user(CTX, USER) == []
