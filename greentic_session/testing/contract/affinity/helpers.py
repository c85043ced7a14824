"""Affinity on a store, and the workers that the suite on it uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast, final

import anyio

from ....abc.affinity import SupportsAffinity, rendezvous
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
"""Longer than any life here, and than any trace that a server keeps of a call."""
WORKERS: Final = ("w1", "w2", "w3", "w4")
_PATIENCE_SECS: Final = 20
"""However busy the machine is."""


def patience() -> anyio.CancelScope:
    """Return a limit on what a test waits for."""
    return cast("anyio.CancelScope", anyio.fail_after(_PATIENCE_SECS))


def keys(count: int) -> list[SessionKey]:
    """Return so many keys."""
    return [SessionKey(f"key-{number}") for number in range(count)]


@final
class AffinityHarness:
    """Affinity with its verbs in few words, of keys of no tenant.

    :ivar harness: of the test.
    :ivar store: that it is on.
    :ivar affinity: of one group.
    :ivar backend: its steps.
    """

    def __init__(
        self, harness: StoreHarness, store: AsyncSessionStore[Any], group: str, **options: Any
    ) -> None:
        self.harness: Final = harness
        self.store: Final = store
        self.group: Final = group
        self.affinity: Final = SessionAffinity(store, group, **options)
        self.backend: Final[AffinityBackend] = cast("SupportsAffinity", store).affinity_backend()

    async def join(self, *workers: str, lease: float = LIFE) -> list[int]:
        """Let workers join of whom nothing more is heard, and return their fences."""
        fences: list[int] = []
        for worker in workers:
            outcome = await self.backend.join(self.group, worker, f"{worker}!", round(lease * 1000))
            assert outcome.verdict is Verdict.DONE
            fences.append(outcome.fence)
        return fences

    async def leave(self, worker: str) -> None:
        """Let a worker leave that has joined so."""
        assert await self.backend.leave(self.group, worker, f"{worker}!") is True

    async def living(self) -> list[str]:
        """Return the names of the members."""
        return [member.worker for member in await self.affinity.members()]

    async def worker_for(
        self, key: str = KEY, *, caller: TenantCtx | None = None, pinned: bool = False
    ) -> str | None:
        """Return who is said to serve a key; ``pinned`` is whether that has to be by a pin."""
        placement = await self.affinity.worker_for(SessionKey(key), ctx=caller)
        assert placement is None or placement.pinned is pinned
        return None if placement is None else placement.worker

    async def server_of(
        self, key: str = KEY, *, caller: TenantCtx | None = None, pinned: bool = False
    ) -> str | None:
        """Return who serves a key now; ``pinned`` as in :meth:`worker_for`."""
        placement = await self.affinity.placement(SessionKey(key), ctx=caller)
        assert placement is None or placement.pinned is pinned
        return None if placement is None else placement.worker

    async def expiry(self, key: str = KEY) -> float:
        """Return when the key's placement expires, which must be there."""
        placement = await self.affinity.placement(SessionKey(key))
        assert placement is not None
        return placement.expires_at.timestamp()

    async def keys_of(self, worker: str, *, caller: TenantCtx | None = None) -> list[str]:
        """Return the keys that a worker serves, in order; each was given once."""
        found: list[str] = [key async for key in self.affinity.keys_of(worker, ctx=caller)]
        assert len(found) == len(set(found))
        return sorted(found)


def chosen(key: str, *workers: str) -> str:
    """Return the worker that a key of no tenant is placed at, of those that live."""
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
