"""The servers that go wrong."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from greentic_session.testing.servers import valkey_binary
from greentic_session.testing.topologies import ClusterRig, SentinelRig, StandaloneRig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def standalone() -> AsyncIterator[StandaloneRig]:
    """One Valkey that keeps nothing when it is killed."""
    async with StandaloneRig(valkey_binary(), options=("--lua-time-limit", "50")) as rig:
        yield rig


@pytest.fixture
async def durable() -> AsyncIterator[StandaloneRig]:
    """One Valkey that has written down what it acknowledged."""
    async with StandaloneRig(valkey_binary(), durable=True) as rig:
        yield rig


@pytest.fixture
async def sentinels() -> AsyncIterator[SentinelRig]:
    """A master with two replicas, by the word of three sentinels."""
    async with watched() as rig:
        yield rig


@asynccontextmanager
async def watched() -> AsyncIterator[SentinelRig]:
    """A rig whose sentinels fail over at their first attempt, be the machine busy or not.

    They take a replica for good whose INFO is no older than five of their pings, and ask for it
    every second once the master is gone. With a ping every 100 ms they may find no good one at
    each of their attempts, which are 6 s apart.
    """
    async with SentinelRig(valkey_binary()) as rig:
        for sentinel in rig.sentinels:
            await sentinel.ask("SENTINEL", "DEBUG", "PING-PERIOD", 250)
        yield rig


@pytest.fixture
async def cluster() -> AsyncIterator[ClusterRig]:
    """Three masters with a replica each."""
    async with ClusterRig(valkey_binary()) as rig:
        yield rig
