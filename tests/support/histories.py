"""Clients with random calls on keys, and their recorded histories: for tests and for the soak."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import anyio
import msgspec

from greentic_session import (
    Cas,
    CasConflictError,
    OutcomeUnknownError,
    Session,
    SessionExistsError,
    SessionKey,
    SessionNotFoundError,
    StoreUnavailableError,
)
from greentic_session.testing.history import History, Verb
from greentic_session.testing.linearizability import check_history
from greentic_session.testing.version_order import check_versions

from .redis import CTX, session
from .stopwatch import Stopwatch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from greentic_session import AsyncSessionStore
    from greentic_session.testing.history import Operation, RecordedStore
    from greentic_session.testing.verdict import Verdict

    Store = AsyncSessionStore[Any]
    Recorded = RecordedStore[Any]

CLIENTS: Final = 8
OPERATIONS: Final = 100

DOCUMENTED: Final = (
    *(CasConflictError, SessionExistsError, SessionNotFoundError),
    *(StoreUnavailableError, OutcomeUnknownError),
)
"""The errors that the caller of a permanent session may get. Any other fails the run."""

WEIGHTS: Final = {
    Verb.GET: 22,
    Verb.CREATE: 8,
    Verb.PUT: 12,
    Verb.UPDATE_CAS: 32,
    Verb.MUTATE: 12,
    Verb.TOUCH: 5,
    Verb.DELETE: 9,
}


class Clients:
    """Plays histories of one key each.

    :param stores: stores that the clients of a key use in turn.
    :param reader: a store without faults, for the read at the end.
    :param cancels: probability that a call is cancelled, 0 to 1.
    :param deadline_secs: deadline of every call in seconds. A tenth more is allowed. ``None``
        disables the check.
    :param pause_secs: pause of a client after some of its calls, in seconds.
    :param prefix: prefix of the keys, before a number.
    :ivar clock: source of the stamps in histories of :meth:`at_work`.
    :ivar parts: parts of each history to check one by one.
    :ivar met: counts of call results: ``done``, or the name of the exception.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        reader: Store,
        *,
        cancels: float = 0.0,
        deadline_secs: float | None = None,
        pause_secs: float = 0.0,
        prefix: str = "history-",
    ) -> None:
        self._stores: Final = stores
        self._reader: Final = reader
        self._cancels: Final = cancels
        self._pause_secs: Final = pause_secs
        self._prefix: Final = prefix
        self.stopwatch: Final = Stopwatch(deadline_secs)
        self.late: Final = self.stopwatch.late
        self.tally: Counter[str] = Counter()
        self.verdicts: list[Verdict] = []
        self.met: Counter[str] = Counter()
        self.clock: Final = count(1).__next__
        self.parts: Callable[[list[Operation]], Sequence[list[Operation]]] = lambda whole: [whole]

    async def play(self, histories: range, seed: int, *, at_once: int = 40) -> None:
        """Play some histories at the same time, check them, and then the next ones.

        :param histories: numbers of the histories.
        """
        for start in histories[::at_once]:
            numbers = range(start, min(start + at_once, histories.stop))
            played = [History(f"{number}.") for number in numbers]
            async with self.stopwatch.running(), asyncio.TaskGroup() as tasks:
                for number, history in zip(numbers, played, strict=True):
                    tasks.create_task(self._history(history, number, seed, reads_at_last=True))
            for history in played:
                self._check(history.operations())

    @asynccontextmanager
    async def at_work(self, seed: int, *, lanes: int = 2) -> AsyncIterator[None]:
        """Play histories one after the other while the block runs, then check them.

        :param lanes: number of histories at the same time.
        """
        leave = asyncio.Event()
        played: dict[int, History] = {}

        async def lane(number: int) -> None:
            while not leave.is_set():
                history = played[number] = History(f"{number}.", clock=self.clock)
                await self._history(history, number, seed)
                number += lanes

        async with self.stopwatch.running(), asyncio.TaskGroup() as tasks:
            for number in range(lanes):
                tasks.create_task(lane(number))
            try:
                await self.has_done(OPERATIONS // 2)
                yield
                await self.has_done(OPERATIONS)
            finally:
                leave.set()
        for number, history in played.items():
            await self._read_at_last(history, self._key(number))
            for part in self.parts(history.operations()):
                self._check(part)

    async def has_done(self, more: int) -> None:
        """Wait until this number of further calls has returned."""
        await self.has_met("done", more)

    async def has_met(self, what: str, more: int) -> None:
        """Wait until this number of further calls has had a result, see :attr:`met`."""
        goal = self.met[what] + more
        async with asyncio.timeout(40):
            while self.met[what] < goal:  # noqa: ASYNC110 - there is no notification
                await asyncio.sleep(0.005)

    def _check(self, operations: list[Operation]) -> None:
        self.tally["histories"] += 1
        self.tally["operations"] += len(operations)
        for one in operations:
            self.tally[one.ending.value] += 1
        for check in (check_versions, check_history):  # the quick one first
            verdict = check(operations)
            if not verdict.holds:
                self.verdicts.append(verdict)
                self.tally[verdict.ruling.value] += 1
                return

    async def _history(
        self, history: History, number: int, seed: int, *, reads_at_last: bool = False
    ) -> None:
        key = self._key(number)
        turns = [OPERATIONS // CLIENTS + (n < OPERATIONS % CLIENTS) for n in range(CLIENTS)]
        async with asyncio.TaskGroup() as tasks:
            for client, calls in enumerate(turns):
                dice = random.Random(f"{seed} {number} {client}")
                store = history.client(self._stores[client % len(self._stores)], f"c{client}")
                tasks.create_task(self._client(store, key, dice, calls))
        if reads_at_last:
            await self._read_at_last(history, key)

    def _key(self, number: int) -> SessionKey:
        return SessionKey(f"{self._prefix}{number}")

    async def _read_at_last(self, history: History, key: SessionKey) -> None:
        reader = history.client(self._reader, "reader")
        with anyio.fail_after(20):
            while True:
                try:
                    await reader.get(key, ctx=CTX)
                except StoreUnavailableError:
                    continue
                return

    async def _client(
        self, store: Recorded, key: SessionKey, dice: random.Random, calls: int
    ) -> None:
        known = Cas.none()
        while calls:
            call = self._call(store, key, dice, known)
            try:
                with self.stopwatch.timed():
                    if dice.random() < self._cancels:
                        steps = dice.randrange(12)
                        calls -= steps > 0  # otherwise it is cancelled before it begins
                        told = await self._cancelled(call, steps)
                    else:
                        calls -= 1
                        told = await call()
            except CasConflictError as conflict:
                known = conflict.current
                self.met["CasConflictError"] += 1
            except DOCUMENTED as error:
                self.met[type(error).__name__] += 1
            else:
                self.met["done"] += 1
                cas = getattr(told, "cas", told)
                known = cas if isinstance(cas, Cas) else known
            if dice.random() < 0.3:
                await asyncio.sleep(self._pause_secs)

    def _call(
        self, store: Recorded, key: SessionKey, dice: random.Random, known: Cas
    ) -> Callable[[], Awaitable[object]]:
        verb = dice.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
        if verb is Verb.UPDATE_CAS and not known.value:
            verb = Verb.GET
        expected = known if known.value and dice.random() < 0.5 else None
        calls: dict[Verb, Callable[[], Awaitable[object]]] = {
            Verb.GET: lambda: store.get(key, ctx=CTX),
            Verb.CREATE: lambda: store.create(session(key)),
            Verb.PUT: lambda: store.put(session(key)),
            Verb.UPDATE_CAS: lambda: store.update_cas(session(key), known),
            Verb.MUTATE: lambda: store.mutate(key, another, ctx=CTX, attempts=3),
            Verb.TOUCH: lambda: store.touch(key, ctx=CTX),
            Verb.DELETE: lambda: store.delete(key, ctx=CTX, expected=expected),
        }
        return calls[verb]

    async def _cancelled(self, call: Callable[[], Awaitable[object]], steps: int) -> object:
        """Cancel a call after some steps of the loop, and return its result if it was faster."""
        task = asyncio.ensure_future(call())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        self.tally["cancelled"] += task.cancelled()
        return None if task.cancelled() else task.result()


def another(before: Session[Any]) -> Session[Any]:
    count = before.context.get("count", 0) + 1
    return msgspec.structs.replace(before, context={**before.context, "count": count})
