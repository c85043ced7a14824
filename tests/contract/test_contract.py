"""The shipped contract suites on every backend that this machine has."""

from __future__ import annotations

import os
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

from greentic_session.testing.contract import (
    AffinityContract,
    ClosingContract,
    EventContract,
    EvolutionContract,
    FindingContract,
    FlowContract,
    GenerationContract,
    InboxContract,
    LeavingContract,
    LockContract,
    MutatingContract,
    RaceContract,
    ReadingContract,
    SessionStoreContract,
    StreamContract,
    TimerContract,
    VersionContract,
    WaitContract,
    WritingContract,
)
from greentic_session.testing.contract.locks.contract import LockWaitingContract
from greentic_session.testing.harness import MemoryHarness, RedisHarness
from greentic_session.testing.servers import ServerNotFoundError, redis_binary

from ..conftest import CONTAINER_VARIABLE, NO_CONTAINER_VARIABLE

if sys.platform != "win32":  # which lacks the folder's locks
    from ..support.embedded import EmbeddedHarness, worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


def _why_no_redis() -> str | None:
    try:
        redis_binary()
    except ServerNotFoundError as error:
        return str(error)
    return None


URL_VARIABLE = "GREENTIC_SESSION_TEST_URL"
GIVEN_URL = os.environ.get(URL_VARIABLE, "")
CONTAINER_URL = os.environ.get(CONTAINER_VARIABLE, "").partition(" ")[0]
NO_CONTAINER = os.environ.get(NO_CONTAINER_VARIABLE)
NO_REDIS = _why_no_redis()


class Contract(
    SessionStoreContract,
    WaitContract,
    LockContract,
    AffinityContract,
    InboxContract,
    StreamContract,
    TimerContract,
    EventContract,
    FindingContract,
    EvolutionContract,
    VersionContract,
    GenerationContract,
    FlowContract,
):
    """Sessions, waits, locks, affinity, inboxes, streams, timers, events, generations, flows."""


class TestMemory(Contract):
    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    async def harness(self) -> AsyncIterator[MemoryHarness]:
        async with MemoryHarness() as harness:
            yield harness


class TestValkey(Contract):
    @pytest.fixture
    async def harness(self, valkey_url: str) -> AsyncIterator[RedisHarness]:
        async with RedisHarness(valkey_url) as harness:
            yield harness


class TestValkeyResp2(Contract):
    @pytest.fixture
    async def harness(self, valkey_url: str) -> AsyncIterator[RedisHarness]:
        async with RedisHarness(f"{valkey_url}?protocol=2") as harness:
            yield harness


@pytest.fixture(scope="session")
def embedded_url() -> Iterator[str]:
    """URL of a folder that another process keeps open."""
    with tempfile.TemporaryDirectory(prefix="gemb-", dir="/tmp") as parent:
        url = f"embedded://{parent}/state?deadline=20&fsync=no"
        with worker(url) as holder:
            holder.tell("open")
            assert holder.heard() == "open"
            yield url
            holder.tell("close")
            assert holder.heard() == "closed"


class TestEmbedded(
    ReadingContract,
    WritingContract,
    MutatingContract,
    LeavingContract,
    RaceContract,
    ClosingContract,
    LockWaitingContract,
):
    """The server of a folder: the rules that opening, closing and cancellation could break.

    The other rules are the server's, as above.
    """

    @pytest.fixture
    async def harness(self, embedded_url: str) -> AsyncIterator[EmbeddedHarness]:
        async with EmbeddedHarness(embedded_url) as harness:
            yield harness


class TestSentinel(Contract):
    """A replica confirms the master's writes."""

    @pytest.fixture
    async def harness(self, sentinel_url: str) -> AsyncIterator[RedisHarness]:
        async with RedisHarness(f"{sentinel_url}?acks=1") as harness:
            yield harness


class TestCluster(Contract):
    @pytest.fixture
    async def harness(self, cluster_url: str) -> AsyncIterator[RedisHarness]:
        async with RedisHarness(cluster_url) as harness:
            yield harness


# A missing backend is one skipped test with the reason, not a thousand.
if NO_REDIS is None:

    class TestRedisServer(Contract):
        @pytest.fixture
        async def harness(self, redis_url: str) -> AsyncIterator[RedisHarness]:
            async with RedisHarness(redis_url) as harness:
                yield harness

else:
    # Because Redis is an optional second engine.
    @pytest.mark.skip(reason=f"backend redis-server: {NO_REDIS}")  # not installed here
    def test_redis_server_runs_the_contract() -> None: ...


if CONTAINER_URL:

    class TestContainer(Contract):
        @pytest.fixture
        async def harness(self) -> AsyncIterator[RedisHarness]:
            async with RedisHarness(CONTAINER_URL) as harness:
                yield harness

else:
    # Because a Docker engine is optional.
    @pytest.mark.skip(reason=f"backend container: {NO_CONTAINER}")  # no engine answers here
    def test_container_runs_the_contract() -> None: ...


if GIVEN_URL:

    class TestGivenUrl(Contract):
        @pytest.fixture
        async def harness(self) -> AsyncIterator[RedisHarness]:
            async with RedisHarness(GIVEN_URL) as harness:
                yield harness

else:
    # Because only a person can name another server that may be written to.
    @pytest.mark.skip(reason=f"backend {URL_VARIABLE}: not set")  # no server was named
    def test_given_url_runs_the_contract() -> None: ...
