"""Writers, admitters, workers and registrars that remember what a store acknowledged to them.

Each record has one writer, which counts upwards. A stored value may be newer than the acknowledged
one, but never older.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from greentic_session import (
    CasConflictError,
    DurabilityError,
    LeaseLostError,
    OutcomeUnknownError,
    ReplyScope,
    SessionKey,
    SessionNotFoundError,
    StoreUnavailableError,
    WaitRegistry,
)
from greentic_session.errors import InboxFullError
from greentic_session.ordering import SessionInbox

from .waits import paused
from .writers import CTX, numbered

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Awaitable, Callable

    from greentic_session import AsyncSessionStore, Cas

    Store = AsyncSessionStore[Any]

__all__ = ["Acknowledged"]

FAILED: Final = (DurabilityError, OutcomeUnknownError, StoreUnavailableError)
WRITERS: Final = 6
MAILBOXES: Final = 4
WORKERS: Final = 2
REGISTRARS: Final = 2
TRIES: Final = 6
AT_ONCE: Final = 32
LEASE_SECS: Final = 2.0
"""Lease in seconds. If a grant's reply is lost, other workers get the messages after it."""
PATIENCE_SECS: Final = 40.0
_PAUSE_SECS: Final = 0.004


class Acknowledged:
    """The clients of a store, and the writes that it acknowledged.

    :param store: the store that half of the clients use.
    :param hasty: the store of the others. It has a short deadline, so they retry within an outage.
    :param dice: random choice of verbs.
    :param rests: whether messages are not taken at present.
    :ivar stage: the current state of the servers, for the text of a loss.
    :ivar losses: texts about acknowledged writes that are missing.
    :ivar told: counts of errors and successes by kind.
    """

    def __init__(
        self, store: Store, hasty: Store, dice: random.Random, rests: Callable[[], bool]
    ) -> None:
        self._store: Final = store
        self._stores: Final = (store, hasty)
        self._dice: Final = dice
        self._rests: Final = rests
        self._inbox: Final = _inbox_of(store)
        self._waits: Final[WaitRegistry[Any]] = WaitRegistry(store)
        self._leave: Final = asyncio.Event()
        self._numbers: Final[dict[SessionKey, tuple[int, str]]] = {}
        self._admitted: Final[dict[str, str]] = {}
        self._handled: Final[dict[str, str]] = {}
        self._doubtful: Final[set[str]] = set()
        self._registered: Final[dict[tuple[int, int], str]] = {}
        self.stage = "start"
        self.losses: Final[list[str]] = []
        self.told: Final[Counter[str]] = Counter()

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Run all clients from before the block until after it, then check for losses."""
        async with asyncio.TaskGroup() as workers:
            handling = [
                workers.create_task(self._handle(f"worker-{number}")) for number in range(WORKERS)
            ]
            async with asyncio.TaskGroup() as tasks:
                for number in range(WRITERS):
                    key = SessionKey(f"session-{number}")
                    tasks.create_task(self._write(self._stores[number % 2], key))
                for number in range(MAILBOXES):
                    key = SessionKey(f"mailbox-{number}")
                    tasks.create_task(self._admit(_inbox_of(self._stores[number % 2]), key))
                for number in range(REGISTRARS):
                    tasks.create_task(self._register(self._stores[number % 2], number))
                try:
                    yield
                finally:
                    self._leave.set()
            await self.check()
            await self._check_messages()
            for task in handling:
                task.cancel()

    async def has_worked(self) -> None:
        """Wait until each kind of write was acknowledged again."""
        kinds = ("put", "update_cas", "mutate", "admit", "finish", "register_wait")
        goals = {kind: self.told[kind] + 3 for kind in kinds}
        async with asyncio.timeout(PATIENCE_SECS):
            while any(self.told[kind] < goal for kind, goal in goals.items()):  # noqa: ASYNC110
                await asyncio.sleep(0.005)  # no notification

    async def check(self) -> None:
        """Check sessions and waits while no server fails."""
        for key, (number, how) in [*self._numbers.items()]:
            found = await self._read(lambda key=key: self._store.get(key, ctx=CTX))  # type: ignore[misc]
            there = found.session.context["number"] if found else 0
            if there < number:
                self.losses.append(f"{key}: {there} is there after {number} by {how}")
        waits = [*self._registered.items()]
        for first in range(0, len(waits), AT_ONCE):
            some = waits[first : first + AT_ONCE]
            await asyncio.gather(*(self._check_wait(*wait, how) for wait, how in some))

    async def _check_wait(self, registrar: int, number: int, how: str) -> None:
        user, scope, key = _wait_of(registrar, number)
        found = await self._read(lambda: self._waits.find_wait_by_scope(CTX, user, scope))
        if found != key:
            await self._look_for(user, scope, key, how)
        del self._registered[registrar, number]
        try:
            await self._waits.clear_wait(CTX, user, scope)
        except FAILED as error:
            self._tell("clear_wait", error)

    async def _look_for(self, user: str, scope: ReplyScope, key: SessionKey, how: str) -> None:
        """Report what is left of a wait that is missing from the index."""
        await self._waits.rebuild_index(CTX)
        if await self._read(lambda: self._waits.find_wait_by_scope(CTX, user, scope)) == key:
            there = "the index has lost its entry"
        else:
            record = await self._read(lambda: self._store.get(key))
            there = "its session is there" if record else "its session has gone"
        self.losses.append(f"the wait {key} is not found, {there}, after {how}")

    async def _check_messages(self) -> None:
        """Wait until all messages are handled. Those missing after that are lost."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECS):
                while self._unhandled:  # noqa: ASYNC110 - there is no notification
                    await asyncio.sleep(0.01)
        for event_id in self._unhandled:
            key = SessionKey(event_id.rpartition("-")[0])
            try:
                answer = await self._inbox.admit(key, event_id, b"message")
                there = "is not known" if answer.is_new else "is known and not handed out"
            except FAILED as error:
                there = f"is not handed out ({error})"
            self.losses.append(f"{event_id} {there} after {self._admitted[event_id]}")

    @property
    def _unhandled(self) -> set[str]:
        """Return the acknowledged messages that were certainly not handled."""
        return self._admitted.keys() - self._handled.keys() - self._doubtful

    async def _read(self, read: Callable[[], Awaitable[Any]]) -> Any:
        for _ in range(TRIES):
            try:
                return await read()
            except StoreUnavailableError as error:
                self._tell("read", error)
        return await read()

    def _tell(self, verb: str, error: Exception) -> None:
        self.told[f"{verb}: {type(error).__name__}"] += 1

    # --- sessions -----------------------------------------------------------------------------

    async def _write(self, store: Store, key: SessionKey) -> None:
        number = 0
        cas: Cas | None = None
        verb = "put"
        while not self._leave.is_set():
            number += 1
            stage = self.stage
            try:
                if verb == "update_cas" and cas is not None:
                    cas = await store.update_cas(numbered(key, number), cas)
                elif verb == "mutate" and key in self._numbers:
                    cas = await self._mutate(store, key, number)
                else:
                    verb = "put"
                    cas = await store.put(numbered(key, number))
            except FAILED as error:
                self._tell(verb, error)
                verb, cas = self._dice.choice(("put", "mutate")), None
                continue
            except (CasConflictError, SessionNotFoundError) as error:
                # No other task writes this key, so the server has lost a write.
                self.losses.append(f"{key}: {type(error).__name__} at {verb} during {stage}")
                verb = "put"
                continue
            self.told[verb] += 1
            self._numbers[key] = (number, f"{verb} during {stage}")
            verb = self._dice.choice(("put", "update_cas", "mutate"))
            await asyncio.sleep(_PAUSE_SECS)  # limits the load on a laptop

    async def _mutate(self, store: Store, key: SessionKey, number: int) -> Cas:
        acknowledged, how = self._numbers[key]

        def change(found: Any) -> Any:
            there = found.context["number"]
            if there < acknowledged:
                self.losses.append(f"{key}: mutate read {there} after {acknowledged} by {how}")
            return numbered(key, number)

        return (await store.mutate(key, change, ctx=CTX)).cas

    # --- messages -----------------------------------------------------------------------------

    async def _admit(self, inbox: SessionInbox[Any], key: SessionKey) -> None:
        number = 0
        while not self._leave.is_set():
            number += 1
            event_id = f"{key}-{number}"
            for attempt in range(TRIES):
                stage = self.stage
                try:
                    answer = await inbox.admit(key, event_id, b"message")
                except FAILED as error:
                    self._tell("admit", error)
                except InboxFullError:
                    await asyncio.sleep(0.05)  # no notification
                else:
                    self.told["admit"] += 1
                    how = f"{'admit' if answer.is_new else 'repeated admit'} {attempt + 1}"
                    self._admitted[event_id] = f"{how} during {stage} to {self.stage}"
                    break
            await asyncio.sleep(_PAUSE_SECS)  # as above

    async def _handle(self, worker: str) -> None:
        while True:
            await asyncio.sleep(_PAUSE_SECS)
            if self._rests():
                continue
            try:
                await self._take(worker)
            except (*FAILED, LeaseLostError) as error:
                self._tell("take", error)

    async def _take(self, worker: str) -> None:
        async with self._inbox.take(worker, most=20, wait=0) as turn:
            if turn is None:
                return
            taken = [mail.event_id for mail in turn.mail]
            stage = self.stage
            # No loss if the turn turns out to have ended: another worker may have handled them.
            again = [event_id for event_id in taken if event_id in self._handled]
            try:
                await turn.finish()
            except (DurabilityError, OutcomeUnknownError):
                self._doubtful.update(taken)
                self._tell_again(again, stage)
                raise
            self._tell_again(again, stage)
            self.told["finish"] += 1
            self._handled.update(dict.fromkeys(taken, f"finish during {stage}"))

    def _tell_again(self, event_ids: list[str], stage: str) -> None:
        for event_id in event_ids:
            admitted = self._admitted.get(event_id, "no acknowledged admit")
            self.losses.append(
                f"{event_id} came back during {stage} after {self._handled[event_id]}, "
                f"which followed {admitted}"
            )

    # --- waits --------------------------------------------------------------------------------

    async def _register(self, store: Store, registrar: int) -> None:
        waits: WaitRegistry[Any] = WaitRegistry(store)
        number = 0
        while not self._leave.is_set():
            number += 1
            user, scope, key = _wait_of(registrar, number)
            stage = self.stage
            try:
                await waits.register_wait(CTX, user, scope, paused(key, user))
            except FAILED as error:
                self._tell("register_wait", error)
            else:
                self.told["register_wait"] += 1
                self._registered[registrar, number] = f"register_wait during {stage}"
            await asyncio.sleep(5 * _PAUSE_SECS)  # as above


def _inbox_of(store: Store) -> SessionInbox[Any]:
    return SessionInbox(store, CTX, lease=LEASE_SECS, attempts=1000)


def _wait_of(registrar: int, number: int) -> tuple[str, ReplyScope, SessionKey]:
    """Return the user, the scope and the session of a wait."""
    name = f"wait-{registrar}-{number}"
    return f"user-{registrar}", ReplyScope(conversation=name), SessionKey(name)
