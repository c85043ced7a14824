"""The primitives that a backend implements. The store builds its verbs from them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from inspect import isawaitable
from typing import TYPE_CHECKING, TypeVar

from ..errors import SessionError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ..model import Cas, SessionKey
    from .fencing import LeaseRef
    from .records import AllowedOwners, EncodedSession, Outcome, Page, Record, UnreadableRecord

__all__ = ["StorePrimitives", "settled"]

_T = TypeVar("_T")


async def settled(step: Callable[[], Awaitable[_T]]) -> _T | SessionError:
    """Return the result of a step, or the error of this library that it raised."""
    try:
        return await step()
    except SessionError as error:
        return error.with_traceback(None)


class StorePrimitives(ABC):
    """The steps on encoded records from which :class:`AsyncSessionStore` builds its verbs.

    The store has checked and encoded the arguments. Each primitive that writes is one atomic step,
    and changes nothing unless its verdict is ``DONE``. It checks in this order: the lease, whether
    the record is absent or expired, its owner, whether it exists or its token.

    ``until`` is the result of ``_deadline`` at the start of a verb with several steps. ``None``
    means that this step is the whole verb. ``_create`` and ``_put`` get ``until`` only if it is not
    ``None``.

    ``lease`` is a lease that must be held for the write. If it is not held, the verdict is
    ``LOST``, even if no other holder has one. Only a backend that derives from
    :class:`.SupportsFencing` gets a value other than ``None``.

    In a backend without I/O, the most frequent primitives may be plain functions. A coroutine would
    double their cost.
    """

    def _deadline(self) -> float | None:
        """Return the deadline of a verb that begins now, in the backend's own form."""
        return None

    def _secs_left(self, until: float | None) -> float:  # noqa: ARG002 - a backend's clock
        """Return the seconds in which a verb may still begin a step that ends by ``until``.

        A step that begins later might not get its reply in time, so its outcome would be unknown.
        """
        return math.inf

    async def _open(self) -> None:
        """Start the background work of ``async with``. By default, there is none."""
        return

    @abstractmethod
    async def _aclose(self) -> None:
        """Release all resources. The store calls this once."""

    @abstractmethod
    async def _ping(self) -> None:
        """Check that the backend serves calls.

        :raises StoreUnavailableError: it does not.
        """

    @abstractmethod
    def _read(
        self, scope: str, key: SessionKey, until: float | None
    ) -> Record | Awaitable[Record | None] | None:
        """Return the live record, ``None`` if there is none."""

    async def _read_owner(self, scope: str, key: SessionKey, until: float | None) -> str | None:
        """Return the owner of the live record, ``None`` if there is none.

        By default, this reads the record.
        """
        record = self._read(scope, key, until)
        if isawaitable(record):
            record = await record
        return None if record is None else record.owner

    @abstractmethod
    async def _read_many(
        self, scope: str, keys: Sequence[SessionKey]
    ) -> Sequence[Record | UnreadableRecord | None]:
        """Return the live records in the order of ``keys``.

        To bound the bytes of a step, it may return only the records of the first keys, but at least
        one. Then the store calls it again for the rest. A record that cannot be read does not
        affect the others.

        :param keys: at least one key.
        """

    @abstractmethod
    async def _holders(self, key: SessionKey, until: float | None) -> Sequence[str]:
        """Return the scopes that hold a live record under ``key``. Two of them are enough."""

    @abstractmethod
    async def _page(self, scope: str, position: object | None, batch_size: int) -> Page:
        """Return a page of the live records of a scope.

        Over all pages, each record is returned once.

        :param position: position of the page, ``None`` for the first one.
        """

    async def _run_each(
        self, steps: Sequence[Callable[[], Awaitable[_T]]]
    ) -> list[_T | SessionError]:
        """Run independent steps, and return the result or the error of each one, in order.

        By default, one step follows the other. A backend with I/O runs them concurrently.
        """
        return [await settled(step) for step in steps]

    @abstractmethod
    async def _create(self, encoded: EncodedSession, *, until: float | None = None) -> Outcome:
        """Write an absent record with a new incarnation, or return ``MISMATCH`` or ``EXISTS``."""

    @abstractmethod
    def _put(
        self, encoded: EncodedSession, lease: LeaseRef | None, *, until: float | None = None
    ) -> Outcome | Awaitable[Outcome]:
        """Write the record. If one of the same owner is live, its version grows by one."""

    @abstractmethod
    def _update_cas(
        self, encoded: EncodedSession, expected: Cas, until: float | None, lease: LeaseRef | None
    ) -> Outcome | Awaitable[Outcome]:
        """Write if the token is ``expected``, otherwise return ``MISMATCH`` or ``CONFLICT``."""

    @abstractmethod
    async def _replace(
        self, encoded: EncodedSession, expected: Cas, *, until: float | None = None
    ) -> Outcome:
        """End the live incarnation and write the record as version 1 of a new one.

        The wait, the claim and the completed events end as in :meth:`_delete`. The team must be the
        stored one, the user may differ. The verdict is ``MISMATCH`` for another team, and
        ``CONFLICT`` if the token is not ``expected`` or no record is live.
        """

    @abstractmethod
    def _touch(
        self,
        scope: str,
        key: SessionKey,
        ttl_ms: int | None,
        allowed: AllowedOwners | None,
        until: float | None,
    ) -> Outcome | Awaitable[Outcome]:
        """Restart the lifetime.

        :param ttl_ms: new lifetime in milliseconds. ``None`` keeps the stored one.
        :param allowed: the allowed owners. ``None`` skips the access check. Then the verdict is
            ``AMBIGUOUS`` if another scope holds a live record under the key.
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
