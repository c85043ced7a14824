"""A mutant in a copy of the tree, and what pytest says there."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from greentic_session.testing.ladder import LADDER_VARIABLE

from .catalogue import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .catalogue import Mutant

Verdict = Literal["failed", "passed", "hung", "nothing", "unknown"]

_SKIPPED: Final = shutil.ignore_patterns(".git", ".venv*", "__pycache__", ".*_cache", ".hypothesis")
_FAILED: Final = re.compile(r"^(?:FAILED|ERROR) (\S+\.py\b.*?)(?: - .*)?$", re.MULTILINE)
_NOT_FOUND: Final = re.compile(
    r"^ERROR: (?:not found: |file or directory not found: )(\S+)", re.MULTILINE
)
_INTERNAL: Final = 3
_USAGE: Final = 4
_NO_TESTS: Final = 5


class Trial(NamedTuple):
    """What a run of pytest came to.

    :ivar verdict: ``nothing`` if no test was selected, ``unknown`` if pytest itself failed.
    :ivar failed: names of the tests that failed.
    :ivar secs: how long the run took.
    :ivar output: of pytest, its end only.
    """

    verdict: Verdict
    failed: tuple[str, ...]
    secs: float
    output: str


class Tree:
    """A copy of the project, in which mutants are planted one after another."""

    def __init__(self, root: Path, source: Path = ROOT) -> None:
        self.root: Final = root
        shutil.copytree(source, root, ignore=_SKIPPED, symlinks=True)
        venv = source / ".venv"
        if venv.exists():
            (root / ".venv").symlink_to(venv.resolve())

    @contextmanager
    def planted(self, mutant: Mutant) -> Iterator[None]:
        """Hold a mutant within the block."""
        path = self.root / mutant.file
        before = path.read_bytes()
        mutant.plant(self.root)
        self._forget_compiled(path)
        try:
            yield
        finally:
            path.write_bytes(before)
            self._forget_compiled(path)

    @staticmethod
    def _forget_compiled(path: Path) -> None:
        # Python compares time and size. A mutant of the same size within a second looks the same.
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
            compiled.unlink()

    def run(self, arguments: Sequence[str], secs: float) -> Trial:
        """Run pytest in the copy, which comes before the installed package on the path.

        :param arguments: of pytest.
        :param secs: time limit. A run that takes longer is stopped.
        """
        began_at = time.monotonic()
        environment = {**os.environ, "PYTHONPATH": str(self.root)}
        environment.setdefault(LADDER_VARIABLE, "wheel")  # no container for each run
        environment.pop("PYTEST_ADDOPTS", None)
        # Compiled tests stay in the copy: pytest takes longer to rewrite them than to run a few.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        command = [sys.executable, "-m", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider"]
        with tempfile.TemporaryFile() as said:
            running = subprocess.Popen(
                [*command, *arguments],
                cwd=self.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code: int | None = running.wait(timeout=secs)
            except BaseException as error:
                with suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGKILL)  # its servers too
                running.wait()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                code = None
            said.seek(0)
            output = said.read().decode(errors="replace")
        return judged(code, output, time.monotonic() - began_at)

    def imports_itself(self) -> bool:
        """Whether a process in the copy imports the package of the copy."""
        found = subprocess.run(
            [sys.executable, "-c", "import greentic_session; print(greentic_session.__file__)"],
            cwd=self.root.parent,
            env={**os.environ, "PYTHONPATH": str(self.root)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return Path(found.strip()).is_relative_to(self.root)


def judged(code: int | None, output: str, secs: float) -> Trial:
    """Return what an exit code and an output of pytest mean.

    :param code: exit code, or ``None`` if the run was stopped.
    """
    failed = tuple(dict.fromkeys(_FAILED.findall(output)))
    verdict: Verdict
    if code is None:
        verdict = "hung"
    elif code in (_INTERNAL, _USAGE):
        verdict = "unknown"
    elif failed or code not in (0, _NO_TESTS):
        verdict = "failed"
    else:
        verdict = "passed" if code == 0 else "nothing"
    return Trial(verdict, failed, secs, output[-2000:])


def not_found(trial: Trial) -> list[str]:
    """Return the tests that pytest was asked for and did not find."""
    return _NOT_FOUND.findall(trial.output) if trial.verdict == "unknown" else []
