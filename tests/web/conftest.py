"""The backends on which each rule is tested."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .driver import Browser, Rig, rig_on

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(params=["memory", "valkey"])
async def rig(request: pytest.FixtureRequest, anyio_backend: str) -> AsyncIterator[Rig]:  # noqa: ARG001
    kind = request.param
    url = request.getfixturevalue("valkey_url") if kind == "valkey" else ""
    async with rig_on(kind, url) as made:
        yield made


@pytest.fixture
def browser(rig: Rig) -> Browser:
    return Browser(rig)


in_memory = pytest.mark.parametrize("rig", ["memory"], indirect=True)
"""For a test that holds a session while time advances.

On a server, the rig makes the records older, and not what a request holds of them.
"""
