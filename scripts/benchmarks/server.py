"""What the server itself spends on a write, and how much of a server one process fills."""

from __future__ import annotations

import asyncio
import shutil
import socket
import statistics
import subprocess
from typing import TYPE_CHECKING, Any, Final, cast

import hiredis
import msgspec

from greentic_session import Cas, SessionKey, create_session_store
from greentic_session.redis.names import Names
from greentic_session.redis.scripts import UPDATE_CAS
from greentic_session.testing.servers import (
    LocalServer,
    ServerNotFoundError,
    redis_binary,
    valkey_binary,
)

from .conditions import Recorder, progress
from .contenders import FIELDS
from .findings import Finding, Goal, Table
from .measuring import Spread, drive, short
from .sessions import CTX, session

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from greentic_session import AsyncSessionStore

    from .measuring import Operation, Plan

__all__ = ["measure"]

_BATCH: Final = 100
_CHUNKS: Final = 10
_BENCHMARK_SECS: Final = 120.0
_INCARNATION: Final = "a" * 32
_CALLERS: Final = 256
_EVERY: Final = "000000000000"
"""What redis-benchmark puts for ``__rand_int__``: twelve digits."""

BARE: Final = """
if redis.call('HGET', KEYS[1], 'cas') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'cas', ARGV[2], 'ttl', ARGV[3], 'at', ARGV[4], 'body', ARGV[5],
  'ops', ARGV[6])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return 1
"""
"""The least that a compare-and-set with a life can be: it writes the same fields, and no more."""

_RING: Final = "f" * 380

_BARE_NOTE: Final = (
    "The bare script compares one hash field, writes the fields, and gives two keys their life: no "
    "fence, no memory of repeated calls, no lookup."
)
_FILL_NOTE: Final = (
    "redis-benchmark draws them at random, so about one in nine of its writes meets a session that "
    "it has written before, and is refused, which costs the server less."
)

Call = tuple[str | bytes | int, ...]


class Line:
    """A connection without a client: packs, sends, reads.

    :param port: of the server, on loopback.
    """

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._reader = hiredis.Reader()
        self._pack = cast("Any", hiredis.pack_command)  # Any: untyped there

    def close(self) -> None:
        """Disconnect."""
        self._socket.close()

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """Send commands, a hundred at a time, and return the replies.

        :raises hiredis.ReplyError: if one failed.
        """
        replies: list[Any] = []
        for start in range(0, len(calls), _BATCH):
            batch = calls[start : start + _BATCH]
            self._socket.sendall(b"".join(map(self._pack, batch)))
            due = len(replies) + len(batch)
            while len(replies) < due:
                reply = self._reader.gets()
                if reply is False:
                    self._reader.feed(self._socket.recv(1 << 20))
                elif isinstance(reply, Exception):
                    raise reply
                else:
                    replies.append(reply)
        return replies

    def cost_us(self, calls: Sequence[Call]) -> float:
        """Run commands, and return what the server says one took, in microseconds.

        :raises RuntimeError: if a script refused.
        """
        self.run([("CONFIG", "RESETSTAT")])
        replies = self.run(calls)
        refused = [reply for reply in replies if reply != 1 and (reply == 0 or reply[0] != 1)]
        if refused:
            raise RuntimeError(f"the script refused: {refused[0]}")
        (told,) = self.run([("INFO", "commandstats")])
        for row in told.decode().splitlines():
            if row.startswith("cmdstat_evalsha:"):
                return float(row.split("usec_per_call=")[1].split(",")[0])
        raise RuntimeError("the server counted no EVALSHA")


def measure(plan: Plan) -> Finding:
    """Measure each engine that is here, then fill one."""
    recorder = Recorder()
    tables: list[Table] = []
    goals: list[Goal] = []
    costs: list[tuple[str, ...]] = []
    for engine, find in (("Valkey", valkey_binary), ("Redis", redis_binary)):
        try:
            binary = find()
        except ServerNotFoundError as error:
            costs.append((engine, f"left out: {error}", "", ""))
            continue
        bare, ours = _costs(binary, plan, recorder)
        ratio = Spread.of([a / b for a, b in zip(ours, bare, strict=True)])
        progress(f"{engine}: update_cas costs the server {ratio.text()} the bare script")
        spent = (short(Spread.of(each).median) for each in (ours, bare))
        costs.append((engine, *spent, ratio.text()))
        goals.append(
            Goal(
                what=f"{engine}: server CPU of `update_cas`, against a bare script",
                measured=ratio,
                bound=1.3,
                at_least=False,
            )
        )
    tables.append(
        Table(
            title="Server CPU per write, in µs as the server counts it",
            columns=("", "update_cas", "bare script", "ratio"),
            rows=tuple(costs),
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
        goals=tuple(goals),
        tables=(*tables, fill),
    )


# --- what a write costs --------------------------------------------------------------------------


def _costs(binary: Path, plan: Plan, recorder: Recorder) -> tuple[list[float], list[float]]:
    """Return µs per call of the bare script and of ours, one each per round."""
    keys = [f"{number}" for number in range(max(1, min(500, plan.operations // 4)))]
    with LocalServer(binary, tcp=True) as server:
        recorder.engine(server)
        line = Line(server.port)
        bare_sha, ours_sha = line.run(
            [("SCRIPT", "LOAD", BARE), ("SCRIPT", "LOAD", UPDATE_CAS.source)]
        )
        names = {side: Names(side) for side in ("bare", "ours")}
        for side in names.values():
            _fill_records(line, side, keys)
        operations = _operations()
        scope, owner, ttl_ms, body = _written()
        bare: list[float] = []
        ours: list[float] = []
        version = 1
        for number in range(plan.rounds + 1):
            chunks: tuple[list[float], list[float]] = ([], [])
            for at in range(version, version + _CHUNKS):  # short turns: what disturbs, does both
                plain: list[Call] = []
                full: list[Call] = []
                for key in keys:
                    pair = names["bare"].of_session(scope, key)
                    fields = (str(at), str(at + 1), ttl_ms, "1763650000000", body, _RING)
                    plain.append(("EVALSHA", bare_sha, 2, *pair, *fields))
                    pair = names["ours"].of_session(scope, key)
                    given = (next(operations), "", scope, owner, ttl_ms, body, _INCARNATION, at)
                    full.append(("EVALSHA", ours_sha, 2, *pair, *given))
                chunks[0].append(line.cost_us(plain))
                chunks[1].append(line.cost_us(full))
            version += _CHUNKS
            if number:
                bare.append(statistics.median(chunks[0]))
                ours.append(statistics.median(chunks[1]))
        line.close()
    return bare, ours


def _operations() -> Iterator[str]:
    number = 0x9F3A_0000_0000_0000
    while True:
        number += 1
        yield f"{number:016x}"


def _written() -> tuple[str, str, str, bytes]:
    """Return scope, owner, ttl in ms and body of the sample session, as the store writes them."""
    draft = create_session_store("memory://").drafter.draft(session(0))
    return draft.scope, draft.owner, str(draft.ttl_ms), draft.body


def _fill_records(line: Line, names: Names, keys: Sequence[str]) -> None:
    """Store a session under each key, with version 1 and the same incarnation."""
    scope, owner, ttl_ms, body = _written()
    at_ms = line.run([("TIME",)])[0][0].decode() + "000"
    expires_ms = str(int(at_ms) + int(ttl_ms))
    calls: list[Call] = []
    for key in keys:
        record, lookup = names.record(scope, key), names.lookup(key)
        fields = ("cas", "1", "inc", _INCARNATION, "owner", owner, "ttl", ttl_ms, "at", at_ms)
        calls += [
            ("HSET", record, *fields, "body", body, "ops", _RING),
            ("PEXPIREAT", record, expires_ms),
            ("HSET", lookup, scope, expires_ms),
            ("PEXPIREAT", lookup, expires_ms),
        ]
    line.run(calls)


# --- how much of a server one process fills ------------------------------------------------------


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
        names = Names("limit")
        keys = [f"{number:0{len(_EVERY)}d}" for number in range(records)]
        line.run([("SCRIPT", "LOAD", UPDATE_CAS.source)])
        store = create_session_store(f"{server.tcp_url}?namespace=limit&deadline=20")
        scope, owner, ttl_ms, body = _written()
        pair = (names.record(scope, "__rand_int__"), names.lookup("__rand_int__"))
        given = ("9f3a__rand_int__", "", scope, owner, ttl_ms, body.decode(), _INCARNATION, "1")
        commands = {
            "update_cas": ("EVALSHA", UPDATE_CAS.sha1, "2", *pair, *given),
            "get": ("HMGET", pair[0], *FIELDS),
        }
        for verb, command in commands.items():
            theirs: list[float] = []
            ours: list[float] = []
            for number in range(plan.rounds + 1):
                if verb == "update_cas" or not number:
                    _fill_records(line, names, keys)
                rate = _benchmark(program, server.port, operations, records, command)
                if verb == "update_cas":
                    _fill_records(line, names, keys)
                work = _fresh(store, keys, min(_CALLERS, operations), verb)
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
    # Bounded, because it tries for ever to reach a server that is not there.
    told = subprocess.run(
        [program, *how, "--csv", *command],
        capture_output=True,
        text=True,
        check=True,
        timeout=_BENCHMARK_SECS,
    )
    # The last line: the command, which may hold anything, then rps and six latencies.
    return float(told.stdout.splitlines()[-1].split('","')[-7])


def _fresh(
    store: AsyncSessionStore, keys: Sequence[str], callers: int, verb: str
) -> list[Operation]:
    """Return callers who each do the verb on sessions of their own, one after the other."""
    sample = session(0)
    token = Cas(value=1, incarnation=_INCARNATION)

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
