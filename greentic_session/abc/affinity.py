"""The steps of affinity that a backend implements: group membership and placement of keys.

Affinity is an optional capability of a store. A worker is a *member* of its group while its lease
lasts. Meanwhile no other member has its name. A *placement* assigns an affinity key to a member. An
affinity key is a key of one tenant, or of no tenant. It stays with its member while that member is
live. Then rendezvous hashing assigns it to another one (D. Thaler and C. Ravishankar, "Using
Name-Based Mappings to Increase Hit Rates", IEEE/ACM Transactions on Networking 6(1), 1998). That
decision only needs the list of members.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from ..errors import InvalidInputError

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
    "affinity_backend_of",
    "affinity_key",
    "rendezvous",
]


def affinity_key(scope: str, key: str) -> str:
    """Return the affinity key of a key.

    :param scope: ``env/tenant``, empty for a key of no tenant.
    :param key: the key. It holds no control character, so no two pairs share an affinity key.
    """
    return f"{scope}\n{key}" if scope else key


def rendezvous(key: str, workers: Iterable[str]) -> str | None:
    r"""Return the worker that an affinity key is assigned to.

    It is the worker with the highest SHA-1 of ``worker + "\n" + key`` in UTF-8. Of two workers with
    the same digest, it is the one whose name sorts last by bytes. If a worker leaves, only its keys
    move. If a worker joins as one of n, about one key in n moves to it, evenly from all others.

    :returns: ``None`` if there are no workers.
    """

    def weight(worker: str) -> tuple[bytes, str]:
        # The digest is not a secret. Scripts on the server can compute SHA-1 (Redis docs,
        # "redis.sha1hex"). Python compares texts by code points, which is the order of their bytes
        # in UTF-8.
        whole = f"{worker}\n{key}".encode()
        return hashlib.sha1(whole, usedforsecurity=False).digest(), worker

    return max(workers, key=weight, default=None)


class MemberRecord(NamedTuple):
    """A live member.

    :ivar worker: name of the worker.
    :ivar fence: fencing token of the membership.
    :ivar ends_ms: when the lease ends, in milliseconds since the epoch by the store's clock.
    """

    worker: str
    fence: int
    ends_ms: int


class MembershipOutcome(NamedTuple):
    """The outcome of a step on a membership.

    :ivar verdict: verdict of the step.
    :ivar fence: fencing token of the membership, with ``DONE``. It is higher than the token of
        every earlier membership under the same name, and than every token that this object has
        seen. It is at least the store's time in microseconds.
    :ivar ends_ms: when the lease ends, in milliseconds since the epoch by the store's clock. With
        ``DONE`` it is the member's own lease, with ``CLAIMED`` that of the other member.
    :ivar left_ms: milliseconds of the lease that were left when the step was executed, with
        ``DONE``.
    """

    verdict: Verdict
    fence: int = 0
    ends_ms: int = 0
    left_ms: int = 0


class PlacementRecord(NamedTuple):
    """The placement of a key: the worker that serves it.

    :ivar worker: name of a live member.
    :ivar pinned: whether the worker serves the key because of a pin.
    :ivar expires_ms: when the placement expires, in milliseconds since the epoch by the store's
        clock.
    """

    worker: str
    pinned: bool
    expires_ms: int


class PlacementPage(NamedTuple):
    """A page of the keys that a worker serves.

    :ivar keys: the keys. A page before the last one may be empty, too.
    :ivar position: position of the next page, in the backend's own form. ``None`` after the last
        page.
    """

    keys: Sequence[str]
    position: object | None


class AffinityBackend(ABC):
    """The steps of group membership and of the placement of keys.

    The arguments have been checked. Each step is atomic and idempotent, and uses the store's clock.
    So a caller may repeat it if its reply was lost. Any step may raise
    :class:`StoreUnavailableError`. A step that writes may also raise :class:`OutcomeUnknownError`.

    A member is live while ``now < ends_ms``. A placement is present while ``now < expires_ms``. The
    worker that *serves* a key is the worker that the key is pinned to, if that one is live.
    Otherwise it is the worker that the key was assigned to last, if that one is live. If neither is
    live, no worker serves the key until it is assigned again. Members and placements are absent
    from the instant they expire. The backend frees their memory later, without a call.
    """

    # --- members -----------------------------------------------------------------------------

    @abstractmethod
    async def join(self, group: str, worker: str, attempt: str, lease_ms: int) -> MembershipOutcome:
        """Join the group, or restart the lease of the same attempt's membership.

        :param attempt: text that identifies the membership.
        :returns: ``DONE``, or ``CLAIMED`` if another live member has that name.
        """

    @abstractmethod
    async def renew(
        self, group: str, worker: str, attempt: str, lease_ms: int
    ) -> MembershipOutcome:
        """Extend the lease to at least ``lease_ms`` from now.

        :returns: ``DONE``, or ``LOST`` if the membership has ended.
        """

    @abstractmethod
    async def leave(self, group: str, worker: str, attempt: str) -> bool:
        """End the membership.

        :returns: ``False`` if the membership had ended already.
        """

    @abstractmethod
    async def members(self, group: str) -> Sequence[MemberRecord]:
        """Return the live members, in no particular order."""

    # --- placements --------------------------------------------------------------------------

    @abstractmethod
    async def assign(self, group: str, key: str, ttl_ms: int) -> PlacementRecord | None:
        """Restart the placement's lifetime. If no worker serves the key, assign it to a member by
        :func:`rendezvous`.

        :param ttl_ms: lifetime of a placement that was absent, in milliseconds.
        :returns: ``None`` if no member is live. In that case, nothing was written.
        """

    @abstractmethod
    async def pin(self, group: str, key: str, worker: str, ttl_ms: int) -> None:
        """Pin the key to a worker, member or not. This replaces an earlier pin.

        :param ttl_ms: lifetime of the placement from now, in milliseconds.
        """

    @abstractmethod
    async def unpin(self, group: str, key: str, ttl_ms: int) -> bool:
        """Remove the pin. The key stays with the worker that it was assigned to last, if any.

        :param ttl_ms: lifetime of the placement from now, in milliseconds.
        :returns: ``False`` if the key was not pinned.
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

        :returns: ``False`` if the placement was absent.
        """

    @abstractmethod
    async def find(self, group: str, key: str) -> PlacementRecord | None:
        """Return the worker that serves a key, without any change."""

    @abstractmethod
    async def page(self, group: str, worker: str, position: object | None) -> PlacementPage:
        """Return a page of the keys that the worker serves.

        Over all pages, a key that the worker serves the whole time is returned once.

        :param position: position of the page, ``None`` for the first one.
        """


class SupportsAffinity(ABC):
    """A store with affinity."""

    @abstractmethod
    def _affinity_backend(self) -> AffinityBackend:
        """Return the steps of affinity."""


def affinity_backend_of(store: object) -> AffinityBackend:
    """Return the backend of affinity of a store.

    :raises InvalidInputError: the store does not support affinity.
    """
    if not isinstance(store, SupportsAffinity):
        raise InvalidInputError("store", f"{type(store).__name__} does not support affinity")
    return store._affinity_backend()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
