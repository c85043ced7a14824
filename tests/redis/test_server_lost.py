"""Tests of a server that is killed, paused or absent, and of loops that end before the store."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import pytest
import trio

from greentic_session import OutcomeUnknownError, StoreUnavailableError, create_session_store

from ..support.redis import (
    KEY,
    READS,
    SEED,
    SHORT_SECS,
    WRITES,
    Crowd,
    ended,
    next_of,
    patiently,
    session,
    stopped,
    store_at,
    until,
    warmed_up,
)

if TYPE_CHECKING:
    from greentic_session.testing.servers import LocalServer


pytestmark = pytest.mark.anyio


class TestServerGone:
    async def test_every_verb_ends_by_its_deadline_and_works_again_after_a_restart(
        self, server: LocalServer
    ) -> None:
        async with store_at(server.url, deadline=SHORT_SECS) as store:
            await warmed_up(store)
            server.kill()
            for _ in range(2):  # on dead connections first, then on none
                for name, error in (await ended(store, READS, deadline=SHORT_SECS)).items():
                    assert type(error) is StoreUnavailableError, name
                for name, error in (await ended(store, WRITES, deadline=SHORT_SECS)).items():
                    assert type(error) in (StoreUnavailableError, OutcomeUnknownError), name
            server.start()
            await warmed_up(store)
            cas = await patiently(lambda: store.put(session()))
            found = await patiently(lambda: store.get(KEY))
            assert found is not None
            assert found.cas == cas

    async def test_calls_under_way_meet_documented_errors_only(self, server: LocalServer) -> None:
        async with store_at(server.url, deadline=SHORT_SECS) as store:
            await warmed_up(store)
            calls = [asyncio.create_task(ended(store, {**READS, **WRITES})) for _ in range(4)]
            await until(lambda: store.statistics().in_flight > 20)
            server.kill()
            for call in calls:
                for name, outcome in (await call).items():
                    if isinstance(outcome, StoreUnavailableError | OutcomeUnknownError):
                        assert outcome.code in ("unavailable", "timeout"), name
            assert store.statistics().in_flight == 0

    async def test_a_stopped_server_times_out_and_its_late_reply_reaches_no_other_call(
        self, server: LocalServer
    ) -> None:
        namespace = f"test:{uuid4().hex}"
        calm = store_at(server.url, namespace=namespace)
        hasty = store_at(server.url, namespace=namespace, deadline=SHORT_SECS)
        async with calm, hasty:
            crowd = Crowd(hasty, random.Random(SEED))
            await Crowd(calm, random.Random(SEED)).arrive()
            first = await calm.put(session())
            # A paused server accepts connections and sends nothing on them.
            with stopped(server):
                for name, error in (await ended(hasty, READS, deadline=SHORT_SECS)).items():
                    assert type(error) is StoreUnavailableError, name
                    assert error.code == "timeout", name
            await warmed_up(hasty)
            with stopped(server):
                puts = {"put": WRITES["put"]}
                error = (await ended(hasty, puts, deadline=SHORT_SECS))["put"]
                assert isinstance(error, OutcomeUnknownError)
                assert error.code == "timeout"
            for _ in range(20):
                await asyncio.gather(patiently(crowd.get), patiently(crowd.get_many))
            # Each attempt at the put may have reached the server. Together they did it once.
            found = await calm.get(KEY)
            assert found is not None
            assert found.cas in (first, next_of(first))


THREE_LOOPS: Final = """
import asyncio, sys
from greentic_session import create_session_store
store = create_session_store(sys.argv[1])
asyncio.run(store.ping())
asyncio.run(store.ping())
assert store.statistics().connections == 1
asyncio.run(store.aclose())
assert store.statistics().closed
assert store.statistics().connections == 0
"""


def test_a_store_that_outlives_its_loop_works_and_closes_in_the_next(valkey_url: str) -> None:
    # In a process of its own, because no code can close the first loop's sockets any more. Python's
    # warnings about them would appear in a later test.
    subprocess.run([sys.executable, "-c", THREE_LOOPS, valkey_url], check=True)


def test_trio_is_refused_in_words(valkey_url: str) -> None:
    async def main() -> None:
        async with create_session_store(valkey_url) as store:
            for call in (*READS.values(), *WRITES.values()):
                with pytest.raises(StoreUnavailableError, match="asyncio only"):
                    await call(store)

    trio.run(main)
