"""Tests of ``scripts/bench`` and of its results in the README."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "scripts" / "benchmarks" / "results"
SPREAD = r"\d[\d.]*x \(\d[\d.]*\.\.\d[\d.]*\)"


def _bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": f"{ROOT / 'scripts'}{os.pathsep}{ROOT}"}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of the benchmarks, which are outside the package."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def _rows(page: str, title: str) -> dict[str, list[str]]:
    """Return a table of a page: the first cell of each row, and the others."""
    table = page.partition(f"### {title}\n\n")[2].partition("\n\n")[0]
    lines = [line[2:-2].split(" | ") for line in table.splitlines()]
    return {line[0]: line[1:] for line in [lines[0], *lines[2:]]}


def test_the_readme_shows_figures_that_were_found(room: Any) -> None:
    results = room("results")
    found = results.findings(RESULTS)
    readme = (ROOT / "README.md").read_text("utf-8")
    shown = re.findall(
        r"<!-- scripts/bench -->\n\n(.*)\n<!-- /scripts/bench -->", readme, re.DOTALL
    )
    assert shown == [room("findings").headlines(found)]
    figures = re.findall(r"\d[\d.]*(?:x| µs) \(\d[\d.]*\.\.\d[\d.]*\)", shown[0])
    assert len(figures) == len(shown[0].strip().splitlines()) - 2 == 5
    summary = (RESULTS / "summary.md").read_text("utf-8")
    assert [figure for figure in figures if f"| {figure} |" not in summary] == []


def test_every_page_says_what_was_found() -> None:
    done = _bench("--check")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_page_that_says_something_else_is_found(tmp_path: Path) -> None:
    shutil.copytree(RESULTS, tmp_path, dirs_exist_ok=True)
    assert _bench("--check", "--out", str(tmp_path)).returncode == 0
    page = tmp_path / "README.md"
    page.write_text(page.read_text("utf-8").replace("x (", "0x (", 1), "utf-8")
    done = _bench("--check", "--out", str(tmp_path))
    assert done.returncode == 1
    assert "README.md" in done.stderr


def test_no_finding_names_a_place_on_a_machine() -> None:
    for path in RESULTS.glob("*.md"):
        assert re.findall(r"/(?:tmp|home|root|work|usr)/", path.read_text("utf-8")) == []


def test_clients_are_measured_side_by_side(tmp_path: Path) -> None:
    done = _bench("clients", "--quick", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "README.md").read_text("utf-8")
    for verb in ("update_cas", "get"):
        rows = _rows(page, f"`{verb}`: throughput against redis.asyncio")
        assert rows["callers"] == ["1", "16"]
        assert all(re.fullmatch(SPREAD, cell) for cell in rows["greentic_session"])
        assert all(cell.startswith("1 (") for cell in rows["redis.asyncio"])
        for name, module in (("valkey-glide", "glide"), ("coredis", "coredis")):
            if find_spec(module) is None:
                assert rows[module] == [f"left out: {module} is not installed", ""]
            else:
                assert all(re.fullmatch(SPREAD, cell) for cell in rows[name])
        latencies = _rows(page, f"`{verb}`: latency p50 / p99 / p99.9, in µs")
        assert all(re.fullmatch(r"\d+ / \d+ / \d+", cell) for cell in latencies["greentic_session"])
    found = json.loads((tmp_path / "clients.json").read_bytes())
    assert {"cores", "engine", "Python", "redis", "hiredis"} <= set(found["conditions"])
    assert {curve["panel"] for curve in found["curves"]} == {"update_cas", "get"}
    if find_spec("matplotlib") is None:
        assert "no plot: matplotlib is not installed" in done.stderr
    else:
        assert (tmp_path / "clients.svg").stat().st_size
        assert (tmp_path / "clients.png").stat().st_size


def test_each_verb_is_measured_next_to_a_connection_pool(tmp_path: Path) -> None:
    done = _bench("verbs", "--quick", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "README.md").read_text("utf-8")
    rows = _rows(page, "Throughput, shared connections against a pool")
    assert rows.pop("callers") == ["1", "16"]
    assert len(rows) == 9
    assert all(re.fullmatch(SPREAD, cell) for cells in rows.values() for cell in cells)


def test_the_servers_cost_of_a_write_is_measured_next_to_a_bare_script(tmp_path: Path) -> None:
    done = _bench("server", "--quick", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "README.md").read_text("utf-8")
    rows = _rows(page, "Server CPU per write, in µs as the server counts it")
    assert rows["Valkey: bare"][1] == "1"
    assert re.fullmatch(SPREAD, rows["Valkey: update_cas"][1])


def test_the_dispatcher_is_measured_next_to_bare_queues(tmp_path: Path) -> None:
    done = _bench("dispatcher", "--quick", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "README.md").read_text("utf-8")
    rows = list(_rows(page, "Each message, in µs").values())
    assert all(re.fullmatch(SPREAD, cells[-1]) for cells in rows[1:])


def test_the_memory_backend_is_measured_against_its_bare_sum(tmp_path: Path) -> None:
    done = _bench("memory", "--quick", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "README.md").read_text("utf-8")
    rows = _rows(page, "Each verb, in µs")
    assert [name for name in rows if name.endswith("(dict, JSON)")] == [
        f"{verb} (dict, JSON)" for verb in ("put", "get", "update_cas", "touch")
    ]
    assert all(re.fullmatch(SPREAD, cells[2]) for name, cells in rows.items() if name)
    assert len(_rows(page, "A sweep of 2,000 expired sessions")) == 5
    written = (tmp_path / "summary.md").read_text("utf-8")
    summary = [line for line in written.splitlines() if line.startswith("|")]
    assert len(summary) == 7  # heading, rule, four verbs and the sweep
    assert all(line.endswith(("| yes |", "| no |")) for line in summary[2:])


def test_the_dispatcher_is_measured_against_bare_queues(tmp_path: Path) -> None:
    done = _bench("dispatcher", "--quick", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    rows = _rows((tmp_path / "README.md").read_text("utf-8"), "Each message, in µs")
    assert len(rows) == 6
    assert all(re.fullmatch(SPREAD, cells[2]) for name, cells in rows.items() if name)


def test_locks_are_measured_next_to_other_libraries_and_an_inbox_by_its_scripts(
    tmp_path: Path,
) -> None:
    done = _bench("ordering", "--quick", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "README.md").read_text("utf-8")
    rows = _rows(page, "Locks: turns per second")
    assert len(rows) == 4
    assert all(re.fullmatch(SPREAD, cells[-1]) for name, cells in rows.items() if name)
    mail = _rows(page, "Inbox: one message at a time")
    assert all(float(cells[0]) >= 7 for name, cells in mail.items() if name != "idle takers")


def test_web_sessions_are_measured_next_to_other_libraries(tmp_path: Path) -> None:
    done = _bench("web", "--quick", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "README.md").read_text("utf-8")
    situations = _rows(page, "Situations")
    columns = situations.pop("")
    assert "Starlette cookie" in columns
    assert len(situations) == 7
    litestar = [cells[columns.index("Litestar")] for cells in situations.values()]
    assert litestar[0] == "yes"
    assert re.fullmatch(r"(\d+) of \1", litestar[2])
    if "greentic_session" in columns:
        ours = [cells[columns.index("greentic_session")] for cells in situations.values()]
        assert [ours[0], ours[1], ours[4], ours[6]] == ["no", "no", "no", "503"]
        assert [cell.partition(" ")[0] for cell in ours[2:4]] == ["0", "0"]
    costs = _rows(page, "Time per request, 64 callers, in µs (CPU)")
    cells = [cell for what in ("reads", "changes a field") for cell in costs[what]]
    assert all(re.fullmatch(r"[\d.]+ \([\d.]+\)", cell) for cell in cells)


def test_a_quick_run_writes_nothing_unless_told_where() -> None:
    before = {path: path.read_bytes() for path in RESULTS.iterdir()}
    done = _bench("peers", "--quick")
    assert done.returncode == 0, done.stderr
    assert "### What each promises of a saved state" in done.stdout
    assert {path: path.read_bytes() for path in RESULTS.iterdir()} == before


def test_an_unknown_subject_is_refused_with_those_that_are_known() -> None:
    done = _bench("nonsense")
    assert done.returncode == 2
    assert (
        "expected one of clients, verbs, server, memory, dispatcher, ordering, web, peers"
        in done.stderr
    )


def test_each_round_is_compared_with_its_own(room: Any) -> None:
    measuring = room("measuring")
    ours = [measuring.Round(10, secs, 0.0) for secs in (1.0, 2.0, 4.0)]
    theirs = [measuring.Round(10, secs, 0.0) for secs in (2.0, 8.0, 4.0)]
    assert measuring.ratios(ours, theirs) == measuring.Spread(2.0, 1.0, 4.0)
    assert measuring.Spread(2.0, 1.0, 4.0).text() == "2.00x (1.00..4.00)"
    assert measuring.percentiles([n / 1e6 for n in range(1001)]) == pytest.approx((500, 990, 999))


def test_a_goal_that_is_missed_says_so(room: Any) -> None:
    goal, spread = room("findings").Goal, room("measuring").Spread
    faster = goal(what="faster", measured=spread(4.0, 3.0, 9.0), bound=5.0)
    cheaper = goal(what="cheaper", measured=spread(4.0, 3.0, 9.0), bound=5.0, at_least=False)
    assert faster.row() == ("faster", "4.00x (3.00..9.00)", "at least 5x", "no")
    assert cheaper.row() == ("cheaper", "4.00x (3.00..9.00)", "at most 5x", "yes")


def test_figures_of_a_busy_machine_say_so(room: Any) -> None:
    findings = room("findings")
    calm = findings.Finding(subject="s", title="T", text="", conditions={})
    busy = findings.Finding(subject="s", title="T", text="", conditions={}, busy=True)
    for write in (findings.summary, findings.markdown):
        assert "was busy" not in write([calm])
        assert "was busy" in write([calm, busy])
