"""Checks the files of the wheel and the sdist in a folder: ``contents.py dist other``.

The wheel must equal the one in ``other``, which was built from the tree and not from the sdist. It
has modules, Lua scripts, the marker of typed packages and guides, and no tests.
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

PACKAGE = "greentic_session"
SUFFIXES = (".py", ".lua")
NAMES = ("py.typed", "README.md")
"""Other files in the wheel. Guides are in it for readers without the repository."""
METADATA = ("METADATA", "WHEEL", "RECORD", "licenses/LICENSE")
NEEDED = (
    f"{PACKAGE}/py.typed",
    f"{PACKAGE}/__init__.py",
    f"{PACKAGE}/testing/contract/__init__.py",
)
SDIST = (
    "LICENSE",
    "README.md",
    "CHANGELOG.md",
    "pyproject.toml",
    "tests/conftest.py",
    "scripts/test",
)


def main() -> int:
    """Compare, print the differences, and return the exit status."""
    dist, other = (Path(argument) for argument in sys.argv[1:3])
    wheel, sdist, tree = one(dist, "*.whl"), one(dist, "*.tar.gz"), one(other, "*.whl")
    faults = [*differences(read_wheel(wheel), read_wheel(tree)), *misplaced(read_wheel(wheel))]
    faults += [f"the sdist lacks {name}" for name in SDIST if name not in names_of_sdist(sdist)]
    for fault in faults:
        print(fault, file=sys.stderr)
    if not faults:
        print(f"{wheel.name}: {len(read_wheel(wheel))} files, the same from sdist and tree")
    return 1 if faults else 0


def one(folder: Path, pattern: str) -> Path:
    """Return the only file of a kind."""
    found = [*folder.glob(pattern)]
    if len(found) != 1:
        raise SystemExit(f"{folder} has {len(found)} files {pattern}, not 1")
    return found[0]


def read_wheel(path: Path) -> dict[str, bytes]:
    """Return the content of each file."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def names_of_sdist(path: Path) -> set[str]:
    """Return names relative to the folder that the archive unpacks to."""
    with tarfile.open(path) as archive:
        return {member.name.partition("/")[2] for member in archive.getmembers()}


def differences(wheel: dict[str, bytes], tree: dict[str, bytes]) -> list[str]:
    """Return a line for each file that differs."""
    faults = [f"only in the wheel of the sdist: {name}" for name in sorted({*wheel} - {*tree})]
    faults += [f"missing from the sdist: {name}" for name in sorted({*tree} - {*wheel})]
    both = sorted({*wheel} & {*tree})
    return faults + [f"not as in the tree: {name}" for name in both if wheel[name] != tree[name]]


def misplaced(wheel: dict[str, bytes]) -> list[str]:
    """Return a line for each file that must not be in the wheel, and for each that is missing."""
    faults = [f"the wheel lacks {name}" for name in NEEDED if name not in wheel]
    if not any(name.endswith(".lua") for name in wheel):
        faults.append("the wheel lacks the Lua scripts")
    for name in wheel:
        top, _, rest = name.partition("/")
        if top.endswith(".dist-info"):
            belongs = rest in METADATA
        else:
            path = PurePosixPath(name)
            belongs = top == PACKAGE and (path.suffix in SUFFIXES or path.name in NAMES)
            belongs = belongs and not path.name.startswith(("test_", "conftest"))
        if not belongs:
            faults.append(f"does not belong in the wheel: {name}")
    return faults


if __name__ == "__main__":
    raise SystemExit(main())
