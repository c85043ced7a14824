"""``scripts/bench instructions --against REF``: a gate on the instructions of each verb.

Valgrind's cachegrind counts the client's instructions of two revisions: the working tree's and
that of a git revision. A count depends neither on the machine's load nor on its clock. A limit of
a few percent therefore works on a shared machine, where times vary far more.

Method:

* Count of an operation: (a run with N operations - a run with none) / N. The start cancels.
* Both revisions run on the same interpreter, dependencies and probe, from copies in folders whose
  paths have the same length. The environment is the same and minimal, the hash seed is fixed.
* Everything is byte-compiled by a run without valgrind first. It also finds errors early.
* Runs of both revisions alternate. The smallest count of all rounds is taken, because a disturbance
  (a timer, a reply in two parts) only adds instructions.
* The server runs outside valgrind. Its instructions do not count.
* ``server``: one caller, a request and a reply at a time. The event loop takes the same steps
  whenever the reply arrives.
* ``server x16``: steps of 16 callers that start and end together. Only how many replies one read
  returns depends on time, and the server is much faster than a client under valgrind. Callers
  that go on independently would form batches of any size.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, final

from greentic_session.testing.servers import LocalServer, ServerNotFoundError, valkey_binary

from .conditions import cores, progress
from .instruction_probe import VERBS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Figure", "counted", "exceeding", "main", "table"]

ROOT: Final = Path(__file__).parents[2]
_PACKAGE: Final = "greentic_session"
_PROBE_FILES: Final = ("__init__.py", "instruction_probe.py", "sessions.py")
_PROBE_SECS: Final = 900.0
_REVISIONS: Final = ("ref", "new")
"""Folders of the two revisions, with names of the same length: REF first, then the working tree."""
_CALLERS: Final = {"memory": 1, "server": 1, "server x16": 16}
"""Callers, by backend."""


class CannotMeasureError(Exception):
    """The gate has no result: a tool is missing, the revision is unknown, or a probe failed."""


class Figure(NamedTuple):
    """The instructions of one operation.

    :ivar verb: verb of the store.
    :ivar backend: ``memory``, ``server`` or ``server x16``.
    :ivar before: instructions at REF.
    :ivar after: instructions in the working tree.
    """

    verb: str
    backend: str
    before: float
    after: float

    @property
    def percent(self) -> float:
        """Change against REF, in percent."""
        return (self.after - self.before) / self.before * 100


class Plan(NamedTuple):
    """The extent of one measurement.

    :ivar verbs: verbs to count.
    :ivar backends: some of ``memory``, ``server`` and ``server x16``.
    :ivar operations: operations of the longer run, of all callers together.
    :ivar rounds: repetitions of each run.
    :ivar jobs: number of runs at the same time.
    """

    verbs: tuple[str, ...] = VERBS
    backends: tuple[str, ...] = tuple(_CALLERS)
    operations: int = 1600
    rounds: int = 2
    jobs: int = 1


QUICK: Final = Plan(verbs=("get",), backends=("memory",), operations=64, rounds=1)


class Run(NamedTuple):
    """One process under valgrind. ``verb`` is ``None`` for the run without operations."""

    backend: str
    verb: str | None
    revision: str


def counted(text: str) -> int:
    """Return the instructions that a cachegrind output file counts.

    :raises CannotMeasureError: the text is not such a file, or has other events than ``Ir``.
    """
    lines = text.splitlines()
    summary = next((line for line in reversed(lines) if line.startswith("summary:")), "")
    if "events: Ir" not in lines or not summary:
        raise CannotMeasureError("unknown cachegrind output: expected `events: Ir` and a summary")
    return int(summary.split()[1])


def exceeding(figures: Sequence[Figure], limit: float) -> list[Figure]:
    """Return the figures that grew by more than the limit, in percent. Fewer instructions pass."""
    return [figure for figure in figures if figure.percent > limit]


def table(figures: Sequence[Figure], ref: str) -> str:
    """Return a Markdown table, and one line per verb to paste."""
    rows = [
        f"| verb | backend | instructions at {ref} | here | change |",
        "|---|---|--:|--:|--:|",
        *(
            f"| `{figure.verb}` | {figure.backend} | {figure.before:,.0f} | {figure.after:,.0f} "
            f"| {figure.percent:+.2f} % |"
            for figure in figures
        ),
        "",
    ]
    for verb in dict.fromkeys(figure.verb for figure in figures):
        parts = [
            f"{each.backend} {each.before:.0f}->{each.after:.0f} ({each.percent:+.2f}%)"
            for each in figures
            if each.verb == verb
        ]
        rows.append(f"{verb}: {', '.join(parts)}")
    return "\n".join(rows)


def _tool(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise CannotMeasureError(
            f"{name} is not installed: install it, for example with `apt-get install {package}`"
        )
    return found


def commit_of(ref: str) -> str:
    git = _tool("git", "git")
    # Ends the options. Without it, a REF such as `--all` would be an option.
    command = [git, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.strip() or "git knows no such commit"
        raise CannotMeasureError(f"unknown revision {ref}: {reason}")
    return done.stdout.strip()


@final
class Workshop:
    """A temporary folder with both revisions and the probe, and a server.

    :param folder: an empty folder.
    :param socket: path of the server's socket, or ``-`` without a server.
    :param plan: the extent of the measurement.
    """

    def __init__(self, folder: Path, socket: str, plan: Plan) -> None:
        self._folder: Final = folder
        self._socket: Final = socket
        self._plan: Final = plan
        self._numbers: Final = count(1)
        self._valgrind: Final = _tool("valgrind", "valgrind")

    def fill(self, commit: str) -> None:
        """Copy the package of a commit, the working tree's, and the probe."""
        ref, new = (self._folder / name for name in _REVISIONS)
        ref.mkdir()
        archive = [_tool("git", "git"), "archive", "--format=tar", commit, _PACKAGE]
        packed = subprocess.run(archive, cwd=ROOT, capture_output=True, check=False)
        if packed.returncode != 0:
            told = packed.stderr.decode(errors="replace").strip()
            raise CannotMeasureError(f"no {_PACKAGE} in the revision: {told}")
        subprocess.run([_tool("tar", "tar"), "-x", "-C", str(ref)], input=packed.stdout, check=True)
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / _PACKAGE, new / _PACKAGE, ignore=ignore)
        benchmarks = self._folder / "probe" / "benchmarks"
        benchmarks.mkdir(parents=True)
        for name in _PROBE_FILES:
            shutil.copyfile(ROOT / "scripts" / "benchmarks" / name, benchmarks / name)

    def compile(self) -> None:
        """Run each revision on each backend without valgrind. The warm-up runs every verb."""
        for backend in self._plan.backends:
            for revision in _REVISIONS:
                self._probe(Run(backend, None, revision), ())

    def count(self, run: Run) -> int:
        """Return the instructions of one process."""
        out = self._folder / f"count-{next(self._numbers):05}"
        self._probe(
            run,
            (
                *(self._valgrind, "--tool=cachegrind", "--cache-sim=no", "--branch-sim=no"),
                f"--cachegrind-out-file={out}",
            ),
        )
        found = counted(out.read_text("utf-8", errors="replace"))
        out.unlink()
        return found

    def _probe(self, run: Run, prefix: tuple[str, ...]) -> None:
        where = self._folder / run.revision
        operations = 0 if run.verb is None else self._plan.operations
        command = [
            # Without -P the interpreter would look for the package in its current folder first.
            *(*prefix, sys.executable, "-P", "-m", "benchmarks.instruction_probe"),
            *(str(where), "-" if run.backend == "memory" else self._socket),
            f"probe-{next(self._numbers):05}",
            *(str(_CALLERS[run.backend]), str(self._plan.operations)),
            *(run.verb or VERBS[0], f"{operations:06}"),
        ]
        environ = {
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": f"{where}{os.pathsep}{self._folder / 'probe'}",
        }
        try:
            done = subprocess.run(
                command,
                env=environ,
                cwd=self._folder,
                capture_output=True,
                text=True,
                check=False,
                timeout=_PROBE_SECS,
            )
        except subprocess.TimeoutExpired:
            raise CannotMeasureError(f"{run} did not end within {_PROBE_SECS:.0f} s") from None
        if done.returncode != 0:
            raise CannotMeasureError(f"{run} failed:\n{done.stderr[-2000:]}")


@contextmanager
def _workshop(plan: Plan, commit: str) -> Iterator[Workshop]:
    with tempfile.TemporaryDirectory(prefix="instructions-") as name:
        if all(backend == "memory" for backend in plan.backends):
            shop = Workshop(Path(name), "-", plan)
            shop.fill(commit)
            yield shop
            return
        try:
            binary = valkey_binary()
        except ServerNotFoundError as error:
            raise CannotMeasureError(f"no server: {error}") from error
        with LocalServer(binary) as server:
            shop = Workshop(Path(name), str(server.folder / "server.sock"), plan)
            shop.fill(commit)
            yield shop


def measure(plan: Plan, commit: str) -> list[Figure]:
    """Count both revisions.

    :raises CannotMeasureError: a tool is missing, or a probe failed.
    """
    runs = [
        Run(backend, verb, revision)
        for backend in plan.backends
        for verb in (None, *plan.verbs)
        for revision in _REVISIONS
    ]
    least: dict[Run, int] = {}
    with _workshop(plan, commit) as shop:
        shop.compile()
        for number in range(1, plan.rounds + 1):
            progress(f"round {number} of {plan.rounds}: {len(runs)} processes under valgrind")
            with ThreadPoolExecutor(plan.jobs) as pool:
                for run, found in zip(runs, pool.map(shop.count, runs), strict=True):
                    least[run] = min(found, least.get(run, found))

    def each(backend: str, verb: str, revision: str) -> float:
        start = least[Run(backend, None, revision)]
        return (least[Run(backend, verb, revision)] - start) / plan.operations

    return [
        Figure(verb, backend, *(each(backend, verb, revision) for revision in _REVISIONS))
        for verb in plan.verbs
        for backend in plan.backends
    ]


def _names(known: Sequence[str], text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"unknown name {name}: known are {', '.join(known)}")
    return names


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench instructions",
        description="Compare the instructions of each verb with those of a git revision.",
        epilog="exit codes: 0 within the limit, 1 above it, 2 nothing could be measured",
    )
    parser.add_argument("--against", required=True, metavar="REF", help="the git revision")
    parser.add_argument(
        "--limit", type=float, default=3.0, metavar="PERCENT", help="largest growth (default: 3)"
    )
    parser.add_argument("--rounds", type=int, default=Plan().rounds)
    parser.add_argument("--operations", type=int, default=Plan().operations, help="multiple of 16")
    parser.add_argument("--jobs", type=int, default=cores(), help="processes at the same time")
    parser.add_argument(
        "--verbs", type=lambda text: _names(VERBS, text), default=VERBS, help="comma-separated"
    )
    parser.add_argument(
        "--backends",
        type=lambda text: _names(tuple(_CALLERS), text),
        default=tuple(_CALLERS),
        help=f"comma-separated: {', '.join(_CALLERS)}",
    )
    parser.add_argument(
        "--quick", action="store_true", help="`get` in memory only, to see that it runs"
    )
    taken = parser.parse_args(given)
    if min(taken.rounds, taken.jobs, taken.operations) < 1 or taken.operations % 16:
        parser.error("at least one round, one job and 16 operations (or a multiple) are needed")
    return taken


def main() -> int:
    """Run the command line and return the exit code."""
    given = arguments()
    plan = Plan(given.verbs, given.backends, given.operations, given.rounds, given.jobs)
    if given.quick:
        plan = QUICK._replace(jobs=given.jobs)
    try:
        figures = measure(plan, commit_of(given.against))
    except CannotMeasureError as error:
        print(error, file=sys.stderr)
        return 2
    print(table(figures, given.against))
    above = exceeding(figures, given.limit)
    for figure in above:
        print(
            f"too many instructions: {figure.verb} on {figure.backend} grew by "
            f"{figure.percent:.2f} %, limit {given.limit:g} %",
            file=sys.stderr,
        )
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())
