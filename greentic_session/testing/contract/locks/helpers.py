"""Locks on a store, and what the suite on locks asks of them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, final

import anyio
import pytest

from ....abc.locks import LockOutcome, LockRef, LockRequest, SupportsLocks
from ....errors import LeaseLostError, LockHeldError
from ....ordering import SessionLocks
from ..samples import GLOBEX, KEY, ctx

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.abc import TaskGroup

    from ....abc.locks import LockBackend
    from ....model import SessionKey, TenantCtx
    from ....ordering import SessionLease
    from ....store import AsyncSessionStore
    from ...harness import StoreHarness

__all__ = ["ANN", "LEASE", "PATIENCE_SECS", "PLACE_MS", "SCOPES", "LockHarness", "lock_harness"]

ANN: Final = ctx(team_id="red", user_id="ann")
LEASE: Final = 30.0
PLACE_MS: Final = 400_000
"""A long time for which to keep a place: a quarter of it is over :data:`LEASE`, so that the time
until a lock opens tells how many wait for it."""
PATIENCE_SECS: Final = 20
"""For what others do, however busy the machine is: so that a test ends."""
SCOPES: Final[dict[str, TenantCtx | None]] = {
    "acme": ctx(),
    "globex": ctx(GLOBEX),
    "staging": ctx(env="staging"),
    "everybody": None,
}
"""Whose locks on one key never meet."""


@final
class LockHarness:
    """Locks with their verbs in few words, and the backend's steps on the key ``KEY``.

    :ivar harness: of the test.
    :ivar store: the sessions.
    :ivar locks: the locks.
    :ivar backend: of the store's locks.
    """

    def __init__(
        self, harness: StoreHarness, store: AsyncSessionStore[Any], **options: Any
    ) -> None:
        assert isinstance(store, SupportsLocks)
        self.harness: Final = harness
        self.store: Final = store
        self.backend: Final[LockBackend] = store.lock_backend()
        self.locks: Final = SessionLocks(store, **options)

    async def peer(self, **options: Any) -> LockHarness:
        """Return another worker's locks: on a store of its own where stores share sessions."""
        shared = self.store.statistics().sessions is None  # else the store is this process's own
        store = await self.harness.open() if shared else self.store
        return LockHarness(self.harness, store, **options)

    async def ask(
        self, token: str, *, lease: float = LEASE, queues: bool = True, place_ms: int = PLACE_MS
    ) -> LockOutcome:
        """Ask for the lock under a token, as a bare step."""
        bid = LockRequest(place(token), token, round(lease * 1000), place_ms, queues=queues)
        return await self.backend.call().acquire(bid)

    async def leave(self, token: str) -> bool:
        """Give back what the token has, as a bare step."""
        return await self.backend.call().release(place(token), 0)

    async def renew(self, token: str, lease: float = LEASE) -> LockOutcome:
        """Renew the token's lease, as a bare step."""
        return await self.backend.call().renew(place(token), round(lease * 1000))

    async def waiting(self, key: SessionKey = KEY) -> int:
        """Return how many wait for a lock that is held for no more than ``LEASE``."""
        probe = LockRequest(LockRef("", key, "probe"), "probe", 1, PLACE_MS, queues=False)
        outcome = await self.backend.call().acquire(probe)
        return outcome.left_ms // (PLACE_MS // 4)

    async def until_waiting(self, count: int) -> None:
        """Wait until so many wait for the lock."""
        with anyio.fail_after(PATIENCE_SECS):
            while await self.waiting() != count:  # noqa: ASYNC110 - nobody tells who else waits
                await anyio.sleep(0.001)

    async def start_waiting(
        self, tasks: TaskGroup, served: list[int], number: int, *, lease: float = LEASE
    ) -> None:
        """Have a task that waits for the lock, and return when it does.

        :param served: gets the number, when the task holds it.
        """

        async def wait() -> None:
            async with self.locks.hold(KEY, lease):
                served.append(number)

        before = await self.waiting()
        tasks.start_soon(wait)
        await self.until_waiting(before + 1)

    async def assert_held(self, *, key: SessionKey = KEY, ctx: TenantCtx | None = None) -> None:
        """Check that nobody can have the lock now."""
        async with self.locks.try_hold(key, ctx=ctx) as lease:
            assert lease is None
        with pytest.raises(LockHeldError):
            async with self.locks.hold(key, wait=0, ctx=ctx):
                raise AssertionError("two hold the lock")
        assert await self.locks.holder(key, ctx=ctx) is not None

    async def assert_free(self, *, key: SessionKey = KEY, ctx: TenantCtx | None = None) -> None:
        """Check that the lock can be had at once, and that nothing is kept of it."""
        assert await self.locks.holder(key, ctx=ctx) is None
        async with self.locks.try_hold(key, ctx=ctx) as lease:
            assert lease is not None
        assert self.locks.held() == ()
        assert not [name for name in await self.harness.residue() if "lock" in name]

    @asynccontextmanager
    async def losing(self, lease: float = LEASE) -> AsyncGenerator[SessionLease]:
        """Hold the lock for a block that is to lose it, and say so in the end."""
        held: SessionLease | None = None
        with pytest.raises(LeaseLostError):
            async with self.locks.hold(KEY, lease) as held:
                yield held
        assert held is not None
        assert held.ended


def place(token: str) -> LockRef:
    """Return a place of the lock on ``KEY`` in all tenants together."""
    return LockRef("", KEY, token)


async def lock_harness(harness: StoreHarness, **options: Any) -> LockHarness:
    """Return locks with these options on a fresh store."""
    return LockHarness(harness, await harness.open(), **options)
