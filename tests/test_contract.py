"""The shipped contract suite on every backend that this machine has."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from greentic_session.testing.contract import SessionStoreContract
from greentic_session.testing.harness import MemoryHarness, RedisHarness
from greentic_session.testing.servers import ServerNotFoundError, redis_binary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def _why_no_redis() -> str | None:
    try:
        redis_binary()
    except ServerNotFoundError as error:
        return str(error)
    return None


URL_VARIABLE = "GREENTIC_SESSION_TEST_URL"
GIVEN_URL = os.environ.get(URL_VARIABLE, "")
NO_REDIS = _why_no_redis()


class TestMemory(SessionStoreContract):
    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    async def harness(self) -> AsyncIterator[MemoryHarness]:
        async with MemoryHarness() as harness:
            yield harness


class TestValkey(SessionStoreContract):
    @pytest.fixture
    async def harness(self, valkey_url: str) -> AsyncIterator[RedisHarness]:
        async with RedisHarness(valkey_url) as harness:
            yield harness


class TestValkeyResp2(SessionStoreContract):
    @pytest.fixture
    async def harness(self, valkey_url: str) -> AsyncIterator[RedisHarness]:
        async with RedisHarness(f"{valkey_url}?protocol=2") as harness:
            yield harness


# A backend that this machine lacks is one skipped test that names it and says why, not a thousand.
if NO_REDIS is None:

    class TestRedisServer(SessionStoreContract):
        @pytest.fixture
        async def harness(self, redis_url: str) -> AsyncIterator[RedisHarness]:
            async with RedisHarness(redis_url) as harness:
                yield harness

else:

    @pytest.mark.skip(reason=f"backend redis-server: {NO_REDIS}")
    def test_redis_server() -> None: ...


if GIVEN_URL:

    class TestGivenUrl(SessionStoreContract):
        @pytest.fixture
        async def harness(self) -> AsyncIterator[RedisHarness]:
            async with RedisHarness(GIVEN_URL) as harness:
                yield harness

else:

    @pytest.mark.skip(reason=f"backend {URL_VARIABLE}: not set")
    def test_given_url() -> None: ...
