"""The steps of searches that a backend implements, and their arguments and results."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from ..errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..model import SessionKey
    from .records import Record

__all__ = [
    "FindingBackend",
    "Match",
    "MatchPage",
    "RebuildPage",
    "SessionQuery",
    "SupportsFinding",
    "finding_backend_of",
]


class SessionQuery(NamedTuple):
    """The sessions to find in a tenant. All conditions must be true.

    :ivar scope: ``env/tenant``.
    :ivar user_id: user of the sessions. ``None`` means any.
    :ivar labels: texts of labels, as :mod:`greentic_session._core.labels` writes them.
    """

    scope: str
    user_id: str | None = None
    labels: tuple[str, ...] = ()


class Match(NamedTuple):
    """A live session that fits a query.

    :ivar key: its key.
    :ivar owner: its owner, ``team/user``. ``None`` if the record cannot be read.
    """

    key: SessionKey
    owner: str | None


class MatchPage(NamedTuple):
    """A page of the sessions that fit a query.

    :ivar matches: the sessions. A page before the last one may be empty, too.
    :ivar position: position of the next page, in the backend's own form. ``None`` after the last
        page.
    """

    matches: Sequence[Match]
    position: object | None


class RebuildPage(NamedTuple):
    """The result of one step of a rebuild.

    :ivar indexed: number of sessions whose entries were written.
    :ivar position: position of the next page. ``None`` after the last one.
    """

    indexed: int
    position: object | None


class FindingBackend(ABC):
    """The steps of searches. An index entry may be stale, because the record decides."""

    @abstractmethod
    async def has_index(self, query: SessionQuery, names: Sequence[str]) -> bool:
        """Return whether an index has every live session that fits a query.

        If not, the store walks all records of the scope with ``_page``.

        :param names: names of the labels of the query.
        """

    @abstractmethod
    async def mark_complete(self, scope: str | None, names: Sequence[str]) -> None:
        """Note that the indexes have every live session of a scope.

        :param scope: ``None`` for every scope, those to come included.
        :param names: names of the labels whose values have complete indexes as well.
        """

    @abstractmethod
    async def page(self, query: SessionQuery, position: object | None, size: int) -> MatchPage:
        """Return a page of the live sessions that have an entry and fit the query.

        Each record is checked. Over all pages, each session is returned once.

        :param position: position of the page, ``None`` for the first one.
        :param size: about how many entries to examine.
        """

    @abstractmethod
    async def rebuild(
        self,
        scope: str | None,
        position: object | None,
        labels_of: Callable[[SessionKey, Record], str],
    ) -> RebuildPage:
        """Write the missing entries of a page of records.

        :param scope: ``None`` for every scope.
        :param position: position of the page, ``None`` for the first one.
        :param labels_of: the function that returns the text of a record's labels.
        """


class SupportsFinding(ABC):
    """A store that can find sessions by owner and label."""

    @abstractmethod
    def _finding_backend(self) -> FindingBackend:
        """Return the steps of searches."""


def finding_backend_of(store: object) -> FindingBackend:
    """Return the backend of searches of a store.

    :raises InvalidInputError: the store does not support searches.
    """
    if not isinstance(store, SupportsFinding):
        raise InvalidInputError("store", f"{type(store).__name__} does not support searches")
    return store._finding_backend()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
