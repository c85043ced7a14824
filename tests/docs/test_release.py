"""Tests of version tags: which are refused, pushed, or left alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
WORKFLOWS: Final = ROOT / ".github" / "workflows"


class Repository:
    """A clone with the script and one version, and the bare repository that it pushes to.

    :ivar started: arguments of each call of the stand-in for ``gh``, one line each.
    """

    def __init__(self, folder: Path) -> None:
        self.remote = folder / "remote.git"
        self.clone = folder / "clone"
        self.started = folder / "started"
        (folder / "bin").mkdir()
        gh = folder / "bin" / "gh"
        gh.write_text(f'#!/bin/sh\necho "$@" >>"{self.started}"\n', "utf-8")
        gh.chmod(0o755)
        self._environ = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(folder),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@example.org",
            "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@example.org",
        }
        self.git("init", "--quiet", "--bare", str(self.remote), cwd=folder)
        self.git("init", "--quiet", "--initial-branch=main", str(self.clone), cwd=folder)
        self.git("remote", "add", "origin", str(self.remote))
        (self.clone / "scripts").mkdir()
        shutil.copy(ROOT / "scripts" / "release-tag", self.clone / "scripts")
        (self.clone / "greentic_session").mkdir()

    def git(self, *arguments: str, cwd: Path | None = None) -> str:
        return subprocess.run(
            ["git", *arguments],
            cwd=cwd or self.clone,
            env=self._environ,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    def commit(self, version: str) -> str:
        module = self.clone / "greentic_session" / "__init__.py"
        module.write_text(f'"""A package."""\n\n__version__ = "{version}"\n', "utf-8")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", f"version {version}")
        return self.git("rev-parse", "HEAD")

    def tag(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.clone / "scripts" / "release-tag", *arguments],
            env={**self._environ, **environ},
            check=False,
            capture_output=True,
            text=True,
        )

    def tags(self) -> dict[str, str]:
        lines = self.git("ls-remote", "--tags", "origin").splitlines()
        return {line.split("\t")[1].removeprefix("refs/tags/"): line[:40] for line in lines}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


@pytest.mark.parametrize(
    ("ref", "is_taken"),
    [
        ("refs/tags/v1.2.0", True),
        ("refs/tags/v1.2.1", False),
        ("refs/tags/v1.2", False),
        ("refs/tags/1.2.0", False),
        ("refs/heads/v1.2.0", False),  # a run that was started on a branch
        ("", False),
    ],
)
def test_a_ref_unlike_the_version_is_refused(
    repository: Repository, ref: str, is_taken: bool
) -> None:
    repository.commit("1.2.0")
    done = repository.tag("check", ref)
    assert (done.returncode == 0) is is_taken
    assert ("expected refs/tags/v1.2.0" in done.stderr) is not is_taken


def test_a_version_gets_one_tag_and_keeps_it(repository: Repository) -> None:
    first = repository.commit("1.2.0")
    done = repository.tag("push", PUBLISH_WORKFLOW="publish.yml")
    assert (done.returncode, done.stdout) == (0, "v1.2.0\n")
    repository.commit("1.2.0")  # the next change of the same version
    again = repository.tag("push", PUBLISH_WORKFLOW="publish.yml")
    assert (again.returncode, again.stdout) == (0, "")
    assert repository.tags() == {"v1.2.0": first}
    assert repository.started.read_text("utf-8") == "workflow run publish.yml --ref v1.2.0\n"
    second = repository.commit("1.3.0rc1")
    assert repository.tag("push").stdout == "v1.3.0rc1\n"
    assert repository.tags() == {"v1.2.0": first, "v1.3.0rc1": second}
    assert repository.started.read_text("utf-8").count("\n") == 1


@pytest.mark.parametrize(
    ("version", "code"), [("1.2.0.dev1", 0), ("", 1), ("1.2.0; echo", 1), ("1.2.0+local", 1)]
)
def test_what_is_no_release_gets_no_tag(repository: Repository, version: str, code: int) -> None:
    repository.commit(version)
    done = repository.tag("push", PUBLISH_WORKFLOW="publish.yml")
    assert (done.returncode, done.stdout) == (code, "")
    assert repository.tags() == {}
    assert not repository.started.exists()


def test_a_remote_that_fails_is_an_error(repository: Repository) -> None:
    repository.commit("1.2.0")
    done = repository.tag("push", REMOTE="nowhere", PUBLISH_WORKFLOW="publish.yml")
    assert done.returncode != 0
    assert done.stdout == ""
    assert not repository.started.exists()


def test_workflows_run_scripts_and_pinned_actions_only() -> None:
    paths = sorted(WORKFLOWS.glob("*.yml"))
    assert [path.stem for path in paths] == ["ci", "nightly", "publish"]
    for path in paths:
        text = path.read_text("utf-8")
        for command in re.findall(r"\brun: (.*)", text):
            script = ROOT / command.split()[0]
            assert command.startswith("scripts/"), command
            assert os.access(script, os.X_OK), command
        for action in re.findall(r"\buses: (.*)", text):
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action
        jobs = text.partition("\njobs:\n")[2]
        names = re.findall(r"^  [a-z]+:$", jobs, re.MULTILINE)
        for needed in ("    timeout-minutes:", "    permissions:"):
            assert jobs.count(f"\n{needed}") == len(names), (path.name, needed)
        assert "\npermissions: {}\n" in text
        assert "\nconcurrency:\n" in text
        assert text.count("actions/checkout@") == text.count("persist-credentials: false")
