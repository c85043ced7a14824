"""The index of a memory store's sessions by user and label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast, final

from .._core.labels import NOT_COMPARED

if TYPE_CHECKING:
    from ..abc.finding import SessionQuery

__all__ = ["SessionIndex"]


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
