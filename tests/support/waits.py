"""Workers and checks for the tests of waits under faults.

Run as a program (``python -m tests.support.waits URL JOB``), this is a worker. It prints ``ready``,
reads its orders from a line of standard input, and reports events as lines of JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter, deque
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import anyio
import msgspec

from greentic_session import (
    DuplicateEventError,
    LeaseLostError,
    ReplyScope,
    Session,
    SessionCursor,
    SessionError,
    SessionKey,
    SessionMeta,
    TenantCtx,
    WaitClaimedError,
    WaitNotFoundError,
    WaitRegistry,
    create_session_store,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection

    from greentic_session import AsyncSessionStore, Claim
    from greentic_session.testing.harness import RedisHarness

    Store = AsyncSessionStore[Any]
    Registry = WaitRegistry[Any]
    Turn = Claim[Any]

USER: Final = "ann"
CTX: Final = TenantCtx(tenant_id="acme")
ELSEWHERE: Final = ReplyScope(conversation="elsewhere")


def owner(user: str = USER) -> TenantCtx:
    return TenantCtx(tenant_id="acme", user_id=user)


def chat(number: object = 0) -> ReplyScope:
    return ReplyScope(conversation=f"chat {number}")


def paused(
    key: str, user: str = USER, *, ttl_secs: float = 0, **context: Any
) -> Session[dict[str, Any]]:
    return Session(
        key=SessionKey(key),
        cursor=SessionCursor(flow_id="flow", node_id="asked"),
        meta=SessionMeta.of(owner(user)),
        context=context,
        ttl_secs=ttl_secs,
    )


def answered(before: Session[Any], mark: object) -> Session[Any]:
    """Return the state after a turn: it lists the turn's mark, and has an outbox entry for it."""
    turns = [*before.context.get("turns", ()), mark]
    handed_off, _ = before.with_outbox(json.dumps(mark).encode())
    return msgspec.structs.replace(handed_off, context={**before.context, "turns": turns})


class Wait(NamedTuple):
    """One of many waits. Each user has a few of them, each in another chat."""

    number: int
    user: str
    scope: ReplyScope
    key: SessionKey
    event_id: str | None

    @classmethod
    def of(cls, number: int, users: int) -> Self:
        # Every other reply has an event id, by which it is known once it was answered.
        event_id = f"event {number}" if number % 2 else None
        user, scope = f"user {number % users}", chat(number // users)
        return cls(number, user, scope, SessionKey(f"wait-{number}"), event_id)

    async def turns(self, store: Store) -> list[list[int]]:
        """Return the turns that the session has seen: process and fencing token of each."""
        found = await store.get(self.key, ctx=owner(self.user))
        assert found is not None
        assert len(found.session.outbox) == len(found.session.context.get("turns", ()))
        turns: list[list[int]] = found.session.context.get("turns", [])
        return turns


# --- the worker's side ----------------------------------------------------------------------------

TASKS: Final = 4
STALE_LEASE_SECS: Final = 0.4


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """The orders of a worker.

    :ivar numbers: the waits to resume, each until it has had its turn.
    :ivar users: number of users of the waits.
    :ivar seed: seed of its random choices.
    :ivar indexes_vanish: whether a waiting session may be missing from the index for a while.
    """

    numbers: tuple[int, ...] = ()
    users: int = 1
    seed: int = 0
    indexes_vanish: bool = False


def say(word: str, **told: object) -> None:
    # One write per line, so that a kill leaves no partial line.
    os.write(1, json.dumps({"word": word, **told}).encode() + b"\n")


async def race(store: Store, orders: Orders) -> None:
    """Resume each wait until it has had its turn."""
    waits: Registry = WaitRegistry(store)
    dice = random.Random(orders.seed)
    numbers = deque(orders.numbers)
    tally: Counter[str] = Counter()

    async def take(wait: Wait) -> bool:
        """Return whether the wait has had its turn."""
        fence = 0
        lease = dice.uniform(0.3, 0.5)
        block = waits.resume(CTX, wait.user, wait.scope, event_id=wait.event_id, lease=lease)
        try:
            async with block as turn:
                fence = turn.fence
                say("claimed", number=wait.number, fence=fence)
                # Work of the turn, which a kill interrupts. Sometimes it is longer than the lease.
                await asyncio.sleep(0.6 if dice.random() < 0.01 else dice.uniform(0, 0.01))
                await turn.complete(answered(turn.session, [os.getpid(), fence]))
                say("completed", number=wait.number, fence=fence)
        except WaitClaimedError:
            tally["met a claim"] += 1
            await asyncio.sleep(0.01)  # the end of another process's claim is not notified
            return False
        except LeaseLostError:
            tally["lost the lease"] += 1
            say("lost", number=wait.number, fence=fence)
            return False
        except (DuplicateEventError, WaitNotFoundError) as error:
            is_over = bool(await wait.turns(store))
            if not is_over and not (orders.indexes_vanish and isinstance(error, WaitNotFoundError)):
                say("misled", number=wait.number, by=type(error).__name__)
            tally["came late" if is_over else "found nothing"] += 1
            return is_over
        return True

    async def work() -> None:
        while numbers:
            wait = Wait.of(numbers.popleft(), orders.users)
            if not await take(wait):
                numbers.append(wait.number)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(TASKS):
            tasks.create_task(work())
    say("over", **tally)


async def stale(store: Store, _orders: Orders) -> None:
    """Claim some waits, and continue on a signal, after the claims were lost."""
    waits: Registry = WaitRegistry(store)
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, told.set)

    async def by_hand(verb: str) -> None:
        claim = await waits.claim(CTX, USER, chat(verb), event_id=verb, lease=STALE_LEASE_SECS)
        say("claimed", verb=verb, fence=claim.fence)
        await told.wait()
        try:
            outcome = str(await ENDINGS[verb](claim))
        except SessionError as error:
            outcome = type(error).__name__
        say("ended", verb=verb, outcome=outcome)

    async def in_block(verb: str) -> None:
        went_on = was_cancelled = False
        outcome = "left in silence"
        try:
            async with waits.resume(
                CTX, USER, chat(verb), event_id=verb, lease=STALE_LEASE_SECS
            ) as turn:
                say("claimed", verb=verb, fence=turn.fence)
                try:
                    await (anyio.sleep_forever() if verb == "sleeping block" else told.wait())
                    if verb == "block":
                        await turn.complete(answered(turn.session, "the stale worker"))
                        went_on = True
                except asyncio.CancelledError:
                    was_cancelled = True
                    raise
        except SessionError as error:
            outcome = type(error).__name__
        say("ended", verb=verb, outcome=outcome, went_on=went_on, was_cancelled=was_cancelled)

    async with asyncio.TaskGroup() as tasks:
        for verb in ENDINGS:
            tasks.create_task(by_hand(verb))
        for verb in BLOCKS:
            tasks.create_task(in_block(verb))


ENDINGS: Final[dict[str, Callable[[Turn], Awaitable[object]]]] = {
    "complete": lambda claim: claim.complete(answered(claim.session, "the stale worker")),
    "wait_again": lambda claim: claim.wait_again(answered(claim.session, "stale"), ELSEWHERE),
    "save": lambda claim: claim.save(answered(claim.session, "the stale worker")),
    "finish": lambda claim: claim.finish(),
    "renew": lambda claim: claim.renew(),
    "release": lambda claim: claim.release(),
}
OPEN_BLOCK: Final = "block that leaves its turn open"
BLOCKS: Final = ("block", "sleeping block", OPEN_BLOCK)
JOBS: Final = {"race": race, "stale": stale}


async def work(url: str, job: str) -> None:
    async with create_session_store(url) as store:
        await asyncio.gather(*(store.ping() for _ in range(TASKS)))  # connected before the start
        say("ready")
        orders = msgspec.json.decode(sys.stdin.readline(), type=Orders)
        await JOBS[job](store, orders)


if __name__ == "__main__":
    asyncio.run(work(*sys.argv[1:]))


# --- the tests' side ------------------------------------------------------------------------------


class Worker:
    """A worker process of this test."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.was_killed = False

    @property
    def pid(self) -> int:
        return self._process.pid

    async def begin(self, orders: msgspec.Struct) -> None:
        assert (await self.hear())["word"] == "ready"
        self.order(orders)

    def order(self, orders: msgspec.Struct) -> None:
        """Send the worker a line of orders."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(orders) + b"\n")

    async def hear(self) -> dict[str, Any]:
        """Return the worker's next report. Empty if it has ended."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        said: dict[str, Any] = json.loads(line) if line else {}
        return said

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self.was_killed = True
        self.send(signal.SIGKILL)

    def end(self) -> None:
        """Close the worker's standard input."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def ended(self) -> int:
        """Wait for the end of the process, and return its exit code."""
        self.end()
        return await self._process.wait()


@asynccontextmanager
async def hired(
    harness: RedisHarness, *job: str, program: str = "tests.support.waits"
) -> AsyncIterator[Worker]:
    """Yield a worker on the harness's namespace. It does not outlive the block."""
    url = f"unix://{harness.config.unix_path}?namespace={harness.config.namespace}&deadline=20"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", program, url, *job),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    worker = Worker(process)
    try:
        yield worker
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            while await worker.hear():
                pass
            await worker.ended()


class Race:
    """Workers that race for the same waits. Some of them are killed and replaced.

    :param harness: harness of the store.
    :param orders: orders of the first workers. A replacement gets the waits that are still open.
    :param kills: number of workers to kill.
    """

    def __init__(self, harness: RedisHarness, orders: Orders, kills: int) -> None:
        self._harness = harness
        self._orders = orders
        self._dice = random.Random(orders.seed)
        # A worker is killed when it reports a claim or a completion. Every completed wait was
        # claimed first, so each of these moments occurs.
        moments = self._dice.sample(range(20, len(orders.numbers) * 9 // 10), kills)
        self._moments = set(moments)
        self._ranks = {number: rank for rank, number in enumerate(orders.numbers)}
        self._hired = 0
        self.fences: dict[int, list[int]] = {number: [] for number in orders.numbers}
        self.completed: Counter[int] = Counter()
        self.wins: dict[int, list[int]] = {}
        self.misled: list[dict[str, Any]] = []
        self.tally: Counter[str] = Counter()

    async def run(self, workers: int) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(workers):
                tasks.create_task(self._station())

    def orders(self) -> Orders:
        """Return the orders of a new worker. The waits are nearly in the other workers' order."""
        self._hired += 1
        seed = self._orders.seed + self._hired
        dice = random.Random(seed)
        spread = 4 * TASKS
        numbers = sorted(
            (number for number in self._orders.numbers if not self.completed[number]),
            key=lambda number: self._ranks[number] + dice.uniform(0, spread),
        )
        return msgspec.structs.replace(self._orders, numbers=tuple(numbers), seed=seed)

    async def _station(self) -> None:
        """Keep one worker running."""
        while True:
            async with hired(self._harness, "race") as worker:
                await worker.begin(self.orders())
                in_turns: Collection[int] = await self._follow(worker)
                code = await worker.ended()
                if not worker.was_killed:
                    assert code == 0
                    assert not in_turns
                    return
                assert code == -signal.SIGKILL
                self.tally["kills"] += 1
                self.tally["turns cut off"] += len(in_turns)

    async def _follow(self, worker: Worker) -> Collection[int]:
        """Read a worker's reports, and return the waits whose end it did not report."""
        in_turns: set[int] = set()
        dies_completing = False
        while said := await worker.hear():
            word = said.pop("word")
            if word == "over":
                self.tally.update(said)
                continue
            if word == "misled":
                self.misled.append(said)
                continue
            number, fence = said["number"], said["fence"]
            if word == "claimed":
                in_turns.add(number)
                self.fences[number].append(fence)
                self.tally["claims"] += 1
                if self.tally["claims"] in self._moments:
                    if dies_completing or worker.was_killed:
                        self._moments.add(self.tally["claims"] + 1)  # then replace it
                    elif self._dice.random() < 0.5:
                        dies_completing = True
                    else:
                        worker.kill()
            else:
                in_turns.discard(number)
            if word == "completed":
                self.completed[number] += 1
                self.wins[number] = [worker.pid, fence]
                if dies_completing:
                    worker.kill()
        return in_turns
