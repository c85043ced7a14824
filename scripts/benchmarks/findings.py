"""The findings of a subject, as stored, and as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from .measuring import Spread  # noqa: TC001 - msgspec reads it

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Curve", "Finding", "Goal", "Point", "Table", "headlines", "markdown", "summary"]


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A table of finished text.

    :ivar notes: sentences below the table.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """A figure for which the library promises a bound.

    :ivar bound: the promised bound.
    :ivar at_least: whether a larger figure is better.
    """

    what: str
    measured: Spread
    bound: float
    at_least: bool = True
    unit: str = "x"

    @property
    def is_met(self) -> bool:
        """Whether the median is within the bound."""
        median = self.measured.median
        return median >= self.bound if self.at_least else median <= self.bound

    def row(self) -> tuple[str, ...]:
        """Return the goal as a row of the summary."""
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
    """The figures of one contender by the number of callers.

    :ivar panel: title of its plot.
    """

    panel: str
    name: str
    points: tuple[Point, ...]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """All findings of one subject in one run.

    :ivar conditions: machine, versions and load during the run.
    :ivar busy: whether the machine had other work, which makes the figures rough.
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


_BUSY = "The machine was busy with other work meanwhile, so these figures are rough."
_GOAL_COLUMNS = ("", "measured", "goal", "met")
_PREFACE = """\
`scripts/bench` writes this page. It compares the library with other clients, other locks, the limit
of the server, the bare sum of the memory backend, and other libraries that keep conversations.

* A ratio is the median over the rounds of one run, with the lowest and the highest round in
  parentheses. The rounds of the compared programs alternate.
* Absolute figures (µs, bytes) are those of one machine. Ratios carry over better.
* A goal that was not met says so.
* `scripts/bench` measures again on your machine, in an environment of its own.
  `scripts/bench clients --quick` tries one subject. `scripts/bench --help` lists the subjects.
* `scripts/bench instructions --against REF` compares the CPU instructions of each verb with a
  revision. It needs valgrind.\
"""
_HEADLINES: Final = {
    "`update_cas`, 64 callers, against redis.asyncio": (
        "`update_cas`, 64 concurrent callers: {} the throughput of the same script "
        "through a pool of `redis.asyncio`."
    ),
    "`update_cas`, 1 caller, against redis.asyncio": "`update_cas`, 1 caller: {}.",
    "`get`, 64 callers, against redis.asyncio": "`get`, 64 callers: {}.",
    "`update_cas`, 64 callers, client CPU per operation": (
        "`update_cas`, 64 callers: {} of client CPU per operation. Lower is better."
    ),
    "Valkey: server CPU of `update_cas`, against a bare script": (
        "`update_cas`: {} the server CPU of a bare compare-and-set script (Valkey). "
        "Lower is better."
    ),
}
"""The goals that the main page shows, each with its sentence."""


def headlines(findings: Sequence[Finding]) -> str:
    """Return the lines that the README shows: five figures.

    :raises LookupError: if a figure was not measured.
    """
    goals = [goal for found in findings for goal in found.goals]
    measured = {goal.what: goal for goal in goals}
    lines = [
        f"* {line.format(measured[what].measured.text(measured[what].unit))}"
        for what, line in _HEADLINES.items()
    ]
    lines.append("\nMedian (lowest..highest round).")
    if any(found.busy for found in findings):
        lines.append(_BUSY)
    return "\n".join(lines) + "\n"


def summary(findings: Sequence[Finding]) -> str:
    """Return the goals of all findings as one table."""
    table = grid(_GOAL_COLUMNS, [goal.row() for found in findings for goal in found.goals])
    return f"{table}\n\n{_BUSY}\n" if any(found.busy for found in findings) else f"{table}\n"


def markdown(findings: Sequence[Finding]) -> str:
    """Return all findings as a page."""
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
        conditions = " · ".join(f"{name} {value}" for name, value in found.conditions.items())
        parts.append(f"Conditions: {conditions}.")
        if found.busy:
            parts.append(_BUSY)
    return "\n\n".join(parts) + "\n"
