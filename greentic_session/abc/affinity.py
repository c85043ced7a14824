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
    """Return the affinity key of a key.

    :param scope: ``env/tenant``, empty for a key of no tenant.
    :param key: holds no control character, so no two pairs share an affinity key.
    """
    return f"{scope}\n{key}" if scope else key


def rendezvous(key: str, workers: Iterable[str]) -> str | None:
    r"""Return the worker that an affinity key is assigned to.

    That is the worker whose ``worker + "\n" + key``, in UTF-8, has the highest SHA-1. Of two with
    the same digest, it is the one whose name sorts last by bytes. When a worker leaves, only its
    keys move. When a worker joins, as one of n, about one key in n moves to it, from all others
    alike.

    :returns: ``None`` if there are no workers.
    """

    def weight(worker: str) -> tuple[bytes, str]:
        # Not a secret. SHA-1, because scripts on the server have it as well (Redis docs,
        # "redis.sha1hex"). Texts compare by code points, which is the order of their bytes in
        # UTF-8.
        whole = f"{worker}\n{key}".encode()
        return hashlib.sha1(whole, usedforsecurity=False).digest(), worker

    return max(workers, key=weight, default=None)


class MemberRecord(NamedTuple):
    """A live member.

    :ivar worker: its name.
    :ivar fence: fencing token of its membership.
    :ivar ends_ms: when its lease ends, in milliseconds since the epoch by the store's clock.
    """

    worker: str
    fence: int
    ends_ms: int


class MembershipOutcome(NamedTuple):
    """The outcome of a step on a membership.

    :ivar verdict: as of the step.
    :ivar fence: fencing token of the membership (``DONE``). It is higher than that of every earlier
        membership under the same name, and than every one that this object has seen. It is at least
        the store's time in microseconds.
    :ivar ends_ms: when the lease ends, in milliseconds since the epoch by the store's clock
        (``DONE``, and with ``CLAIMED`` that of the other member).
    :ivar left_ms: milliseconds of it that were left when the step was executed (``DONE``).
    """

    verdict: Verdict
    fence: int = 0
    ends_ms: int = 0
    left_ms: int = 0


class PlacementRecord(NamedTuple):
    """The placement of a key: the worker that serves it.

    :ivar worker: a live member.
    :ivar pinned: whether it serves the key by a pin.
    :ivar expires_ms: when the placement expires, in milliseconds since the epoch by the store's
        clock.
    """

    worker: str
    pinned: bool
    expires_ms: int


class PlacementPage(NamedTuple):
    """A page of the keys that a worker serves.

    :ivar keys: may be empty also before the last page.
    :ivar position: of the next page, in the backend's own form. ``None`` after the last page.
    """

    keys: Sequence[str]
    position: object | None


class AffinityBackend(ABC):
    """The steps of group membership and of the placement of keys.

    Arguments are checked. Each step is atomic, by the store's clock, and idempotent, so it is safe
    to repeat when its reply was lost. Any step may raise :class:`StoreUnavailableError`. One that
    writes may raise :class:`OutcomeUnknownError` as well.

    A member is live while ``now < ends_ms``. A placement is present while ``now < expires_ms``. The
    worker that *serves* its key is the first of these that is live: the worker that the key is
    pinned to, and the worker that it was assigned to last. If neither is live, no worker serves the
    key until it is assigned again. Members and placements are absent from the instant they expire.
    The backend frees their memory later, without a call.
    """

    # --- members -----------------------------------------------------------------------------

    @abstractmethod
    async def join(self, group: str, worker: str, attempt: str, lease_ms: int) -> MembershipOutcome:
        """Join the group, or restart the lease of the same attempt's membership.

        :param attempt: names the membership.
        :returns: ``DONE``, or ``CLAIMED`` if another live member has that name.
        """

    @abstractmethod
    async def renew(
        self, group: str, worker: str, attempt: str, lease_ms: int
    ) -> MembershipOutcome:
        """Extend the lease to at least ``lease_ms`` from now.

        :returns: ``DONE``, or ``LOST`` if it has ended.
        """

    @abstractmethod
    async def leave(self, group: str, worker: str, attempt: str) -> bool:
        """End the membership.

        :returns: ``False`` if it had ended.
        """

    @abstractmethod
    async def members(self, group: str) -> Sequence[MemberRecord]:
        """Return the live members, in no order."""

    # --- placements --------------------------------------------------------------------------

    @abstractmethod
    async def assign(self, group: str, key: str, ttl_ms: int) -> PlacementRecord | None:
        """Restart the placement's lifetime. If no worker serves the key, assign it to a member by
        :func:`rendezvous`.

        :param ttl_ms: lifetime of a placement that was absent, in milliseconds.
        :returns: ``None`` if no member is live. Then nothing was written.
        """

    @abstractmethod
    async def pin(self, group: str, key: str, worker: str, ttl_ms: int) -> None:
        """Pin the key to a worker, member or not. This replaces an earlier pin.

        :param ttl_ms: the placement's lifetime, which starts now, in milliseconds.
        """

    @abstractmethod
    async def unpin(self, group: str, key: str, ttl_ms: int) -> bool:
        """Remove the pin. The key stays with the worker that it was assigned to last, if any.

        :param ttl_ms: the placement's lifetime, which starts now, in milliseconds.
        :returns: ``False`` if it was not pinned.
        """

    @abstractmethod
    async def touch(self, group: str, key: str, ttl_ms: int | None) -> bool:
        """Restart the placement's lifetime.

        :param ttl_ms: the new lifetime in milliseconds. ``None`` keeps the stored one.
        :returns: ``False`` if the placement is absent.
        """

    @abstractmethod
    async def forget(self, group: str, key: str) -> bool:
        """Remove the placement, with its pin.

        :returns: ``False`` if it was absent.
        """

    @abstractmethod
    async def find(self, group: str, key: str) -> PlacementRecord | None:
        """Return the worker that serves a key, and change nothing."""

    @abstractmethod
    async def page(self, group: str, worker: str, position: object | None) -> PlacementPage:
        """Return a page of the keys that the worker serves.

        A key that the worker serves from the first page to the last is returned once.

        :param position: of the page, ``None`` for the first one.
        """


class SupportsAffinity(ABC):
    """A store with affinity."""

    @abstractmethod
    def affinity_backend(self) -> AffinityBackend:
        """Return the steps of affinity."""
