"""The same job through this library and through other clients, with a rising number of callers."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from greentic_session.testing.servers import LocalServer, valkey_binary

from .conditions import Recorder, progress
from .contenders import Ours, OursOnUvloop, PerTick, PlainPool, closed, opened
from .findings import Curve, Finding, Goal, Point, Table
from .measuring import Spread, percentiles, race, ratios, short, timed
from .rivals import Coredis, Glide

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .contenders import Contender
    from .measuring import Operation, Plan, Preparation, Round

__all__ = ["measure"]

VERBS: Final = ("update_cas", "get")
_POOLS: Final = (8, 16, 32, 64, 256)
_PLAIN: Final = PlainPool.name


class Level(NamedTuple):
    """The figures of one verb at one number of callers, by contender."""

    rounds: dict[str, list[Round]]
    latencies: dict[str, list[float]]


def measure(plan: Plan) -> Finding:
    """Race the clients, for each verb and each number of callers."""
    recorder = Recorder()
    levels: dict[str, dict[int, Level]] = {verb: {} for verb in VERBS}
    missing: dict[str, str] = {}
    pools: dict[int, int] = {}
    with LocalServer(valkey_binary(), tcp=True) as server:
        recorder.engine(server)
        for callers in plan.callers:
            pools[callers] = _best_pool(server.tcp_url, callers, plan)
            with ExitStack() as stack:
                racing: list[Contender] = []
                for make in _makers(server.tcp_url, pools[callers]):
                    contender = _joined(make, callers, missing)
                    if contender is not None:
                        stack.callback(closed, contender)
                        racing.append(contender)
                for verb in VERBS:
                    levels[verb][callers] = _level(racing, verb, callers, plan)
                    fastest = ", ".join(
                        f"{name} {Spread.of([turn.rate for turn in turns]).median:,.0f}/s"
                        for name, turns in levels[verb][callers].rounds.items()
                    )
                    progress(f"{verb}, {callers} callers: {fastest}")
                recorder.versions(racing)
    return Finding(
        subject="clients",
        title="One job, several clients",
        text="`update_cas` and `get` of a session of about 1 KB (its body is 0.9 KB), on the same "
        "server over the same loopback port. This library does all that it always does: checks, "
        "encoding, deadline, retries. The other clients do the same job by hand: encode the "
        "session with msgspec, send the library's own Lua script (or HMGET), decode the reply. "
        "They check nothing, and do not handle a lost reply. Closed loop: so many "
        "callers in one process, each with a session of its own.",
        conditions=recorder.conditions(plan),
        busy=recorder.is_busy(),
        goals=_goals(levels),
        tables=(
            *(_ratio_table(verb, levels[verb], missing, pools) for verb in VERBS),
            *(_cpu_table(verb, levels[verb]) for verb in VERBS),
            *(_latency_table(verb, levels[verb]) for verb in VERBS),
        ),
        curves=tuple(curve for verb in VERBS for curve in _curves(verb, levels[verb])),
    )


def _makers(url: str, pool: int) -> list[Callable[[], Contender]]:
    return [
        partial(Ours, url),
        partial(PlainPool, url, pool),
        partial(PerTick, url),
        partial(Glide, url),
        partial(Coredis, url),
        partial(OursOnUvloop, url),
    ]


def _joined(
    make: Callable[[], Contender], callers: int, missing: dict[str, str]
) -> Contender | None:
    try:
        return opened(make, callers)
    except ModuleNotFoundError as error:
        missing[str(error.name)] = f"left out: {error.name} is not installed"
        return None


def _best_pool(url: str, callers: int, plan: Plan) -> int:
    """Return the number of connections with which the plain pool is fastest."""
    sizes = sorted({min(size, callers) for size in _POOLS})
    if len(sizes) == 1:
        return sizes[0]
    with ExitStack() as stack:
        entries = {}
        for size in sizes:
            pool = opened(partial(PlainPool, url, size), callers)
            stack.callback(closed, pool)
            entries[str(size)] = pool.runner, _everybody(pool, "update_cas", callers)
        taken = race(entries, max(1, plan.rounds // 2), max(1, plan.each(callers) // 2))
    rates = {size: Spread.of([turn.rate for turn in taken[str(size)]]).median for size in sizes}
    return max(sizes, key=lambda size: rates[size])


def _everybody(
    contender: Contender, verb: str, callers: int, latencies: list[float] | None = None
) -> Preparation:
    operations = [contender.operation(verb, number) for number in range(callers)]
    if latencies is not None:
        operations = [timed(operation, latencies) for operation in operations]

    async def prepare() -> Sequence[Operation]:
        return operations

    return prepare


def _level(racing: Sequence[Contender], verb: str, callers: int, plan: Plan) -> Level:
    entries = {each.name: (each.runner, _everybody(each, verb, callers)) for each in racing}
    rounds = race(entries, plan.rounds, plan.each(callers))
    # Two clock reads around each operation have a cost, so latencies are measured separately.
    latencies: dict[str, list[float]] = {each.name: [] for each in racing}
    entries = {
        each.name: (each.runner, _everybody(each, verb, callers, latencies[each.name]))
        for each in racing
    }
    race(entries, plan.rounds, max(1, plan.each(callers) // 4))
    return Level(rounds, latencies)


def _goals(levels: dict[str, dict[int, Level]]) -> tuple[Goal, ...]:
    goals: list[Goal] = []

    def add(verb: str, callers: int, rival: str, bound: float) -> None:
        level = levels[verb].get(callers)
        if level is not None and rival in level.rounds:
            goals.append(
                Goal(
                    what=f"`{verb}`, {callers} caller{'s' * (callers > 1)}, against {rival}",
                    measured=ratios(level.rounds[Ours.name], level.rounds[rival]),
                    bound=bound,
                )
            )

    for callers, bound in ((1, 1.0), (16, 5.0), (64, 8.0), (256, 8.0), (1024, 8.0)):
        add("update_cas", callers, _PLAIN, bound)
    add("update_cas", 64, Glide.name, 5.0)
    add("get", 64, _PLAIN, 7.0)
    level = levels["update_cas"].get(64)
    if level is not None:
        used = Spread.of([turn.cpu_us for turn in level.rounds[Ours.name]])
        goals.append(
            Goal(
                what="`update_cas`, 64 callers, client CPU per operation",
                measured=used,
                bound=8.0,
                at_least=False,
                unit=" µs",
            )
        )
    return tuple(goals)


def _ratio_table(
    verb: str, levels: dict[int, Level], missing: dict[str, str], pools: dict[int, int]
) -> Table:
    names = list(next(iter(levels.values())).rounds)
    rows = [
        (
            name,
            *(
                ratios(level.rounds[name], level.rounds[_PLAIN]).text()
                if name != _PLAIN
                else f"1 ({short(Spread.of([t.rate for t in level.rounds[name]]).median)}/s)"
                for level in levels.values()
            ),
        )
        for name in names
    ]
    blank = ("",) * (len(levels) - 1)
    rows += [(name, reason, *blank) for name, reason in missing.items()]
    sizes = ", ".join(f"{pools[callers]} for {callers}" for callers in pools)
    return Table(
        title=f"`{verb}`: throughput against redis.asyncio",
        columns=("callers", *map(str, levels)),
        rows=tuple(rows),
        notes=(
            f"redis.asyncio has a `BlockingConnectionPool`, as large as suits it best: {sizes}.",
            "A Pipeline per tick gathers by hand what coroutines issue in one tick of the loop.",
            "coredis has at most 64 connections, and valkey-glide one.",
        ),
    )


def _cpu_table(verb: str, levels: dict[int, Level]) -> Table:
    names = list(next(iter(levels.values())).rounds)
    rows = [
        (
            name,
            *(
                short(Spread.of([turn.cpu_us for turn in level.rounds[name]]).median)
                for level in levels.values()
            ),
        )
        for name in names
    ]
    return Table(
        title=f"`{verb}`: CPU of the client's process per operation, in µs",
        columns=("callers", *map(str, levels)),
        rows=tuple(rows),
        notes=("Includes all threads, also those of valkey-glide, and kernel time.",),
    )


def _latency_table(verb: str, levels: dict[int, Level]) -> Table:
    names = list(next(iter(levels.values())).rounds)
    rows = [
        (
            name,
            *(
                " / ".join(f"{us:.0f}" for us in percentiles(level.latencies[name]))
                for level in levels.values()
            ),
        )
        for name in names
    ]
    return Table(
        title=f"`{verb}`: latency p50 / p99 / p99.9, in µs",
        columns=("callers", *map(str, levels)),
        rows=tuple(rows),
        notes=(
            "Closed loop: with more callers than a core serves at once, latency is waiting time.",
        ),
    )


def _curves(verb: str, levels: dict[int, Level]) -> list[Curve]:
    names = list(next(iter(levels.values())).rounds)
    return [
        Curve(
            panel=f"{verb}",
            name=name,
            points=tuple(
                Point(callers, ratios(level.rounds[name], level.rounds[_PLAIN]))
                for callers, level in levels.items()
            ),
        )
        for name in names
    ]
