"""Workers and checks for the tests of inboxes under faults.

Run as a program (``python -m tests.support.inbox URL``), this is a worker. It prints ``ready``,
reads its orders from a line of standard input, and reports events as lines of JSON. It admits the
messages of its own sessions, round by round, and takes turns of any session. It ends with its
standard input.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import msgspec

from greentic_session import (
    InboxFullError,
    LeaseLostError,
    Session,
    SessionCursor,
    SessionKey,
    SessionMeta,
    TenantCtx,
    create_session_store,
)
from greentic_session.ordering import InboxLimits, SessionInbox

from .waits import hired, say

if TYPE_CHECKING:
    from greentic_session import AsyncSessionStore
    from greentic_session.ordering import InboxTurn
    from greentic_session.testing.harness import RedisHarness

    from .waits import Worker

    Store = AsyncSessionStore[Any]
    Inbox = SessionInbox[Any]
    Turn = InboxTurn[Any]

CTX: Final = TenantCtx(tenant_id="acme")
LEASE_SECS: Final = 2.0
TASKS: Final = 4
MOST: Final = 10
"""Messages in a turn. They are so few that a full mailbox takes several turns."""
ROUNDS_AHEAD: Final = 400
"""Messages of a session that are admitted at most before they are handled."""


class FailedError(Exception):
    """A handler fails now and then."""


def fail() -> None:
    raise FailedError


def key_of(number: int) -> SessionKey:
    return SessionKey(f"fifo-{number}")


def state_of(key: SessionKey, **context: Any) -> Session[dict[str, Any]]:
    return Session(
        key=key,
        cursor=SessionCursor(flow_id="fifo", node_id="at work"),
        meta=SessionMeta.of(CTX),
        context=context,
    )


def handled(turn: Turn) -> Session[dict[str, Any]]:
    """Return the state after the turn's messages: the next message, and wrong ones."""
    before = turn.session or state_of(turn.key, next=0, commits=0, strays=[])
    following, strays = before.context["next"], list(before.context["strays"])
    for mail in turn.mail:
        number = int(mail.payload)
        if number != following:
            strays.append([following, number])
        following = number + 1
    context = {"next": following, "commits": before.context["commits"] + 1, "strays": strays}
    return msgspec.structs.replace(before, context=context)


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """The orders of a worker.

    :ivar keys: the sessions whose messages it admits.
    :ivar first: the first round to admit: one message of each session.
    :ivar rounds: number of rounds.
    :ivar seed: seed of its random choices.
    """

    keys: tuple[int, ...] = ()
    first: int = 0
    rounds: int = 0
    seed: int = 0


def inbox_on(store: Store, **options: Any) -> Inbox:
    given: dict[str, Any] = {
        "lease": LEASE_SECS,
        "retry_delay": 0.01,
        "attempts": 20,
        "limits": InboxLimits(mail=2 * ROUNDS_AHEAD, events=4 * ROUNDS_AHEAD),
        **options,
    }
    return SessionInbox(store, CTX, **given)


async def admit(inbox: Inbox, orders: Orders) -> None:
    dice = random.Random(orders.seed)

    async def one(key: int, number: int) -> None:
        while True:
            try:
                told = await inbox.admit(key_of(key), f"event {number}", b"%d" % number)
            except InboxFullError:
                await asyncio.sleep(0.05)  # there is no notification of room
                continue
            if told.waiting > ROUNDS_AHEAD:
                await asyncio.sleep(0.01)  # as above
            return

    for number in range(orders.first, orders.rounds):
        # The messages of a session are sequential. Some are admitted twice.
        await asyncio.gather(*(one(key, number) for key in orders.keys))
        again = dice.sample(orders.keys, len(orders.keys) // 20)
        await asyncio.gather(*(one(key, number) for key in again))
        say("admitted", round=number)


async def take(inbox: Inbox, seed: int, name: str) -> None:
    dice = random.Random(seed)
    while True:
        try:
            async with inbox.take(name, most=MOST) as turn:
                say("taken", key=turn.key, fence=turn.fence, mail=len(turn.mail))
                if dice.random() < 0.01:
                    fail()
                if dice.random() < 0.1:  # work of the turn, which a kill interrupts
                    await asyncio.sleep(dice.uniform(0, 0.01))
                state = handled(turn)
                cas = await turn.finish(state)
                say("handled", key=turn.key, next=state.context["next"], version=cas.value)
        except FailedError:
            say("failed")
        except LeaseLostError:
            say("lost")


async def work(url: str) -> None:
    async with create_session_store(url) as store:
        await asyncio.gather(*(store.ping() for _ in range(TASKS)))  # connected before the start
        say("ready")
        loop = asyncio.get_running_loop()
        orders = msgspec.json.decode(
            await loop.run_in_executor(None, sys.stdin.readline), type=Orders
        )
        inbox = inbox_on(store)
        tasks = [
            asyncio.create_task(take(inbox, orders.seed + number, f"{os.getpid()}-{number}"))
            for number in range(TASKS)
        ]
        tasks.append(asyncio.create_task(admit(inbox, orders)))
        over = loop.run_in_executor(None, sys.stdin.readline)
        done, _ = await asyncio.wait((over, *tasks[:-1]), return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end
        assert over in done


if __name__ == "__main__":
    asyncio.run(work(*sys.argv[1:]))


# --- the tests' side ------------------------------------------------------------------------------


class Fifo:
    """Workers that admit and handle the messages of many sessions. Some of them are killed.

    :param harness: harness of the store.
    :param keys: number of sessions.
    :param rounds: number of messages of each session.
    :param processes: number of workers.
    :param kills: number of workers killed in turns. One more is paused past its lease.
    :param seed: seed of the random choices.
    :ivar tally: counts of events.
    """

    def __init__(
        self,
        harness: RedisHarness,
        *,
        keys: int,
        rounds: int,
        processes: int,
        kills: int,
        seed: int,
    ) -> None:
        self._harness = harness
        self._keys = keys
        self._rounds = rounds
        self._processes = processes
        self._seed = seed
        dice = random.Random(seed)
        # The minimum number of turns, because no turn has more messages.
        turns = keys * rounds // MOST
        self._moments = set(dice.sample(range(turns // 10, turns * 9 // 10), kills))
        self._halts_at = turns // 3
        self._hired = 0
        self._over = asyncio.Event()
        self.fences: dict[str, list[int]] = {}
        self.misled: list[str] = []
        self.tally: Counter[str] = Counter()

    async def run(self, store: Store, patience_secs: float) -> None:
        """Let them work until all messages are handled."""
        async with asyncio.timeout(patience_secs), asyncio.TaskGroup() as tasks:
            for place in range(self._processes):
                tasks.create_task(self._station(place))
            while not await self._is_handled(store):  # noqa: ASYNC110 - none after a kill
                await asyncio.sleep(0.2)
            self._over.set()

    async def _is_handled(self, store: Store) -> bool:
        keys = [key_of(number) for number in range(self._keys)]
        found = await store.get_many(keys, ctx=CTX)
        return all(one and one.session.context["next"] >= self._rounds for one in found)

    async def _station(self, place: int) -> None:
        """Keep one worker running."""
        keys = tuple(range(place, self._keys, self._processes))
        first = 0
        while not self._over.is_set():
            async with hired(self._harness, program="tests.support.inbox") as worker:
                self._hired += 1
                seed = self._seed + 100 * self._hired
                orders = Orders(keys=keys, first=first, rounds=self._rounds, seed=seed)
                await worker.begin(orders)
                first = await self._follow(worker, first)
                code = await worker.ended()
                assert code == (-signal.SIGKILL if worker.was_killed else 0)
                self.tally["kills"] += worker.was_killed

    async def _follow(self, worker: Worker, first: int) -> int:
        """Read a worker's reports, and return the round with which to continue."""
        ending = asyncio.create_task(self._over.wait())
        ending.add_done_callback(lambda _: worker.end())
        try:
            while said := await worker.hear():
                word = said["word"]
                self.tally[word] += 1
                if word == "admitted":
                    first = said["round"] + 1
                elif word == "taken":
                    fences = self.fences.setdefault(said["key"], [])
                    if said["fence"] in fences:
                        self.misled.append(f"fence {said['fence']} was given twice")
                    fences.append(said["fence"])
                    await self._disturb(worker)
        finally:
            ending.cancel()
        return first

    async def _disturb(self, worker: Worker) -> None:
        taken = self.tally["taken"]
        if taken in self._moments and not worker.was_killed:
            worker.kill()
        elif taken == self._halts_at:
            worker.send(signal.SIGSTOP)
            await asyncio.sleep(1.2 * LEASE_SECS)  # longer than its leases
            worker.send(signal.SIGCONT)
            self.tally["halts"] += 1

    async def assert_in_order_once_each(self, store: Store) -> None:
        """Check that no message is lost, doubled or out of order, and that none is left."""
        assert self.misled == []
        for number in range(self._keys):
            found = await store.get(key_of(number), ctx=CTX)
            assert found is not None
            context = found.session.context
            assert (context["next"], context["strays"]) == (self._rounds, []), found.session.key
            # Each commit is one version.
            assert context["commits"] == found.cas.value
        inbox = inbox_on(store)
        assert [letter async for letter in inbox.dead_letters()] == []
        await self._harness.advance(
            100
        )  # past the leases of killed workers, and all deferred entries
        async with inbox.take("auditor", wait=0) as turn:
            assert turn is None
        assert (await inbox.depth()).sessions == 0
