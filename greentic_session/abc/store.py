"""What a backend implements: the steps that the store's verbs are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from ..model import Cas, SessionKey
    from .records import AllowedOwners, EncodedSession, Outcome, Page, Record

__all__ = ["StorePrimitives"]


class StorePrimitives(ABC):
    """The small steps under :class:`AsyncSessionStore`, on encoded records.

    Arguments are checked, fenced and encoded. Each primitive that writes is one atomic step,
    judges in this order (absent or expired, fence, exists or token), and changes nothing unless
    its verdict is DONE. `until` is what `_deadline` returned when the verb began, for verbs of
    several steps; `None` is a verb of this step alone. The primitives that are called most may be
    plain functions in a backend that waits for nothing: a coroutine costs as much as its step.
    """

    def _deadline(self) -> float | None:
        """Return the time by which a verb that begins now must end, in the backend's own terms."""
        return None

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
    async def _read_many(self, scope: str, keys: Sequence[SessionKey]) -> Sequence[Record | None]:
        """Return the live records in the order of ``keys``, which are at least one."""

    @abstractmethod
    async def _holders(self, key: SessionKey, until: float | None) -> Sequence[str]:
        """Return the scopes that hold a live record under ``key``."""

    @abstractmethod
    async def _page(self, scope: str, position: object | None, batch_size: int) -> Page:
        """Return live records of a scope from ``position`` on (``None``: the start).

        Over all pages each record is given once.
        """

    @abstractmethod
    async def _create(self, encoded: EncodedSession) -> Outcome:
        """Write if absent, with a new incarnation; else ``MISMATCH`` or ``EXISTS``."""

    @abstractmethod
    def _put(self, encoded: EncodedSession) -> Outcome | Awaitable[Outcome]:
        """Write; over a live record of the same owner the version grows by one."""

    @abstractmethod
    def _update_cas(
        self, encoded: EncodedSession, expected: Cas, until: float | None
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
        """Restart the life; ``None`` keeps its length.

        Without ``admission`` there is no fence, but ``AMBIGUOUS`` if another scope holds a live
        record under the key.
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
        """Remove; ``admission`` as in :meth:`_touch`."""
