"""The part of the suite that runs on a platform without a server and without Unix."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pytest

IS_SERVERLESS: Final = sys.platform == "win32"
"""Windows, for which no wheel contains a server."""

WHY: Final = "no server on this platform"

SERVER_FIXTURES: Final = frozenset(
    (
        "cluster_url",
        "embedded_url",
        "engine",
        "redis_url",
        "sentinel_url",
        "server",
        "tcp_server_url",
        "valkey_url",
    )
)
"""Fixtures of the suite that start a server."""

UNIX_ONLY: Final = (
    "contract/test_selection.py",
    "docs/test_bench.py",
    "docs/test_bench_instructions.py",
    "docs/test_example_approval.py",
    "docs/test_example_conversations.py",
    "docs/test_example_orders.py",
    "docs/test_examples.py",
    "docs/test_release.py",
    "embedded",
    "faults",
    "soak",
    "testing/test_containers.py",
    "testing/test_fixtures.py",
    "testing/test_topologies.py",
)
"""Folders and modules that cannot be imported, or whose subject is a server or a Unix process."""

_NAME_THE_EMBEDDED_STORE: Final = ("test_public_names_and_signatures_are_those_of_the_golden_list",)


def needs_a_server(item: pytest.Item) -> bool:
    """Return whether a test asks for a server, by a fixture or by a parameter that names one."""
    if item.name in _NAME_THE_EMBEDDED_STORE:
        return True
    asked = {*getattr(item, "fixturenames", ())}
    if callspec := getattr(item, "callspec", None):
        asked |= {value for value in callspec.params.values() if isinstance(value, str)}
    return not SERVER_FIXTURES.isdisjoint(asked)
