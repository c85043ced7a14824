"""Tests of inbox calls that are cancelled at any step: done or not, and nothing is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from greentic_session.testing.harness import RedisHarness

from ..support.inbox_scenarios import ACTS, assert_healed, desk_for
from ..support.redis import until
from ..waits.test_wait_cancellation import cancelled_while_waiting, cancelled_with_the_answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Way = Callable[[Callable[[], Awaitable[object]], int], Awaitable[bool]]

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("way", [cancelled_while_waiting, cancelled_with_the_answer])
@pytest.mark.parametrize("name", ACTS)
async def test_a_caller_may_be_cancelled_at_any_step(name: str, way: Way, valkey_url: str) -> None:
    act = ACTS[name]
    at = 0
    while True:
        async with RedisHarness(valkey_url) as harness:
            sound = await desk_for(harness, act)
            await act.prepare(sound)
            desk = await desk_for(harness, act)
            was_cancelled = await way(lambda desk=desk: act.act(desk), at)  # type: ignore[misc]
            # Its turn was released at once, and did not count as an attempt.
            async with sound.take() as turn:
                if turn is not None and name not in ("fail", "bury"):
                    assert turn.mail[0].attempt == 1
            await until(lambda desk=desk: desk.store.statistics().in_flight == 0)  # type: ignore[misc]
            await assert_healed(sound, act)
        at += 1
        if not was_cancelled:
            break
    assert at > 2


@pytest.mark.parametrize("wait", [None, 20.0])
@pytest.mark.parametrize("at", range(4))  # it looks, subscribes, looks again and sleeps
async def test_a_taker_that_sleeps_may_be_cancelled(
    valkey_url: str, wait: float | None, at: int
) -> None:
    act = ACTS["finish"]
    async with RedisHarness(valkey_url) as harness:
        sound = await desk_for(harness, act)
        desk = await desk_for(harness, act)

        async def sleep() -> None:
            async with desk.take(wait=wait):
                raise AssertionError

        assert await cancelled_while_waiting(sleep, at)
        await sound.admit("e1")
        assert await sound.handle() == ["e1"]
        assert desk.store.statistics().in_flight == 0
