"""Tests of the default run: it keeps every test of the contract on every leg, with fewer cases.

It leaves out tests of arguments, which are refused before any I/O, and a few with long lists.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import pytest

from greentic_session.testing.ladder import LADDER_VARIABLE

from ..conftest import CONTAINER_VARIABLE, pytest_collection_modifyitems
from ..mutants.catalogue import load
from ..support.selection import (
    CONTRACT,
    FULL_ONLY,
    LONG_LIST_LEGS,
    ONE_ENGINE,
    QUICK_LEGS,
    QUICK_PATHS,
    SAMPLED_LEGS,
    THINNED_LEGS,
    TWO_CASES,
    argument_tests,
    is_quick,
    left_out,
    leg_and_test,
)
from .test_contract import NO_REDIS

# Redis is an optional second engine.
LEGS: Final = THINNED_LEGS.keys() - ({"TestRedisServer"} if NO_REDIS else set())

# With every other leg, and without a server, because no test runs here.
_ENVIRONMENT: Final = {
    **os.environ,
    LADDER_VARIABLE: "wheel",
    CONTAINER_VARIABLE: "redis://127.0.0.1:1 none",
}
_COLLECT: Final = """
import sys
import pytest


class Deselected:
    def pytest_deselected(self, items):
        print(*(f"left out {item.nodeid}" for item in items), sep="\\n")


options = ["--collect-only", "-q", "-p", "no:cacheprovider", *sys.argv[1:]]
sys.exit(pytest.main(options, plugins=[Deselected()]))
"""


# Pytest collects most of the contract, with other tests.
pytestmark = pytest.mark.timeout(180)


class Collection(NamedTuple):
    """The cases of the contract."""

    kept: list[str]
    left_out: list[str]


@pytest.fixture(scope="module")
def default() -> Collection:
    """Return the cases of the thinned legs in a default run."""
    done = subprocess.run(
        [sys.executable, "-c", _COLLECT, *(f"{CONTRACT}::{leg}" for leg in sorted(LEGS))],
        env=_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    lines = done.stdout.splitlines()
    return Collection(
        [line for line in lines if line.startswith(f"{CONTRACT}::")],
        [line.removeprefix("left out ") for line in lines if line.startswith("left out ")],
    )


def cases_of_tests(cases: list[str]) -> Counter[tuple[str, str]]:
    return Counter(map(leg_and_test, cases))


def test_default_run_keeps_every_test_on_every_leg(default: Collection) -> None:
    kept, missing = map(cases_of_tests, default)
    assert {leg for leg, _ in kept} == {leg for leg, _ in missing} == LEGS
    assert max(kept[test] for test in missing) == 1
    out = {test for test in missing if not kept[test]}
    for leg in LEGS:
        tests = {test for of_leg, test in out if of_leg == leg}
        count = len({test for of_leg, test in kept | missing if of_leg == leg})
        if leg in SAMPLED_LEGS:
            assert count - len(tests) >= 0.8 * (count - len(argument_tests())) / SAMPLED_LEGS[leg]
        elif leg in LONG_LIST_LEGS:
            assert tests <= argument_tests()
        else:
            assert len(tests - argument_tests()) <= 6


def test_argument_tests_are_those_of_the_modules_on_arguments() -> None:
    assert len(argument_tests()) > 50
    assert "test_a_bad_key_is_refused" in argument_tests()
    assert "test_of_many_creates_one_wins" not in argument_tests()


def test_default_run_keeps_all_cases_of_the_tests_that_depend_on_the_value(
    default: Collection,
) -> None:
    kept, missing = map(cases_of_tests, default)
    for leg in LEGS:
        for test in THINNED_LEGS[leg]:
            assert kept[leg, test] > 2, f"{leg}::{test}"
            assert not missing[leg, test], f"{leg}::{test}"


def test_full_run_leaves_nothing_out(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [f"{CONTRACT}::TestCluster::test_a[{value}]" for value in "abc"]
    items: list[Any] = [SimpleNamespace(nodeid=case) for case in cases]
    assert left_out(cases)
    monkeypatch.setattr(pytestconfig.option, "full", True)
    pytest_collection_modifyitems(pytestconfig, items)
    assert [item.nodeid for item in items] == cases


def test_selection_of_one_case_by_name_keeps_it() -> None:
    case = f"{CONTRACT}::TestCluster::test_any_key_is_refused[middle]"
    assert left_out([case]) == frozenset()


def test_selection_takes_one_case_of_a_test_on_a_thinned_leg_and_on_trio() -> None:
    sentinel = [f"{CONTRACT}::TestSentinel::test_a[{value}]" for value in ("a", "b::c", "d[0]")]
    cluster = [f"{CONTRACT}::TestCluster::test_a[{value}]" for value in "abc"]
    others = [f"{CONTRACT}::TestValkey::test_a[{value}]" for value in "abc"]
    trio = [f"{CONTRACT}::TestMemory::test_a[trio-{value}]" for value in "abc"]
    others += [f"{CONTRACT}::TestMemory::test_a[asyncio-{value}]" for value in "abc"]
    elsewhere = [f"tests/redis/test_sentinel.py::TestSentinel::test_a[{value}]" for value in "abc"]
    out = {*sentinel[:-1], *cluster[1:], *trio[1:]}
    assert left_out([*sentinel, *cluster, *others, *trio, *elsewhere]) == out


def test_selection_takes_a_test_of_arguments_in_memory_and_two_cases_on_a_server() -> None:
    def cases(leg: str, prefix: str = "") -> list[str]:
        test = "test_a_bad_key_is_refused"
        return [f"{CONTRACT}::{leg}::{test}[{prefix}{value}]" for value in "abc"]

    memory, trio = cases("TestMemory", "asyncio-"), cases("TestMemory", "trio-")
    server, cluster = cases("TestValkey"), cases("TestCluster")
    assert left_out([*memory, *trio, *server, *cluster]) == {*trio, server[1], *cluster}


def test_selection_takes_long_lists_on_a_server_of_each_engine_and_on_a_cluster() -> None:
    test = "test_sessions_that_live_throughout_are_given_once_while_many_expire"
    legs = ("TestValkey", "TestRedisServer", "TestCluster", "TestSentinel", "TestValkeyResp2")
    cases = [f"{CONTRACT}::{leg}::{test}" for leg in legs]
    trio = f"{CONTRACT}::TestMemory::{test}[trio]"
    assert left_out([*cases, trio]) == {*cases[3:], trio}


def test_selection_takes_a_part_of_the_tests_on_a_sampled_leg() -> None:
    cases = [f"{CONTRACT}::TestContainer::test_{number}" for number in range(8)]
    assert left_out(cases) == {*cases} - {cases[0], cases[4]}


def test_selection_takes_faults_of_a_connection_on_one_engine() -> None:
    path = "tests/redis/test_lost_replies.py::TestLostReplies::test_a"
    cases = [f"{path}[{engine}-lose]" for engine in ("valkey", "redis")]
    elsewhere = "tests/redis/test_refusals.py::test_a[redis]"
    assert left_out([*cases, elsewhere]) == {cases[1]}
    missing = [file for file in ONE_ENGINE if not (Path(__file__).parents[2] / file).exists()]
    assert missing == []


@pytest.mark.parametrize("name", sorted(TWO_CASES | FULL_ONLY))
def test_selection_takes_two_cases_of_a_slow_test_or_none(name: str) -> None:
    path, _, test = name.partition("::")
    assert f"def {test}(" in (Path(__file__).parents[2] / path).read_text("utf-8")
    cases = [f"{name}[{value}]" for value in "abc"]
    assert left_out([*cases, name]) == ({*cases[1:]} if name in TWO_CASES else {name})


def test_each_mutant_has_an_expected_test_in_the_default_run() -> None:
    mutants = load()
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    done = subprocess.run(
        [sys.executable, "-c", _COLLECT, *tests],
        env=_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    found = {
        name
        for line in done.stdout.splitlines()
        if not line.startswith("left out ")
        for name in _names_of(line)
    }
    missing = {mutant.name: mutant.tests for mutant in mutants if found.isdisjoint(mutant.tests)}
    assert missing == {}


def _names_of(case: str) -> set[str]:
    """Return the names that select a case: its file, its class, its test, and its own."""
    test, _, parameters = case.partition("[")
    parts = test.split("::")
    return {case if parameters else test, *("::".join(parts[:end]) for end in range(1, 5))}


def test_quick_run_takes_all_of_memory_and_a_few_cases_on_one_server() -> None:
    memory = [f"{CONTRACT}::TestMemory::test_a[asyncio-{value}]" for value in "abc"]
    trio = [f"{CONTRACT}::TestMemory::test_a[trio-{value}]" for value in "abc"]
    server = [f"{CONTRACT}::TestValkey::test_a[{value}]" for value in "abc"]
    others = [f"{CONTRACT}::TestSentinel::test_a[{value}]" for value in "abc"]
    slow = ["tests/faults/test_crashes.py::test_a", "tests/unit/test_memory_expiry.py::test_a"]
    fast = ["tests/unit/test_codec.py::test_a[b]", "tests/unit/test_codec.py::test_a[c]"]
    out = left_out([*memory, *trio, *server, *others, *slow, *fast], quick=True)
    assert out == {*trio, server[1], *others, *slow}


def test_quick_run_names_what_exists_and_needs_no_container() -> None:
    root = Path(__file__).parents[2]
    assert [path for path in QUICK_PATHS if not (root / path).exists()] == []
    assert is_quick(CONTRACT)
    assert "TestContainer" not in QUICK_LEGS
