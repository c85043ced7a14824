"""``scripts/bench neighbours --against REF``: the delay that one tenant's bytes cause another.

While one tenant writes or reads many sessions of 1 MiB, another tenant reads a small one through
the same store. Runs of the working tree and of a git revision alternate, each in a process of its
own, on one server. The table has the median of all rounds.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from greentic_session.testing.servers import LocalServer, valkey_binary

from .conditions import progress
from .instructions import ROOT, commit_of
from .neighbour_probe import CASES

if TYPE_CHECKING:
    from collections.abc import Sequence

_RUN_SECS: Final = 300.0


def _probe(package: Path, url: str, case: str, calls: int) -> list[float]:
    """Return the median and the longest time of a neighbour's read, and the burst's time, in ms."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "benchmarks.neighbour_probe", url, case, str(calls)],
        env={**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{ROOT / 'scripts'}"},
        cwd=package,
        capture_output=True,
        text=True,
        check=False,
        timeout=_RUN_SECS,
    )
    if done.returncode != 0:
        raise SystemExit(f"the probe failed:\n{done.stderr[-2000:]}")
    return [float(word) for word in done.stdout.split()]


def table(ref: str, rows: Sequence[tuple[str, list[list[float]], list[list[float]]]]) -> str:
    """Return a Markdown table of each case's figures in all rounds, REF's first."""
    lines = [
        f"| during | `get` at {ref}, ms | here, ms | ratio | longest, ms | burst, ms |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for case, before, after in rows:
        old, new = (
            [statistics.median(each) for each in zip(*rounds, strict=True)]
            for rounds in (before, after)
        )
        lines.append(
            f"| {case} | {old[0]:.2f} | {new[0]:.2f} | {new[0] / old[0]:.4f} "
            f"| {old[1]:.0f} -> {new[1]:.0f} | {old[2]:.0f} -> {new[2]:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench neighbours",
        description="Measure a small read during a burst of large calls of another tenant.",
    )
    parser.add_argument("--against", required=True, metavar="REF", help="the git revision")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=256, help="sessions of 1 MiB in a burst")
    given = parser.parse_args()
    commit = commit_of(given.against)
    command = ["git", "archive", "--format=tar", commit, "greentic_session"]
    packed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    rows: list[tuple[str, list[list[float]], list[list[float]]]] = []
    with tempfile.TemporaryDirectory() as name, LocalServer(valkey_binary()) as server:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(name, filter="data")
        for case in CASES:
            before: list[list[float]] = []
            after: list[list[float]] = []
            for number in range(given.rounds):
                progress(f"{case}: round {number + 1} of {given.rounds}")
                for package, found in ((Path(name), before), (ROOT, after)):
                    url = f"{server.url}?namespace=neighbours"
                    found.append(_probe(package, url, case, given.calls))
            rows.append((case, before, after))
    print(table(given.against, rows))


if __name__ == "__main__":
    main()
