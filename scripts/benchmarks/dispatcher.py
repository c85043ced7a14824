"""The dispatcher against a bare ``asyncio.Queue`` and one consuming task per key.

Both get the same messages in the same order on the same event loop, and both run the same handler
for each. The bare queues have no limits and no turns, count nothing, and never drop a key. The
difference is the cost of these features. Time is the thread's CPU time.
"""

from __future__ import annotations

import asyncio
import random
from time import thread_time
from typing import TYPE_CHECKING, Final, NamedTuple

from greentic_session.ordering import SessionDispatcher

from .conditions import Recorder, progress
from .findings import Finding, Goal, Table
from .measuring import Spread, quiet, short

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .measuring import Plan

    Handler = Callable[[str | None, int], Awaitable[None]]

__all__ = ["measure"]

KEYS: Final = 500
_TICK: Final = 50
"""Messages that arrive together, between two iterations of the loop."""
_MOST_RATIO: Final = 2.0


class Load(NamedTuple):
    """A pattern of arrival, and the work per message.

    :ivar name: name in the table.
    :ivar burst: messages that arrive before the loop runs.
    :ivar waits: whether the handler waits for an iteration of the loop, as one with I/O does.
    """

    name: str
    burst: int
    waits: bool


LOADS: Final = (
    Load("all at once, handler returns at once", 0, waits=False),
    Load("all at once, handler waits a tick", 0, waits=True),
    Load(f"{_TICK} per tick, handler returns at once", _TICK, waits=False),
    Load(f"{_TICK} per tick, handler waits a tick", _TICK, waits=True),
    Load("one per tick, handler returns at once", 1, waits=False),
)


class Cost(NamedTuple):
    """Microseconds per message in one round, of the dispatcher and of the bare queues."""

    ours_us: float
    bare_us: float


def measure(plan: Plan) -> Finding:
    """Time each load on both, in turn."""
    recorder = Recorder()
    rows: list[tuple[str, ...]] = []
    goals: list[Goal] = []
    for load in LOADS:
        costs = asyncio.run(_rounds(load, plan))
        ratio = Spread.of([cost.ours_us / cost.bare_us for cost in costs])
        spent = (short(Spread.of([cost[side] for cost in costs]).median) for side in (0, 1))
        rows.append((load.name, *spent, ratio.text()))
        progress(f"{load.name}: {ratio.text()}")
        if load.burst == _TICK and load.waits:
            what = "dispatcher: per message, against a bare `asyncio.Queue` per key"
            goals.append(Goal(what=what, measured=ratio, bound=_MOST_RATIO, at_least=False))
    return Finding(
        subject="dispatcher",
        title="The dispatcher",
        text=f"What a message costs through `SessionDispatcher` and through a bare `asyncio.Queue` "
        f"with a consuming task per key, over {KEYS} keys, handler included. The queues have no "
        "limits, no turns and no statistics, and their tasks never end. An idle dispatcher "
        "keeps nothing.",
        conditions=recorder.conditions(plan),
        busy=recorder.is_busy(),
        goals=tuple(goals),
        tables=(
            Table(
                title="Each message, in µs",
                columns=("", "dispatcher", "bare queues", "ratio"),
                rows=tuple(rows),
            ),
        ),
    )


async def _rounds(load: Load, plan: Plan) -> list[Cost]:
    rng = random.Random(3)
    messages = [(f"k{rng.randrange(KEYS)}", number) for number in range(4 * plan.operations)]

    async def at_once(_key: str | None, _message: int) -> None:
        pass

    async def after_a_tick(_key: str | None, _message: int) -> None:
        await asyncio.sleep(0)

    handler = after_a_tick if load.waits else at_once
    costs: list[Cost] = []
    with quiet():
        for number in range(plan.rounds + 1):
            sides = [_dispatched, _queued]
            if number % 2:
                sides.reverse()
            spent = {side: await side(handler, messages, load.burst) for side in sides}
            if number:
                costs.append(
                    Cost(*(1e6 * spent[side] / len(messages) for side in (_dispatched, _queued)))
                )
    return costs


async def _dispatched(handler: Handler, messages: list[tuple[str, int]], burst: int) -> float:
    async with SessionDispatcher(handler, per_key=len(messages), total=len(messages)) as dispatcher:
        started_at = thread_time()
        for number, (key, message) in enumerate(messages, 1):
            await dispatcher.submit(key, message)
            if burst and not number % burst:
                await asyncio.sleep(0)
        await dispatcher.join()
        return thread_time() - started_at


async def _queued(handler: Handler, messages: list[tuple[str, int]], burst: int) -> float:
    queues: dict[str, asyncio.Queue[int]] = {}
    tasks: list[asyncio.Task[None]] = []

    async def consume(key: str, queue: asyncio.Queue[int]) -> None:
        while True:
            message = await queue.get()
            await handler(key, message)
            queue.task_done()

    for key, _ in messages:
        if key not in queues:
            queues[key] = asyncio.Queue(len(messages))
            tasks.append(asyncio.create_task(consume(key, queues[key])))
    await asyncio.sleep(0)
    started_at = thread_time()
    for number, (key, message) in enumerate(messages, 1):
        await queues[key].put(message)
        if burst and not number % burst:
            await asyncio.sleep(0)
    for queue in queues.values():
        await queue.join()
    spent = thread_time() - started_at
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return spent
