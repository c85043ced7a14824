"""The steps of affinity that a backend implements: group membership and placement of keys.

Affinity is an optional capability of a store. A worker is a *member* of its group for as long as
its lease lasts. Meanwhile no other member has its name. A *placement* assigns an affinity key to a
member. An affinity key is a key of one tenant or of none. It stays with its member for as long as
that member lives. Then it is assigned again by rendezvous hashing (D. Thaler and C. Ravishankar,
"Using Name-Based Mappings to Increase Hit Rates", IEEE/ACM Transactions on Networking 6(1), 1998).
That decision needs the list of members only.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .records import Verdict

__all__ = [
    "AffinityBackend",
    "MemberRecord",
    "MembershipOutcome",
    "PlacementPage",
    "PlacementRecord",
    "SupportsAffinity",
    "affinity_key",
    "rendezvous",
]


def affinity_key(scope: str, key: str) -> str:
    """Return the name of a key's place.

    :param scope: ``env/tenant``; empty for a key of no tenant.
    :param key: holds no control character, so that no two places share a name.
    """
    return f"{scope}\n{key}" if scope else key


def rendezvous(key: str, workers: Iterable[str]) -> str | None:
    r"""Return the worker that a place is given to.

    That is the one whose ``worker + "\n" + place``, in UTF-8, has the highest SHA-1; of two that
    have the same, the one whose name comes last, byte by byte. When a worker goes, its places alone
    go elsewhere; when one comes, of n it gets about one place in n, from all others alike.

    :returns: ``None`` if there are no workers.
    """

    def weight(worker: str) -> tuple[bytes, str]:
        # Not a secret: what counts is that servers have it, too (Redis docs, "redis.sha1hex").
        # Texts compare by code points, which is the order of their bytes in UTF-8.
        whole = f"{worker}\n{key}".encode()
        return hashlib.sha1(whole, usedforsecurity=False).digest(), worker

    return max(workers, key=weight, default=None)


class MemberRecord(NamedTuple):
    """A member, as others see it.

    :ivar worker: its name.
    :ivar fence: number of its membership.
    :ivar ends_ms: when its lease ends, milliseconds since the epoch by the store's clock.
    """

    worker: str
    fence: int
    ends_ms: int


class MembershipOutcome(NamedTuple):
    """The end of a step on a membership.

    :ivar verdict: what happened.
    :ivar fence: number of the membership (``DONE``), higher than that of every earlier one under
        the same name and than any that this object has seen granted, and at least the store's time
        in microseconds.
    :ivar ends_ms: when the lease ends, milliseconds since the epoch by the store's clock (``DONE``,
        and with ``CLAIMED`` that of the other member).
    :ivar left_ms: how much of it was left when the step was done (``DONE``).
    """

    verdict: Verdict
    fence: int = 0
    ends_ms: int = 0
    left_ms: int = 0


class PlacementRecord(NamedTuple):
    """Who serves a place.

    :ivar worker: a live member.
    :ivar pinned: whether it serves by a pin.
    :ivar expires_ms: when the placement expires, milliseconds since the epoch by the store's clock.
    """

    worker: str
    pinned: bool
    expires_ms: int


class PlacementPage(NamedTuple):
    """Some places of a worker.

    :ivar places: may be none before the end.
    :ivar position: where the next page starts, in the backend's own terms; ``None`` is the end.
    """

    keys: Sequence[str]
    position: object | None


class AffinityBackend(ABC):
    """The steps that the membership of workers and the placing of keys are made of.

    Arguments are checked. Each step is atomic, by the store's clock, and safe to repeat when its
    answer was lost: a repeated step comes to what the first one came to. Every step may raise
    :class:`StoreUnavailableError`; those that write, :class:`OutcomeUnknownError` as well.

    A member lives while ``now < ends_ms``. A placement is there while ``now < expires_ms``; it is
    *served* by its pinned worker if that one lives, else by the one it was given to last, if that
    one lives, else by nobody, until it is assigned again. What has ended is absent at once, and
    its memory is freed in time without anybody's doing.
    """

    # --- members -----------------------------------------------------------------------------

    @abstractmethod
    async def join(self, group: str, worker: str, attempt: str, lease_ms: int) -> MembershipOutcome:
        """Become a member; or let the lease of the same attempt's membership begin anew.

        :param attempt: names the membership.
        :returns: ``DONE``; ``CLAIMED`` if a member of that name lives.
        """

    @abstractmethod
    async def renew(
        self, group: str, worker: str, attempt: str, lease_ms: int
    ) -> MembershipOutcome:
        """Let the lease end no sooner than ``lease_ms`` from now.

        :returns: ``DONE``; ``LOST`` if it has ended.
        """

    @abstractmethod
    async def leave(self, group: str, worker: str, attempt: str) -> bool:
        """End the membership.

        :returns: ``False`` if it had ended.
        """

    @abstractmethod
    async def members(self, group: str) -> Sequence[MemberRecord]:
        """Return those that live, in no order."""

    # --- places ------------------------------------------------------------------------------

    @abstractmethod
    async def assign(self, group: str, key: str, ttl_ms: int) -> PlacementRecord | None:
        """Begin the placement's life anew; give it to a member by :func:`rendezvous` if nobody
        serves it.

        :param ttl_ms: life of a placement that was not there, in milliseconds.
        :returns: ``None`` if no member lives; nothing was written.
        """

    @abstractmethod
    async def pin(self, group: str, key: str, worker: str, ttl_ms: int) -> None:
        """Pin the place to a worker, member or not, instead of any it was pinned to.

        :param ttl_ms: the placement's life, which begins now, in milliseconds.
        """

    @abstractmethod
    async def unpin(self, group: str, key: str, ttl_ms: int) -> bool:
        """Take the pin away: the place stays with the worker that it was given to last, if any.

        :param ttl_ms: the placement's life, which begins now, in milliseconds.
        :returns: ``False`` if it was not pinned.
        """

    @abstractmethod
    async def touch(self, group: str, key: str, ttl_ms: int | None) -> bool:
        """Begin the placement's life anew; ``None`` keeps its length.

        :returns: ``False`` if it is not there.
        """

    @abstractmethod
    async def forget(self, group: str, key: str) -> bool:
        """Remove the placement, pin and all.

        :returns: ``False`` if it was not there.
        """

    @abstractmethod
    async def find(self, group: str, key: str) -> PlacementRecord | None:
        """Return who serves a place, and change nothing."""

    @abstractmethod
    async def page(self, group: str, worker: str, position: object | None) -> PlacementPage:
        """Return places that the worker serves from ``position`` on (``None``: the start).

        Over all pages each place is given once that the worker serves from first to last.
        """


class SupportsAffinity(ABC):
    """A store that can say which worker serves a key."""

    @abstractmethod
    def affinity_backend(self) -> AffinityBackend:
        """Return the steps that affinity is made of."""
