"""Affinity on a store, and the workers that the affinity contract uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast, final

import anyio

from ....abc.affinity import affinity_backend_of, rendezvous
from ....abc.records import Verdict
from ....model import SessionKey
from ....ordering import SessionAffinity
from ..samples import KEY, LIFE

if TYPE_CHECKING:
    from datetime import timedelta

    from ....abc.affinity import AffinityBackend
    from ....model import TenantCtx
    from ....store import AsyncSessionStore
    from ...harness import StoreHarness

__all__ = ["HOUR", "WORKERS", "AffinityHarness", "affinity_harness", "chosen", "keys", "patience"]

HOUR: Final = 3600.0
"""One hour in seconds. It exceeds every lifetime here and every trace of a call on a server."""
WORKERS: Final = ("w1", "w2", "w3", "w4")
_PATIENCE_SECS: Final = 20
"""Limit in seconds, generous because the machine may be busy."""


def patience() -> anyio.CancelScope:
    """Return a time limit for a test's waiting."""
    return cast("anyio.CancelScope", anyio.fail_after(_PATIENCE_SECS))


def keys(count: int) -> list[SessionKey]:
    """Return this number of keys."""
    return [SessionKey(f"key-{number}") for number in range(count)]


@final
class AffinityHarness:
    """Affinity with short verbs, for keys without a tenant.

    :ivar harness: the test's harness.
    :ivar store: the store.
    :ivar affinity: the affinity of one group.
    :ivar backend: the store's affinity backend.
    """

    def __init__(
        self, harness: StoreHarness, store: AsyncSessionStore[Any], group: str, **options: Any
    ) -> None:
        self.harness: Final = harness
        self.store: Final = store
        self.group: Final = group
        self.affinity: Final = SessionAffinity(store, group, **options)
        self.backend: Final[AffinityBackend] = affinity_backend_of(store)

    async def join(self, *workers: str, lease: float = LIFE) -> list[int]:
        """Join workers that never renew, and return their fencing tokens."""
        fences: list[int] = []
        for worker in workers:
            outcome = await self.backend.join(self.group, worker, f"{worker}!", round(lease * 1000))
            assert outcome.verdict is Verdict.DONE
            fences.append(outcome.fence)
        return fences

    async def leave(self, worker: str) -> None:
        """Make a worker leave that joined with :meth:`join`."""
        assert await self.backend.leave(self.group, worker, f"{worker}!") is True

    async def living(self) -> list[str]:
        """Return the names of the members."""
        return [member.worker for member in await self.affinity.members()]

    async def worker_for(
        self, key: str = KEY, *, caller: TenantCtx | None = None, pinned: bool = False
    ) -> str | None:
        """Return the worker that is chosen for a key.

        :param pinned: whether the choice must be a pin.
        """
        placement = await self.affinity.worker_for(SessionKey(key), ctx=caller)
        assert placement is None or placement.pinned is pinned
        return None if placement is None else placement.worker

    async def server_of(
        self, key: str = KEY, *, caller: TenantCtx | None = None, pinned: bool = False
    ) -> str | None:
        """Return the worker that serves a key now.

        :param pinned: whether the placement must be a pin.
        """
        placement = await self.affinity.placement(SessionKey(key), ctx=caller)
        assert placement is None or placement.pinned is pinned
        return None if placement is None else placement.worker

    async def expiry(self, key: str = KEY) -> float:
        """Return the expiry of the key's placement, which must exist."""
        placement = await self.affinity.placement(SessionKey(key))
        assert placement is not None
        return placement.expires_at.timestamp()

    async def keys_of(self, worker: str, *, caller: TenantCtx | None = None) -> list[str]:
        """Return the keys that a worker serves, in order. Each key is listed once."""
        found: list[str] = [key async for key in self.affinity.keys_of(worker, ctx=caller)]
        assert len(found) == len(set(found))
        return sorted(found)


def chosen(key: str, *workers: str) -> str:
    """Return the worker, of those that live, at which a key without a tenant is placed."""
    worker = rendezvous(key, workers)
    assert worker is not None
    return worker


async def affinity_harness(
    harness: StoreHarness,
    group: str = "default",
    *,
    ttl: timedelta | float = LIFE,
    workers: tuple[str, ...] = (),
) -> AffinityHarness:
    """Return affinity on a fresh store, with members whose lease is an hour."""
    at = AffinityHarness(harness, await harness.open(), group, ttl=ttl)
    await at.join(*workers, lease=HOUR)
    return at
