"""Servers for tests with faults."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from greentic_session.testing.servers import valkey_binary
from greentic_session.testing.topologies import ClusterRig, SentinelRig, StandaloneRig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def standalone() -> AsyncIterator[StandaloneRig]:
    """Yield a Valkey without persistence."""
    async with StandaloneRig(valkey_binary(), options=("--lua-time-limit", "50")) as rig:
        yield rig


@pytest.fixture
async def durable() -> AsyncIterator[StandaloneRig]:
    """Yield a Valkey that persists each write before its acknowledgement."""
    async with StandaloneRig(valkey_binary(), durable=True) as rig:
        yield rig


@pytest.fixture
async def sentinels() -> AsyncIterator[SentinelRig]:
    """Yield a master with two replicas and three sentinels."""
    async with SentinelRig(valkey_binary()) as rig:
        yield rig


@pytest.fixture
async def cluster() -> AsyncIterator[ClusterRig]:
    """Yield three masters with a replica each."""
    async with ClusterRig(valkey_binary()) as rig:
        yield rig
