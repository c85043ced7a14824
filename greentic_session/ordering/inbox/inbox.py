"""The inbox: one FIFO mailbox per session, shared by the workers of all processes."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, Literal, cast, final, overload

import anyio

from ..._core import tenancy
from ..._core.verbs.base import services_of
from ..._validation import (
    check_identifier,
    check_key,
    duration_to_ms,
    require_clean_text,
    require_int,
    wait_to_ms,
)
from ...abc.inbox import (
    EarlyEventQueue,
    MailboxRef,
    NewMessage,
    TakeRequest,
    inbox_backend_of,
)
from ...abc.records import Verdict, error_for
from ...abc.waits import EventMemory
from ...errors import (
    InboxFullError,
    InvalidInputError,
    PayloadTooLargeError,
    TenantMismatchError,
)
from ...model import C, SessionKey
from ...scoped import unscoped
from ...waits import WaitRegistry
from ...waits.arguments import hash_of, owner_of, presenting
from .early_events import EarlyEvents
from .messages import (
    MAX_ID_CHARS,
    Admitted,
    DeadLetter,
    InboxDepth,
    InboxLimits,
    InboxStatistics,
    check_limits,
    dead_letter_of,
    encode_headers,
    require_bytes,
    stored_dead_letter_of,
)
from .taking import TurnTaker
from .turn import InboxTurn, TurnTerms

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager
    from datetime import timedelta

    from ...abc.inbox import InboxBackend, StoredDeadLetter
    from ...abc.records import AllowedOwners
    from ...model import ReplyScope, TenantCtx
    from ...scoped import ScopedSessionStore
    from ...store import AsyncSessionStore

__all__ = ["SessionInbox"]

_MAX_WORKER_CHARS: Final = 128
_MOST_MAIL: Final = 10_000


@final
class SessionInbox(Generic[C]):
    """Admits messages for sessions, and gives each session's messages to one worker at a time.

    * Workers get a session's messages in the order of admission. A message is delivered until it
      was handled. No two workers have turns of one session at the same time.
    * The end of a turn (state, outbox, handled messages) is one step. So each message's effect on
      the session is committed once, however often workers die.
    * A message is retried after a failure or its worker's death. After ``attempts`` attempts as the
      head of its mailbox it becomes a dead letter, and the messages behind it follow. A session in
      backoff does not delay other sessions.
    * All messages of a turn are from callers that may act on its session. If there is no session
      yet, they are from one caller.
    * Sessions take turns. The one that has been due for longest is next.

    The caller opens and closes the store. Any number of inboxes, in any number of processes, may
    share a name on one backend. An inbox serves the tenant of its caller. With ``tenants="all"`` it
    serves any number of tenants, if ``admit`` gets their ``ctx``. Inboxes of several tenants may
    share a name, and do not delay each other. A session has one mailbox for all inboxes, so admit
    all its messages by one inbox.

    A ``ctx`` or a dead letter of another tenant raises :class:`TenantMismatchError` before any I/O.

    Any verb may raise :class:`InvalidInputError` (before any I/O) and
    :class:`StoreUnavailableError` (nothing written). A verb that writes may also raise
    :class:`StoreFullError` and :class:`OutcomeUnknownError`. With ``acks``, it may raise
    :class:`DurabilityError`: written, so a message was admitted, now or before. Repeat
    :meth:`admit`, :meth:`deliver` and :meth:`collect` after each of these errors.

    :param store: a store whose backend has inboxes, as all stores of this library do. With a scoped
        view, each ``ctx`` must be of the view's caller. If that caller has no user, it may be one
        of its users. Only a caller without team and user may take turns and read dead letters.
    :param ctx: the caller that admits messages. ``None`` is the caller of the scoped view.
    :param name: name of the inbox: 1 to 128 of ``A-Z a-z 0-9 . _ -``.
    :param lease: how long a turn stays with a worker that died. A :class:`datetime.timedelta` or
        seconds to 1 ms.
    :param attempts: how many attempts a message has, 1 to 1000.
    :param retry_delay: backoff of a session after a failed attempt, in the same units. It doubles
        with each further failure, up to a minute.
    :param limits: limits on what is stored, and for how long.
    :param waits: the registry that :meth:`deliver` uses. ``None`` makes one on ``store``.
    :param tenants: ``"own"`` serves the tenant of the caller, ``"all"`` each tenant.
    """

    def __init__(
        self,
        store: AsyncSessionStore[C] | ScopedSessionStore[C],
        ctx: TenantCtx | None = None,
        *,
        name: str = "inbox",
        lease: timedelta | float = 30.0,
        attempts: int = 5,
        retry_delay: timedelta | float = 1.0,
        limits: InboxLimits | None = None,
        waits: WaitRegistry[C] | None = None,
        tenants: Literal["own", "all"] = "own",
    ) -> None:
        store, bound = unscoped(store)
        backend = inbox_backend_of(store)
        if waits is not None and not isinstance(cast("object", waits), WaitRegistry):
            raise InvalidInputError("waits", f"expected WaitRegistry, got {type(waits).__name__}")
        limits = InboxLimits() if limits is None else limits
        if not isinstance(cast("object", limits), InboxLimits):
            raise InvalidInputError("limits", f"expected InboxLimits, got {type(limits).__name__}")
        require_int(attempts, "attempts", 1, 1000)
        if tenants not in ("own", "all"):
            raise InvalidInputError("tenants", "expected 'own' or 'all'")
        if tenants == "all" and bound is not None:
            raise InvalidInputError("tenants", "a scoped view serves its own tenant only")
        caller = cast("TenantCtx", bound if ctx is None else ctx)
        scope = tenancy.scope_of(caller)
        tenancy.check_presents(bound, caller)
        self._store: Final = store
        self._services: Final = services_of(store)
        self._bound: Final = bound
        self._ctx: Final = caller
        self._scope: Final = "" if tenants == "all" else scope
        self._name: Final = check_identifier(name, "name")
        check_limits(limits)
        self._limits: Final = limits
        self._events: Final = EventMemory(
            limits.events, duration_to_ms(limits.events_ttl_secs, "events_ttl_secs")
        )
        self._dead_ms: Final = duration_to_ms(limits.dead_ttl_secs, "dead_ttl_secs")
        self._headers_memory: Final = EventMemory(limits.mail + limits.dead_letters, self._dead_ms)
        self._early: Final = EventMemory(
            limits.early, duration_to_ms(limits.early_ttl_secs, "early_ttl_secs")
        )
        self._backend: Final[InboxBackend] = backend
        self._terms: Final = TurnTerms(
            backend=self._backend,
            encoder=self._services.encoder,
            check_open=self._services.check_open,
            lease_ms=duration_to_ms(lease, "lease"),
            attempts=attempts,
            backoff_ms=duration_to_ms(retry_delay, "retry_delay"),
        )
        self._waits: Final[WaitRegistry[C]] = WaitRegistry(store) if waits is None else waits
        self._taker: Final = TurnTaker(self._terms, self._services.check_open)

    # --- admitting ---------------------------------------------------------------------------

    async def admit(
        self,
        key: SessionKey,
        event_id: str,
        payload: bytes,
        *,
        ctx: TenantCtx | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Admitted:
        """Add a message at the end of a session's mailbox, unless its event is known.

        The session need not exist. If it is created later and the caller may not act on it, the
        message becomes a dead letter. If this raises, or its caller dies, call it again. A message
        that was admitted is known, and waiting workers are notified again.

        :param key: the session's key.
        :param event_id: the channel's id of the event, 1 to 512 characters.
        :param payload: opaque bytes.
        :param ctx: the caller. ``None`` is the caller of the inbox. Its ``attributes`` travel with
            the message.
        :param headers: texts that travel with the message, for example ``traceparent``.
        :raises PayloadTooLargeError: the payload is over ``payload_bytes`` of the limits.
        :raises InboxFullError: the mailbox has reached its limit of messages.
        :raises TenantMismatchError: a live session of another team or user has the key.
        """
        self._services.check_open()
        key = check_key(key)
        event_id = require_clean_text(event_id, "event_id", MAX_ID_CHARS)
        payload = self._fitting(payload)
        ctx = self._ctx if ctx is None else ctx
        scope, allowed = tenancy.allowed_owners_of(ctx)
        self._check_caller(ctx, key)
        encoded = self._headers(ctx, headers)
        return await self._admit(allowed, MailboxRef(scope, key), event_id, payload, encoded)

    async def _admit(
        self,
        allowed: AllowedOwners,
        mailbox: MailboxRef,
        event_id: str,
        payload: bytes,
        headers: bytes,
    ) -> Admitted:
        limits = self._limits
        message = NewMessage(
            inbox=self._name,
            mailbox=mailbox,
            allowed=allowed,
            event_id=event_id,
            payload=payload,
            most=limits.mail,
            events=self._events,
            headers=headers,
            headers_memory=self._headers_memory if headers else None,
        )
        outcome = await self._backend.call().enqueue(message)
        if outcome.verdict is Verdict.FULL:
            raise InboxFullError(limits.mail)
        if outcome.verdict not in (Verdict.DONE, Verdict.SEEN):
            raise error_for(mailbox.key, outcome)
        return Admitted(
            is_new=outcome.verdict is Verdict.DONE,
            waiting=outcome.waiting,
            worker=outcome.worker or None,
        )

    # --- working -----------------------------------------------------------------------------

    @overload
    def take(
        self, worker: str, *, most: int = 100, wait: None = None
    ) -> AbstractAsyncContextManager[InboxTurn[C]]: ...

    @overload
    def take(
        self, worker: str, *, most: int = 100, wait: timedelta | float | None
    ) -> AbstractAsyncContextManager[InboxTurn[C] | None]: ...

    def take(
        self,
        worker: str,
        *,
        most: int = 100,
        wait: timedelta | float | None = None,
    ) -> AbstractAsyncContextManager[InboxTurn[C] | None]:
        """Take the turn of the next session that has messages, of any tenant, for a block.

        .. code-block:: python

            async with inbox.take("worker-1") as turn:
                state = handle(turn.session, turn.mail)
                await turn.finish(state)

        If the block ends and the turn is still open, the turn is released immediately. If the block
        ends by an exception, the attempt at the head has failed. ``SystemExit`` counts as an
        exception, and a cancelled or interrupted task does not. After a failure the session is in
        backoff. Then the head is returned alone, to isolate the message that causes the failure.

        While the block runs, the lease is renewed. If the lease is lost, the block is cancelled,
        as by :meth:`SessionLocks.hold`.

        :param worker: name of the worker, for people. 1 to 128 characters.
        :param most: limit on the messages of the turn, 1 to 10000.
        :param wait: longest time to wait for messages, a :class:`datetime.timedelta` or seconds. 0,
            or less than 1 ms, does not wait. ``None`` waits without a limit. A waiting call sleeps
            until it is notified.
        :returns: the turn, or ``None`` if there were no messages within ``wait``.
        :raises LeaseLostError: on leaving, if the lease was lost meanwhile.
        :raises DecodeError: the session cannot be read. That was an attempt at its head.
        """
        return self._take(worker, most, wait)

    @asynccontextmanager
    async def _take(
        self, worker: str, most: int, wait: timedelta | float | None
    ) -> AsyncGenerator[InboxTurn[C] | None]:
        self._services.check_open()
        self._check_serves()
        worker = require_clean_text(worker, "worker", _MAX_WORKER_CHARS)
        require_int(most, "most", 1, _MOST_MAIL)
        ends_at = math.inf
        if wait is not None:
            ends_at = anyio.current_time() + wait_to_ms(wait, "wait") / 1000
        terms = self._terms
        request = TakeRequest(
            inbox=self._name,
            worker=worker,
            lease_ms=terms.lease_ms,
            most=most,
            attempts=terms.attempts,
            dead_ms=self._dead_ms,
            dead_most=self._limits.dead_letters,
            scope=self._scope,
        )
        turn = await self._taker.next(request, ends_at)
        if turn is None:
            yield None
            return
        async with turn.auto_renew():
            yield turn

    async def depth(self) -> InboxDepth:
        """Return how many sessions have messages or a held turn.

        The numbers are for operators, and may be stale.
        """
        self._services.check_open()
        self._check_serves()
        sessions, due = await self._backend.call().size(self._name, self._scope)
        return InboxDepth(sessions=sessions, due=due)

    def statistics(self) -> InboxStatistics:
        """Return counters of this object, without I/O."""
        return InboxStatistics(turns=self._taker.turns, dropped_dead_letters=self._taker.dropped)

    # --- dead letters ------------------------------------------------------------------------

    async def dead_letters(self) -> AsyncIterator[DeadLetter]:
        """Iterate over the dead letters, in order within each session.

        They are read in pages during the iteration. A session has at most ``dead_letters`` of the
        limits.

        A dead letter that exists during the whole iteration is returned. If its session gets
        another one meanwhile, it may be returned twice. A message that exhausted its attempts
        becomes a dead letter when a worker next tries to take the turn of its session.

        :raises DecodeError: a stored dead letter was not written by this library.
        """
        position: object | None = None
        self._check_serves()
        while True:
            self._services.check_open()
            found, position = await self._backend.dead_letters(
                self._name, self._scope, self._dead_ms, position
            )
            for mail in found:
                yield dead_letter_of(mail)
            if position is None:
                return

    async def replay(self, letter: DeadLetter) -> bool:
        """Move a dead letter to the end of its session's mailbox, as a new message.

        This inbox admits it, even if it became a dead letter in another one.

        :returns: ``False`` if it is no longer a dead letter.
        :raises InboxFullError: the mailbox has reached its limit of messages.
        """
        self._services.check_open()
        mail = self._stored(letter)
        limits = self._limits
        outcome = await self._backend.call().replay(self._name, mail, self._dead_ms, limits.mail)
        if outcome.verdict is Verdict.FULL:
            raise InboxFullError(limits.mail)
        if outcome.verdict not in (Verdict.DONE, Verdict.ABSENT):
            raise error_for(letter.key, outcome)
        return outcome.verdict is Verdict.DONE

    async def discard(self, letter: DeadLetter) -> bool:
        """Remove a dead letter.

        :returns: ``False`` if it is no longer a dead letter.
        """
        self._services.check_open()
        mail = self._stored(letter)
        return await self._backend.call().discard(mail)

    # --- early events ------------------------------------------------------------------------

    async def deliver(
        self,
        ctx: TenantCtx,
        user_id: str,
        scope: ReplyScope,
        event_id: str,
        payload: bytes,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Admitted | None:
        """Admit an event for the session that waits under a reply scope, or store it as early.

        A reply may arrive before the flow waits for it. So this call first stores the event as an
        early event, and then looks for the wait. The flow calls :meth:`collect` after it has
        registered the wait. The later of the two calls finds the write of the other one.

        Early events are enqueued in the order in which they were stored, each once, and for one
        session. That holds even if the session is gone before the event is in its mailbox. Event
        ids are known per session. If another session waits there when the channel delivers an event
        again, that session gets it.

        :param ctx: the caller, as in :class:`WaitRegistry`.
        :param user_id: the user that replies.
        :param scope: the reply scope.
        :param event_id: as in :meth:`admit`.
        :param payload: as in :meth:`admit`.
        :param headers: as in :meth:`admit`.
        :returns: ``None`` if the event is stored as early, or if another call has just admitted it.
        :raises PayloadTooLargeError: as :meth:`admit`.
        :raises InboxFullError: the early events have reached their limit, and no session waits. Or
            the waiting session's mailbox is full, and the event is stored as early. In both cases,
            deliver it again.
        """
        self._services.check_open()
        early = self._early_events(ctx, user_id, scope)
        event_id = require_clean_text(event_id, "event_id", MAX_ID_CHARS)
        payload, encoded = self._fitting(payload), self._headers(ctx, headers)
        has_room, moved = await early.store_and_move(event_id, payload, encoded)
        if not has_room and moved:  # a session waits by now, so the earlier events were admitted
            has_room, moved = await early.store_and_move(event_id, payload, encoded)
        if not has_room:
            raise InboxFullError(self._limits.early)
        return moved[event_id][1] if event_id in moved else None

    async def collect(self, ctx: TenantCtx, user_id: str, scope: ReplyScope) -> int:
        """Admit the early events of a reply scope, for the session that waits there now.

        Call it after ``register_wait`` and ``wait_again``.

        :returns: how many events were new to the session's mailbox.
        :raises InboxFullError: the session's mailbox is full. The other events stay stored.
        """
        self._services.check_open()
        moved = await self._early_events(ctx, user_id, scope).move()
        return sum(is_its_own and admitted.is_new for is_its_own, admitted in moved.values())

    # --- shared steps ------------------------------------------------------------------------

    def _early_events(self, ctx: TenantCtx, user_id: str, scope: ReplyScope) -> EarlyEvents:
        caller = presenting(ctx, user_id)
        _, allowed = tenancy.allowed_owners_of(caller)
        self._check_caller(caller)
        return EarlyEvents(
            self._backend,
            EarlyEventQueue(owner_of(ctx, user_id), hash_of(scope)),
            self._early,
            find_wait=partial(self._waits.find_wait_by_scope, ctx, user_id, scope),
            admit=partial(self._admit, allowed),
        )

    def _check_caller(self, ctx: TenantCtx, key: str = "") -> None:
        """Check that this inbox serves a caller."""
        tenancy.check_presents(self._bound, ctx, key)
        if self._scope not in ("", tenancy.scope_of(ctx)):
            raise TenantMismatchError(key)

    def _check_serves(self) -> None:
        """Check that the caller of the scoped view stands for its whole tenant."""
        bound = self._bound
        if bound is not None and (bound.team_id, bound.user_id) != (None, None):
            raise TenantMismatchError("")

    def _stored(self, letter: DeadLetter) -> StoredDeadLetter:
        stored = stored_dead_letter_of(letter)
        self._check_serves()
        if self._scope not in ("", stored.mailbox.scope):
            raise TenantMismatchError(letter.key)
        return stored

    def _headers(self, ctx: TenantCtx, headers: Mapping[str, str] | None) -> bytes:
        encoded = encode_headers(ctx, headers)
        if len(encoded) > self._limits.payload_bytes:
            raise PayloadTooLargeError(len(encoded), self._limits.payload_bytes, "headers")
        return encoded

    def _fitting(self, payload: bytes) -> bytes:
        size = len(require_bytes(payload))
        if size > self._limits.payload_bytes:
            raise PayloadTooLargeError(size, self._limits.payload_bytes, "payload")
        return payload
