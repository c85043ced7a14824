"""Callers that are cancelled at any step take no one with them."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from greentic_session import (
    SessionKey,
)

from .redis_rig import CTX, SEED, Crowd, control, session, store_at, until_async

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from greentic_session.testing.servers import (
        LocalServer,
    )


pytestmark = pytest.mark.anyio


async def cancelled_after(call: Callable[[], Awaitable[object]], steps: int) -> bool:
    """Cancel a call after so many steps of the loop, and tell whether it was still running."""
    task = asyncio.ensure_future(call())
    for _ in range(steps):
        await asyncio.sleep(0)
    was_running = task.cancel()
    await asyncio.wait([task])
    # Never swallowed, and never turned into something else.
    assert task.cancelled() is was_running
    if not was_running:
        task.result()
    return was_running


class TestCancellation:
    async def test_crosses_no_replies_and_leaves_nothing_behind(self, server: LocalServer) -> None:
        print(f"GREENTIC_SESSION_TEST_SEED={SEED}")  # noqa: T201 - pytest shows it with a failure
        dice = random.Random(SEED)
        async with store_at(server.url, max_connections=2) as store, control(server) as client:
            crowd = Crowd(store, dice)
            await crowd.arrive()
            over = False

            async def bystander() -> int:
                gets = 0
                while not over:
                    await crowd.get()
                    gets += 1
                return gets

            bystanders = [asyncio.create_task(bystander()) for _ in range(3)]
            cancelled = 0
            while cancelled < 500:
                for steps in range(41):
                    for call in crowd.calls:
                        cancelled += await cancelled_after(call, steps)
            timed_out = 0
            while timed_out < 200:
                try:
                    async with asyncio.timeout(dice.uniform(0, 0.003)):
                        await dice.choice(crowd.calls)()
                except TimeoutError:
                    timed_out += 1
            over = True
            assert min(await asyncio.gather(*bystanders)) > 0
            seen = store.statistics()
            assert seen.in_flight == 0
            assert seen.connections <= 2

            async def closed_what_was_left() -> bool:
                # The store's own two and the test's: the server needs a moment to notice.
                return len((await client.read("CLIENT", "LIST")).splitlines()) <= 3

            await until_async(closed_what_was_left)
            await asyncio.gather(*(crowd.get() for _ in range(50)))

    async def test_more_callers_than_connections_all_succeed(self, server: LocalServer) -> None:
        async with store_at(server.url, max_connections=4) as store:
            tokens = await asyncio.gather(
                *(store.create(session(f"key-{number}", number=number)) for number in range(256))
            )
            assert {cas.value for cas in tokens} == {1}
            found = await asyncio.gather(
                *(store.get(SessionKey(f"key-{number}"), ctx=CTX) for number in range(256))
            )
            assert [one and one.session.context for one in found] == [
                {"number": number} for number in range(256)
            ]
            assert store.statistics().connections <= 4


# --- the scripts themselves ----------------------------------------------------------------------

# One of each verb and one verb twice: what an earlier attempt at the same call left is found.
