"""The tests of each tier: what ``--quick`` runs, what the default run leaves out.

``--full`` runs every case.
"""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CONTRACT: Final = "tests/contract/test_contract.py"
SHARE: Final = 1 / 4
"""What the default run does of the repetitions of a long race, or of a long search by chance.

``--full`` does all of them, and ``scripts/soak`` does more. The tests take their number from the
fixture ``scaled``.
"""

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
    "TestEmbedded": frozenset(),
    "TestRedisServer": _NUMBERS,
    "TestSentinel": frozenset(),
    "TestValkeyResp2": _REPLIES,
}
"""Legs that run one case of each test, with the tests that run all of their cases there.

The legs on memory and on Valkey run every case. The legs named here run the same checks and the
same scripts. They differ in the way to the server, which rarely depends on the value of a
parameter, and their tests are up to nine times slower: a cluster or a Sentinel set-up connects to
several servers for each test. The exceptions depend on the value:

* On a cluster a key and its owner decide the slot.
* RESP2 has other replies for absence and for numbers than RESP3.
* Redis is another engine: its scripts convert numbers in their own way.
"""

LAST_CASES: Final = frozenset({"TestContainer", "TestRedisServer", "TestSentinel"})
"""Thinned legs that run the last case of a test. The others run the first.

The first and the last case of a product of parameters differ in every parameter.
"""

SAMPLED_LEGS: Final[Mapping[str, int]] = {"TestContainer": 4, "TestSentinel": 2}
"""Thinned legs that run one test in this many.

* The container has the engine of the leg on Valkey. It differs in its image and in TCP, on which
  nearly every test depends.
* The master that Sentinel names is a single server. Its leg differs in the confirmation of writes,
  which ``tests/redis/test_truth_table.py`` tests for each verb.
"""

_ARGUMENTS: Final = ("inputs.py", "arguments.py")
_LONG_LISTS: Final = frozenset(
    {
        "test_a_scan_that_is_left_early_leaves_nothing_behind",
        "test_no_dead_letter_is_passed_over_while_others_die_and_end",
        "test_scan_gives_more_sessions_than_its_usual_batch",
        "test_sessions_that_live_throughout_are_given_once_while_many_expire",
        "test_sessions_that_live_throughout_are_given_once_while_others_come_and_go",
        "test_waits_among_many_sessions_are_rebuilt",
    }
)
LONG_LIST_LEGS: Final = frozenset({"TestCluster", "TestMemory", "TestRedisServer", "TestValkey"})
"""Legs that run the tests with hundreds of sessions: one server of each engine and a cluster."""

ONE_ENGINE: Final = (
    "tests/locks/test_locks_bad_lines.py",
    "tests/locks/test_locks_retried.py",
    "tests/redis/test_connections.py",
    "tests/redis/test_loops.py",
    "tests/redis/test_lost_replies.py",
    "tests/redis/test_revoke_after_cancellation.py",
    "tests/testing/test_topologies.py",
)
"""Files whose tests run on Valkey, and on Redis with ``--full`` only.

They test what the client does about a fault on its connection, or the rigs of the tests. The
engines differ in the errors that they return and in their scripts' numbers. Other tests cover
these on both engines.
"""

_CLOCKS: Final = "tests/redis/test_clock_steps.py"
TWO_CASES: Final = frozenset(
    {
        "tests/docs/test_examples.py::test_two_of_three_processes_killed_in_a_turn",
        "tests/docs/test_examples.py::test_worker_killed_and_run_again",
        f"{_CLOCKS}::test_a_fencing_token_does_not_go_back_when_a_server_that_is_behind_takes_over",
        "tests/redis/test_loops.py::test_no_socket_is_leaked",
    }
)
"""Slow tests of which the default run takes the first and the last case.

The other cases are the same fault at another moment, or of another verb with the same code.
"""

FULL_ONLY: Final = frozenset(
    {"tests/docs/test_bench_instructions.py::test_a_working_tree_is_compared_with_a_revision"}
)
"""Tests that only ``--full`` runs: a whole run of a tool of the project under valgrind."""

_REDIS: Final = re.compile(r"[\[-]redis[\]-]")

QUICK_LEGS: Final = frozenset({"TestMemory", "TestValkey"})
"""Legs of the contract that ``--quick`` runs.

On Valkey, it runs the first and the last case of each test.
"""

_WHOLE_LEGS: Final = frozenset({"TestMemory"})
"""Legs that ``--quick`` runs with every case on asyncio: they test the code before any I/O."""

_TRIO: Final = "[trio"
"""In the names of cases on trio, of which the default run takes one of each test as well.

They differ from those on asyncio where a task waits, is cancelled or runs next to another. That
does not depend on the value of a parameter either.
"""

_SLOW: Final = ("tests/unit/test_memory_expiry.py",)
QUICK_PATHS: Final = (
    CONTRACT,
    "tests/codegen/test_elm.py",
    "tests/codegen/test_jsonschema.py",
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


@cache
def argument_tests() -> frozenset[str]:
    """Return the tests of the contract in which a call is refused before any I/O."""
    contract = Path(__file__).parents[2] / "greentic_session" / "testing" / "contract"
    return frozenset(
        test
        for path in contract.glob("*/*.py")
        if path.name in _ARGUMENTS
        for test in re.findall(r"def (test_\w+)", path.read_text("utf-8"))
    )


def left_out(node_ids: Iterable[str], *, quick: bool = False) -> frozenset[str]:
    """Return the cases that a run leaves out.

    * A test on a thinned leg, or on trio, runs one case. On Valkey it runs all of them.
    * A test of arguments runs all its cases in memory, and the first and the last on Valkey. It
      runs on no other leg, because the call is refused before any I/O.
    * A test with long lists runs on :data:`LONG_LIST_LEGS` only.
    * A test of :data:`TWO_CASES` runs the first and the last, one of :data:`FULL_ONLY` none.
    * ``--quick`` runs the first and the last case of each test on Valkey.

    The answer depends on the names and their order only. Because all xdist workers must agree on
    it.

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
        elif _runs_elsewhere(node_id, leg, test):
            out.add(node_id)
        elif (name := node_id.partition("[")[0]) in TWO_CASES:
            cases["", name].append(node_id)
        elif leg and _TRIO in node_id:
            cases[_TRIO, test].append(node_id)
        elif test not in THINNED_LEGS.get(leg, () if test in argument_tests() else (test,)):
            cases[leg, test].append(node_id)
    sampled: defaultdict[str, int] = defaultdict(int)
    for (leg, _), of_test in cases.items():
        sampled[leg] += 1
        if (sampled[leg] - 1) % SAMPLED_LEGS.get(leg, 1):
            out.update(of_test)
        elif leg in LAST_CASES:
            out.update(of_test[:-1])
        elif leg == _TRIO or leg in THINNED_LEGS:
            out.update(of_test[1:])
        elif leg not in _WHOLE_LEGS:
            out.update(of_test[1:-1])
    return frozenset(out)


def _runs_elsewhere(node_id: str, leg: str, test: str) -> bool:
    """Whether the default run leaves a case out because another file, leg or engine has it."""
    if not leg:
        is_redis = node_id.startswith(ONE_ENGINE) and _REDIS.search(node_id)
        return bool(is_redis) or node_id in FULL_ONLY
    is_thinned = leg in THINNED_LEGS or _TRIO in node_id
    if test in argument_tests():
        return is_thinned
    return test in _LONG_LISTS and (leg not in LONG_LIST_LEGS or _TRIO in node_id)
