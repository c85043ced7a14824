"""Each mutant fits the tree, and a run of them says which of them no test kills."""

from __future__ import annotations

import ast
from collections import Counter
from typing import TYPE_CHECKING, Final

import pytest

from ..mutants.catalogue import ROOT, Mutant, load
from ..mutants.trial import Tree, judged, not_found

if TYPE_CHECKING:
    from pathlib import Path

MUTANTS: Final = load()
LEAST: Final = 60


def test_every_mutant_fits_the_tree() -> None:
    stale = {mutant.name: why for mutant in MUTANTS if (why := mutant.why_stale())}
    assert not stale


def test_every_mutant_is_a_change_that_can_be_compiled() -> None:
    for mutant in MUTANTS:
        text = (ROOT / mutant.file).read_text(encoding="utf-8")
        assert mutant.file.startswith("greentic_session/"), mutant.name
        assert mutant.old != mutant.new, mutant.name
        if mutant.file.endswith(".py"):
            before, after = text, text.replace(mutant.old, mutant.new)
            assert ast.dump(ast.parse(before)) != ast.dump(ast.parse(after)), mutant.name


def test_every_mutant_names_a_promise_and_tests_that_may_exist() -> None:
    for mutant in MUTANTS:
        assert mutant.breaks.endswith("."), mutant.name
        assert mutant.tests, mutant.name
        for test in mutant.tests:
            assert (ROOT / test.partition("::")[0]).exists(), f"{mutant.name}: {test}"


def test_mutants_are_many_and_have_names_of_their_own() -> None:
    names = Counter(mutant.name for mutant in MUTANTS)
    assert len(names) >= LEAST
    assert [name for name, count in names.items() if count > 1] == []
    suffixes = Counter(mutant.file.rpartition(".")[2] for mutant in MUTANTS)
    assert suffixes["py"] >= 20
    assert suffixes["lua"] >= 20


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    source = tmp_path / "source"
    source.mkdir()
    (source / "thing.py").write_text("def half(number):\n    return number / 2\n")
    (source / "test_thing.py").write_text(
        "from thing import half\n\n\ndef test_half():\n    assert half(4) == 2\n"
    )
    (source / "pytest.ini").write_text("[pytest]\naddopts = -ra\n")
    return Tree(tmp_path / "copy", source)


def test_a_mutant_is_planted_in_a_copy_and_taken_out_again(tree: Tree) -> None:
    mutant = Mutant(
        name="half-is-a-third",
        file="thing.py",
        old="number / 2",
        new="number / 3",
        breaks="A half is a half.",
        tests=("test_thing.py",),
    )
    with tree.planted(mutant):
        trial = tree.run(["-x", *mutant.tests], 50)
    assert (trial.verdict, trial.failed) == ("failed", ("test_thing.py::test_half",))
    assert (tree.root.parent / "source" / "thing.py").read_text().endswith("/ 2\n")
    assert tree.run(mutant.tests, 50).verdict == "passed"
    missing = tree.run(["test_thing.py::test_third"], 50)
    assert missing.verdict == "unknown"
    assert not_found(missing)[0].endswith("test_thing.py::test_third")


def test_a_text_that_occurs_twice_is_stale(tmp_path: Path) -> None:
    (tmp_path / "thing.py").write_text("a = 1\nb = 1\n")
    mutant = Mutant(name="n", file="thing.py", old="= 1", new="= 2", breaks=".", tests=("t",))
    assert "2 times" in mutant.why_stale(tmp_path)


@pytest.mark.parametrize(
    ("code", "output", "verdict"),
    [
        (0, "1 passed", "passed"),
        (1, "FAILED tests/test_a.py::test_b[c d] - assert 1", "failed"),
        (2, "ERROR tests/test_a.py - ImportError", "failed"),
        (2, "stopping", "failed"),
        (0, "ERROR    asyncio:base_events.py:1771 in a log", "passed"),
        (3, "INTERNALERROR", "unknown"),
        (4, "ERROR: not found: /x/tests/test_a.py::test_b", "unknown"),
        (5, "no tests ran", "nothing"),
        (None, "", "hung"),
    ],
)
def test_an_exit_code_and_an_output_have_one_meaning(
    code: int | None, output: str, verdict: str
) -> None:
    assert judged(code, output, 0).verdict == verdict
