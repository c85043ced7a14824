"""Tests of the default run: it keeps every test of the contract on every leg, with fewer cases."""

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
from ..support.selection import (
    CONTRACT,
    QUICK_LEGS,
    QUICK_PATHS,
    THINNED_LEGS,
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
    for test, cases in missing.items():
        assert kept[test] == 2, f"{test}: {cases} cases left out"


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


def test_selection_takes_the_first_and_the_last_case_of_a_thinned_leg() -> None:
    cases = [f"{CONTRACT}::TestSentinel::test_a[{value}]" for value in ("a", "b::c", "d[0]", "e")]
    others = [f"{CONTRACT}::TestValkey::test_a[{value}]" for value in ("a", "b", "c")]
    trio = [f"{CONTRACT}::TestMemory::test_a[trio-{value}]" for value in "abc"]
    others += [f"{CONTRACT}::TestMemory::test_a[asyncio-{value}]" for value in "abc"]
    elsewhere = [f"tests/redis/test_sentinel.py::TestSentinel::test_a[{value}]" for value in "abc"]
    assert left_out([*cases, *others, *trio, *elsewhere]) == {*cases[1:3], trio[1]}


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
