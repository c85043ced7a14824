"""Tests that imports point down the floors, and that no modules import each other in a cycle."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGE = Path(__file__).parents[2] / "greentic_session"

FLOORS: dict[str, int] = {
    # Structs, names and rules: the standard library and msgspec only, no I/O, no await.
    "_compat": 0,
    "_exports": 0,
    "_foreign": 0,
    "_validation": 0,
    "clock": 0,
    "codec": 0,
    "config": 0,
    "errors": 0,
    "keys": 0,
    "merging": 0,
    "model": 0,
    "schema": 0,
    "statistics": 0,
    # The interfaces of a backend.
    "abc": 1,
    # Tools that the store, the services and the backends share.
    "_core": 2,
    "finding": 3,
    "scoped": 3,
    "store": 3,
    # Connections to servers know no session.
    "redis.transport": 3,
    # Backends never import each other.
    "memory": 4,
    "redis": 4,
    # Wiring, which names the backends.
    "embedded": 5,
    "factory": 5,
    # Services get a store.
    "ordering": 6,
    "waits": 6,
    # Runtimes over the services.
    "events": 7,
    "flows": 7,
    "web": 7,
    # No other module imports these.
    "__init__": 8,
    "cli": 8,
    "codegen": 8,
    "testing": 8,
}
"""Floors by path prefix. The longest match counts."""

REACH: dict[str, frozenset[str]] = {
    "codegen": frozenset({"__init__", "_exports"}),  # the version, for the header
    "redis.transport": frozenset(
        {name for name, floor in FLOORS.items() if floor == 0} | {"abc.records"}
    ),
    # Services know no backend.
    "ordering": frozenset({*(name for name, floor in FLOORS.items() if floor <= 3), "waits"}),
    "waits": frozenset(name for name, floor in FLOORS.items() if floor <= 3),
    "events": frozenset(
        {*(name for name, floor in FLOORS.items() if floor <= 3), "ordering", "waits"}
    ),
    "web": frozenset(
        {*(name for name, floor in FLOORS.items() if floor <= 3), "ordering", "waits"}
    ),
    "flows": frozenset(
        {*(name for name, floor in FLOORS.items() if floor <= 3), "ordering", "waits"}
    ),
}
"""Folders that may import less than their floor allows."""

OUTSIDE: dict[int, frozenset[str]] = {
    0: frozenset({"msgspec", "typing_extensions"}),
    1: frozenset({"msgspec"}),
    2: frozenset({"msgspec", "anyio", "trio"}),
    3: frozenset({"msgspec", "anyio"}),
    4: frozenset({"msgspec", "anyio"}),
    5: frozenset(),
    6: frozenset({"msgspec", "anyio", "opentelemetry"}),
    7: frozenset({"msgspec", "anyio", "typing_extensions"}),
    8: frozenset(
        {
            *("msgspec", "anyio", "pytest", "hypothesis", "typing_extensions", "hiredis", "docker"),
            "testcontainers",
        }
    ),
}
"""Distributions outside the standard library that a floor may import."""

DRIVER: dict[str, frozenset[str]] = {
    "redis.transport": frozenset({"redis", "hiredis"}),
    "redis.notifications": frozenset({"redis", "hiredis"}),
    # The test servers work without the client that they test.
    "testing": frozenset({"hiredis"}),
    # The adapters of frameworks. The middleware itself needs none.
    "web.starlette": frozenset({"starlette"}),
    "web.fastapi": frozenset({"fastapi"}),
    "web.litestar": frozenset({"litestar"}),
}
"""The only modules that import a driver or a framework."""

CYCLES: dict[frozenset[str], str] = {
    frozenset({"errors", "model", "_validation"}): "CasConflictError carries a Cas",
    frozenset(
        {
            "web.bound",
            "web.devices",
            "web.ending",
            "web.entering",
            "web.exchange",
            "web.saving",
            "web.session",
            "web.sessions",
        }
    ): "a session of a request knows the sessions that loaded it",
    frozenset({"store", "scoped"}): "a scoped view is made by the store that it wraps",
}
"""Cycles that exist for type checkers only, with the reason."""


class Import(NamedTuple):
    """The target of an import statement: a module of this package, or one outside."""

    line: int
    target: str
    is_inside: bool
    is_for_checkers: bool


def _module(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def _exists(module: str) -> bool:
    path = PACKAGE.joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


@cache
def _imports(path: Path) -> list[Import]:
    package = path.relative_to(PACKAGE).parts[:-1]
    tree = ast.parse(path.read_text("utf-8"))
    for_checkers = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found: list[Import] = []
    for node in ast.walk(tree):
        hidden = node in for_checkers
        if isinstance(node, ast.Import):
            found += [
                Import(node.lineno, alias.name.split(".")[0], False, hidden) for alias in node.names
            ]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.append(Import(node.lineno, (node.module or "").split(".")[0], False, hidden))
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            parent = ".".join(part for part in base if part)
            for alias in node.names:
                # `from .room import name` imports a module of that name, if there is one.
                inner = f"{parent}.{alias.name}".strip(".")
                target = inner if _exists(inner) else parent
                found.append(Import(node.lineno, target or "__init__", True, hidden))
    return found


def _prefix(module: str, table: Mapping[str, object]) -> str:
    """Return the longest entry of a table that is the module or contains it. Empty for none."""
    fits = [name for name in table if module == name or module.startswith(f"{name}.")]
    return max(fits, key=len, default="")


def _floor(module: str) -> int:
    return FLOORS[_prefix(module, FLOORS) or module]


def offences(path: Path) -> list[str]:
    """Return each import of a module that its floor, or its folder, does not allow."""
    module = _module(path)
    room, floor = _prefix(module, FLOORS), _floor(module)
    drivers = DRIVER.get(_prefix(module, DRIVER), frozenset())
    reach = REACH.get(_prefix(module, REACH))
    wrong: list[str] = []
    for line, target, is_inside, _ in _imports(path):
        where = f"{path.relative_to(PACKAGE.parent)}:{line}: {module} (floor {floor})"
        if not is_inside:
            allowed = sys.stdlib_module_names | OUTSIDE[floor] | drivers
            if target not in allowed:
                wrong.append(f"{where} imports {target}")
        elif _prefix(target, FLOORS) == room:
            continue
        elif reach is not None and not _prefix(target, dict.fromkeys(reach)):
            wrong.append(f"{where} imports {target}, beyond its reach")
        elif _floor(target) > floor or (_floor(target) == floor == 4):
            wrong.append(f"{where} imports {target} (floor {_floor(target)})")
    return wrong


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    assert offences(path) == []


def test_every_room_has_a_floor() -> None:
    assert {_prefix(_module(path), FLOORS) for path in MODULES} == set(FLOORS)


@pytest.mark.parametrize(
    ("room", "text"),
    [
        ("errors.py", "from .store import AsyncSessionStore"),
        ("abc/locks.py", "import anyio"),
        ("abc/locks.py", "from .._core.tenancy import owner_of"),
        ("_core/scan.py", "from ..store import AsyncSessionStore"),
        ("store.py", "from .memory import InMemorySessionStore"),
        ("memory/store.py", "from ..redis import RedisSessionStore"),
        ("memory/store.py", "import redis.asyncio"),
        ("redis/store.py", "import redis.asyncio"),
        ("redis/transport/client.py", "from ..scripts import PUT"),
        ("redis/transport/client.py", "from ...abc.locks import LockBackend"),
        ("waits/registry.py", "from ..ordering import SessionLocks"),
        ("ordering/locks.py", "from ..memory import InMemorySessionStore"),
        ("web/session.py", "from ..memory import InMemorySessionStore"),
        ("web/middleware.py", "from starlette.types import ASGIApp"),
        ("model.py", "def f():\n    import anyio"),
        ("store.py", "import requests"),
    ],
)
def test_an_import_that_points_up_is_found(
    room: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    path = tmp_path / room
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text)
    assert len(offences(path)) == 1


def _graph(paths: list[Path], *, for_checkers: bool) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {_module(path): set() for path in paths}
    for path in paths:
        for found in _imports(path):
            if found.is_inside and (for_checkers or not found.is_for_checkers):
                graph[_module(path)].add(found.target)
    return graph


def _cycles(graph: dict[str, set[str]]) -> list[frozenset[str]]:
    """Return the strongly connected components of more than one module."""
    below: dict[str, set[str]] = {}
    for start in graph:
        seen, todo = set[str](), [start]
        while todo:
            for target in graph.get(todo.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    todo.append(target)
        below[start] = seen
    rings = {
        frozenset(other for other in below[start] if start in below.get(other, ()))
        for start in graph
        if start in below[start]
    }
    return sorted((ring for ring in rings if len(ring) > 1), key=sorted)


def test_no_modules_import_each_other_at_run_time() -> None:
    assert _cycles(_graph(MODULES, for_checkers=False)) == []


def test_each_cycle_of_annotations_has_a_reason() -> None:
    assert set(_cycles(_graph(MODULES, for_checkers=True))) == set(CYCLES)


def test_a_planted_cycle_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    names = ("errors", "model", "keys")
    for name, following in pairwise((*names, names[0])):
        (tmp_path / f"{name}.py").write_text(f"def f():\n    from .{following} import f\n")
    paths = [tmp_path / f"{name}.py" for name in names]
    assert _cycles(_graph(paths, for_checkers=False)) == [frozenset(names)]


def _loaded_after(code: str) -> set[str]:
    report = f"{code}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", report], check=True, capture_output=True, text=True
    )
    return {name.split(".")[0] for name in done.stdout.split()} | set(done.stdout.split())


def test_importing_the_package_loads_no_backend() -> None:
    loaded = _loaded_after("import greentic_session")
    assert "greentic_session.store" in loaded
    assert not {"redis", "anyio", "greentic_session.memory", "greentic_session.redis"} & loaded


def test_the_driver_stays_out_when_only_memory_is_used() -> None:
    loaded = _loaded_after(
        "import asyncio\n"
        "from greentic_session import create_session_store, new_session_key\n"
        "async def main():\n"
        "    async with create_session_store('memory://') as store:\n"
        "        assert await store.get(new_session_key()) is None\n"
        "asyncio.run(main())"
    )
    assert "greentic_session.memory" in loaded
    assert not {"redis", "hiredis", "greentic_session.redis"} & loaded


def test_every_public_name_is_there() -> None:
    code = (
        "import greentic_session as g\n"
        "assert sorted(set(g.__all__)) == g.__all__, 'sorted, once each'\n"
        "missing = [name for name in g.__all__ if not hasattr(g, name)]\n"
        "assert not missing, missing"
    )
    assert "redis" in _loaded_after(code)
