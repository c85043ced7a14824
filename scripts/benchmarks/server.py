"""The server's own cost of a write, and the share of a server that one process uses."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

import msgspec

from greentic_session import Cas, SessionKey, create_session_store
from greentic_session.redis.key_names import KeyNames
from greentic_session.redis.scripts import UPDATE_CAS
from greentic_session.testing.servers import (
    LocalServer,
    ServerNotFoundError,
    redis_binary,
    valkey_binary,
)

from .by_hand import FIELDS, update_arguments
from .conditions import Recorder, progress
from .findings import Finding, Goal, Table
from .measuring import Spread, drive, quiet, short
from .server_cost import INCARNATION, Line, costs, fill_records, sample
from .sessions import CTX, session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greentic_session import AsyncSessionStore

    from .measuring import Operation, Plan

__all__ = ["measure"]

_BENCHMARK_SECS: Final = 120.0
_CALLERS: Final = 256
_EVERY: Final = "000000000000"
"""The text that redis-benchmark replaces ``__rand_int__`` with: twelve digits."""

_BARE_NOTE: Final = (
    "The bare script compares one hash field, writes the fields, and sets the expiry of two keys: "
    "no access check, no operation log, no lookup."
)
_FILL_NOTE: Final = (
    "redis-benchmark draws them at random, so about one in nine of its writes meets a session that "
    "it has written before, and is refused, which costs the server less."
)


def measure(plan: Plan) -> Finding:
    """Measure each installed engine, then load one."""
    recorder = Recorder()
    tables: list[Table] = []
    goals: list[Goal] = []
    rows: list[tuple[str, ...]] = []
    for engine, find in (("Valkey", valkey_binary), ("Redis", redis_binary)):
        try:
            binary = find()
        except ServerNotFoundError as error:
            rows.append((engine, f"left out: {error}", ""))
            continue
        taken = costs(binary, plan, recorder)
        for verb, spent in taken.items():
            ratio = Spread.of([a / b for a, b in zip(spent, taken["bare"], strict=True)])
            us = short(Spread.of(spent).median)
            rows.append((f"{engine}: {verb}", us, "1" if verb == "bare" else ratio.text()))
            if verb == "update_cas":
                progress(f"{engine}: update_cas costs the server {ratio.text()} the bare script")
                what = f"{engine}: server CPU of `update_cas`, against a bare script"
                goals.append(Goal(what=what, measured=ratio, bound=1.3, at_least=False))
    tables.append(
        Table(
            title="Server CPU per write, in µs as the server counts it",
            columns=("", "µs", "against the bare script"),
            rows=tuple(rows),
            notes=(_BARE_NOTE,),
        )
    )
    fill = _fill(plan, recorder, goals)
    return Finding(
        subject="server",
        title="The server's side",
        text="What a write costs the server (`INFO commandstats`), and what share of a server one "
        "process of this library reaches: `redis-benchmark -c 50 -P 16` sends the same script "
        "with the same arguments, or the same HMGET, from C, and does nothing else.",
        conditions=recorder.conditions(plan),
        busy=recorder.is_busy(),
        goals=tuple(goals),
        tables=(*tables, fill),
    )


# --- the share of a server that one process uses -------------------------------------------------


def _fill(plan: Plan, recorder: Recorder, goals: list[Goal]) -> Table:
    title = f"Throughput of one process with {_CALLERS} callers, against redis-benchmark"
    columns = ("", "greentic_session", "redis-benchmark", "ratio")
    program = shutil.which("redis-benchmark")
    if program is None:
        reason = "left out: no redis-benchmark on PATH (Debian: redis-tools)"
        return Table(title=title, columns=columns, rows=(("update_cas", reason, "", ""),))
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    recorder.note("redis-benchmark", told.stdout.split()[1])
    operations = plan.operations * 4
    records = operations * 4
    rows: list[tuple[str, ...]] = []
    with LocalServer(valkey_binary(), tcp=True) as server, asyncio.Runner() as runner:
        line = Line(server.port)
        names = KeyNames("limit")
        keys = [f"{number:0{len(_EVERY)}d}" for number in range(records)]
        line.run([("SCRIPT", "LOAD", UPDATE_CAS.source)])
        store = create_session_store(f"{server.tcp_url}?namespace=limit&deadline=20")
        encoded = sample()
        pair = (names.record(encoded.scope, "__rand_int__"), names.lookup("__rand_int__"))
        given = update_arguments("9f3a__rand_int__", encoded, encoded.body, INCARNATION, 1)
        commands = {
            "update_cas": ("EVALSHA", UPDATE_CAS.sha1, "2", *pair, *given),
            "get": ("HMGET", pair[0], *FIELDS),
        }
        for verb, command in commands.items():
            theirs: list[float] = []
            ours: list[float] = []
            for number in range(plan.rounds + 1):
                if verb == "update_cas" or not number:
                    fill_records(line, names, keys)
                rate = _benchmark(program, server.port, operations, records, command)
                if verb == "update_cas":
                    fill_records(line, names, keys)
                work = _fresh(store, keys, min(_CALLERS, operations), verb)
                with quiet():
                    turn = runner.run(drive(work, operations // len(work)))
                if number:
                    theirs.append(rate)
                    ours.append(turn.rate)
            ratio = Spread.of([a / b for a, b in zip(ours, theirs, strict=True)])
            progress(f"{verb}: {ratio.text()} redis-benchmark")
            rates = (f"{Spread.of(each).median:,.0f}/s" for each in (ours, theirs))
            rows.append((verb, *rates, ratio.text()))
            if verb == "update_cas":
                what = f"`{verb}`, {_CALLERS} callers, against `redis-benchmark -c 50 -P 16`"
                goals.append(Goal(what=what, measured=ratio, bound=0.9))
        runner.run(store.aclose())
        line.close()
    return Table(
        title=title,
        columns=columns,
        rows=tuple(rows),
        notes=(f"{operations} operations per round over {records} sessions. {_FILL_NOTE}",),
    )


def _benchmark(
    program: str, port: int, operations: int, records: int, command: Sequence[str]
) -> float:
    """Return the operations per second that redis-benchmark reaches."""
    how = ("-p", str(port), "-c", "50", "-P", "16", "-n", str(operations), "-r", str(records))
    # Bounded, because it retries without end if the server is not there.
    told = subprocess.run(
        [program, *how, "--csv", *command],
        capture_output=True,
        text=True,
        check=True,
        timeout=_BENCHMARK_SECS,
    )
    # The last line has the command, which may contain anything, then rps and six latencies.
    return float(told.stdout.splitlines()[-1].split('","')[-7])


def _fresh(
    store: AsyncSessionStore, keys: Sequence[str], callers: int, verb: str
) -> list[Operation]:
    """Return callers that each do the verb on sessions of their own, one after the other."""
    sample = session(0)
    token = Cas(value=1, incarnation=INCARNATION)

    def reading(mine: Sequence[str]) -> Operation:
        left = iter(mine)

        async def get() -> None:
            if await store.get(SessionKey(next(left)), ctx=CTX) is None:
                raise RuntimeError("the session is gone")

        return get

    def writing(mine: Sequence[str]) -> Operation:
        left = iter(mine)

        async def update_cas() -> None:
            fresh = msgspec.structs.replace(sample, key=SessionKey(next(left)))
            await store.update_cas(fresh, token)

        return update_cas

    kind = reading if verb == "get" else writing
    return [kind(keys[number::callers]) for number in range(callers)]
