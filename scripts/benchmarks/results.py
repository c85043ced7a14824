"""Storage of findings, and the pages generated from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from .findings import Finding, headlines, markdown, summary
from .subjects import SUBJECTS

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["README", "RESULTS", "findings", "keep", "render", "stale"]

RESULTS: Final = Path(__file__).parent / "results"
README: Final = Path(__file__).parent.parent.parent / "README.md"
_MARKS: Final = ("<!-- scripts/bench -->\n\n", "\n<!-- /scripts/bench -->")
"""The README shows the headlines between these marks."""


def findings(folder: Path) -> list[Finding]:
    """Return the stored findings, in the order of the subjects."""
    files = [folder / f"{subject}.json" for subject in SUBJECTS]
    return [msgspec.json.decode(file.read_bytes(), type=Finding) for file in files if file.exists()]


def keep(found: Finding, folder: Path) -> None:
    """Store a finding in place of the earlier one of its subject."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = msgspec.json.format(msgspec.json.encode(found), indent=1)
    (folder / f"{found.subject}.json").write_bytes(raw + b"\n")


def _pages(found: Sequence[Finding], folder: Path) -> dict[Path, str]:
    pages = {folder / "README.md": markdown(found), folder / "summary.md": summary(found)}
    if folder == RESULTS:
        before, start, rest = README.read_text("utf-8").partition(_MARKS[0])
        _, end, after = rest.partition(_MARKS[1])
        if not (start and end):
            raise SystemExit(f"README.md lacks {''.join(_MARKS).split()}")
        pages[README] = f"{before}{start}{headlines(found)}{end}{after}"
    return pages


def render(folder: Path) -> None:
    """Write the pages again. For the stored results, also write the README's section."""
    for path, text in _pages(findings(folder), folder).items():
        path.write_text(text, "utf-8")


def stale(folder: Path) -> list[str]:
    """Return the names of the pages that differ from the findings."""
    return [
        path.name
        for path, text in _pages(findings(folder), folder).items()
        if not path.exists() or path.read_text("utf-8") != text
    ]
