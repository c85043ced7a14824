"""What ``scripts/soak`` runs once the environment is there: runs of the suite at full length.

Prints the seed, and for each run one line: its name, how many units it did, how many faults they
met, how many violations and losses there were, and how long it took. Ends with status 1 if there
were any, and with 130 if it was interrupted (also then, each run says how far it came).
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # for the suite, which no wheel carries

from tests.mutants.run import main as run_mutants
from tests.soak.catalogue import RUNS
from tests.soak.report import Report

INTERRUPTED = 130
SHOWN = 3
"""Losses that are explained; the others are counted."""


def main() -> int:
    """Run what was asked for."""
    if sys.argv[1:2] == ["mutants"]:
        return run_mutants(sys.argv[2:])
    arguments = parsed()
    if arguments.list:
        for name, run in RUNS.items():
            print(f"{name:18} {run.nightly:>9,} {run.unit}")
        print(f"{'mutants':18} {'all':>9} planted faults (scripts/soak mutants --help)")
        return 0
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().getrandbits(32)
    heading = f"seed {seed}, share {arguments.share:g}"
    status = 0
    for name in arguments.names or RUNS:
        report = Report(seed, max(1, round(RUNS[name].nightly * arguments.share)))
        interrupted = ran(name, report, heading)
        heading = ""
        if report.losses:
            status = 1
        if interrupted:
            return status or INTERRUPTED
    return status


def ran(name: str, report: Report, heading: str) -> bool:
    """Run one of them, tell what came of it, and return whether it was interrupted."""
    began_at = time.monotonic()
    interrupted = False
    try:
        if heading:
            print(heading, flush=True)
        asyncio.run(RUNS[name].soak(report))
    except KeyboardInterrupt:
        interrupted = True
    except Exception:  # noqa: BLE001 - the other runs go on
        traceback.print_exc()
        report.losses.append("the run broke off")
    tell(name, report, time.monotonic() - began_at)
    return interrupted


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description="Runs the suite at length.")
    parser.add_argument("names", nargs="*", metavar="name", help="which runs; all unless named")
    parser.add_argument("--share", type=float, default=1.0, help="of a night's count (default 1)")
    parser.add_argument("--seed", type=int, help="of every run; random unless given")
    parser.add_argument("--list", action="store_true", help="name the runs and their counts")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in RUNS]
    if unknown:
        parser.error(f"no run is called {', '.join(unknown)}; there are {', '.join(RUNS)}")
    if not 0 < arguments.share <= 100:
        parser.error("--share takes a number above 0")
    return arguments


def tell(name: str, report: Report, secs: float) -> None:
    """Print a run's line, and what it lost."""
    also = ", ".join(f"{count} {what}" for what, count in sorted(report.tally.items()))
    print(
        f"{name}: {report.count:,} {RUNS[name].unit}, {report.faults:,} faults met,",
        f"{len(report.losses)} violations or losses, {secs:.1f} s" + (f" ({also})" if also else ""),
        flush=True,
    )
    for loss in report.losses[:SHOWN]:
        print("    " + loss.replace("\n", "\n    "))
    if len(report.losses) > SHOWN:
        print(f"    and {len(report.losses) - SHOWN} more", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
