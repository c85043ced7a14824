"""What ``scripts/soak mutants`` does: plants each mutant in a copy and looks for a failing test."""

from __future__ import annotations

import argparse
import os
import queue
import random
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from .catalogue import load
from .trial import Tree, not_found

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .catalogue import Mutant
    from .trial import Trial

EXPECTED_SECS: Final = 240
"""For the expected tests of one mutant. They take a few seconds where nothing else runs."""
TIERS: Final[dict[str, tuple[tuple[str, ...], float]]] = {
    "quick": (("--quick",), 300),
    "default": ((), 1800),
    "full": (("--full",), 5400),
}
"""By name, the arguments of pytest and the time limit in seconds of one run."""
MOST_JOBS: Final = 2
_ENDS_HANGS: Final = ("--timeout-method=thread",)
"""Ends the process. The usual exception does not end a loop that a mutant made endless."""

By = Literal["expected tests", "tier", "nothing"]


class Fate(NamedTuple):
    """What came of a mutant.

    :ivar by: what it was killed by.
    :ivar tests: those that failed first.
    :ivar note: what else is worth knowing.
    """

    mutant: Mutant
    by: By
    tests: tuple[str, ...]
    secs: float
    note: str = ""


def main(arguments: Sequence[str]) -> int:
    """Run the mutants that the command line names, and return the exit status."""
    options = _parsed(arguments)
    mutants = _chosen(options)
    if options.list:
        for mutant in mutants:
            print(f"{mutant.name:36} {mutant.breaks}")  # noqa: T201
        return 0
    stale = {mutant.name: why for mutant in mutants if (why := mutant.why_stale())}
    if stale:
        for name, why in stale.items():
            print(f"stale: {name}: {why}")  # noqa: T201
        return 1
    began_at = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="greentic_session-mutants-") as folder:
        trees = [Tree(Path(folder) / str(number)) for number in range(options.jobs)]
        if not all(tree.imports_itself() for tree in trees):
            print("a copy imports the package of another tree")  # noqa: T201
            return 1
        fates = _by_expected_tests(mutants, trees, options.tier)
        if not options.expected_only:
            fates = _by_tier(fates, trees[0], options.tier)
        false = _failing_anyway(fates, trees[0], options.tier)
    return _told(fates, false, options.tier, time.monotonic() - began_at)


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/soak mutants")
    parser.add_argument("names", nargs="*", metavar="name", help="beginnings of names; all unless")
    parser.add_argument("--tier", choices=TIERS, default="default", help="what has to kill them")
    parser.add_argument(
        "--expected-only", action="store_true", help="run the expected tests and no whole tier"
    )
    parser.add_argument("--share", type=float, default=1.0, help="of the mutants (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of a share")
    parser.add_argument("--jobs", type=int, choices=range(1, MOST_JOBS + 1), default=MOST_JOBS)
    parser.add_argument("--list", action="store_true", help="name the mutants")
    options = parser.parse_args(arguments)
    if not 0 < options.share <= 1:
        parser.error("--share takes a number above 0, at most 1")
    return options


def _chosen(options: argparse.Namespace) -> list[Mutant]:
    mutants = [
        mutant
        for mutant in load()
        if not options.names or mutant.name.startswith(tuple(options.names))
    ]
    count = max(1, round(len(mutants) * options.share))
    if count < len(mutants):
        mutants = random.Random(options.seed).sample(mutants, count)
    return mutants


def _by_expected_tests(mutants: Sequence[Mutant], trees: list[Tree], tier: str) -> list[Fate]:
    free: queue.SimpleQueue[Tree] = queue.SimpleQueue()
    for tree in trees:
        free.put(tree)

    def attempt(mutant: Mutant) -> Fate:
        tree = free.get()
        try:
            with tree.planted(mutant):
                return _tried(mutant, tree, tier)
        finally:
            free.put(tree)

    fates: list[Fate] = []
    threads = ThreadPoolExecutor(len(trees))
    try:
        for done in as_completed([threads.submit(attempt, mutant) for mutant in mutants]):
            fates.append(done.result())
            _tell(fates[-1])
    finally:  # an interrupted run waits only for the mutants that run
        threads.shutdown(cancel_futures=True)
    return sorted(fates, key=lambda fate: fate.mutant.name)


def _tried(mutant: Mutant, tree: Tree, tier: str) -> Fate:
    # The options of the tier hold here too: a test that it leaves out kills nothing for it.
    options, _ = TIERS[tier]
    tests = list(mutant.tests)
    missing: list[str] = []
    trial: Trial | None = None
    while tests:
        trial = tree.run(["-x", *_ENDS_HANGS, *options, *tests], EXPECTED_SECS)
        gone = [test for test in tests if any(test in name for name in not_found(trial))]
        if not gone:
            break
        missing += gone
        tests = [test for test in tests if test not in gone]
    note = f"not there: {', '.join(missing)}" if missing else ""
    if trial is None or not tests or trial.verdict == "nothing":
        return Fate(mutant, "nothing", (), 0, note or "no expected test is in the tier")
    return _fate(mutant, "expected tests", trial, note)


def _fate(mutant: Mutant, by: By, trial: Trial, note: str = "") -> Fate:
    if trial.verdict == "failed":
        ended = "" if trial.failed else "the process ended; "
        return Fate(mutant, by, trial.failed, trial.secs, f"{ended}{note}".rstrip("; "))
    if trial.verdict == "hung":
        return Fate(mutant, by, (), trial.secs, f"hung; {note}".rstrip("; "))
    if trial.verdict == "unknown":
        return Fate(mutant, by, (), trial.secs, "pytest failed: " + trial.output[-300:])
    return Fate(mutant, "nothing", (), trial.secs, note)


def _by_tier(fates: Sequence[Fate], tree: Tree, tier: str) -> list[Fate]:
    options, secs = TIERS[tier]
    workers = f"--numprocesses={2 * (os.cpu_count() or 1)}"
    judged: list[Fate] = []
    for fate in fates:
        found = fate
        if fate.by == "nothing":
            with tree.planted(fate.mutant):
                trial = tree.run(["-x", workers, "--dist=worksteal", *options], secs)
            found = _fate(fate.mutant, "tier", trial, fate.note)
            _tell(found)
        judged.append(found)
    return judged


def _failing_anyway(fates: Sequence[Fate], tree: Tree, tier: str) -> frozenset[str]:
    """Return the killing tests that fail without a mutant too."""
    tests = sorted({test for fate in fates for test in fate.tests})
    if not tests:
        return frozenset()
    options, secs = TIERS[tier]
    trial = tree.run([f"--numprocesses={MOST_JOBS}", *options, *tests], secs)
    if trial.verdict == "unknown":
        print("the killing tests could not be run without a mutant:", trial.output)  # noqa: T201
    return frozenset(trial.failed)


def _tell(fate: Fate) -> None:
    tests = ", ".join(fate.tests[:1])
    note = f" ({fate.note})" if fate.note else ""
    if fate.by == "nothing":
        print(f"survived  {fate.mutant.name}{note}", flush=True)  # noqa: T201
    else:
        print(  # noqa: T201
            f"killed    {fate.mutant.name} in {fate.secs:.1f} s by {fate.by}: {tests}{note}",
            flush=True,
        )


def _told(fates: Sequence[Fate], false: frozenset[str], tier: str, secs: float) -> int:
    unsure = [fate for fate in fates if fate.tests and false.issuperset(fate.tests)]
    broken = [fate for fate in fates if fate.note.startswith("pytest failed")]
    survivors = [fate for fate in fates if fate.by == "nothing"]
    sound = [fate for fate in fates if fate not in (*unsure, *broken, *survivors)]
    by = Counter(fate.by for fate in sound)
    for fate in unsure:
        print(f"unsure    {fate.mutant.name}: {fate.tests[0]} fails without it too")  # noqa: T201
    for fate in survivors:
        print(f"survived  {fate.mutant.name}: {fate.mutant.breaks}")  # noqa: T201
    print(  # noqa: T201
        f"tier {tier}: {len(sound)} of {len(fates)} mutants killed,",
        f"{by['expected tests']} by expected tests,",
        f"{by['tier']} by the tier, {len(survivors)} survived, {len(unsure) + len(broken)} unsure,",
        f"{secs:.0f} s",
    )
    return 1 if survivors or unsure or broken else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
