"""The index of sessions of a memory store, and the steps of searches on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast, final

from anyio.lowlevel import checkpoint

from .._compat import override
from .._core.labels import NOT_COMPARED
from ..abc.finding import FindingBackend, Match, MatchPage, RebuildPage, SessionQuery
from ..model import SessionKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ..abc.records import Record
    from .records import Records

__all__ = ["MemoryFinding", "SessionIndex"]


@final
class SessionIndex:
    """The keys of the records of each user and label. A change of a record changes it as well.

    The entries of one session are a reference in a dict for its user, and one for each label. The
    record itself is the entry in its tenant. See ``README.md`` for the measured size.
    """

    def __init__(self) -> None:
        # By scope and user, or by scope and the text of a label.
        self._users: Final[dict[tuple[str, str], str | dict[str, None]]] = {}
        self._labels: Final[dict[tuple[str, str], str | dict[str, None]]] = {}

    def __len__(self) -> int:
        return len(self._users) + len(self._labels)

    def add(self, scope: str, key: str, owner: str, labels: str) -> None:
        """Add the entries of a record."""
        user = owner[owner.index("/") + 1 :]
        if user:
            _add(self._users, (scope, user), key)
        if labels and labels != NOT_COMPARED:
            for label in labels.split("\n"):
                _add(self._labels, (scope, label), key)

    def discard(self, scope: str, key: str, owner: str, labels: str) -> None:
        """Remove the entries of a record."""
        user = owner[owner.index("/") + 1 :]
        if user:
            _discard(self._users, (scope, user), key)
        if labels and labels != NOT_COMPARED:
            for label in labels.split("\n"):
                _discard(self._labels, (scope, label), key)

    def keys(self, query: SessionQuery) -> list[str]:
        """Return the keys of the condition of a query that has the fewest.

        :param query: a query with at least one condition.
        """
        scope, user, labels = query
        found: list[str | dict[str, None] | None] = [
            self._labels.get((scope, label)) for label in labels
        ]
        if user is not None:
            found.append(self._users.get((scope, user)))
        if None in found:
            return []
        smallest = min(
            cast("list[str | dict[str, None]]", found),
            key=lambda keys: 1 if isinstance(keys, str) else len(keys),
        )
        return [smallest] if isinstance(smallest, str) else list(smallest)

    def clear(self) -> None:
        """Remove everything."""
        self._users.clear()
        self._labels.clear()


def _add(
    index: dict[tuple[str, str], str | dict[str, None]], name: tuple[str, str], key: str
) -> None:
    keys = index.setdefault(name, key)
    # One key stands there itself, as a container costs more than it.
    if isinstance(keys, dict):
        keys[key] = None
    elif keys != key:
        index[name] = {keys: None, key: None}


def _discard(
    index: dict[tuple[str, str], str | dict[str, None]], name: tuple[str, str], key: str
) -> None:
    keys = index[name]
    if isinstance(keys, str):
        del index[name]
        return
    del keys[key]
    if len(keys) == 1:
        (index[name],) = keys


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
