"""The memory backend against the bare minimum of the same work.

The bare minimum is one awaited coroutine, one dictionary access, and one codec call on the same
session (``touch``: no codec). It runs in the same event loop, over the same sessions, in turn with
the verb. Time is the thread's CPU time, so other load on the machine counts little. A figure is the
median over the rounds. A ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from time import thread_time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from greentic_session import (
    InMemorySessionStore,
    JsonCodec,
    MemoryConfig,
    MessagePackCodec,
    SessionBody,
)

from .conditions import Recorder, progress
from .findings import Finding, Goal, Table
from .measuring import Spread, quiet, short
from .orders import Order, orders

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .measuring import Plan

__all__ = ["measure"]

VERBS: Final = ("put", "get", "update_cas", "touch")
_LIMIT_MS: Final = 1.0
_MOST_RATIO: Final = 1.6


class Keeping(NamedTuple):
    """A configuration of the store.

    :ivar name: name in the table.
    :ivar context_type: context type of the store.
    :ivar codec: codec of the store.
    :ivar verify: whether the store verifies writes. The bare minimum of a write then includes a
        decoding.
    """

    name: str
    context_type: Any  # Any: a type that the codec supports
    codec: Any
    verify: bool

    @property
    def reads_back(self) -> bool:
        """Whether a write decodes its encoded session."""
        return self.verify and self.context_type is not dict


WAYS: Final = (
    Keeping("dict, JSON", dict, JsonCodec, verify=True),
    Keeping("dict, MessagePack", dict, MessagePackCodec, verify=True),
    Keeping("struct, JSON", Order, JsonCodec, verify=False),
    Keeping("struct, JSON, read back", Order, JsonCodec, verify=True),
)


class Cost(NamedTuple):
    """Microseconds of a verb and of its bare minimum in one round."""

    verb_us: float
    bare_us: float


def measure(plan: Plan) -> Finding:
    """Time the verbs. Then measure a sweep and the memory of sessions in a fresh process."""
    recorder = Recorder()
    rows: list[tuple[str, ...]] = []
    goals: list[Goal] = []
    for way in WAYS:
        taken = asyncio.run(_rounds(way, plan))
        for verb, costs in taken.items():
            ratio = Spread.of([cost.verb_us / cost.bare_us for cost in costs])
            spent = (short(Spread.of([cost[side] for cost in costs]).median) for side in (0, 1))
            rows.append((f"{verb} ({way.name})", *spent, ratio.text()))
            if way is WAYS[0]:
                what = f"memory: `{verb}`, against the bare sum"
                goals.append(Goal(what=what, measured=ratio, bound=_MOST_RATIO, at_least=False))
        progress(f"{way.name}: {', '.join(f'{row[0]} {row[3]}' for row in rows[-len(VERBS) :])}")
    footprints = [_apart("footprint", plan.records // 2) for _ in range(min(3, plan.rounds))]
    sweeps = [_apart("sweep", plan.records) for _ in range(min(5, plan.rounds))]
    longest = Spread.of([each["longest_cpu_ms"] for each in sweeps])
    goals.append(
        Goal(
            what=f"memory: the longest that a sweep of {plan.records:,} holds the loop",
            measured=longest,
            bound=_LIMIT_MS,
            at_least=False,
            unit=" ms",
        )
    )
    return Finding(
        subject="memory",
        title="The memory backend",
        text="Each verb against the bare sum of what it cannot do without: one awaited coroutine, "
        "one access of a dictionary, one call of the same codec on the same session (none for "
        "`touch`, two where writes are read back), in turn with the verb.",
        conditions=recorder.conditions(plan),
        busy=recorder.is_busy(),
        goals=tuple(goals),
        tables=(
            Table(
                title="Each verb, in µs",
                columns=("", "verb", "bare sum", "ratio"),
                rows=tuple(rows),
            ),
            _weight_table(plan, footprints),
            _sweep_table(plan, sweeps),
        ),
    )


def _weight_table(plan: Plan, taken: list[dict[str, float]]) -> Table:
    def cell(name: str, unit: str) -> str:
        return Spread.of([each[name] for each in taken]).text(unit)

    return Table(
        title=f"{plan.records // 2:,} live sessions",
        columns=("", "median (least..most)"),
        rows=(
            ("encoded session", cell("payload_bytes", " bytes")),
            ("memory of the process per session", cell("bytes_per_session", " bytes")),
            ("full garbage collection", cell("collect_ms", " ms")),
            ("the same with no session", cell("idle_ms", " ms")),
        ),
        notes=("Resident memory: key, dictionaries, expiry and the garbage of writing included.",),
    )


def _sweep_table(plan: Plan, taken: list[dict[str, float]]) -> Table:
    def cell(name: str, unit: str) -> str:
        return Spread.of([each[name] for each in taken]).text(unit)

    return Table(
        title=f"A sweep of {plan.records:,} expired sessions",
        columns=("", "median (least..most)"),
        rows=(
            ("longest hold of the event loop", cell("longest_cpu_ms", " ms")),
            ("the same by the clock", cell("longest_ms", " ms")),
            ("the whole sweep", cell("total_ms", " ms")),
            ("a sweep that finds nothing, among as many sessions", cell("empty_us", " µs")),
        ),
        notes=("The hold is CPU time of this thread. By the clock, other processes count too.",),
    )


def _apart(name: str, count: int) -> dict[str, float]:
    """Run a part of :mod:`.weights` in a process of its own, with fresh memory."""
    told = subprocess.run(
        [sys.executable, "-m", f"{__package__}.weights", name, str(count)],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    figures: dict[str, float] = json.loads(told.stdout)
    progress(f"{name} of {count:,}: {figures}")
    return figures


async def _rounds(way: Keeping, plan: Plan) -> dict[str, list[Cost]]:
    """Return the cost of each verb in each round."""
    store: InMemorySessionStore[Any] = InMemorySessionStore(
        way.context_type, codec=way.codec, config=MemoryConfig(verify=way.verify)
    )
    codec = way.codec(way.context_type)
    known = orders(way.context_type)
    # Write back the sessions that were read, as a worker does. Each value is then an object of its
    # own, as decoded values are.
    for number, (ctx, session) in enumerate(known):
        await store.put(session)
        found = await store.get(session.key, ctx=ctx)
        if found is None:
            raise RuntimeError("the session is gone")
        known[number] = ctx, found.session
    tokens = {session.key: await store.put(session) for _, session in known}
    bodies = [
        (
            each.key,
            SessionBody(
                cursor=each.cursor, meta=each.meta, context=each.context, outbox=each.outbox
            ),
        )
        for _, each in known
    ]
    table: dict[str, bytes] = {}

    async def bare_write(key: str, body: SessionBody[Any]) -> None:
        data = codec.encode(body)
        if way.reads_back:
            codec.decode(data)
        table[key] = data

    async def bare_read(key: str) -> SessionBody[Any]:
        body: SessionBody[Any] = codec.decode(table[key])
        return body

    async def bare_touch(key: str) -> bytes:
        return table[key]

    async def write() -> None:
        for key, body in bodies:
            await bare_write(key, body)

    async def read() -> None:
        for key, _ in bodies:
            await bare_read(key)

    async def look() -> None:
        for key, _ in bodies:
            await bare_touch(key)

    async def put() -> None:
        for _, session in known:
            await store.put(session)

    async def get() -> None:
        for ctx, session in known:
            await store.get(session.key, ctx=ctx)

    async def update_cas() -> None:
        for _, session in known:
            tokens[session.key] = await store.update_cas(session, tokens[session.key])

    async def touch() -> None:
        for ctx, session in known:
            await store.touch(session.key, ctx=ctx)

    pairs = {
        "put": (put, write),
        "get": (get, read),
        "update_cas": (update_cas, write),
        "touch": (touch, look),
    }
    taken: dict[str, list[Cost]] = {verb: [] for verb in VERBS}
    await write()
    passes = max(1, 2 * plan.operations // len(known))
    with quiet():
        for _ in range(plan.rounds):
            for verb in VERBS:
                if verb == "update_cas":  # the puts have changed the tokens
                    for _, session in known:
                        tokens[session.key] = await store.put(session)
                spent = await _turns(pairs[verb], passes)
                taken[verb].append(Cost(*(1e6 * secs / passes / len(known) for secs in spent)))
    await store.aclose()
    return taken


async def _turns(pair: tuple[Callable[[], Awaitable[None]], ...], passes: int) -> list[float]:
    # Short turns in alternation, so that other load affects both alike.
    spent = [0.0 for _ in pair]
    for _ in range(passes):
        for side, turn in enumerate(pair):
            started_at = thread_time()
            await turn()
            spent[side] += thread_time() - started_at
    return spent
