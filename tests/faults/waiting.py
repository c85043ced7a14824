"""Waits that are registered one after the other, and workers that race to resume them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

from greentic_session import (
    DuplicateEventError,
    DurabilityError,
    LeaseLostError,
    OutcomeUnknownError,
    StoreUnavailableError,
    WaitClaimedError,
    WaitNotFoundError,
    WaitRegistry,
)

from ..support.redis import SEED
from ..support.waits import CTX, Wait, answered, owner, paused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from greentic_session import AsyncSessionStore

    from ..support.stopwatch import Stopwatch
    from ..support.waits import Registry

    Store = AsyncSessionStore[Any]

WORKERS: Final = 3
USERS: Final = 5
LEASE_SECS: Final = 1.0
"""Lease in seconds, short so that a claim without a reply is soon open to others."""
_PAUSE_SECS: Final = 0.02
FAILED: Final = (StoreUnavailableError, OutcomeUnknownError, DurabilityError)


class Won(NamedTuple):
    """A claim that got its reply.

    :ivar asked_at: time of the request on the loop's clock, like ``told_at`` for the reply.
    """

    asked_at: float
    told_at: float
    fence: int


class Waiting:
    """Workers with waits to resume.

    :param stores: stores that the workers and the registrar use in turn.
    :param calm: a store without faults, for the check at the end.
    :param stopwatch: stopwatch for their calls.
    :ivar told: counts of their results.
    """

    def __init__(self, stores: Sequence[Store], calm: Store, stopwatch: Stopwatch) -> None:
        self._registries: Final[list[Registry]] = [WaitRegistry(store) for store in stores]
        self._calm: Final = calm
        self._stopwatch: Final = stopwatch
        self._leave: Final = asyncio.Event()
        self._all_are_here: Final = asyncio.Event()
        self._open: Final[set[int]] = set()
        self._registered: Final[set[int]] = set()
        self._doubtful: Final[set[int]] = set()
        self._won: Final[defaultdict[int, list[Won]]] = defaultdict(list)
        self._completed: Final[defaultdict[int, list[int]]] = defaultdict(list)
        self.told: Final[Counter[str]] = Counter()

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Register new waits until the block ends, and resume them all."""
        async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
            registrar = tasks.create_task(self._register())
            registrar.add_done_callback(lambda _: self._all_are_here.set())
            for number in range(WORKERS):
                tasks.create_task(self._work(number))
            try:
                await self.has_completed(1)
                yield
                await self.has_completed(1)
            finally:
                self._leave.set()

    async def has_completed(self, more: int) -> None:
        """Wait until this number of further turns was completed."""
        goal = self.told["completed"] + more
        async with asyncio.timeout(40):
            while self.told["completed"] < goal:  # noqa: ASYNC110 - there is no notification
                await asyncio.sleep(0.005)

    async def _register(self) -> None:
        number = 0
        while not self._leave.is_set():
            wait = Wait.of(number, USERS)
            registry = self._registries[number % len(self._registries)]
            try:
                with self._stopwatch.timed():
                    await registry.register_wait(
                        CTX, wait.user, wait.scope, paused(wait.key, wait.user)
                    )
                self._registered.add(number)
            except FAILED as error:
                self.told["failed"] += 1
                if not isinstance(error, StoreUnavailableError):
                    self._doubtful.add(number)
            self._open.add(number)
            number += 1
            await asyncio.sleep(_PAUSE_SECS)  # limits the load on a laptop

    async def _work(self, worker: int) -> None:
        dice = random.Random(f"{SEED} {worker}")
        registry = self._registries[worker % len(self._registries)]
        while self._open or not self._all_are_here.is_set():
            if self._open:
                number = dice.choice(sorted(self._open))
                if await self._resume(registry, number, worker):
                    self._open.discard(number)
            await asyncio.sleep(0.002)  # there is no notification

    async def _resume(self, registry: Registry, number: int, worker: int) -> bool:
        """Return whether the wait has ended."""
        wait = Wait.of(number, USERS)
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        try:
            with self._stopwatch.timed():
                claim = await registry.claim(
                    CTX, wait.user, wait.scope, event_id=wait.event_id, lease=LEASE_SECS
                )
            self._won[number].append(Won(asked_at, loop.time(), claim.fence))
            with self._stopwatch.timed():
                await claim.complete(answered(claim.session, [worker, claim.fence]))
        except (WaitClaimedError, LeaseLostError) as error:
            self.told[type(error).__name__] += 1
            return False
        except (DuplicateEventError, WaitNotFoundError):
            self.told["came late"] += 1
            return True
        except FAILED:
            self.told["failed"] += 1
            return False
        self._completed[number].append(claim.fence)
        self.told["completed"] += 1
        return True

    # --- afterwards --------------------------------------------------------------------------

    async def assert_each_once(self) -> None:
        """Check I4 and I5, and that no lease is left."""
        waits: Registry = WaitRegistry(self._calm)
        for number in sorted(self._registered | self._doubtful):
            wait = Wait.of(number, USERS)
            is_sure = number in self._registered
            found = await self._calm.get(wait.key, ctx=owner(wait.user))
            assert found is not None or not is_sure, f"{wait.key} was lost"
            turns = await wait.turns(self._calm) if found else []
            assert len(turns) == 1 or (not is_sure and not turns), f"{wait.key} had {turns}"
            # A completion of unknown outcome may have happened. A reported one has.
            told = self._completed[number]
            assert told in ([], [turn[1] for turn in turns])
            self._assert_growing(number)
            if turns:
                assert turns[0][1] == max(won.fence for won in self._won[number])
                with pytest.raises((DuplicateEventError, WaitNotFoundError)):
                    await waits.claim(CTX, wait.user, wait.scope, event_id=wait.event_id)
        maybe = {Wait.of(number, USERS).key for number in self._doubtful}
        for user in {Wait.of(number, USERS).user for number in range(USERS)}:
            assert set(await waits.list_waits_for_user(CTX, user)) <= maybe

    def _assert_growing(self, number: int) -> None:
        won = self._won[number]
        assert len({one.fence for one in won}) == len(won)
        for one in won:
            for other in won:
                if one.told_at < other.asked_at:
                    assert one.fence < other.fence
