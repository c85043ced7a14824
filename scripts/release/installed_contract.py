"""A test module as in another project: the shipped contract, and the server fixtures."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from greentic_session import create_session_store, new_session_key
from greentic_session.testing.contract import (
    AffinityContract,
    InboxContract,
    LockContract,
    SessionStoreContract,
    WaitContract,
)
from greentic_session.testing.harness import MemoryHarness

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytest_plugins = ["greentic_session.testing.fixtures"]


class TestMemory(SessionStoreContract, WaitContract, LockContract, AffinityContract, InboxContract):
    """The contract of a store, on memory."""

    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> str:
        """Run each test on both loops."""
        return str(request.param)

    @pytest.fixture
    async def harness(self) -> AsyncIterator[MemoryHarness]:
        """Yield a store of the test's own."""
        async with MemoryHarness() as harness:
            yield harness


def test_the_fixtures_reach_a_server(session_store_url: str) -> None:
    """Read from the fixtures' server, if it supports the platform."""

    async def read() -> object:
        async with create_session_store(session_store_url) as store:
            return await store.get(new_session_key())

    assert asyncio.run(read()) is None
