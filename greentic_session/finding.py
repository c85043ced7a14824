"""The verbs that find a tenant's sessions, by owner and by label. Every store has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple, cast, final, overload

from ._core import tenancy
from ._core.labels import labels_of, query_labels
from ._core.scan import SessionScan
from ._core.unreadable import OnError, decoder_of
from ._core.verbs.base import VerbBase
from ._validation import check_user, require_int
from .abc.finding import Match, MatchPage, SessionQuery, SupportsFinding, finding_backend_of
from .abc.records import Page, Record
from .errors import InvalidInputError
from .model import C, SessionKey, TenantCtx, Versioned

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from .abc.finding import FindingBackend
    from .abc.records import UnreadableRecord, UnreadableSession

__all__ = ["SessionFinding"]

_PAGE: Final = 256
_NO_LABELS: Final[Mapping[str, str | int | bool]] = {}


class SessionFinding(VerbBase[C]):
    """The part of :class:`AsyncSessionStore` that finds sessions."""

    @final
    def find(
        self,
        ctx: TenantCtx,
        *,
        user_id: str | None = None,
        labels: Mapping[str, str | int | bool] = _NO_LABELS,
        limit: int | None = None,
        fenced: bool = False,
    ) -> AsyncIterator[Versioned[C]]:
        """Iterate over a tenant's live sessions of a user, or with labels.

        Every session is read before it is returned, so it has the user and the labels. The order is
        undefined. A session that fits during the whole search is returned exactly once. A loop may
        end early, and needs no cleanup. The iteration can continue after a :class:`DecodeError`.

        :param ctx: env and tenant. If it has a team or user, only sessions that are accessible to
            that team or user are returned, as in :meth:`scan`.
        :param user_id: user of the sessions, in any team that ``ctx`` may access.
        :param labels: values of indexed labels. All of them must match. ``1``, ``True`` and ``"1"``
            are different values.
        :param limit: maximum number of sessions. ``None`` sets no limit.
        :param fenced: return only sessions that :meth:`get` with this ``ctx`` would return.
        :raises InvalidInputError: also if a label is not in ``indexed_labels``. While iterating, if
            :meth:`rebuild_index` has not run with it.
        :raises DecodeError: while iterating, as :meth:`get`.
        """
        query, visible = self._query(ctx, user_id, labels, fenced=fenced)
        check_limit(limit)
        search = self._search(query, tuple(labels), visible)
        decode = decoder_of(self._encoder.decode, "raise")

        def fitting(key: SessionKey, record: Record | UnreadableRecord) -> Versioned[C] | None:
            found = cast("Versioned[C]", decode(key, record))
            if not query.labels:
                return found
            # Another writer may have changed the session since its entry was checked.
            texts = labels_of(self.indexed_labels, found.session.meta.labels).split("\n")
            return found if set(query.labels) <= set(texts) else None

        return SessionScan(search.records, search.is_visible, fitting, limit)

    @final
    def find_keys(
        self,
        ctx: TenantCtx,
        *,
        user_id: str | None = None,
        labels: Mapping[str, str | int | bool] = _NO_LABELS,
        limit: int | None = None,
        fenced: bool = False,
    ) -> AsyncIterator[SessionKey]:
        """Iterate over the keys of the sessions that :meth:`find` would return.

        It reads no session's state, and so costs less than :meth:`find`. The parameters and errors
        are those of :meth:`find`.
        """
        query, visible = self._query(ctx, user_id, labels, fenced=fenced)
        check_limit(limit)
        search = self._search(query, tuple(labels), visible)
        return _Keys(search, limit)

    @final
    async def count(
        self,
        ctx: TenantCtx,
        *,
        user_id: str | None = None,
        labels: Mapping[str, str | int | bool] = _NO_LABELS,
        fenced: bool = False,
    ) -> int:
        """Return the number of sessions that :meth:`find` would return.

        The cost is proportional to that number. The parameters and errors are those of
        :meth:`find`.
        """
        query, visible = self._query(ctx, user_id, labels, fenced=fenced)
        search = self._search(query, tuple(labels), visible)
        total = 0
        position: object | None = None
        while True:
            matches, position = await search.matches(position)
            total += len(matches)
            if position is None:
                return total

    @overload
    def scan(
        self,
        ctx: TenantCtx,
        *,
        batch_size: int = 256,
        fenced: bool = False,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> AsyncIterator[Versioned[C]]: ...

    @overload
    def scan(
        self,
        ctx: TenantCtx,
        *,
        batch_size: int = 256,
        fenced: bool = False,
        on_error: Literal["return"],
    ) -> AsyncIterator[Versioned[C] | UnreadableSession]: ...

    @final
    def scan(
        self,
        ctx: TenantCtx,
        *,
        batch_size: int = 256,
        fenced: bool = False,
        on_error: OnError = "raise",
    ) -> AsyncIterator[Versioned[C] | UnreadableSession]:
        """Iterate over a tenant's live sessions, for operators.

        The order is undefined. A session that is live during the whole scan is returned exactly
        once. A session that is created or becomes absent during the scan may or may not be
        returned. A loop may end early, and needs no cleanup.

        The scan reads the tenant's index. On a server, before :meth:`rebuild_index` has run, it
        walks all keys of the server instead.

        :param ctx: env and tenant. If it has a team or user, only sessions that are accessible to
            that team or user are returned. Otherwise all of the tenant are.
        :param batch_size: number of records to examine in one step, 1 to 10000. A step returns
            about 1 MiB at most, and has a deadline of its own.
        :param fenced: return only sessions that :meth:`get` with this ``ctx`` would return.
        :param on_error: as in :meth:`get_many`, but ``"skip"`` leaves the session out. The
            iteration can continue after an error.
        :raises DecodeError: while iterating, as :meth:`get`, with ``on_error="raise"``.
        """
        query, visible = self._query(ctx, None, _NO_LABELS, fenced=fenced)
        if type(batch_size) is not int or not 1 <= batch_size <= 10_000:
            raise InvalidInputError("batch_size", "expected an int from 1 to 10000")
        decode = decoder_of(self._encoder.decode, on_error)
        search = self._search(query, (), visible, batch_size)
        return SessionScan(search.records, search.is_visible, decode)

    @final
    async def rebuild_index(self, ctx: TenantCtx | None = None) -> int:
        """Write the missing index entries of live sessions, for operators.

        Run it once when all workers have a release that indexes, and once more when all of them
        have a new indexed label. Afterwards :meth:`find` accepts the store's labels, and
        :meth:`scan` reads the index.

        It may be interrupted, and run while other calls do. If it runs again, it only writes what
        is missing. Entries of sessions that cannot be decoded have no labels.

        :param ctx: env and tenant. ``None`` rebuilds the index of every tenant, those to come
            included.
        :returns: number of sessions whose entries were written.
        """
        self._check_open()
        scope = None if ctx is None else tenancy.scope_of(ctx)
        backend = self._finding()
        total = 0
        position: object | None = None

        def labels_text(key: SessionKey, record: Record) -> str:
            body = self._encoder.decode_body(key, record.body)
            return labels_of(self.indexed_labels, body.meta.labels)

        while True:
            self._check_open()
            indexed, position = await backend.rebuild(scope, position, labels_text)
            total += indexed
            if position is None:
                break
        await backend.mark_complete(scope, self.indexed_labels)
        return total

    # --- shared steps ------------------------------------------------------------------------

    def _finding(self) -> FindingBackend:
        return finding_backend_of(self)

    def _search(
        self,
        query: SessionQuery,
        names: Sequence[str],
        visible: Callable[[str], bool],
        size: int = _PAGE,
    ) -> _Search:
        backend = finding_backend_of(self) if isinstance(self, SupportsFinding) else None
        steps = _Steps(self._check_open, self._page, self._read_many, backend)
        return _Search(steps, query, names, visible, size)

    def _query(
        self, ctx: TenantCtx, user_id: str | None, labels: object, *, fenced: bool
    ) -> tuple[SessionQuery, Callable[[str], bool]]:
        """Check the arguments of a search, and return the query and its access check."""
        self._check_open()
        scope, allowed = tenancy.allowed_owners_of(ctx)
        texts = query_labels(self.indexed_labels, labels)
        user = None if user_id is None else check_user(user_id)
        is_exact, team = fenced or ctx.user_id is not None, ctx.team_id

        def visible(owner: str) -> bool:
            if user is not None and owner.partition("/")[2] != user:
                return False
            if is_exact:
                return tenancy.allows(allowed, owner)
            return team is None or owner.startswith(allowed.shared)

        return SessionQuery(scope, user, texts), visible


def check_limit(limit: object) -> None:
    """Check the maximum number of results.

    :raises InvalidInputError: it is neither ``None`` nor an int of at least 1.
    """
    if limit is not None:
        require_int(limit, "limit", 1)


class _Steps(NamedTuple):
    """The steps of a store that a search takes.

    :ivar check_open: as :meth:`StoreLifetime._check_open`.
    :ivar page: as :meth:`StorePrimitives._page`.
    :ivar read_many: as :meth:`StorePrimitives._read_many`.
    :ivar backend: the backend of searches, ``None`` if the store has none.
    """

    check_open: Callable[[], None]
    page: Callable[[str, object | None, int], Awaitable[Page]]
    read_many: Callable[
        [str, Sequence[SessionKey]], Awaitable[Sequence[Record | UnreadableRecord | None]]
    ]
    backend: FindingBackend | None


@final
class _Search:
    """The pages of one search.

    :param steps: the steps of the store.
    :param query: the sessions to find.
    :param names: names of the labels of the query.
    :param visible: the access check.
    :param size: number of entries to examine in one step.
    """

    def __init__(
        self,
        steps: _Steps,
        query: SessionQuery,
        names: Sequence[str],
        visible: Callable[[str], bool],
        size: int,
    ) -> None:
        self._steps: Final = steps
        self._query: Final = query
        self._names: Final = names
        self.is_visible: Final = visible
        self._size: Final = size
        self._has_index: bool | None = None

    async def matches(self, position: object | None) -> MatchPage:
        """Return a page of the sessions that fit and are accessible."""
        steps = self._steps
        steps.check_open()
        backend = await self._backend()
        if backend is not None:
            found, position = await backend.page(self._query, position, self._size)
        else:
            records, position = await steps.page(self._query.scope, position, self._size)
            found = [Match(key, record.owner) for key, record in records]
        visible = self.is_visible
        return MatchPage(
            [match for match in found if match.owner is None or visible(match.owner)], position
        )

    async def records(self, position: object | None) -> Page:
        """Return a page of the records that fit and are accessible."""
        steps, scope = self._steps, self._query.scope
        steps.check_open()
        if await self._backend() is None:
            return await steps.page(scope, position, self._size)
        at: object | None
        ahead: list[SessionKey]
        ahead, at = (
            ([], None)
            if position is None
            else cast("tuple[list[SessionKey], object | None]", position)
        )
        if not ahead:
            matches, at = await self.matches(at)
            ahead = [match.key for match in matches]
        found = await steps.read_many(scope, ahead) if ahead else ()
        records = [
            (key, record) for key, record in zip(ahead, found, strict=False) if record is not None
        ]
        ahead = ahead[len(found) :]
        return Page(records, (ahead, at) if ahead or at is not None else None)

    async def _backend(self) -> FindingBackend | None:
        """Return the backend, ``None`` if no index is complete.

        :raises InvalidInputError: the index of a label is not.
        """
        backend = self._steps.backend
        if self._has_index is None:
            self._has_index = backend is not None and await backend.has_index(
                self._query, self._names
            )
            if self._names and not self._has_index:
                self._has_index = None  # a rebuild may run before the next attempt
                raise InvalidInputError("labels", "not indexed yet: run rebuild_index first")
        return backend if self._has_index else None


@final
class _Keys:
    """The iterator that ``find_keys`` returns.

    :param search: the search.
    :param limit: maximum number of keys.
    """

    def __init__(self, search: _Search, limit: int | None) -> None:
        self._search: Final = search
        self._left = limit
        self._pending: list[Match] = []
        self._position: object | None = None
        self._at_end = False

    def __aiter__(self) -> _Keys:
        return self

    async def __anext__(self) -> SessionKey:
        if self._left == 0:
            raise StopAsyncIteration
        while not self._pending:
            if self._at_end:
                raise StopAsyncIteration
            found, self._position = await self._search.matches(self._position)
            self._pending = list(found)
            self._at_end = self._position is None
        if self._left is not None:
            self._left -= 1
        return self._pending.pop().key
