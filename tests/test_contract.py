"""The shipped contract suite on every backend that this machine has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from greentic_session.testing.contract import SessionStoreContract
from greentic_session.testing.harness import MemoryHarness, RedisHarness

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


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


class TestRedisServer(SessionStoreContract):
    @pytest.fixture
    async def harness(self, redis_url: str) -> AsyncIterator[RedisHarness]:
        async with RedisHarness(redis_url) as harness:
            yield harness


class TestGivenUrl(SessionStoreContract):
    @pytest.fixture
    async def harness(self, given_url: str) -> AsyncIterator[RedisHarness]:
        async with RedisHarness(given_url) as harness:
            yield harness
