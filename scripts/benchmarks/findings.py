"""What a subject found, as it is kept, and as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from .measuring import Spread  # noqa: TC001 - msgspec reads it

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Curve", "Finding", "Goal", "Point", "Table", "markdown", "summary"]


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A table of finished text.

    :ivar notes: sentences below it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """A figure that the library promises something about.

    :ivar bound: what it should be.
    :ivar at_least: whether more is better.
    """

    what: str
    measured: Spread
    bound: float
    at_least: bool = True
    unit: str = "x"

    @property
    def is_met(self) -> bool:
        """Whether the median keeps the promise."""
        median = self.measured.median
        return median >= self.bound if self.at_least else median <= self.bound

    def row(self) -> tuple[str, ...]:
        """Return it as a row of the summary."""
        sign = "at least" if self.at_least else "at most"
        return (
            self.what,
            self.measured.text(self.unit),
            f"{sign} {self.bound:g}{self.unit}",
            "yes" if self.is_met else "no",
        )


class Point(msgspec.Struct, frozen=True):
    """One figure of a curve."""

    callers: int
    ratio: Spread


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """How one contender fares with more callers.

    :ivar panel: title of the plot it is in.
    """

    panel: str
    name: str
    points: tuple[Point, ...]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one subject found in one run.

    :ivar conditions: machine, versions, load: what the figures depend on.
    :ivar busy: whether the machine had other work meanwhile, which makes the figures rough.
    """

    subject: str
    title: str
    text: str
    conditions: dict[str, str]
    busy: bool = False
    goals: tuple[Goal, ...] = ()
    tables: tuple[Table, ...] = ()
    curves: tuple[Curve, ...] = ()


def grid(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


_BUSY = "The machine was busy with other work meanwhile: rough figures, to be measured again."
_GOAL_COLUMNS = ("", "measured", "goal", "met")
_PREFACE = (
    "Written by `scripts/bench`. Every ratio was measured in one run, in interleaved rounds on "
    "one machine: the median over the rounds, and the least and the most of them. Absolute "
    "figures (µs, bytes) are those of that machine."
)


def summary(findings: Sequence[Finding]) -> str:
    """Return the goals of all findings as one table: what the README shows."""
    table = grid(_GOAL_COLUMNS, [goal.row() for found in findings for goal in found.goals])
    return f"{table}\n\n{_BUSY}\n" if any(found.busy for found in findings) else f"{table}\n"


def markdown(findings: Sequence[Finding]) -> str:
    """Return everything that was found, as a page."""
    parts = [
        "# Speed",
        _PREFACE,
    ]
    for found in findings:
        parts += [f"## {found.title}", found.text]
        if found.curves:
            parts.append(f"![{found.title}]({found.subject}.svg)")
        if found.goals:
            parts.append(grid(_GOAL_COLUMNS, [goal.row() for goal in found.goals]))
        for table in found.tables:
            parts += [f"### {table.title}", grid(table.columns, table.rows)]
            parts += ["\n".join(f"* {note}" for note in table.notes)] if table.notes else []
        conditions = "; ".join(f"{name} {value}" for name, value in found.conditions.items())
        parts.append(f"Conditions: {conditions}.")
        if found.busy:
            parts.append(_BUSY)
    return "\n\n".join(parts) + "\n"
