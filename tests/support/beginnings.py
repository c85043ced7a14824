"""Workers that race to begin the same sessions, in processes that are killed.

Run as a program (``python -m tests.support.beginnings URL NAME``), this is a worker. It prints
``ready``, and reads a round from each line of standard input. Its racers of a round call
``get_or_create`` at the same time, and it prints the sessions that they got.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

import msgspec

from greentic_session import (
    Cas,
    Session,
    SessionKey,
    SessionMeta,
    TenantCtx,
    create_session_store,
)

from .waits import hired

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from greentic_session import AsyncSessionStore
    from greentic_session.testing.harness import RedisHarness

    from .waits import Worker

CTX: Final = TenantCtx(tenant_id="acme")
PROCESSES: Final = 2
RACERS: Final = 64


class Round(msgspec.Struct):
    """A round of a race.

    :ivar number: number of the session.
    :ivar racers: number of racers in each process.
    """

    number: int
    racers: int


async def work(url: str, name: str) -> None:
    async with create_session_store(url) as store:
        await store.ping()
        say({"word": "ready"})
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = msgspec.json.decode(line, type=Round)
            racers = range(order.racers)
            found = await asyncio.gather(*(race(store, order, f"{name}-{n}") for n in racers))
            say({"word": "found", "number": order.number, "found": found})


async def race(store: AsyncSessionStore[Any], order: Round, racer: str) -> tuple[str, str]:
    key = key_of(order.number)

    def make() -> Session[Any]:
        return Session(key=key, meta=SessionMeta.of(CTX), context={"by": racer})

    session, cas = await store.get_or_create(key, make, ctx=CTX)
    return str(cas), session.context["by"]


def key_of(number: int) -> SessionKey:
    return SessionKey(f"begin-{number}")


def say(event: dict[str, Any]) -> None:
    print(json.dumps(event), flush=True)  # noqa: T201 - the parent process reads it


if __name__ == "__main__":
    asyncio.run(work(*sys.argv[1:]))


# --- the tests' side ------------------------------------------------------------------------------


class Beginnings:
    """Processes whose racers begin the same sessions. Some processes are killed and replaced.

    :param harness: harness of the store.
    :param dice: random choices of the moments of kills.
    :ivar rounds: number of rounds so far.
    :ivar kills: number of killed processes.
    :ivar losses: texts about rounds with another number of creations than one.
    """

    def __init__(self, harness: RedisHarness, dice: random.Random) -> None:
        self._harness: Final = harness
        self._dice: Final = dice
        self._hired = 0
        self.rounds = 0
        self.kills = 0
        self.losses: list[str] = []

    async def run(self, rounds: int, kills: Callable[[int], bool]) -> None:
        """Run rounds. In those that ``kills`` selects, a process is killed."""
        async with AsyncExitStack() as stack:
            store = await self._harness.open()
            workers = [await self._hire(stack) for _ in range(PROCESSES)]
            for number in range(rounds):
                order = Round(number=number, racers=RACERS // PROCESSES)
                for worker in workers:
                    worker.order(order)
                if kills(number):
                    await asyncio.sleep(self._dice.uniform(0, 0.02))  # while they race
                    workers[0].kill()
                    self.kills += 1
                reports = await asyncio.gather(*(worker.hear() for worker in workers))
                if workers[0].was_killed:
                    workers = [*workers[1:], await self._hire(stack)]
                found = {(cas, by) for report in reports for cas, by in report.get("found", ())}
                stored = await store.require(key_of(number), ctx=CTX)
                first = (str(stored.cas), stored.session.context["by"])
                if found != {first} or stored.cas != Cas(
                    value=1, incarnation=stored.cas.incarnation
                ):
                    self.losses.append(f"round {number}: stored {first}, found {found}")
                self.rounds += 1

    async def _hire(self, stack: AsyncExitStack) -> Worker:
        self._hired += 1
        worker = await stack.enter_async_context(
            hired(self._harness, f"w{self._hired}", program="tests.support.beginnings")
        )
        assert (await worker.hear())["word"] == "ready"
        return worker
