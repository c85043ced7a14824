"""``scripts/bench [subject...]``: measure, store and plot."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .findings import markdown
from .measuring import Plan
from .plots import plot
from .results import RESULTS, findings, keep, render, stale
from .subjects import SUBJECTS, measure

QUICK = Plan(rounds=1, callers=(1, 16), operations=32, records=2000)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    listed = "\n".join(f"  {name:<10}{what}" for name, what in SUBJECTS.items())
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure, and write tables and plots.",
        epilog=f"subjects (all, if none is named):\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("subjects", nargs="*", metavar="subject")
    parser.add_argument("--rounds", type=int, default=Plan().rounds)
    parser.add_argument(
        "--operations",
        type=int,
        default=Plan().operations,
        help="of one contender in one round (fewer for a short run on a busy machine)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a few operations only, to check that it runs"
    )
    parser.add_argument(
        "--out", type=Path, help="folder for the results (without it, --quick writes nothing)"
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--render", action="store_true", help="plot the stored findings again")
    only.add_argument(
        "--check", action="store_true", help="fail if a page differs from the findings"
    )
    given = parser.parse_args()
    unknown = [name for name in given.subjects if name not in SUBJECTS]
    if unknown:
        parser.error(f"unknown subject {unknown[0]}: expected one of {', '.join(SUBJECTS)}")
    if given.rounds < 1 or given.operations < 1:
        parser.error("at least one round of one operation is needed")
    return given


def main() -> None:
    """Run the command line."""
    given = arguments()
    out = given.out or (None if given.quick else RESULTS)
    if given.check:
        if wrong := stale(out or RESULTS):
            raise SystemExit(
                f"pages differ from the findings: {', '.join(wrong)} (run scripts/bench --render)"
            )
        return
    subjects = () if given.render else given.subjects or SUBJECTS
    plan = QUICK if given.quick else Plan(rounds=given.rounds, operations=given.operations)
    for name in subjects:
        print(f"{name}: {SUBJECTS[name]}", file=sys.stderr, flush=True)
        found = measure(name, plan)
        print(markdown([found]), flush=True)
        if out is not None:
            keep(found, out)
    if out is not None:
        render(out)
        for found in findings(out):
            if reason := plot(found, out):
                print(reason, file=sys.stderr)


if __name__ == "__main__":
    main()
