"""The invocations and returns of operations in order, for a search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Timeline"]


@final
class Timeline:
    """Invocations and returns as a linked list. A placed operation is lifted out and put back.

    Entry ``n`` is the invocation of operation ``n``. Its return is entry ``n`` plus the number of
    operations.

    :param spans: invocation stamp of each operation, and its return stamp or ``None``.
    :ivar after: the next entry of each entry.
    :ivar open_ends: number of returns.
    """

    def __init__(self, spans: Sequence[tuple[int, int | None]]) -> None:
        size = len(spans)
        entries = [(invoked_at, 0, number) for number, (invoked_at, _) in enumerate(spans)]
        entries += [
            (returned_at, 1, number + size)  # equal stamps are concurrent
            for number, (_, returned_at) in enumerate(spans)
            if returned_at is not None
        ]
        entries.sort()
        self._size: Final = size
        self._ends: Final = [returned_at is not None for _, returned_at in spans]
        self.open_ends: int = len(entries) - size
        self.after: Final = [-1] * (2 * size + 1)
        self._ahead: Final = [-1] * (2 * size + 1)
        last = 2 * size
        for _, _, entry in entries:
            self.after[last], self._ahead[entry] = entry, last
            last = entry

    def first(self) -> int:
        """Return the first remaining entry."""
        return self.after[-1]

    def lift(self, entry: int) -> None:
        """Take an operation out, by its invocation."""
        self._unlink(entry)
        if self._ends[entry]:
            self._unlink(entry + self._size)
            self.open_ends -= 1

    def put_back(self, entry: int) -> None:
        """Undo the last :meth:`lift`."""
        if self._ends[entry]:
            self._link(entry + self._size)
            self.open_ends += 1
        self._link(entry)

    def _unlink(self, entry: int) -> None:
        before, behind = self._ahead[entry], self.after[entry]
        self.after[before] = behind
        if behind >= 0:
            self._ahead[behind] = before

    def _link(self, entry: int) -> None:
        before, behind = self._ahead[entry], self.after[entry]
        self.after[before] = entry
        if behind >= 0:
            self._ahead[behind] = entry
