"""The tests of each tier: what ``--quick`` runs, what the default run leaves out.

``--full`` runs every case.
"""

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


QUICK_LEGS: Final = frozenset({"TestMemory", "TestValkey"})
"""Legs of the contract that ``--quick`` runs.

On Valkey, it runs the first and the last case of each test.
"""

_WHOLE_LEGS: Final = frozenset({"TestMemory"})
"""Legs that ``--quick`` runs with every case on asyncio: they test the code before any I/O."""

_TRIO: Final = "[trio"
"""In the names of cases on trio, which the default run thins as well.

They differ from those on asyncio where a task waits, is cancelled or runs next to another. That
does not depend on the value of a parameter either.
"""

_SLOW: Final = ("tests/unit/test_memory_expiry.py",)
QUICK_PATHS: Final = (
    CONTRACT,
    "tests/contract/test_layers.py",
    "tests/contract/test_public_api.py",
    "tests/dispatcher/",
    "tests/docs/test_prose.py",
    "tests/inbox/test_inbox_scripts.py",
    "tests/lifecycle/",
    "tests/locks/test_locks_stored.py",
    "tests/locks/test_memory_locks.py",
    "tests/redis/test_fencing_retention.py",
    "tests/redis/test_key_names.py",
    "tests/redis/test_operation_log.py",
    "tests/redis/test_script_arguments.py",
    "tests/redis/test_session_scripts.py",
    "tests/redis/test_stored_format.py",
    "tests/testing/test_mutants.py",
    "tests/unit/",
    "tests/waits/test_memory_waits.py",
    "tests/waits/test_wait_script_verdicts.py",
    "tests/waits/test_wait_scripts.py",
)
"""Files and folders that ``--quick`` runs: those that need one server at most, and no process."""


def is_quick(path: str) -> bool:
    """Whether ``--quick`` runs tests of a file.

    :param path: of the file, relative to the root of the project.
    """
    return path.startswith(QUICK_PATHS) and not path.startswith(_SLOW)


def leg_and_test(node_id: str) -> tuple[str, str]:
    """Return the leg and the test function of a contract case, or two empty strings.

    :param node_id: pytest's name of the case, relative to the root of the project.
    """
    path, _, rest = node_id.partition("::")
    leg, _, case = rest.partition("::")
    return (leg, case.partition("[")[0]) if path == CONTRACT and case else ("", "")


def left_out(node_ids: Iterable[str], *, quick: bool = False) -> frozenset[str]:
    """Return the cases that a run leaves out: all but the first and the last of a thinned test.

    The first and the last case of a product of parameters differ in every parameter. The answer
    depends on the names and their order only. Because all xdist workers must agree on it.

    :param node_ids: cases in the order of collection.
    :param quick: leave out what ``--quick`` does, not what the default run does.
    """
    cases = defaultdict[tuple[str, str], list[str]](list)
    out: set[str] = set()
    for node_id in node_ids:
        leg, test = leg_and_test(node_id)
        if quick and (not is_quick(node_id) or (leg and leg not in QUICK_LEGS)):
            out.add(node_id)
        elif quick:
            if leg in _WHOLE_LEGS and _TRIO in node_id:
                out.add(node_id)
            elif leg and leg not in _WHOLE_LEGS:
                cases[leg, test].append(node_id)
        elif leg and _TRIO in node_id:
            cases[leg + _TRIO, test].append(node_id)
        elif test not in THINNED_LEGS.get(leg, (test,)):
            cases[leg, test].append(node_id)
    out.update(case for of_test in cases.values() for case in of_test[1:-1])
    return frozenset(out)
