"""The primitives that a backend implements, and from which the store builds its verbs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from ..model import Cas, SessionKey
    from .fencing import LeaseRef
    from .records import AllowedOwners, EncodedSession, Outcome, Page, Record, UnreadableRecord

__all__ = ["StorePrimitives"]


class StorePrimitives(ABC):
    """The small steps under :class:`AsyncSessionStore`, on encoded records.

    The store has checked and encoded the arguments. Each primitive that writes is one atomic step
    and changes nothing unless its verdict is ``DONE``. It checks in this order: lease, absent or
    expired, owner, exists or token.

    ``until`` is the result of ``_deadline`` at the start of a verb that takes several steps.
    ``None`` means that this step is the whole verb.

    ``lease`` is a lease that must hold for the write. If it does not hold, the verdict is ``LOST``,
    whether or not another holder has one. Only a backend that derives from
    :class:`.SupportsFencing` gets anything but ``None``.

    The most frequent primitives may be plain functions in a backend that waits for nothing. A
    coroutine would double their cost.
    """

    def _deadline(self) -> float | None:
        """Return the time by which a verb that begins now must end, in the backend's own terms."""
        return None

    def _secs_left(self, until: float | None) -> float:  # noqa: ARG002 - a backend's clock
        """Return for how many seconds a verb may still begin a step that ends by ``until``.

        A step that begins later might be cut off, and then its outcome is unknown.
        """
        return math.inf

    async def _open(self) -> None:
        """Start what runs while the store is held by ``async with``: nothing."""
        return

    @abstractmethod
    async def _aclose(self) -> None:
        """Release everything. Called once."""

    @abstractmethod
    async def _ping(self) -> None:
        """Return if the backend serves, else raise :class:`StoreUnavailableError`."""

    @abstractmethod
    def _read(
        self, scope: str, key: SessionKey, until: float | None
    ) -> Record | Awaitable[Record | None] | None:
        """Return the live record."""

    @abstractmethod
    async def _read_many(
        self, scope: str, keys: Sequence[SessionKey]
    ) -> Sequence[Record | UnreadableRecord | None]:
        """Return the live records in the order of ``keys``, which are at least one.

        It may return those of the first keys only, at least of one, to bound the bytes of a step.
        Then it is called again for the rest. A record that cannot be read does not affect the
        others.
        """

    @abstractmethod
    async def _holders(self, key: SessionKey, until: float | None) -> Sequence[str]:
        """Return the scopes that hold a live record under ``key``, or two of them."""

    @abstractmethod
    async def _page(self, scope: str, position: object | None, batch_size: int) -> Page:
        """Return live records of a scope from ``position`` on (``None``: the start).

        Over all pages each record is given once.
        """

    @abstractmethod
    async def _create(self, encoded: EncodedSession) -> Outcome:
        """Write if absent, with a new incarnation; else ``MISMATCH`` or ``EXISTS``."""

    @abstractmethod
    def _put(self, encoded: EncodedSession, lease: LeaseRef | None) -> Outcome | Awaitable[Outcome]:
        """Write. Over a live record of the same owner the version grows by one."""

    @abstractmethod
    def _update_cas(
        self, encoded: EncodedSession, expected: Cas, until: float | None, lease: LeaseRef | None
    ) -> Outcome | Awaitable[Outcome]:
        """Write if the token is ``expected``; else ``MISMATCH`` or ``CONFLICT``."""

    @abstractmethod
    def _touch(
        self,
        scope: str,
        key: SessionKey,
        ttl_ms: int | None,
        allowed: AllowedOwners | None,
        until: float | None,
    ) -> Outcome | Awaitable[Outcome]:
        """Restart the lifetime. A ``ttl_ms`` of ``None`` keeps its length.

        Without ``allowed`` there is no access check. Then the verdict is ``AMBIGUOUS`` if another
        scope holds a live record under the key.
        """

    @abstractmethod
    async def _delete(
        self,
        scope: str,
        key: SessionKey,
        allowed: AllowedOwners | None,
        expected: Cas | None,
        until: float | None,
    ) -> Outcome:
        """Remove the record. ``allowed`` is as in :meth:`_touch`."""
