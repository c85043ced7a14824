"""The steps of searches in a memory store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast, final

from anyio.lowlevel import checkpoint

from .._compat import override
from ..abc.finding import FindingBackend, Match, MatchPage, RebuildPage, SessionQuery
from ..model import SessionKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ..abc.records import Record
    from .records import Records

__all__ = ["MemoryFinding"]


@final
class MemoryFinding(FindingBackend):
    """Finds sessions in the index of a memory store, which is always complete.

    :param records: the records of the store.
    :param now_ms: the function that every verb of the store calls first.
    """

    def __init__(self, records: Records, now_ms: Callable[[], int]) -> None:
        self._records: Final = records
        self._now_ms: Final = now_ms

    @override
    async def has_index(
        self,
        query: SessionQuery,
        names: Sequence[str],  # noqa: ARG002 - the index of every label is complete
    ) -> bool:
        """As :meth:`FindingBackend.has_index`."""
        # The records of a tenant are an index of it.
        return bool(query.labels) or query.user_id is not None

    @override
    async def mark_complete(
        self,
        scope: str | None,  # noqa: ARG002 - the index is always complete
        names: Sequence[str],  # noqa: ARG002 - as above
    ) -> None:
        """As :meth:`FindingBackend.mark_complete`."""
        return

    @override
    async def page(self, query: SessionQuery, position: object | None, size: int) -> MatchPage:
        """As :meth:`FindingBackend.page`."""
        if position is None:
            keys, start = self._records.index.keys(query), 0
        else:
            keys, start = cast("tuple[list[str], int]", position)
            await checkpoint()  # a search among many sessions lets other tasks run
        end = start + size
        found = list(self._matching(query, keys[start:end]))
        return MatchPage(found, (keys, end) if end < len(keys) else None)

    def _matching(self, query: SessionQuery, keys: Iterable[str]) -> Iterable[Match]:
        scope, user, labels = query
        now_ms = self._now_ms()
        for key in keys:
            record = self._records.live(scope, key, now_ms)
            if (
                record is not None
                and (user is None or record.owner.partition("/")[2] == user)
                and (not labels or set(labels) <= set(record.labels.split("\n")))
            ):
                yield Match(SessionKey(key), record.owner)

    @override
    async def rebuild(
        self,
        scope: str | None,  # noqa: ARG002 - as above
        position: object | None,  # noqa: ARG002 - as above
        labels_of: Callable[[SessionKey, Record], str],  # noqa: ARG002 - as above
    ) -> RebuildPage:
        """As :meth:`FindingBackend.rebuild`."""
        return RebuildPage(0, None)
