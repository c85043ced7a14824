"""Tests of the soak with a tiny share, and of its report of a loss."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ..support.redis import SEED
from .catalogue import RUNS, Run
from .report import Report

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

SCRIPT = Path(__file__).parents[2] / "scripts" / "soak.py"
LINE = re.compile(r"^([a-z-]+): ([0-9,]+) .+, ([0-9,]+) faults met, 0 violations or losses, .* s")
OWN_TESTS = ("histories-valkey", "resumes", "failovers-sentinel", "failovers-cluster")
"""Runs that take too long together.

Other tests cover histories over faulty connections, and waits. The gates cover web sessions.
"""
GATES = {
    "cancellations": 20_000,
    "wire-faults": 2_000,
    "restarts": 3,
    "beginnings": 20,
    "failovers-sentinel": 2,
    "failovers-cluster": 2,
    "searches": 4_000,
    "leftovers-memory": 2_000,
    "leftovers-valkey": 2_000,
    "web-pairs": 100,
    "web-sums": 2,
    "web-logouts": 50,
    "web-logins": 10,
    "web-renewals": 20,
    "web-revocations": 50,
    "web-inventions": 4_000,
}
"""Counts in ``--full``. Histories, checkers and waits have tests of their own."""


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-W", "error", str(SCRIPT), *map(str, arguments)]


@pytest.mark.timeout(240)  # seconds, ten times what an idle machine needs
def test_every_run_does_its_share() -> None:
    names = [name for name in RUNS if name not in OWN_TESTS and not name.startswith("web-")]
    done = subprocess.run(
        command(*names, "--share", 0.0001, "--seed", SEED),
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first, *lines = done.stdout.splitlines()
    assert first == f"seed {SEED}, share 0.0001"
    told = [LINE.match(line) for line in lines]
    assert [line and line[1] for line in told] == names
    for line in told:
        assert line is not None
        assert int(line[2].replace(",", "")) >= max(1, round(RUNS[line[1]].nightly * 0.0001))
        assert int(line[3].replace(",", "")) > 0 or line[1].startswith(
            # Their faults are what they look for, or races that so few rounds may not meet.
            ("leftovers", "histories", "searches", "deploys", "generated")
        )


@pytest.mark.timeout(240)  # seconds, ten times what an idle machine needs
@pytest.mark.anyio
@pytest.mark.parametrize("name", GATES)
async def test_the_gate_of_every_change(name: str, scaled: Callable[[int], int]) -> None:
    wanted = scaled(GATES[name])
    report = Report(SEED, wanted)
    await RUNS[name].soak(report)
    print(f"GREENTIC_SESSION_TEST_SEED={SEED}: {report.count} {RUNS[name].unit}")  # noqa: T201
    assert report.losses == []
    assert report.count >= wanted


def be_interrupted() -> None:
    """Undo a shell's signal settings for background processes and their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_an_interrupted_soak_says_how_far_it_came() -> None:
    running = subprocess.Popen(
        command("leftovers-memory", "checker", "--seed", SEED),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=be_interrupted,  # noqa: PLW1509 - it takes no lock
    )
    assert running.stdout is not None
    try:
        assert running.stdout.readline().startswith(f"seed {SEED}")
        running.send_signal(signal.SIGINT)
        said, _ = running.communicate(timeout=30)
    finally:
        running.kill()
        running.communicate()
    assert running.returncode == 130
    assert [line.split(":")[0] for line in said.splitlines()] == ["leftovers-memory"]


@pytest.fixture
def soak() -> ModuleType:
    spec = importlib.util.spec_from_file_location("soak_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def losing(report: Report) -> None:
    report.count = report.wanted
    report.losses += [f"loss {number}" for number in range(5)]


async def breaking_off(_report: Report) -> None:
    raise RuntimeError("something else")


def test_losses_are_shown_and_are_the_exit_status(
    soak: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs: dict[str, Any] = {
        "losing": Run(10, "things", losing),
        "breaking": Run(10, "things", breaking_off),
    }
    monkeypatch.setattr(soak, "RUNS", runs)
    monkeypatch.setattr(sys, "argv", ["soak", "losing", "breaking", "--seed", "1"])
    assert soak.main() == 1
    said = capsys.readouterr()
    assert "losing: 10 things, 0 faults met, 5 violations or losses" in said.out
    assert "loss 2" in said.out
    assert "and 2 more" in said.out
    assert "breaking: 0 things, 0 faults met, 1 violations or losses" in said.out
    assert "something else" in said.err


@pytest.mark.parametrize("wrong", [["nothing"], ["checker", "--share", "0"]])
def test_what_does_not_exist_is_refused(
    soak: ModuleType,
    wrong: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["soak", *wrong])
    with pytest.raises(SystemExit):
        soak.main()
    assert "usage: scripts/soak" in capsys.readouterr().err
