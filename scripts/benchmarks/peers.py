"""Other libraries for conversation state on the same job: save one state and load it."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from greentic_session.testing.servers import LocalServer, valkey_binary

from .conditions import Recorder, installed, progress
from .findings import Finding, Table
from .keepers import KEEPERS, NotHereError, Ours
from .measuring import Spread, race, ratios, short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .keepers import Keeper
    from .measuring import Operation, Plan, Preparation, Round

__all__ = ["measure"]

_LEVELS: Final = (1, 64)


class Place(NamedTuple):
    """A storage: its name, and the server's URL unless it is memory."""

    name: str
    url: str | None


MEMORY: Final = Place("memory", None)


def measure(plan: Plan) -> Finding:
    """Race the libraries, in memory and on a server."""
    recorder = Recorder()
    plan = msgspec.structs.replace(plan, operations=max(8, plan.operations // 4))
    levels = [level for level in plan.callers if level in _LEVELS] or [plan.callers[0]]
    with LocalServer(valkey_binary(), tcp=True) as server:
        recorder.engine(server)
        tables = [_race(place, plan, levels) for place in (MEMORY, Place("server", server.tcp_url))]
    recorder.packages(
        each.version_of
        for each in KEEPERS
        if each.version_of != Ours.version_of and installed(each.version_of)
    )
    promises = Table(
        title="What each promises of a saved state",
        columns=("", "compare-and-set", "life (TTL)", "tenant fence", "a lost reply"),
        rows=tuple((each.name, *each.promises) for each in KEEPERS),
        notes=(
            "As their documentation and code have it, in the versions named below.",
            "aiogram's memory storage keeps the caller's own objects: nothing is encoded.",
            "langgraph keeps every checkpoint of a thread, so its memory grows with each save.",
        ),
    )
    return Finding(
        subject="peers",
        title="Other libraries on the same job",
        text="Save one conversation's state (0.8 KB of JSON) and load it again. This library does "
        "`update_cas`, and `get` with an access check. The others do what they offer.",
        conditions=recorder.conditions(plan),
        busy=recorder.is_busy(),
        tables=(*tables, promises),
    )


def _race(place: Place, plan: Plan, levels: Sequence[int]) -> Table:
    missing: dict[str, str] = {}
    taken: dict[int, dict[str, list[Round]]] = {}
    for callers in levels:
        with ExitStack() as stack:
            entries: dict[str, tuple[asyncio.Runner, Preparation]] = {}
            for kind in KEEPERS:
                if kind.name in missing:
                    continue
                runner = stack.enter_context(asyncio.Runner())
                keeper = kind()
                try:
                    runner.run(keeper.open(place.url))
                except ModuleNotFoundError as error:
                    missing[kind.name] = f"left out: {error.name} is not installed"
                except NotHereError as error:
                    missing[kind.name] = f"left out: {error}"
                else:
                    stack.callback(runner.run, keeper.aclose())
                    entries[kind.name] = runner, partial(_ready, keeper, callers)
            taken[callers] = race(entries, plan.rounds, plan.each(callers))
    columns = (*(f"{level} caller{'s' * (level > 1)}" for level in levels), "µs each, 1 caller")
    names = [kind.name for kind in KEEPERS if kind.name not in missing]
    rows = [
        (
            name,
            *(
                "1" if name == Ours.name else ratios(at[name], at[Ours.name]).text()
                for at in taken.values()
            ),
            short(Spread.of([1e6 / turn.rate for turn in taken[levels[0]][name]]).median),
        )
        for name in names
    ]
    rows += [(name, reason, *("",) * len(levels)) for name, reason in missing.items()]
    for row in rows:
        progress(f"{place.name}: {', '.join(row)}")
    where = "In memory" if place.url is None else "On a server"
    return Table(
        title=f"{where}: throughput against greentic_session",
        columns=("", *columns),
        rows=tuple(rows),
    )


async def _ready(keeper: Keeper, callers: int) -> Sequence[Operation]:
    return [await keeper.operation(number) for number in range(callers)]
