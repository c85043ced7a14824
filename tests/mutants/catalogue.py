"""The mutants: which text of which file becomes which other text, and what that breaks."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Final

import msgspec

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = Path(__file__).parent


class Mutant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One planted fault.

    :ivar name: of the mutant, unique among all.
    :ivar file: path of the mutated file, relative to the root of the project.
    :ivar old: text that occurs once in the file. It is code, because comments are rewritten freely.
    :ivar new: text that replaces it.
    :ivar breaks: the promise that the fault breaks.
    :ivar tests: tests that are expected to fail, as pytest takes them. They are a first guess.
    """

    name: str
    file: str
    old: str
    new: str
    breaks: str
    tests: tuple[str, ...]

    def why_stale(self, root: Path = ROOT) -> str:
        """Return why the mutant no longer fits the tree, or an empty string."""
        path = root / self.file
        if not path.is_file():
            return f"{self.file} does not exist"
        count = path.read_text(encoding="utf-8").count(self.old)
        return "" if count == 1 else f"the old text occurs {count} times in {self.file}"

    def plant(self, root: Path) -> None:
        """Replace the text in the tree at ``root``."""
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(self.old, self.new, 1), encoding="utf-8")


class _Subject(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    mutant: tuple[Mutant, ...]


def load(folder: Path = FOLDER) -> list[Mutant]:
    """Return the mutants of all subjects."""
    return [
        mutant
        for path in sorted(folder.glob("*.toml"))
        for mutant in msgspec.convert(
            tomllib.loads(path.read_text(encoding="utf-8")), _Subject
        ).mutant
    ]
