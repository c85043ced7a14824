"""Locks against those of ``redis.asyncio``, and the cost of a message through an inbox."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from itertools import count
from time import process_time
from typing import TYPE_CHECKING, Final, NamedTuple

import redis
import redis.asyncio
from redis.asyncio.lock import Lock

from greentic_session import Session, SessionCursor, SessionKey, SessionMeta, create_session_store
from greentic_session.ordering import SessionInbox, SessionLocks
from greentic_session.testing.servers import LocalServer, valkey_binary

from .conditions import Recorder, progress
from .findings import Finding, Goal, Table
from .measuring import Spread, quiet, race, ratios, short
from .sessions import CTX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from greentic_session import AsyncSessionStore

    from .measuring import Operation, Plan, Preparation, Round

__all__ = ["measure"]

_FREE: Final = (1, 64)
_CONTENDERS: Final = 16
_TAKERS: Final = (1, 16, 256)
_LEASE_SECS: Final = 30.0
_POOL: Final = 64
_NAMESPACES: Final = count()
_MOST_SCRIPTS: Final = 12.0
_OURS: Final = "greentic_session"
_THEIRS: Final = "redis.asyncio"
_BUSY_LOOP: Final = "redis.asyncio, asking each millisecond"


def measure(plan: Plan) -> Finding:
    """Race the locks, free and contended. Then send messages to a rising number of takers."""
    recorder = Recorder()
    rows: list[tuple[str, ...]] = []
    goals: list[Goal] = []
    with LocalServer(valkey_binary(), tcp=True) as server:
        recorder.engine(server)
        url = server.tcp_url
        for callers in _FREE:
            taken = _raced(url, callers, plan.rounds, plan.each(callers), shared=False)
            against = ratios(taken[_OURS], taken[_THEIRS])
            what = f"a free lock, {callers} caller{'s' if callers > 1 else ''}"
            rows.append(_row(what, taken))
            goals.append(Goal(what=f"{what}, against {_THEIRS}'s", measured=against, bound=1.0))
            progress(f"{what}: {against.text()}")
        turns = max(1, plan.each(_CONTENDERS) // 64)
        taken = _raced(url, _CONTENDERS, plan.rounds, turns, shared=True)
        rows.append(_row(f"one lock that {_CONTENDERS} want", taken))
        against = ratios(taken[_OURS], taken[_THEIRS])
        what = f"one lock that {_CONTENDERS} want, against {_THEIRS}'s"
        goals.append(Goal(what=what, measured=against, bound=1.0))
        progress(f"{what}: {against.text()}")
        mail = {takers: _mailed(server, takers, plan) for takers in _TAKERS}
    goals.append(
        Goal(
            what=f"inbox: scripts per message while {_TAKERS[-1]} takers are idle",
            measured=Spread.of([cost.scripts for cost in mail[_TAKERS[-1]]]),
            bound=_MOST_SCRIPTS,
            at_least=False,
            unit="",
        )
    )
    return Finding(
        subject="ordering",
        title="Locks and inboxes",
        text="A lock is taken and released immediately, on the same server over the same loopback "
        "port: `SessionLocks.hold`, with a fencing token, renewal and a queue, against "
        f"`redis.asyncio`'s `Lock` on a pool of {_POOL}, which polls every 0.1 s "
        "and has no order. Then messages one by one through a `SessionInbox`: "
        "admitted, taken by one of so many idle takers in a process, and finished with the "
        "session's state.",
        conditions=recorder.conditions(plan),
        busy=recorder.is_busy(),
        goals=tuple(goals),
        tables=(
            Table(
                title="Locks: turns per second",
                columns=("", _OURS, _THEIRS, _BUSY_LOOP, "ratio"),
                rows=tuple(rows),
            ),
            Table(
                title="Inbox: one message at a time",
                columns=("idle takers", "scripts per message", "server CPU, µs", "client CPU, µs"),
                rows=tuple(
                    (
                        str(takers),
                        *(
                            short(Spread.of([cost[field] for cost in costs]).median)
                            for field in range(3)
                        ),
                    )
                    for takers, costs in mail.items()
                ),
                notes=(
                    "Three scripts admit a message, two take its session, two end the turn.",
                    "The others are polls that found nothing.",
                ),
            ),
        ),
    )


def _row(what: str, taken: dict[str, list[Round]]) -> tuple[str, ...]:
    rates = {
        name: f"{Spread.of([turn.rate for turn in turns]).median:,.0f}"
        for name, turns in taken.items()
    }
    cells = (rates.get(name, "") for name in (_OURS, _THEIRS, _BUSY_LOOP))
    return (what, *cells, ratios(taken[_OURS], taken[_THEIRS]).text())


# --- locks ----------------------------------------------------------------------------------------


def _raced(
    url: str, callers: int, rounds: int, each: int, *, shared: bool
) -> dict[str, list[Round]]:
    keys = ["lock"] * callers if shared else [f"lock-{number}" for number in range(callers)]
    prefix = f"bench:ordering:{next(_NAMESPACES)}"
    with ExitStack() as stack:
        entries: dict[str, tuple[asyncio.Runner, Preparation]] = {}

        def enter(name: str, make: Callable[[], Operations]) -> None:
            runner = stack.enter_context(asyncio.Runner())
            ready: list[Operations] = []

            async def prepare() -> Sequence[Operation]:
                if not ready:
                    ready.append(make())
                    stack.callback(lambda: runner.run(_closed(ready[0])))
                return ready[0].operations

            entries[name] = runner, prepare

        enter(_OURS, lambda: _ours(url, prefix, keys))
        enter(_THEIRS, lambda: _theirs(url, f"{prefix}:theirs", keys, 0.1))
        if shared:
            enter(_BUSY_LOOP, lambda: _theirs(url, f"{prefix}:busy", keys, 0.001))
        return race(entries, rounds, each)


class Operations(NamedTuple):
    """The operations of the callers, and the closing of their connections."""

    operations: Sequence[Operation]
    aclose: Callable[[], Awaitable[None]]


async def _closed(made: Operations) -> None:
    await made.aclose()


def _ours(url: str, namespace: str, keys: Sequence[str]) -> Operations:
    store = create_session_store(f"{url}?namespace={namespace}&deadline=20")
    locks = SessionLocks(store)

    def one(key: str) -> Operation:
        async def turn() -> None:
            async with locks.hold(SessionKey(key), lease=_LEASE_SECS):
                pass

        return turn

    return Operations([one(key) for key in keys], store.aclose)


def _theirs(url: str, prefix: str, keys: Sequence[str], sleep_secs: float) -> Operations:
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url, max_connections=min(_POOL, len(keys)), timeout=20
    )
    client = redis.asyncio.Redis.from_pool(pool)

    def one(key: str) -> Operation:
        async def turn() -> None:
            async with Lock(client, f"{prefix}:{key}", timeout=_LEASE_SECS, sleep=sleep_secs):
                pass

        return turn

    return Operations([one(key) for key in keys], client.aclose)


# --- inboxes --------------------------------------------------------------------------------------


class Cost(NamedTuple):
    """The cost of one message: scripts, CPU of the server, and CPU of this process."""

    scripts: float
    server_us: float
    client_us: float


def _mailed(server: LocalServer, takers: int, plan: Plan) -> list[Cost]:
    costs = [
        asyncio.run(_rounded(server, takers, max(1, plan.operations // 32)))
        for _ in range(plan.rounds)
    ]
    progress(f"{takers} takers: {Spread.of([cost.scripts for cost in costs]).text('')} scripts")
    return costs


async def _rounded(server: LocalServer, takers: int, messages: int) -> Cost:
    prefix = f"bench:ordering:{next(_NAMESPACES)}"
    handled = asyncio.Semaphore(0)
    async with create_session_store(f"{server.tcp_url}?namespace={prefix}&deadline=20") as store:
        inbox = SessionInbox(store, CTX)

        async def work(worker: str) -> None:
            while True:
                async with inbox.take(worker) as turn:
                    letters = len(turn.mail)
                    await turn.finish(turn.session or _fresh(turn.key))
                for _ in range(letters):
                    handled.release()

        tasks = [asyncio.create_task(work(f"worker-{number}")) for number in range(takers)]
        with quiet(), redis.Redis(port=server.port) as client:
            before = _spent(client)
            for number in range(messages + 1):
                if number == 1:  # after the first, scripts are loaded and all takers wait
                    await _until_asleep(store)
                    before = _spent(client)
                await inbox.admit(SessionKey(f"k{number % 50}"), f"e{number}", b"hello")
                await handled.acquire()
            after = _spent(client)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return Cost(*((now - then) / messages for now, then in zip(after, before, strict=True)))


def _fresh(key: SessionKey) -> Session:
    cursor = SessionCursor(flow_id="onboarding", node_id="start")
    return Session(key=key, cursor=cursor, meta=SessionMeta.of(CTX), ttl_secs=3600)


async def _until_asleep(store: AsyncSessionStore) -> None:
    for _ in range(3):  # a taker that just got a reply may be about to look again
        await asyncio.sleep(0.02)
        while store.statistics().in_flight:  # noqa: ASYNC110 - there is no notification
            await asyncio.sleep(0.001)


def _spent(client: redis.Redis) -> tuple[float, float, float]:
    """Return the number of scripts so far, and the CPU of server and process in microseconds."""
    cpu, commands = client.info("cpu"), client.info("commandstats")
    scripts = sum(stat["calls"] for name, stat in commands.items() if "eval" in name)
    server_secs = cpu["used_cpu_user"] + cpu["used_cpu_sys"]
    return scripts, server_secs * 1e6, process_time() * 1e6
