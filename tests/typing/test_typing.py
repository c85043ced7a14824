"""Tests that mypy and pyright accept the right uses of a typed API and reject the wrong ones."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.markdown import ROOT

CASES = Path(__file__).parent
FILES = ("web_sessions",)
pytestmark = pytest.mark.timeout(300)


def expected_of(path: Path) -> set[int]:
    lines = path.read_text("utf-8").splitlines()
    return {number for number, line in enumerate(lines, 1) if line.endswith("# expect-error")}


def rejected_by_mypy(path: Path) -> set[int]:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--no-pretty"]
    command += ["--cache-dir", str(ROOT / ".mypy_cache"), "--follow-imports=silent", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return {int(line) for line in re.findall(rf"{path.name}:(\d+): error:", done.stdout)}


def rejected_by_pyright(path: Path) -> set[int]:
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--level", "error", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {one["range"]["start"]["line"] + 1 for one in found if one["severity"] == "error"}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "checker", [rejected_by_mypy, rejected_by_pyright], ids=["mypy", "pyright"]
)
def test_a_checker_rejects_exactly_the_wrong_uses(name: str, checker: object) -> None:
    path = CASES / f"{name}.py"
    expected = expected_of(path)
    assert expected
    assert callable(checker)
    assert checker(path) == expected
