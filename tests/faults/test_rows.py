"""Tests that every documented fault has its tests, which are named after it."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Final

ROWS: Final = {
    "kill -9 while writing, AOF on, restart": "kill_9_while_writing_aof_on_restart",
    "the same without persistence": "kill_9_while_writing_without_persistence",
    "SCRIPT FLUSH storm": "script_flush_storm",
    "request lost, reply lost, reply cut in the middle, reply later than the timeout": (
        "request_lost_reply_lost_reply_cut_in_the_middle_reply_later_than_the_timeout"
    ),
    "half-open connection, black hole, SIGSTOP of the server": (
        "half_open_connection_black_hole_sigstop_of_the_server"
    ),
    "cancellation at every await": "cancellation_at_every_await",
    "pool exhausted, maxclients": "pool_exhausted_maxclients",
    "Sentinel failover, graceful and kill -9": "sentinel_failover_graceful_and_kill_9",
    "failover with a lagging replica": "failover_with_a_lagging_replica",
    "MOVED, ASK, TRYAGAIN during a live slot move; master killed": (
        "moved_ask_tryagain_during_a_live_slot_move_master_killed"
    ),
    "OOM with noeviction": "oom_with_noeviction",
    "LOADING, BUSY, READONLY, MISCONF, NOREPLICAS": "loading_busy_readonly_misconf_noreplicas",
    "NOPERM, WRONGTYPE (a squatted key)": "noperm_wrongtype_a_squatted_key",
    "worker stopped past its lease, then resumed": "worker_stopped_past_its_lease_then_resumed",
    "worker killed between claim and complete": "worker_killed_between_claim_and_complete",
    "client clock off by an hour; server clock jumps": (
        "client_clock_off_by_an_hour_server_clock_jumps"
    ),
    "hostile ids: `:` `{` `}` `*` NUL, 64 KB, surrogates": "hostile_ids",
    "RESP2 and RESP3, Redis 6.2, 7, Valkey 9": "resp2_and_resp3_redis_6_2_7_valkey_9",
}
"""The faults in words, and the prefixes of their tests' names."""

_FOLDER: Final = Path(__file__).parent


def test_each_row_has_its_tests_and_each_test_its_row() -> None:
    # Files and not their folder, because the suite would start a container for the folder.
    files = sorted(str(file) for file in _FOLDER.glob("test_*.py") if file != Path(__file__))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files],
        cwd=_FOLDER.parents[1],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    collected = [line for line in done.stdout.splitlines() if "::test_" in line]
    tests: defaultdict[str, list[str]] = defaultdict(list)
    for line in collected:
        name = line.partition("::test_")[2]
        rows = [words for words, stem in ROWS.items() if name.startswith(stem)]
        assert len(rows) == 1, f"{line} is of {rows or 'no row'}"
        tests[rows[0]].append(line)
    assert set(tests) == set(ROWS)
