"""The async iterator over sessions, which reads them page by page.

It is not an async generator. So a loop that ends early need not close it, on any event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, Self, TypeVar, final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..abc.records import Page, Record, UnreadableRecord
    from ..model import SessionKey

__all__ = ["SessionScan"]

T = TypeVar("T")


@final
class SessionScan(Generic[T]):
    """The iterator that :meth:`AsyncSessionStore.scan` returns.

    :param fetch: the function that returns the page at a position. ``None`` is the start.
    :param visible: the function that tells whether to return records of an owner. A record whose
        owner cannot be read is always returned.
    :param decode: the function that converts a record into the result of a read. If it returns
        ``None``, the scan skips the record.
    :param limit: maximum number of results. ``None`` sets no limit.
    """

    def __init__(
        self,
        fetch: Callable[[object | None], Awaitable[Page]],
        visible: Callable[[str], bool],
        decode: Callable[[SessionKey, Record | UnreadableRecord], T | None],
        limit: int | None = None,
    ) -> None:
        self._fetch: Final = fetch
        self._visible: Final = visible
        self._decode: Final = decode
        self._left = limit
        self._pending: list[tuple[SessionKey, Record | UnreadableRecord]] = []
        self._position: object | None = None
        self._at_end = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while self._left != 0:
            while self._pending:
                key, record = self._pending.pop()
                if record.owner is None or self._visible(record.owner):
                    found = self._decode(key, record)
                    if found is not None:
                        if self._left is not None:
                            self._left -= 1
                        return found
            if self._at_end:
                break
            records, self._position = await self._fetch(self._position)
            self._pending = list(records)
            self._at_end = self._position is None
        raise StopAsyncIteration
