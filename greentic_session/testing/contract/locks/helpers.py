"""Locks on a store, with the steps that the lock contract uses."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, final

import anyio
import pytest

from ....abc.locks import LockOutcome, LockRef, LockRequest, lock_backend_of
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

__all__ = ["ANN", "LEASE", "PATIENCE_SECS", "POSITION_MS", "SCOPES", "LockHarness", "lock_harness"]

ANN: Final = ctx(team_id="red", user_id="ann")
LEASE: Final = 30.0
POSITION_MS: Final = 400_000
"""Lifetime of a queue position in milliseconds.

A quarter of it exceeds :data:`LEASE`, so the time until a lock is free gives the number of waiters.
"""
PATIENCE_SECS: Final = 20
"""Limit in seconds for other tasks, so that every test ends even on a busy machine."""
SCOPES: Final[dict[str, TenantCtx | None]] = {
    "acme": ctx(),
    "globex": ctx(GLOBEX),
    "staging": ctx(env="staging"),
    "everybody": None,
}
"""Scopes whose locks on one key are independent."""


@final
class LockHarness:
    """Locks with short verbs, and the backend's steps on the key ``KEY``.

    :ivar harness: the test's harness.
    :ivar store: the store.
    :ivar locks: the locks.
    :ivar backend: the store's lock backend.
    """

    def __init__(
        self, harness: StoreHarness, store: AsyncSessionStore[Any], **options: Any
    ) -> None:
        self.harness: Final = harness
        self.store: Final = store
        self.backend: Final[LockBackend] = lock_backend_of(store)
        self.locks: Final = SessionLocks(store, **options)

    async def peer(self, **options: Any) -> LockHarness:
        """Return another worker's locks, on a store of its own if stores share sessions."""
        shared = self.store.statistics().sessions is None  # otherwise the store is in this process
        store = await self.harness.open() if shared else self.store
        return LockHarness(self.harness, store, **options)

    async def ask(
        self,
        token: str,
        *,
        lease: float = LEASE,
        queues: bool = True,
        position_ms: int = POSITION_MS,
    ) -> LockOutcome:
        """Request the lock under a token, in one backend step."""
        request = LockRequest(
            lock_ref(token), token, round(lease * 1000), position_ms, queues=queues
        )
        return await self.backend.call().acquire(request)

    async def leave(self, token: str) -> bool:
        """Release the token's lease or queue position, in one backend step."""
        return await self.backend.call().release(lock_ref(token), 0)

    async def renew(self, token: str, lease: float = LEASE) -> LockOutcome:
        """Renew the token's lease, in one backend step."""
        return await self.backend.call().renew(lock_ref(token), round(lease * 1000))

    async def waiting(self, key: SessionKey = KEY) -> int:
        """Return the number of waiters for a lock whose lease is at most ``LEASE``."""
        probe = LockRequest(LockRef("", key, "probe"), "probe", 1, POSITION_MS, queues=False)
        outcome = await self.backend.call().acquire(probe)
        return outcome.left_ms // (POSITION_MS // 4)

    async def until_waiting(self, count: int) -> None:
        """Wait until the lock has this number of waiters."""
        with anyio.fail_after(PATIENCE_SECS):
            while await self.waiting() != count:  # noqa: ASYNC110 - there is no notification
                await anyio.sleep(0.001)

    async def start_waiting(
        self, tasks: TaskGroup, served: list[int], number: int, *, lease: float = LEASE
    ) -> None:
        """Start a task that waits for the lock, and return when it is in the queue.

        :param served: gets the number when the task holds the lock.
        """

        async def wait() -> None:
            async with self.locks.hold(KEY, lease):
                served.append(number)

        before = await self.waiting()
        tasks.start_soon(wait)
        await self.until_waiting(before + 1)

    async def assert_held(self, *, key: SessionKey = KEY, ctx: TenantCtx | None = None) -> None:
        """Check that no other worker can take the lock now."""
        async with self.locks.try_hold(key, ctx=ctx) as lease:
            assert lease is None
        with pytest.raises(LockHeldError):
            async with self.locks.hold(key, wait=0, ctx=ctx):
                raise AssertionError("two hold the lock")
        assert await self.locks.holder(key, ctx=ctx) is not None

    async def assert_free(self, *, key: SessionKey = KEY, ctx: TenantCtx | None = None) -> None:
        """Check that the lock is free, and that a release leaves nothing behind."""
        assert await self.locks.holder(key, ctx=ctx) is None
        async with self.locks.try_hold(key, ctx=ctx) as lease:
            assert lease is not None
        assert self.locks.held() == ()
        assert not [name for name in await self.harness.residue() if "lock" in name]

    @asynccontextmanager
    async def losing(self, lease: float = LEASE) -> AsyncGenerator[SessionLease]:
        """Hold the lock for a block that loses it, and expect the error at the end."""
        held: SessionLease | None = None
        with pytest.raises(LeaseLostError):
            async with self.locks.hold(KEY, lease) as held:
                yield held
        assert held is not None
        assert held.ended


def lock_ref(token: str) -> LockRef:
    """Return a reference to the lock on ``KEY`` outside all tenants."""
    return LockRef("", KEY, token)


async def lock_harness(harness: StoreHarness, **options: Any) -> LockHarness:
    """Return locks with these options on a fresh store."""
    return LockHarness(harness, await harness.open(), **options)
