"""Histories of concurrent clients: their calls and the answers, for the checkers.

.. code-block:: python

    history = History()
    one, other = history.client(store, "one"), history.client(store, "other")
    ...                                     # concurrently; whatever happens to them
    assert check_history(history.operations()).holds

A client has the verbs of a store and forwards every call. It stores a mark of its own in the label
:data:`MARK_LABEL` of each session that it writes. The mark tells a reader which write it sees. The
application's state is not read, and no operation contains it.

Start with absent keys, and write to them through recorded clients only. The checkers' model has no
expiry, so use permanent sessions.
"""

from __future__ import annotations

import os
import time
from enum import Enum
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar, final

import msgspec

from ..errors import (
    AmbiguousKeyError,
    CasConflictError,
    DecodeError,
    DurabilityError,
    InvalidInputError,
    SessionExistsError,
    SessionNotFoundError,
    StoreUnavailableError,
    TenantMismatchError,
)
from ..model import C, Cas, Session, SessionKey, TenantCtx, Versioned

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from pathlib import Path
    from types import TracebackType

    from ..store import AsyncSessionStore

__all__ = [
    "MARK_LABEL",
    "Ending",
    "History",
    "Operation",
    "RecordedStore",
    "Verb",
    "merged",
]

_T = TypeVar("_T")

MARK_LABEL: Final = "greentic.history.mark"
"""The session label that names the operation that wrote the session."""

_NOT_EXECUTED: Final = (
    # None of these changed anything.
    *(AmbiguousKeyError, DecodeError, InvalidInputError, TenantMismatchError),
    StoreUnavailableError,
)


class Verb(Enum):
    """The verb of a call."""

    GET = "get"
    CREATE = "create"
    PUT = "put"
    UPDATE_CAS = "update_cas"
    MUTATE = "mutate"
    TOUCH = "touch"
    DELETE = "delete"


class Ending(Enum):
    """The outcome of a call, as far as its caller can tell."""

    DONE = "done"
    """The call returned. Its effect happened between invocation and return."""
    REFUSED = "refused"
    """The store refused the call and changed nothing: conflict, exists, not found."""
    FAILED = "failed"
    """The call was not executed and never will be."""
    UNKNOWN = "unknown"
    """The call takes effect at any time after its invocation, or never.

    The store reported an unknown outcome, the caller was cancelled, or its process was killed.
    """


@final
class Operation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call.

    :ivar number: number of the operation within its history.
    :ivar client: name of the client.
    :ivar key: ``env/tenant/key``. Keys are independent of one another.
    :ivar verb: verb of the call.
    :ivar invoked_at: stamp of the invocation.
    :ivar returned_at: stamp of the return. ``None`` if the call may take effect after that.
    :ivar ending: outcome of the call.
    :ivar mark: for a write, the mark of the session that it wrote or tried to write. For a read,
        the mark that it saw. ``""`` if there is none.
    :ivar before: for ``mutate``, the mark of the session that its last attempt replaced or tried to
        replace.
    :ivar expected: the token that the call presented, or ``None``.
    :ivar token: the token that the call returned or reported: of its write, of the session it read,
        or of the conflicting session. ``Cas.none()`` means absent. ``None`` means that no token is
        known.
    :ivar found: for ``touch`` and ``delete``, the return value.
    :ivar error: name of the exception's type, or ``""``.
    """

    number: int
    client: str
    key: str
    verb: Verb
    invoked_at: int
    returned_at: int | None = None
    ending: Ending = Ending.UNKNOWN
    mark: str = ""
    before: str = ""
    expected: Cas | None = None
    token: Cas | None = None
    found: bool = True
    error: str = ""

    def __str__(self) -> str:
        """Return the operation as text: numbers, verbs, tokens and marks, without the state."""
        asked = f" over {self.expected}" if self.expected is not None else ""
        asked += f" over mark {self.before}" if self.before else ""
        told = "" if self.token is None else f" token {self.token}"
        if self.mark:
            told += f" mark {self.mark}"
        if self.verb in (Verb.TOUCH, Verb.DELETE) and self.ending is Ending.DONE:
            told += f" {self.found}"
        ended = f"{self.ending.value}{f' by {self.error}' if self.error else ''}"
        until = "…" if self.returned_at is None else str(self.returned_at)
        return (
            f"#{self.number} [{self.invoked_at}, {until}] {self.client}: "
            f"{self.verb.value}{asked} -> {ended}{told}"
        )


@final
class History:
    """Records the calls of clients.

    :param name: prefix of the clients' names and of their marks. It is unique among histories to be
        merged.
    :param clock: source of increasing stamps. The default is a counter, which orders all events of
        a process. For histories of several processes on one machine, use :func:`time.monotonic_ns`.
        Equal stamps count as concurrent.
    :param journal: file to which each event is written before the call proceeds. It shows what a
        killed process did. With a journal, the default clock is ``monotonic_ns``.
    """

    def __init__(
        self,
        name: str = "",
        *,
        clock: Callable[[], int] | None = None,
        journal: Path | None = None,
    ) -> None:
        if clock is None:
            clock = count(1).__next__ if journal is None else time.monotonic_ns
        self._name: Final = name
        self._clock: Final = clock
        self._operations: Final[list[Operation]] = []
        self._journal: Final = (
            None
            if journal is None
            else os.open(journal, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._journal is not None:
            os.close(self._journal)

    @classmethod
    def of_journal(cls, journal: Path) -> list[Operation]:
        """Return the operations that a process recorded, even if it was killed.

        A call without an end has an unknown outcome. An incomplete last line is left out.
        """
        latest: dict[int, Operation] = {}
        for line in journal.read_bytes().splitlines():
            try:
                operation = msgspec.json.decode(line, type=Operation)
            except msgspec.DecodeError:
                continue
            latest[operation.number] = operation
        return [*latest.values()]

    def client(self, store: AsyncSessionStore[C], name: str) -> RecordedStore[C]:
        """Return a store that records its calls.

        :param store: the store that executes the calls.
        :param name: name of the client.
        """
        return RecordedStore(self, store, f"{self._name}{name}")

    def operations(self) -> list[Operation]:
        """Return every operation so far. A call in progress has an unknown outcome."""
        return [*self._operations]

    def begin(self, client: str, key: str, verb: Verb, **told: Any) -> Operation:
        """Record an invocation.

        :param told: further fields of :class:`Operation`.
        """
        number = len(self._operations)
        operation = Operation(
            number=number, client=client, key=key, verb=verb, invoked_at=self._clock(), **told
        )
        self._operations.append(operation)
        self._write(operation)
        return operation

    def note(self, operation: Operation, **told: Any) -> Operation:
        """Record an update of a call in progress.

        :param told: fields of :class:`Operation` to change.
        :returns: the operation as it is recorded now.
        """
        operation = msgspec.structs.replace(operation, **told)
        self._operations[operation.number] = operation
        self._write(operation)
        return operation

    def end(self, operation: Operation, ending: Ending, **told: Any) -> Operation:
        """Record the end of a call.

        :param told: further fields of :class:`Operation`.
        """
        returned_at = None if ending is Ending.UNKNOWN else self._clock()
        return self.note(operation, ending=ending, returned_at=returned_at, **told)

    def fail(self, operation: Operation, error: BaseException) -> Operation:
        """Record the exception that ended a call, and derive the outcome from it."""
        name = type(error).__name__
        if isinstance(error, CasConflictError):
            return self.end(
                operation, Ending.REFUSED, expected=error.expected, token=error.current, error=name
            )
        if isinstance(error, (SessionExistsError, SessionNotFoundError)):
            return self.end(operation, Ending.REFUSED, error=name)
        if isinstance(error, DurabilityError):  # written, but its token is unknown
            return self.end(operation, Ending.DONE, error=name)
        if isinstance(error, _NOT_EXECUTED):
            return self.end(operation, Ending.FAILED, error=name)
        return self.end(operation, Ending.UNKNOWN, error=name)

    def _write(self, operation: Operation) -> None:
        if self._journal is not None:
            # One write per line, so that a kill leaves no partial line before another one.
            os.write(self._journal, msgspec.json.encode(operation) + b"\n")


def merged(histories: Iterable[Sequence[Operation]]) -> list[Operation]:
    """Return the operations of several histories as one, renumbered by invocation.

    Their stamps must come from one clock, and their clients' names must differ.
    """
    everything = sorted(
        (operation for history in histories for operation in history),
        key=lambda operation: operation.invoked_at,
    )
    return [
        msgspec.structs.replace(operation, number=number)
        for number, operation in enumerate(everything)
    ]


@final
class RecordedStore(Generic[C]):
    """The verbs of one client, recorded. Returned by :meth:`History.client`.

    Each verb has the contract of :class:`AsyncSessionStore` and raises the same errors. ``ctx`` is
    required here even where the store's is optional, because the tenant is part of the key.

    :ivar name: name of the client.
    """

    def __init__(self, history: History, store: AsyncSessionStore[C], name: str) -> None:
        self._history: Final = history
        self._store: Final = store
        self._marks: Final = count()
        self.name: Final = name

    async def get(self, key: SessionKey, *, ctx: TenantCtx) -> Versioned[C] | None:
        """Call :meth:`AsyncSessionStore.get` and record it."""
        operation = self._history.begin(self.name, _name(ctx, key), Verb.GET)
        found = await self._followed(operation, self._store.get(key, ctx=ctx))
        if found is None:
            self._history.end(operation, Ending.DONE, token=Cas.none())
        else:
            self._history.end(operation, Ending.DONE, token=found.cas, mark=_mark(found.session))
        return found

    async def create(self, session: Session[C]) -> Cas:
        """Call :meth:`AsyncSessionStore.create` and record it."""
        return await self._write(Verb.CREATE, session, self._store.create)

    async def put(self, session: Session[C]) -> Cas:
        """Call :meth:`AsyncSessionStore.put` and record it."""
        return await self._write(Verb.PUT, session, self._store.put)

    async def update_cas(self, session: Session[C], expected: Cas) -> Cas:
        """Call :meth:`AsyncSessionStore.update_cas` and record it."""
        return await self._write(
            Verb.UPDATE_CAS,
            session,
            lambda marked: self._store.update_cas(marked, expected),
            expected=expected,
        )

    async def mutate(
        self,
        key: SessionKey,
        change: Callable[[Session[C]], Session[C]],
        *,
        ctx: TenantCtx,
        attempts: int = 16,
    ) -> Versioned[C]:
        """Call :meth:`AsyncSessionStore.mutate` and record it."""
        operation = self._history.begin(self.name, _name(ctx, key), Verb.MUTATE)

        def noted(before: Session[C]) -> Session[C]:
            nonlocal operation
            session, mark = self._marked(change(before))
            operation = self._history.note(operation, before=_mark(before), mark=mark)
            return session

        try:
            written = await self._store.mutate(key, noted, ctx=ctx, attempts=attempts)
        except BaseException as error:
            self._history.fail(operation, error)
            raise
        self._history.end(operation, Ending.DONE, token=written.cas)
        return written

    async def touch(self, key: SessionKey, *, ctx: TenantCtx) -> bool:
        """Call :meth:`AsyncSessionStore.touch` with the stored lifetime, and record it."""
        operation = self._history.begin(self.name, _name(ctx, key), Verb.TOUCH)
        found = await self._followed(operation, self._store.touch(key, ctx=ctx))
        self._history.end(operation, Ending.DONE, found=found)
        return found

    async def delete(self, key: SessionKey, *, ctx: TenantCtx, expected: Cas | None = None) -> bool:
        """Call :meth:`AsyncSessionStore.delete` and record it."""
        name = _name(ctx, key)
        operation = self._history.begin(self.name, name, Verb.DELETE, expected=expected)
        call = self._store.delete(key, ctx=ctx, expected=expected)
        found = await self._followed(operation, call)
        self._history.end(operation, Ending.DONE, found=found)
        return found

    async def _write(
        self,
        verb: Verb,
        session: Session[C],
        call: Callable[[Session[C]], Awaitable[Cas]],
        **told: Any,
    ) -> Cas:
        session, mark = self._marked(session)
        meta = session.meta
        name = f"{meta.env}/{meta.tenant_id}/{session.key}"
        operation = self._history.begin(self.name, name, verb, mark=mark, **told)
        cas = await self._followed(operation, call(session))
        self._history.end(operation, Ending.DONE, token=cas)
        return cas

    async def _followed(self, operation: Operation, call: Awaitable[_T]) -> _T:
        try:
            return await call
        except BaseException as error:
            self._history.fail(operation, error)
            raise

    def _marked(self, session: Session[C]) -> tuple[Session[C], str]:
        mark = f"{self.name}.{next(self._marks)}"
        labels = {**session.meta.labels, MARK_LABEL: mark}
        meta = msgspec.structs.replace(session.meta, labels=labels)
        return msgspec.structs.replace(session, meta=meta), mark


def _name(ctx: TenantCtx, key: SessionKey) -> str:
    return f"{ctx.env}/{ctx.tenant_id}/{key}"


def _mark(session: Session[Any]) -> str:
    return str(session.meta.labels.get(MARK_LABEL, ""))
