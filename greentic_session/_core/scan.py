"""An async iterator over sessions that reads them page by page.

It is an object, not an async generator. A loop that leaves it early needs not close it, on any
event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, Self, final

from ..model import C, SessionKey, Versioned

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..abc.records import Page, Record

__all__ = ["SessionScan"]


@final
class SessionScan(Generic[C]):
    """The iterator that :meth:`AsyncSessionStore.scan` returns.

    :param fetch: returns the page at a position; ``None`` is the start.
    :param visible: tells whether records of an owner are given.
    :param decode: makes a read's result of a record.
    """

    def __init__(
        self,
        fetch: Callable[[object | None], Awaitable[Page]],
        visible: Callable[[str], bool],
        decode: Callable[[SessionKey, Record], Versioned[C]],
    ) -> None:
        self._fetch: Final = fetch
        self._visible: Final = visible
        self._decode: Final = decode
        self._pending: list[tuple[SessionKey, Record]] = []
        self._position: object | None = None
        self._at_end = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Versioned[C]:
        while True:
            while self._pending:
                key, record = self._pending.pop()
                if self._visible(record.owner):
                    return self._decode(key, record)
            if self._at_end:
                raise StopAsyncIteration
            records, self._position = await self._fetch(self._position)
            self._pending = list(records)
            self._at_end = self._position is None
