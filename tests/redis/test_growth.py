"""Tests that the server's cost of a verb does not grow with the stored data."""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio

SCRIPTS: Final = Path(__file__).parents[2] / "scripts"
KINDS: Final = (
    *("Tenants", "Waits", "EarlyEvents", "Messages", "DeadLetters", "Mailboxes"),
    *("Waiters", "Placements", "Members"),
)
FEW, MANY = 100, 10_000
CALLS: Final = 3
"""Calls in a batch. The fastest batch counts, because the machine is busy at times."""
BATCHES: Final = 12
ATTEMPTS: Final = 4


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of the benchmarks, which are outside the package."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.timeout(120)
async def test_no_verb_costs_the_server_twice_as_much_for_ten_thousand_as_for_a_hundred(
    room: Any, kind: str
) -> None:
    growth, subjects = room("growth"), room("growth_subjects")
    async with growth.serving("growth") as at:
        subject = at.subject(getattr(subjects, kind))
        subject.fill(FEW)
        few: dict[str, Any] = {}
        for name, verb in subject.verbs().items():
            await verb()  # loads the scripts
            few[name] = await at.spent(verb, CALLS, BATCHES)
        subject.fill(MANY)
        for name, verb in subject.verbs().items():
            assert await grows(at, verb, few[name]) is None, name


async def grows(at: Any, verb: Any, few: Any) -> str | None:
    """Return the growth of a verb's cost. ``None`` if it does not grow."""
    found = ""
    for _ in range(ATTEMPTS):
        many = await at.spent(verb, CALLS, BATCHES)
        if many.commands > 2 * few.commands:
            return f"{few.commands} commands grow to {many.commands}"
        if many.scripts_us <= 2 * few.scripts_us:
            return None
        found = f"{few.scripts_us:.1f} us grow to {many.scripts_us:.1f} us"
    return found


def test_every_kind_of_the_benchmark_is_here(room: Any) -> None:
    kinds: Iterator[Any] = iter(room("growth_subjects").PARTS)
    assert sorted(kind.__name__ for kind in kinds) == sorted(itertools.chain(KINDS))
