"""Writes that a lease guards, in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from .._compat import override
from ..abc.fencing import FencedWrites
from ..abc.records import Outcome, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..abc.fencing import LeaseKind, LeaseRef
    from ..abc.records import EncodedSession
    from ..model import Cas

__all__ = ["MemoryFencedWrites"]

_LOST: Final = Outcome(Verdict.LOST)


@final
class MemoryFencedWrites(FencedWrites):
    """Looks at the lease, then writes: neither waits for anything, so both are one step.

    :param put: the store's.
    :param update_cas: the store's.
    :ivar is_held: per kind of lease, what tells whether one holds.
    """

    def __init__(
        self,
        put: Callable[[EncodedSession], Outcome],
        update_cas: Callable[[EncodedSession, Cas, float | None], Outcome],
    ) -> None:
        self._put: Final = put
        self._update_cas: Final = update_cas
        self.is_held: Final[dict[LeaseKind, Callable[[LeaseRef], bool]]] = {}

    @override
    async def put(self, encoded: EncodedSession, guard: LeaseRef) -> Outcome:
        """As :meth:`FencedWrites.put`."""
        return self._put(encoded) if self._holds(guard) else _LOST

    @override
    async def update_cas(self, encoded: EncodedSession, expected: Cas, guard: LeaseRef) -> Outcome:
        """As :meth:`FencedWrites.update_cas`."""
        return self._update_cas(encoded, expected, None) if self._holds(guard) else _LOST

    def _holds(self, guard: LeaseRef) -> bool:
        is_held = self.is_held.get(guard.kind)
        return is_held is not None and is_held(guard)
