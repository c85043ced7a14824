"""Tests of a server that is killed, paused or silent while sessions wait and turns run."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest

from greentic_session import (
    LeaseLostError,
    OutcomeUnknownError,
    StoreUnavailableError,
    WaitClaimedError,
    WaitRegistry,
)
from greentic_session.redis.scripts import END_CLAIM, UPDATE_INDEX

from ..support.redis import (
    SHORT_SECS,
    ended,
    next_of,
    patiently,
    stopped,
    store_at,
    until_async,
    warmed_up,
)
from ..support.redis_proxy import Fate, Proxy
from ..support.waits import CTX, ENDINGS, USER, answered, chat, paused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from greentic_session.testing.servers import LocalServer

    from ..support.redis import Call
    from ..support.waits import Registry, Store, Turn

pytestmark = pytest.mark.anyio

LEASE_SECS: Final = 0.5
NEW: Final = chat("new")


async def taken(waits: Registry, name: str) -> Turn:
    await patiently(lambda: waits.register_wait(CTX, USER, chat(name), paused(name)))
    return await patiently(lambda: waits.claim(CTX, USER, chat(name), attempt_id=name))


async def turns_of(waits: Registry) -> dict[str, Turn]:
    return {verb: await taken(waits, verb) for verb in ENDINGS}


def endings(turns: dict[str, Turn]) -> dict[str, Call]:
    def ending(verb: str) -> Call:
        return lambda _store: ENDINGS[verb](turns[verb])

    return {verb: ending(verb) for verb in turns}


def others(waits: Registry) -> tuple[dict[str, Call], dict[str, Call]]:
    """Return the calls without a turn: reads and writes."""
    waiting = chat("waiting")
    return {
        "find": lambda _: waits.find_wait_by_scope(CTX, USER, waiting),
        "list": lambda _: waits.list_waits_for_user(CTX, USER),
        "claim": lambda _: waits.claim(CTX, USER, waiting),
        "clear": lambda _: waits.clear_wait(CTX, USER, waiting),
    }, {"register": lambda _: waits.register_wait(CTX, USER, NEW, paused("new"))}


async def test_endings_under_way_when_the_server_is_killed_are_never_taken_for_done(
    server: LocalServer,
) -> None:
    async with store_at(server.url, deadline=5) as store:
        waits: Registry = WaitRegistry(store)
        turns = {str(number): await taken(waits, str(number)) for number in range(32)}

        def complete(turn: Turn) -> Call:
            return lambda _: turn.complete(answered(turn.session, "a turn"))

        calls = {name: complete(turn) for name, turn in turns.items()}
        await asyncio.gather(*(store.ping() for _ in calls))  # a connection for each
        os.kill(server.pid, signal.SIGSTOP)  # it accepts connections, but does nothing
        under_way = asyncio.create_task(ended(store, calls))
        for _ in range(10):  # steps of the loop, in which the calls are sent
            await asyncio.sleep(0)
        assert store.statistics().in_flight == len(calls)
        server.kill()
        server.start()
        told = Counter(type(outcome) for outcome in (await under_way).values())
        # Most of them were sent, so their outcome is unknown.
        assert told[OutcomeUnknownError] > 0
        assert told[OutcomeUnknownError] + told[LeaseLostError] == len(calls)
        assert await waits.list_waits_for_user(CTX, USER) == []
        assert store.statistics().in_flight == 0


async def test_a_block_is_cancelled_when_the_server_has_lost_its_turn(server: LocalServer) -> None:
    async with store_at(server.url, deadline=5) as store:
        waits: Registry = WaitRegistry(store)
        await waits.register_wait(CTX, USER, NEW, paused("new"))
        fence, was_cancelled = 0, False

        async def turn() -> None:
            nonlocal fence, was_cancelled
            async with waits.resume(CTX, USER, NEW, lease=LEASE_SECS) as turn:
                fence = turn.fence
                server.kill()
                server.start()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    was_cancelled = True
                    raise

        async with asyncio.timeout(20):
            with pytest.raises(LeaseLostError):
                await turn()
        assert was_cancelled
        assert (await taken(waits, "new")).fence > fence


async def test_a_stopped_server_ends_no_call_late_and_the_store_works_again(
    server: LocalServer,
) -> None:
    namespace = f"test:{uuid4().hex}"
    async with (
        store_at(server.url, namespace=namespace, deadline=SHORT_SECS) as store,
        store_at(server.url, namespace=namespace) as calm,
    ):
        waits: Registry = WaitRegistry(store)
        await warmed_up(store)
        await WaitRegistry(calm).register_wait(CTX, USER, chat("waiting"), paused("waiting"))
        turns = await turns_of(waits)
        reading, writing = others(waits)
        with stopped(server):
            for name, error in (await ended(store, reading, deadline=SHORT_SECS)).items():
                assert type(error) is StoreUnavailableError, name
                assert error.code == "timeout", name
            calls = {**writing, **endings(turns)}
            for name, error in (await ended(store, calls, deadline=SHORT_SECS)).items():
                assert type(error) in (StoreUnavailableError, OutcomeUnknownError), name
        assert store.statistics().in_flight == 0
        await warmed_up(store)
        found = await patiently(lambda: waits.find_wait_by_scope(CTX, USER, chat("waiting")))
        assert found == paused("waiting").key
        # All that was sent has arrived by now. Each turn has ended or continues, and all happened
        # at most once.
        again: Registry = WaitRegistry(calm)
        for verb, turn in turns.items():
            stored = await calm.get(turn.key)
            if stored is None:
                assert verb == "finish"
            else:
                assert stored.cas in (turn.cas, next_of(turn.cas))
        claim = await again.claim(CTX, USER, chat("waiting"))
        await claim.complete(answered(claim.session, "a turn"))


async def test_a_block_is_cancelled_when_its_lease_ran_out_and_no_server_answered(
    server: LocalServer,
) -> None:
    async with store_at(server.url, deadline=SHORT_SECS) as store:
        waits: Registry = WaitRegistry(store)
        await warmed_up(store)
        await patiently(lambda: waits.register_wait(CTX, USER, NEW, paused("new")))
        loop = asyncio.get_running_loop()
        held_secs = 0.0

        async def turn() -> None:
            nonlocal held_secs
            async with waits.resume(CTX, USER, NEW, lease=LEASE_SECS) as turn:
                with stopped(server):
                    began_at = loop.time()
                    try:
                        await asyncio.Event().wait()
                    finally:
                        held_secs = loop.time() - began_at
                await turn.complete(turn.session)

        async with asyncio.timeout(20):
            with pytest.raises(LeaseLostError):
                await turn()
        # Not before the lease could have been lost. A third of it may have passed without a
        # renewal.
        assert held_secs > LEASE_SECS / 3
        # The same store continues with the server. A renewal from before the pause may succeed now.
        # No other worker claimed the wait, so it is still there.
        won: list[Turn] = []

        async def is_open() -> bool:
            with suppress(WaitClaimedError, StoreUnavailableError, OutcomeUnknownError):
                won.append(await waits.claim(CTX, USER, NEW, attempt_id="afterwards"))
            return bool(won)

        await until_async(is_open)
        with suppress(LeaseLostError):  # completed, and retried once because the reply was missing
            await patiently(lambda: won[0].complete(answered(won[0].session, "a turn")))
        assert await patiently(lambda: waits.list_waits_for_user(CTX, USER)) == []


async def test_an_ending_of_two_steps_has_one_deadline(server: LocalServer) -> None:
    deadline = 1.0
    seen = 0

    def choose(request: bytes) -> Fate:
        # The first attempt at the record's step takes half of the time, and the index does not
        # answer.
        nonlocal seen
        if END_CLAIM.sha1.encode() in request:
            seen += 1
            return Fate.SWALLOW if seen == 1 else Fate.PASS
        return Fate.SWALLOW if UPDATE_INDEX.sha1.encode() in request and seen else Fate.PASS

    namespace = f"test:{uuid4().hex}"
    async with (
        Proxy(server.port, choose) as proxy,
        store_at(server.url, namespace=namespace) as near,
        store_at(proxy.url, namespace=namespace, deadline=deadline) as far,
    ):
        for verb in ("complete", "finish"):
            await ENDINGS[verb](await taken(WaitRegistry(near), verb))  # the server has the scripts
            seen = 0
            turn = await taken(WaitRegistry(far), f"a {verb}")
            call: dict[str, Callable[[Store], Awaitable[Any]]] = {
                verb: lambda _, verb=verb, turn=turn: ENDINGS[verb](turn)  # type: ignore[misc]
            }
            outcome = (await ended(far, call, deadline=deadline))[verb]
            assert not isinstance(outcome, Exception), outcome  # the record's step got its reply
