"""Random calls on affinity from a seed, with the same results on every store."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

from greentic_session import SessionKey, TenantCtx
from greentic_session.ordering import SessionAffinity

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from greentic_session.abc.affinity import AffinityBackend

Step = tuple[str, str, str]
"""Verb, key and worker."""
WORKERS: Final = ("w1", "w2", "w3")
LEASE_MS: Final = 600_000
CTX: Final = TenantCtx(tenant_id="acme")


class Caller:
    """Makes calls on the affinity of a group, and returns their results.

    The results are the same on every store.
    """

    def __init__(self, store: Any, group: str) -> None:
        self.group = group
        self.backend: AffinityBackend = store._affinity_backend()
        self.affinity = SessionAffinity(store, group)

    async def told(self, step: Step) -> object:
        """Return the result of a step, without times and fencing tokens."""
        verb, name, worker = step
        key = SessionKey(name)
        match verb:
            case "join":
                attempt = f"{worker}-{name}"
                return (await self.backend.join(self.group, worker, attempt, LEASE_MS)).verdict
            case "renew":
                attempt = f"{worker}-{name}"
                return (await self.backend.renew(self.group, worker, attempt, LEASE_MS)).verdict
            case "leave":
                return await self.backend.leave(self.group, worker, f"{worker}-{name}")
            case "worker_for" | "placement":
                verbs = {
                    "worker_for": self.affinity.worker_for,
                    "placement": self.affinity.placement,
                }
                placement = await verbs[verb](key, ctx=CTX)
                return placement and (placement.worker, placement.pinned)
            case "pin":
                await self.affinity.pin(key, worker, ctx=CTX)
                return None
            case "members":
                return [member.worker for member in await self.affinity.members()]
            case "keys_of":
                return sorted([key async for key in self.affinity.keys_of(worker, ctx=CTX)])
            case _:
                change: Callable[..., Awaitable[bool]] = getattr(self.affinity, verb)
                return await change(key, ctx=CTX)


VERBS: Final = (
    *("join", "join", "renew", "leave", "worker_for", "worker_for", "worker_for", "placement"),
    *("pin", "unpin", "touch", "forget", "members", "keys_of"),
)


def steps(seed: int, count: int) -> Iterator[Step]:
    """Return this number of calls, chosen by a seed."""
    dice = random.Random(seed)
    for _ in range(count):
        yield dice.choice(VERBS), dice.choice("abcd"), dice.choice(WORKERS)
