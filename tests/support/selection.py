"""The cases of the contract suite that the default run leaves out."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CONTRACT: Final = "tests/contract/test_contract.py"

_NAMES: Final = frozenset(
    {
        "test_an_odd_key_is_not_found_by_what_it_resembles",
        "test_any_key_is_a_key",
        "test_any_key_passes_through_every_verb",
        "test_any_owner_passes_through_every_verb",
    }
)
_REPLIES: Final = frozenset(
    {
        "test_a_plain_value_comes_back_as_it_was",
        "test_an_absent_session_is_absent_to_every_verb",
    }
)
_NUMBERS: Final = frozenset(
    {
        "test_a_life_is_kept_to_the_millisecond",
        "test_a_short_life_ends_on_its_millisecond",
        "test_another_value_of_the_same_incarnation_conflicts",
        "test_the_longest_life_is_about_a_century",
    }
)

THINNED_LEGS: Final[Mapping[str, frozenset[str]]] = {
    "TestCluster": _NAMES,
    "TestContainer": frozenset(),
    "TestRedisServer": _NUMBERS,
    "TestSentinel": frozenset(),
    "TestValkeyResp2": _REPLIES,
}
"""Legs that run a few cases of each test, with the tests that run all of their cases there.

The legs on memory and on Valkey run every case. The legs named here run the same checks and the
same scripts. They differ in the way to the server, which rarely depends on the value of a
parameter, and their tests are up to nine times slower: a cluster or a Sentinel set-up connects to
several servers for each test. The exceptions depend on the value:

* On a cluster a key and its owner decide the slot.
* RESP2 has other replies for absence and for numbers than RESP3.
* Redis is another engine: its scripts convert numbers in their own way.
"""


def leg_and_test(node_id: str) -> tuple[str, str]:
    """Return the leg and the test function of a contract case, or two empty strings.

    :param node_id: pytest's name of the case, relative to the root of the project.
    """
    path, _, rest = node_id.partition("::")
    leg, _, case = rest.partition("::")
    return (leg, case.partition("[")[0]) if path == CONTRACT and case else ("", "")


def left_out(node_ids: Iterable[str]) -> frozenset[str]:
    """Return the cases that the default run leaves out: all but the first and the last of a test.

    The first and the last case of a product of parameters differ in every parameter. The answer
    depends on the names and their order only. Because all xdist workers must agree on it.

    :param node_ids: cases in the order of collection.
    """
    cases = defaultdict[tuple[str, str], list[str]](list)
    for node_id in node_ids:
        leg, test = leg_and_test(node_id)
        if leg in THINNED_LEGS and test not in THINNED_LEGS[leg]:
            cases[leg, test].append(node_id)
    return frozenset(case for of_test in cases.values() for case in of_test[1:-1])
