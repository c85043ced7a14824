"""``scripts/bench instructions`` compares two revisions, and fails above its limit."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import the gate, which is a script outside the package."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("benchmarks.instructions")


def _run(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": f"{ROOT / 'scripts'}{os.pathsep}{ROOT}"}
    if path is not None:
        environ["PATH"] = path
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.instructions", *arguments],
        env=environ,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )


def _require(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")  # because only the benchmark needs it
    command = ["git", "rev-parse", "--verify", "HEAD:greentic_session"]
    if subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode != 0:
        # Because a source distribution has no revision to compare with.
        pytest.skip("the source tree is no git repository with a commit of the package")


@pytest.mark.timeout(180)  # six seconds on an idle machine, but valgrind is slow on a busy one
def test_a_working_tree_is_compared_with_a_revision() -> None:
    _require("git", "tar", "valgrind")
    done = _run("--against", "HEAD", "--quick", "--limit", "1000")
    assert done.returncode == 0, done.stderr
    heading, _, row, blank, line = done.stdout.splitlines()
    assert heading == "| verb | backend | instructions at HEAD | here | change |"
    assert re.fullmatch(r"\| `get` \| memory \| [\d,]+ \| [\d,]+ \| [+-][\d.]+ % \|", row)
    assert blank == ""
    assert re.fullmatch(r"get: memory \d+->\d+ \([+-][\d.]+%\)", line)


def test_an_unknown_revision_is_named() -> None:
    _require("git")
    done = _run("--against", "no-such-revision", "--quick")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown revision no-such-revision" in done.stderr


def test_a_missing_tool_is_named(tmp_path: Path) -> None:
    _require("git")
    git = shutil.which("git")
    assert git is not None
    (tmp_path / "git").symlink_to(git)
    done = _run("--against", "HEAD", "--quick", path=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "valgrind is not installed" in done.stderr


def test_only_growth_above_the_limit_is_refused(gate: Any) -> None:
    same, less, at_limit, above = (
        gate.Figure("get", "memory", 1000.0, after) for after in (1000.0, 500.0, 1030.0, 1031.0)
    )
    assert gate.exceeding([same, less, at_limit, above], 3.0) == [above]
    assert gate.exceeding([above], 4.0) == []


def test_growth_above_the_limit_fails_the_command(
    gate: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = [gate.Figure("put", "memory", 1000.0, 1040.0)]
    monkeypatch.setattr(gate, "measure", lambda *_: figures)
    monkeypatch.setattr(gate, "commit_of", lambda ref: ref)
    monkeypatch.setattr(sys, "argv", ["instructions", "--against", "v1"])
    assert gate.main() == 1
    printed = capsys.readouterr()
    assert "| `put` | memory | 1,000 | 1,040 | +4.00 % |" in printed.out
    assert "put: memory 1000->1040 (+4.00%)" in printed.out
    assert "put on memory grew by 4.00 %, limit 3 %" in printed.err
    monkeypatch.setattr(sys, "argv", ["instructions", "--against", "v1", "--limit", "5"])
    assert gate.main() == 0


def test_a_count_is_read_from_the_summary_of_a_cachegrind_file(gate: Any) -> None:
    assert gate.counted("desc: x\ncmd: y\nevents: Ir\nfl=a\nfn=b\n1 2\nsummary: 42\n") == 42
    for text in ("", "events: Ir\nfn=b\n1 2\n", "events: Ir I1mr\nsummary: 42 1\n"):
        with pytest.raises(gate.CannotMeasureError, match="unknown cachegrind output"):
            gate.counted(text)
