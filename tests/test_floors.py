"""Who may import whom: arrows point down only."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "greentic_session"

FLOORS: dict[str, int] = {
    # Words know the standard library and msgspec only.
    "_compat": 0,
    "_exports": 0,
    "errors": 0,
    "validation": 0,
    "clock": 0,
    "model": 0,
    "settings": 0,
    "config": 0,
    "urls": 0,
    "codec": 0,
    "schema": 0,
    "statistics": 0,
    # The contract.
    "record": 1,
    "drafting": 1,
    "scanning": 1,
    "fence": 1,
    "keys": 1,
    "scoped": 1,
    "store": 1,
    "primitives": 1,
    "leasing": 1,
    "membership": 1,
    "locking": 1,
    "waiting": 1,
    "mailing": 1,
    "background": 1,
    "bells": 1,
    "keeping": 1,
    # Backends never know one another.
    "memory": 2,
    "redis": 2,
    # Wiring is the one place that knows every backend
    "factory": 3,
    # A server of one's own, and the Redis backend on it
    "embedded": 3,
    # Services are handed a store.
    "waits": 4,
    "ordering": 4,
    # Nobody imports the roof.
    "__init__": 5,
    "testing": 6,
}
OUTSIDE: dict[int, frozenset[str]] = {
    0: frozenset({"msgspec", "typing_extensions"}),
    1: frozenset({"msgspec", "anyio", "trio"}),
    2: frozenset({"msgspec", "anyio", "trio", "redis", "hiredis"}),
    3: frozenset(),
    4: frozenset({"msgspec", "anyio", "opentelemetry"}),
    5: frozenset(),
    6: frozenset(
        {"msgspec", "anyio", "pytest", "typing_extensions", "hiredis", "docker", "testcontainers"}
    ),
}
# The rigs speak to their servers without the client that they are there to test.
DRIVER = {("redis", "redis"), ("redis", "hiredis"), ("testing", "hiredis")}


def _imports(path: Path) -> list[tuple[int, str, str | None]]:
    """Return (line, outside module, None) or (line, "", room of this package) per import."""
    inside = path.relative_to(PACKAGE).parts
    found: list[tuple[int, str, str | None]] = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name.split(".")[0], None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.append((node.lineno, (node.module or "").split(".")[0], None))
        elif isinstance(node, ast.ImportFrom):
            base = inside[: len(inside) - node.level]
            names = [node.module.split(".")[0]] if node.module else [a.name for a in node.names]
            found += [(node.lineno, "", base[0] if base else name) for name in names]
    return found


def _room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def offences(path: Path) -> list[str]:
    room = _room(path)
    floor = FLOORS[room]
    wrong: list[str] = []
    for line, outside, target in _imports(path):
        where = f"{path.relative_to(PACKAGE.parent)}:{line}"
        if target is not None:
            upward = FLOORS[target] > floor
            sideways = FLOORS[target] == floor == 2 and target != room
            if target != room and (upward or sideways):
                wrong.append(f"{where}: {room} (floor {floor}) imports {target}")
        elif outside not in sys.stdlib_module_names and outside not in OUTSIDE[floor]:
            wrong.append(f"{where}: {room} (floor {floor}) imports {outside}")
        elif outside in ("redis", "hiredis") and (room, outside) not in DRIVER:
            wrong.append(f"{where}: only redis/ imports the driver")
    return wrong


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_down(path: Path) -> None:
    assert offences(path) == []


def test_every_room_has_a_floor() -> None:
    assert {_room(path) for path in MODULES} == set(FLOORS)


@pytest.mark.parametrize(
    ("room", "text"),
    [
        ("errors.py", "from .store import AsyncSessionStore"),
        ("store.py", "from .memory import InMemorySessionStore"),
        ("memory/store.py", "from ..redis import RedisSessionStore"),
        ("memory/store.py", "import redis.asyncio"),
        ("model.py", "def f():\n    import anyio"),
        ("store.py", "import requests"),
    ],
)
def test_an_arrow_that_points_up_is_found(
    room: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    path = tmp_path / room
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert len(offences(path)) == 1


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
