"""Fixtures that the tests of waits share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from greentic_session.testing.harness import RedisHarness

from ..support.scripts import WaitScriptRunner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(params=["valkey_url", "redis_url"])
async def runner(request: pytest.FixtureRequest) -> AsyncIterator[WaitScriptRunner]:
    async with RedisHarness(request.getfixturevalue(request.param)) as harness:
        yield WaitScriptRunner(harness)
