"""Tests of callers that are cancelled, or too many."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from greentic_session import SessionKey

from ..support.redis import CTX, SEED, Crowd, control, session, store_at, until, until_async
from .invariants import at_work

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from greentic_session.testing.servers import LocalServer
    from greentic_session.testing.topologies import StandaloneRig

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(150)]


async def cancelled_after(call: Callable[[], Awaitable[object]], steps: int) -> bool:
    """Cancel a call after some steps of the loop, and return whether it was still running."""
    task = asyncio.ensure_future(call())
    for _ in range(steps):
        await asyncio.sleep(0)
    was_running = task.cancel()
    await asyncio.wait([task])
    # Never swallowed, and never turned into another error.
    assert task.cancelled() is was_running
    if not was_running:
        task.result()
    return was_running


async def test_cancellation_at_every_await_of_a_verb_leaves_it_applied_or_not(
    server: LocalServer,
) -> None:
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
            # The two of the store and the one of the test. The server needs a moment to notice.
            return len((await client.read("CLIENT", "LIST")).splitlines()) <= 3

        await until_async(closed_what_was_left)
        await asyncio.gather(*(crowd.get() for _ in range(50)))


async def test_cancellation_at_every_await_of_a_write_leaves_it_applied_or_not(
    standalone: StandaloneRig,
) -> None:
    """A cancelled write has happened or not, and other clients see one of the two."""
    async with at_work(standalone.url, nodes=standalone.nodes, cancels=0.3) as company:
        await company.clients.has_done(1500)
    assert company.clients.tally["cancelled"] > 200
    company.assert_unseen()


async def test_cancellation_at_every_await_by_a_failing_task_group(
    standalone: StandaloneRig,
) -> None:
    dice = random.Random(SEED)
    async with (
        at_work(standalone.url, nodes=standalone.nodes) as company,
        store_at(standalone.url, max_connections=2) as store,
    ):
        crowd = Crowd(store, dice)
        await crowd.arrive()

        async def fail(steps: int) -> None:
            for _ in range(steps):
                await asyncio.sleep(0)
            raise ZeroDivisionError

        for steps in range(120):
            with pytest.raises(ExceptionGroup) as caught:
                await together([*crowd.calls, partial(fail, steps % 24)])
            # Only the failure is raised, and the cancellation of the others is no other error.
            assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]
            await crowd.get()
        assert store.statistics().in_flight == 0
        assert store.statistics().connections <= 2
    company.assert_unseen()


async def together(calls: list[Callable[[], Awaitable[object]]]) -> None:
    async def one(call: Callable[[], Awaitable[object]]) -> None:
        await call()

    async with asyncio.TaskGroup() as tasks:
        for call in calls:
            tasks.create_task(one(call))


# --- too many -------------------------------------------------------------------------------------


async def test_pool_exhausted_maxclients_more_callers_than_connections(server: LocalServer) -> None:
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


async def test_pool_exhausted_maxclients_of_the_server(standalone: StandaloneRig) -> None:
    """A caller waits for a connection, or gets an error by the deadline."""
    namespace = f"test:{uuid4().hex}"
    async with (
        at_work(standalone.url, nodes=standalone.nodes, deadline_secs=0.5) as company,
        store_at(standalone.url, namespace=namespace) as patient,
        control(standalone.node.server) as client,
    ):
        await client.read("CONFIG", "SET", "maxclients", 1)
        # A caller with a connection keeps it. A caller that loses it waits like all others.
        await company.clients.has_done(50)
        call = asyncio.create_task(patient.put(session()))
        await until(lambda: patient.statistics().retries > 0)
        await client.read("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await company.clients.has_met("StoreUnavailableError", 32)
        await client.read("CONFIG", "SET", "maxclients", 1000)
        assert (await call).value == 1
        await company.clients.has_done(100)
