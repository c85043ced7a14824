"""Memory use of many sessions, and the effect of their sweep on the event loop.

Run as ``python -m benchmarks.weights sweep|footprint COUNT`` in a process of its own, so that other
measurements leave no memory behind. Prints JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
from pathlib import Path
from statistics import median
from time import perf_counter, perf_counter_ns, thread_time_ns
from typing import TYPE_CHECKING, Any

import msgspec

from greentic_session import (
    InMemorySessionStore,
    JsonCodec,
    ManualClock,
    Session,
    SessionBody,
    SessionCursor,
    SessionKey,
    SessionMeta,
)
from greentic_session.keys import telegram_update_to_session_key

from .orders import order_of

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["footprint", "sweep"]


async def sweep(count: int) -> dict[str, float]:
    """Let ``count`` sessions expire at once, and sweep them while another task watches.

    :returns: ``longest_ms``, the longest time without a run of the other task. ``longest_cpu_ms``,
        the same in CPU time. ``total_ms``, the time of the sweep. ``empty_us``, the time of a sweep
        that finds nothing.
    """
    clock = ManualClock()
    store = InMemorySessionStore(clock=clock)
    for session in _small(count):
        await store.put(session)
    empty: list[float] = []
    for _ in range(100):
        started_at = perf_counter()
        await store.sweep()
        empty.append(perf_counter() - started_at)
    clock.advance(3600)
    gc.collect()
    held: list[float] = []
    held_cpu: list[float] = []
    over = asyncio.Event()

    async def watch() -> None:
        last, last_cpu = perf_counter_ns(), thread_time_ns()
        while not over.is_set():
            await asyncio.sleep(0)  # an iteration of the loop, not a time
            now, cpu = perf_counter_ns(), thread_time_ns()
            held.append((now - last) / 1e6)
            held_cpu.append((cpu - last_cpu) / 1e6)
            last, last_cpu = now, cpu

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)  # the watcher starts here
    held.clear()
    held_cpu.clear()
    started_at = perf_counter()
    swept = await store.sweep()
    total_ms = 1000 * (perf_counter() - started_at)
    over.set()
    await watching
    if swept != count:
        raise RuntimeError(f"{swept} of {count} sessions were swept")
    return {
        "longest_ms": max(held),
        "longest_cpu_ms": max(held_cpu),
        "total_ms": total_ms,
        "empty_us": 1e6 * median(empty),
    }


def _small(count: int) -> Iterator[Session[dict[str, Any]]]:
    cursor = SessionCursor(flow_id="f", node_id="n")
    meta = SessionMeta(tenant_id="acme")
    for number in range(count):
        yield Session(
            key=SessionKey(f"key-{number}"), cursor=cursor, meta=meta, ttl_secs=3600 - number % 60
        )


async def footprint(count: int) -> dict[str, float]:
    """Hold ``count`` live sessions with a lifetime of an hour each.

    :returns: ``payload_bytes``, the encoded size of one session. ``bytes_per_session``, the growth
        of the process per session. ``collect_ms``, the time of a full collection with all sessions
        alive. ``idle_ms``, the time of a collection before.
    """
    store = InMemorySessionStore()
    ctx, model = order_of(1, dict)
    body = SessionBody(
        cursor=model.cursor, meta=model.meta, context=model.context, outbox=model.outbox
    )
    idle_ms = _collect_ms()
    before = _resident_bytes()
    key = model.key
    for number in range(count):
        key = telegram_update_to_session_key("bot", str(number), "u")
        await store.put(msgspec.structs.replace(model, key=key))
    collect_ms = _collect_ms()
    grown = _resident_bytes() - before
    if await store.get(key, ctx=ctx) is None:
        raise RuntimeError("the session is gone")
    return {
        "payload_bytes": len(JsonCodec(dict).encode(body)),
        "bytes_per_session": grown / count,
        "collect_ms": collect_ms,
        "idle_ms": idle_ms,
    }


def _collect_ms() -> float:
    gc.collect()
    taken: list[float] = []
    for _ in range(5):
        started_at = perf_counter()
        gc.collect()
        taken.append(1000 * (perf_counter() - started_at))
    return median(taken)


def _resident_bytes() -> int:
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text("ascii").split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: the maximum so far, in bytes


def main() -> None:
    """Run the part that the command line names."""
    parts = {"sweep": sweep, "footprint": footprint}
    print(json.dumps(asyncio.run(parts[sys.argv[1]](int(sys.argv[2])))))


if __name__ == "__main__":
    main()
