"""Every Python block of the README runs, on memory and on a server."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
PROGRAMS = [block for block in BLOCKS if "asyncio.run(" in block]
SNIPPETS = [block for block in BLOCKS if "asyncio.run(" not in block]
SERVER_URL = "redis://localhost:6379"
FOLDER_URL = "embedded:///var/lib/bot/sessions"


def _own_namespace(valkey_url: str) -> str:
    return f"{valkey_url}?deadline=20&namespace=test:{uuid4().hex}"


def _run(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program], check=True, capture_output=True, text=True
    ).stdout


def test_the_memory_example_runs_and_is_short() -> None:
    program = PROGRAMS[0]
    assert 'create_session_store("memory://")' in program
    assert len([line for line in program.splitlines() if line.strip()]) < 25
    assert _run(program) == "another worker was first: 2 writes so far\n"


def test_the_memory_example_runs_on_a_server(valkey_url: str) -> None:
    program = PROGRAMS[0].replace("memory://", _own_namespace(valkey_url))
    assert _run(program) == "another worker was first: 2 writes so far\n"


def test_the_server_example_runs(valkey_url: str) -> None:
    assert len(PROGRAMS) == 3
    assert SERVER_URL in PROGRAMS[1]
    assert _run(PROGRAMS[1].replace(SERVER_URL, _own_namespace(valkey_url))) == ""


def test_the_durable_example_runs_and_its_sessions_stay() -> None:
    with tempfile.TemporaryDirectory(prefix="gemb-", dir="/tmp") as parent:
        assert PROGRAMS[2].count(FOLDER_URL) == 2
        assert _run(PROGRAMS[2].replace(FOLDER_URL, f"embedded://{parent}/state?deadline=20")) == ""
        assert [*Path(parent).glob("state/appendonlydir/*.aof")]


@pytest.mark.parametrize("backend", ["memory", "valkey"])
def test_the_snippets_continue_one_another(
    backend: str, valkey_url: str, tcp_server_url: str
) -> None:
    url = "memory://" if backend == "memory" else _own_namespace(valkey_url)
    names: dict[str, Any] = {"url": url, "__name__": "readme"}

    async def run() -> None:
        for number, snippet in enumerate(SNIPPETS):
            code = compile(
                snippet, f"README snippet {number}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            )
            result = eval(code, names)  # noqa: S307 - our own README
            if inspect.iscoroutine(result):
                await result
        if backend == "valkey":
            await names["is_orderly_over_a_bad_line"](int(tcp_server_url.rpartition(":")[2]), 7)

    assert len(SNIPPETS) >= 7
    asyncio.run(run())
    assert names["store"].statistics().closed


def test_the_sections_stand_in_their_order() -> None:
    assert re.findall(r"^## (.*)$", README, re.MULTILINE) == [
        "In memory",
        "On Redis or Valkey",
        "On one machine, durable",
        "The verbs",
        "The fence",
        "Life",
        "Outbox",
        "Waits",
        "Ordering",
        "Keys in Redis",
        "Choosing a backend",
        "Speed",
        "Errors",
        "Testing your own code",
        "Developing",
    ]


def test_every_option_of_a_url_is_documented() -> None:
    from greentic_session.config import urls

    tables = (
        urls._EMBEDDED_OPTIONS,
        urls._REDIS_OPTIONS,
        urls._SENTINEL_OPTIONS,
        urls._TLS_OPTIONS,
    )
    known = {*urls._MEMORY_OPTIONS, *(name for table in tables for name in table)}
    assert [name for name in sorted(known) if f"`{name}`" not in README] == []
