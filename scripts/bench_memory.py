"""What the memory backend costs over the bare sum of what it cannot do without.

The bare sum is one awaited coroutine, one access of a dictionary, and one call of the codec on the
same session (``touch``: no codec), in the same event loop, over the same sessions, in turn with the
verb. Time is the thread's own, so that what else runs on the machine counts little. A figure is the
median of the rounds, and so is a ratio: of the ratios of each round.

Run as a script, it prints a table. Called from elsewhere, :func:`rounds` times the verbs,
:func:`sweep` a sweep, and :func:`footprint` memory and garbage collection.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
from statistics import median
from time import perf_counter, thread_time, thread_time_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from greentic_session import (
    InMemorySessionStore,
    JsonCodec,
    ManualClock,
    MemoryConfig,
    MessagePackCodec,
    OutboxEntry,
    Session,
    SessionBody,
    SessionCursor,
    SessionKey,
    SessionMeta,
    TenantCtx,
)
from greentic_session.keys import telegram_update_to_session_key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

VERBS: Final = ("put", "get", "update_cas", "touch")
_SESSIONS: Final = 256
"""Different ones, each with its own key, user and objects: none is met again at once."""


class Line(msgspec.Struct, frozen=True):
    """One line of an order."""

    sku: str
    count: int
    price: float


class Order(msgspec.Struct, frozen=True):
    """A typed context: the state of a flow that takes a return."""

    language: str
    step: int
    answers: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]
    flags: frozenset[str]
    note: str


class Contender(NamedTuple):
    """A way of keeping sessions.

    :ivar name: for the table.
    :ivar context_type: of the store.
    :ivar codec: of the store.
    :ivar verify: of the store; the bare sum of a write then has a decoding as well.
    """

    name: str
    context_type: Any
    codec: Any
    verify: bool


CONTENDERS: Final = (
    Contender("dict, JSON", dict, JsonCodec, verify=True),
    Contender("dict, MessagePack", dict, MessagePackCodec, verify=True),
    Contender("struct, JSON", Order, JsonCodec, verify=False),
    Contender("struct, JSON, verified", Order, JsonCodec, verify=True),
)


class Figure(NamedTuple):
    """What a verb costs.

    :ivar microseconds: of the verb.
    :ivar bare: microseconds of the bare sum.
    :ivar ratio: of the two.
    """

    microseconds: float
    bare: float
    ratio: float


def sessions(context_type: Any) -> list[tuple[TenantCtx, Session[Any]]]:
    """Return callers and their sessions, of 0.9 KB each in JSON."""
    return [_session(number, context_type) for number in range(_SESSIONS)]


def _session(number: int, context_type: Any) -> tuple[TenantCtx, Session[Any]]:
    ctx = TenantCtx(tenant_id="acme", env="prod", team_id="support", user_id=f"user-{number}")
    answers = (
        ("name", f"Ann Example the {number}th"),
        ("order", f"A-{number:07}"),
        ("reason", "the parcel came damaged on Tuesday"),
    )
    lines = (Line("SKU-10442", 2, 19.9), Line(f"SKU-{number}", 1, 5.25))
    order = Order("en", number % 7, answers, lines, frozenset({"beta", "eu"}), "n" * 120)
    session: Session[Any] = Session(
        key=telegram_update_to_session_key("bot", str(number), ctx.user_id or ""),
        cursor=SessionCursor(
            flow_id="returns",
            node_id="confirm_address",
            wait_reason="input",
            outbox_seq=3,
        ),
        meta=SessionMeta.of(ctx, labels={"channel": "telegram", "vip": number % 2 == 0}),
        context=msgspec.to_builtins(order) if context_type is dict else order,
        outbox=tuple(OutboxEntry.for_payload(seq, b"%d %d" % (number, seq)) for seq in range(3)),
        ttl_secs=3600,
    )
    return ctx, session


def rounds(contender: Contender, *, count: int = 7, operations: int = 20_000) -> dict[str, Figure]:
    """Time each verb against its bare sum.

    :param count: of rounds, in each of which every verb and every bare sum has its turn.
    :param operations: per turn.
    """
    return asyncio.run(_rounds(contender, count, operations))


async def _rounds(contender: Contender, count: int, operations: int) -> dict[str, Figure]:
    _, context_type, codec_class, verify = contender
    store = InMemorySessionStore(
        context_type, codec=codec_class, config=MemoryConfig(verify=verify)
    )
    codec = codec_class(context_type)
    known = sessions(context_type)
    table: dict[str, bytes] = {}
    tokens = {session.key: await store.put(session) for _, session in known}
    # What a read gave is what is written back, as in a worker: so each value is an object of its
    # own, as decoded ones are.
    for index, (ctx, session) in enumerate(known):
        found = await store.get(session.key, ctx=ctx)
        if found is None:
            raise SystemExit("a session is gone")
        known[index] = ctx, found.session
    bodies = [
        (
            session.key,
            SessionBody(
                cursor=session.cursor,
                meta=session.meta,
                context=session.context,
                outbox=session.outbox,
            ),
        )
        for _, session in known
    ]
    passes = max(1, operations // len(known))
    checked = verify and context_type is not dict

    async def bare_write(key: str, body: SessionBody[Any]) -> None:
        data = codec.encode(body)
        if checked:
            codec.decode(data)
        table[key] = data

    async def bare_read(key: str) -> SessionBody[Any]:
        return codec.decode(table[key])

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

    pairs = {"put": (put, write), "get": (get, read), "touch": (touch, look)}
    pairs["update_cas"] = (update_cas, write)
    figures: dict[str, list[Figure]] = {verb: [] for verb in VERBS}
    await write()
    gc.collect()
    gc.freeze()
    for _ in range(count):
        for verb in VERBS:
            ours, bare = pairs[verb]
            if verb == "update_cas":  # the puts have moved the tokens
                for _, session in known:
                    tokens[session.key] = await store.put(session)
            # Short turns, one after the other: what else runs here meets both alike.
            spent = [0.0, 0.0]
            for _ in range(passes):
                for side, turn in enumerate((ours, bare)):
                    spent[side] += await _timed(turn)
            verb_us, bare_us = (1e6 * secs / (passes * len(known)) for secs in spent)
            figures[verb].append(Figure(verb_us, bare_us, verb_us / bare_us))
    gc.unfreeze()
    await store.aclose()
    return {verb: Figure(*map(median, zip(*figures[verb], strict=True))) for verb in VERBS}


async def _timed(turn: Callable[[], Awaitable[None]]) -> float:
    begin = thread_time()
    await turn()
    return thread_time() - begin


class Sweep(NamedTuple):
    """What a sweep of expired sessions does to a loop.

    :ivar longest_ms: the longest time for which another task was not run. Time of this thread:
        what else runs on the machine is left out.
    :ivar beyond_ms: how often it was more than a millisecond.
    :ivar total_ms: from the first to the last, on the wall.
    :ivar empty_us: of a sweep that finds nothing, beside as many sessions.
    """

    longest_ms: float
    beyond_ms: int
    total_ms: float
    empty_us: float


def sweep(count: int = 1_000_000) -> Sweep:
    """Let ``count`` sessions expire at once, and sweep them while another task watches."""
    return asyncio.run(_sweep(count))


async def _sweep(count: int) -> Sweep:
    clock = ManualClock()
    store = InMemorySessionStore(clock=clock)
    for session in _small(count):
        await store.put(session)
    empty = []
    for _ in range(100):
        begin = perf_counter()
        await store.sweep()
        empty.append(perf_counter() - begin)
    clock.advance(3600)
    gc.collect()
    held: list[float] = []
    over = asyncio.Event()

    async def watch() -> None:
        last = thread_time_ns()
        while not over.is_set():
            await asyncio.sleep(0)
            now = thread_time_ns()
            held.append((now - last) / 1e6)
            last = now

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    held.clear()
    begin = perf_counter()
    swept = await store.sweep()
    total_ms = 1000 * (perf_counter() - begin)
    over.set()
    await watching
    if swept != count:
        raise SystemExit(f"{swept} swept")
    return Sweep(max(held), sum(one > 1 for one in held), total_ms, 1e6 * median(empty))


def _small(count: int) -> Iterator[Session[dict[str, Any]]]:
    cursor = SessionCursor(flow_id="f", node_id="n")
    meta = SessionMeta(tenant_id="acme")
    for number in range(count):
        yield Session(
            key=SessionKey(f"key-{number}"), cursor=cursor, meta=meta, ttl_secs=3600 - number % 60
        )


class Footprint(NamedTuple):
    """What live sessions weigh.

    :ivar payload_bytes: of one session, encoded.
    :ivar bytes_per_session: what the process grew by, per session.
    :ivar collect_ms: a full collection with all of them alive.
    :ivar idle_ms: a full collection before there were any.
    """

    payload_bytes: float
    bytes_per_session: float
    collect_ms: float
    idle_ms: float


def footprint(count: int = 500_000) -> Footprint:
    """Hold ``count`` live sessions of an hour each."""
    return asyncio.run(_footprint(count))


async def _footprint(count: int) -> Footprint:
    store = InMemorySessionStore()
    ctx, model = _session(1, dict)
    payload = len(
        JsonCodec(dict).encode(
            SessionBody(
                cursor=model.cursor, meta=model.meta, context=model.context, outbox=model.outbox
            )
        )
    )
    idle_ms = _collect_ms()
    before = _resident_bytes()
    for number in range(count):
        key = telegram_update_to_session_key("bot", str(number), "u")
        await store.put(msgspec.structs.replace(model, key=key))
    collect_ms = _collect_ms()
    grown = _resident_bytes() - before
    if await store.get(key, ctx=ctx) is None:
        raise SystemExit("a session is gone")
    return Footprint(payload, grown / count, collect_ms, idle_ms)


def _collect_ms() -> float:
    gc.collect()
    times = []
    for _ in range(5):
        begin = perf_counter()
        gc.collect()
        times.append(1000 * (perf_counter() - begin))
    return median(times)


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - no file to speak of
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--operations", type=int, default=20_000)
    parser.add_argument("--sessions", type=int, default=500_000, help="0 leaves that out")
    parser.add_argument("--expired", type=int, default=1_000_000, help="0 leaves that out")
    given = parser.parse_args()
    for contender in CONTENDERS:
        print(contender.name)
        figures = rounds(contender, count=given.rounds, operations=given.operations)
        for verb, (microseconds, bare, ratio) in figures.items():
            print(f"  {verb:12}{microseconds:8.2f} us{bare:8.2f} us bare{ratio:8.2f}x")
    if given.sessions:
        print(f"{given.sessions} live sessions: {footprint(given.sessions)}")
    if given.expired:
        print(f"{given.expired} expired sessions: {sweep(given.expired)}")


if __name__ == "__main__":
    main()
