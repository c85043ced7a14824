"""Mail for sessions, first in first out for each of them, across processes."""

from __future__ import annotations

import math
from collections import deque
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final, Generic, cast, final, overload

import anyio

from ..._core import tenancy
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
    GrantedTurn,
    MailboxRef,
    NewMessage,
    SupportsInbox,
    TakeRequest,
)
from ...abc.records import Verdict, error_for
from ...abc.waits import EventMemory
from ...errors import (
    DecodeError,
    InboxFullError,
    InvalidInputError,
    PayloadTooLargeError,
    SessionError,
    TenantMismatchError,
)
from ...model import C, SessionKey
from ...store import AsyncSessionStore
from ...waits import WaitRegistry
from ...waits.arguments import hash_of, owner_of, presenting
from .messages import (
    MAX_ID_CHARS,
    Admitted,
    DeadLetter,
    InboxDepth,
    InboxLimits,
    check_limits,
    dead_letter_of,
    require_bytes,
    stored_dead_letter_of,
)
from .turn import InboxTurn, TurnTerms

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from contextlib import AbstractAsyncContextManager
    from datetime import timedelta

    from ...abc.inbox import InboxBackend
    from ...abc.records import AllowedOwners
    from ...model import ReplyScope, TenantCtx

__all__ = ["SessionInbox"]

_POLL_SECS: Final = 30.0
"""How long a taker sleeps at most, should a ring be lost."""
_MAX_WORKER_CHARS: Final = 128
_MOST_MAIL: Final = 10_000


@final
class SessionInbox(Generic[C]):
    """Admits messages for sessions, and hands each session's to one worker at a time, in order.

    * A session's messages are handed out in the order in which they were admitted, each until it
      was handled; no two workers have turns of one session at the same time.
    * The end of a turn (state, outbox, mail handled) is one step. So each message's effect on the
      session is committed once, however often workers die.
    * A message is tried again after a failure or its worker's death: ``attempts`` times as the head
      of its mailbox, then it goes to the dead letters, and those behind it go on. Sessions that
      wait to be tried again hold up no others.
    * A turn has mail of callers to whom its session is open; if there is none yet, of one caller.
    * Sessions take turns: the one that has been due for longest is next.

    Layered on a store, which stays the caller's to open and close. Any number of inboxes, in any
    number of processes, may share a name on one backend. One serves any number of tenants, if
    ``admit`` is given their ``ctx``. A session has one mailbox whatever inbox its mail came by, so
    let all of it come by one.

    Any verb may raise :class:`InvalidInputError` (before any I/O), :class:`StoreUnavailableError`
    (nothing written) and, if it writes, :class:`StoreFullError`, :class:`OutcomeUnknownError` and,
    where ``acks`` are asked for, :class:`DurabilityError` (written; a message to admit is in).

    :param store: the sessions; of a backend that can keep inboxes, as those of this library can.
    :param ctx: the caller, for whose sessions messages are admitted.
    :param name: of the inbox: 1 to 128 of ``A-Z a-z 0-9 . _ -``.
    :param lease: how long a turn stays with a worker that died; a :class:`datetime.timedelta` or
        seconds to 1 ms.
    :param attempts: how often a message is tried, 1 to 1000.
    :param retry_delay: how long a session rests after a failed attempt, in the same units; doubled
        with each further one, up to a minute.
    :param limits: how much is kept, and for how long.
    :param waits: the registry that :meth:`deliver` looks in; one on ``store`` unless given.
    """

    def __init__(
        self,
        store: AsyncSessionStore[C],
        ctx: TenantCtx,
        *,
        name: str = "inbox",
        lease: timedelta | float = 30.0,
        attempts: int = 5,
        retry_delay: timedelta | float = 1.0,
        limits: InboxLimits | None = None,
        waits: WaitRegistry[C] | None = None,
    ) -> None:
        given = cast("object", store)
        if not isinstance(given, AsyncSessionStore) or not isinstance(given, SupportsInbox):
            raise InvalidInputError("store", f"{type(store).__name__} cannot keep inboxes")
        if waits is not None and not isinstance(cast("object", waits), WaitRegistry):
            raise InvalidInputError("waits", f"expected WaitRegistry, got {type(waits).__name__}")
        limits = InboxLimits() if limits is None else limits
        if not isinstance(cast("object", limits), InboxLimits):
            raise InvalidInputError("limits", f"expected InboxLimits, got {type(limits).__name__}")
        require_int(attempts, "attempts", 1, 1000)
        tenancy.allowed_owners_of(ctx)
        self._store: Final = store
        self._ctx: Final = ctx
        self._name: Final = check_identifier(name, "name")
        check_limits(limits)
        self._limits: Final = limits
        self._events: Final = EventMemory(
            limits.events, duration_to_ms(limits.events_ttl_secs, "events_ttl_secs")
        )
        self._dead_ms: Final = duration_to_ms(limits.dead_ttl_secs, "dead_ttl_secs")
        self._early: Final = EventMemory(
            limits.early, duration_to_ms(limits.early_ttl_secs, "early_ttl_secs")
        )
        self._backend: Final[InboxBackend] = given.inbox_backend()
        self._terms: Final = TurnTerms(
            backend=self._backend,
            encoder=store.encoder,
            check_open=store.check_open,
            lease_ms=duration_to_ms(lease, "lease"),
            attempts=attempts,
            backoff_ms=duration_to_ms(retry_delay, "retry_delay"),
        )
        self._waits: Final[WaitRegistry[C]] = WaitRegistry(store) if waits is None else waits

    # --- admitting ---------------------------------------------------------------------------

    async def admit(
        self, key: SessionKey, event_id: str, payload: bytes, *, ctx: TenantCtx | None = None
    ) -> Admitted:
        """Put a message at the end of a session's mail, unless its event is known.

        The session need not be there. A message for one that comes to be later, and is not open to
        the caller, goes to the dead letters. Should this raise, or its caller die, do it again: a
        message that came in is known, and its takers are woken again.

        :param key: the session's key.
        :param event_id: names the message, as the channel does; 1 to 512 characters.
        :param payload: opaque bytes.
        :param ctx: the caller, if that is another than the inbox's.
        :raises PayloadTooLargeError: the payload is over ``payload_bytes`` of the limits.
        :raises InboxFullError: as many messages of this session wait as may.
        :raises TenantMismatchError: a live session of another team or user stands under the key.
        """
        self._store.check_open()
        key = check_key(key)
        event_id = require_clean_text(event_id, "event_id", MAX_ID_CHARS)
        payload = self._fitting(payload)
        scope, allowed = tenancy.allowed_owners_of(self._ctx if ctx is None else ctx)
        return await self._admit(MailboxRef(scope, key), allowed, event_id, payload)

    async def _admit(
        self, mailbox: MailboxRef, allowed: AllowedOwners, event_id: str, payload: bytes
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
        )
        outcome = await self._backend.enqueue(message, self._backend.deadline())
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
        """Take the next session that has mail, of whatever tenant, for a block.

        .. code-block:: python

            async with inbox.take("worker-1") as turn:
                state = handle(turn.session, turn.mail)
                await turn.finish(state)

        If the block leaves the turn open, it is given back at once. If it leaves by an exception
        (``SystemExit`` is one, that its task was cancelled or interrupted is none), the head of the
        mail was tried in vain: the session rests for a while, and then the head is handed out by
        itself, so that it alone is blamed for what it does.

        While the block runs, the lease is renewed; if it is lost all the same, the block is
        cancelled, as :meth:`SessionLocks.hold` does it.

        :param worker: names the worker, for people; 1 to 128 characters.
        :param most: how many messages to be handed at most, 1 to 10000.
        :param wait: how long to wait for mail, a :class:`datetime.timedelta` or seconds; 0, as less
            than 1 ms, is not at all, ``None`` is for ever. Whoever waits sleeps until it is woken.
        :returns: the turn; ``None`` if there was no mail in time, which takes a ``wait``.
        :raises LeaseLostError: on leaving, if the lease was lost meanwhile.
        :raises DecodeError: the session cannot be read; that was an attempt at its mail.
        """
        return self._take(worker, most, wait)

    @asynccontextmanager
    async def _take(
        self, worker: str, most: int, wait: timedelta | float | None
    ) -> AsyncGenerator[InboxTurn[C] | None]:
        self._store.check_open()
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
        )
        turn = await self._next(request, ends_at)
        if turn is None:
            yield None
            return
        async with turn.auto_renew():
            yield turn

    async def _next(self, request: TakeRequest, ends_at: float) -> InboxTurn[C] | None:
        backend = self._backend
        turn, due_secs = await self._poll(request)
        if turn is not None or anyio.current_time() >= ends_at:
            return turn
        async with backend.subscribe(self._name) as subscription:
            while True:
                left_secs = ends_at - anyio.current_time()
                if turn is not None or left_secs <= 0:
                    return turn
                await subscription.wait(min(left_secs, _POLL_SECS), due_secs)
                self._store.check_open()
                turn, due_secs = await self._poll(request)

    async def _poll(self, request: TakeRequest) -> tuple[InboxTurn[C] | None, float]:
        """Return a turn if there is one now, and in how many seconds to look again."""
        while True:
            sent_at = anyio.current_time()
            taken = await self._backend.take(request, self._backend.deadline())
            if isinstance(taken, GrantedTurn):
                break
            if taken.due_secs is None:
                return None, _POLL_SECS
            if taken.due_secs > 0:
                return None, min(taken.due_secs, _POLL_SECS)
        try:
            return InboxTurn(self._terms, taken, sent_at), 0
        except DecodeError:
            backoff_ms = self._terms.backoff_after(taken.attempt)
            with suppress(SessionError):  # else it comes back with its lease
                await self._backend.release(taken.ref, backoff_ms, self._backend.deadline())
            raise

    async def depth(self) -> InboxDepth:
        """Return how many sessions have mail or are in hand: a hint, for operators."""
        self._store.check_open()
        sessions, due = await self._backend.size(self._name, self._backend.deadline())
        return InboxDepth(sessions=sessions, due=due)

    # --- dead letters ------------------------------------------------------------------------

    async def dead_letters(self) -> AsyncIterator[DeadLetter]:
        """Iterate over the messages that were given up, those of a session in their order.

        Each that is there from first to last is given; those of a session that gets another one
        meanwhile, perhaps twice. A message that was tried for the last time comes here when a taker
        looks at its session next.

        :raises DecodeError: what stands under a name of this library is none of its own.
        """
        position: object | None = None
        while True:
            self._store.check_open()
            found, position = await self._backend.dead_letters(self._name, self._dead_ms, position)
            for mail in found:
                yield dead_letter_of(mail)
            if position is None:
                return

    async def replay(self, letter: DeadLetter) -> bool:
        """Put a dead letter at the end of its session's mail, to be tried as if it were new.

        It comes by this inbox, whichever gave it up.

        :returns: ``False`` if it is a dead letter no longer.
        :raises InboxFullError: as many messages of this session wait as may.
        """
        self._store.check_open()
        mail = stored_dead_letter_of(letter)
        limits = self._limits
        outcome = await self._backend.replay(
            self._name, mail, self._dead_ms, limits.mail, self._backend.deadline()
        )
        if outcome.verdict is Verdict.FULL:
            raise InboxFullError(limits.mail)
        if outcome.verdict not in (Verdict.DONE, Verdict.ABSENT):
            raise error_for(letter.key, outcome)
        return outcome.verdict is Verdict.DONE

    async def discard(self, letter: DeadLetter) -> bool:
        """Remove a dead letter.

        :returns: ``False`` if it is a dead letter no longer.
        """
        self._store.check_open()
        mail = stored_dead_letter_of(letter)
        return await self._backend.discard(mail, self._backend.deadline())

    # --- events that may come before their wait ----------------------------------------------

    async def deliver(
        self,
        ctx: TenantCtx,
        user_id: str,
        scope: ReplyScope,
        event_id: str,
        payload: bytes,
    ) -> Admitted | None:
        """Admit an event for the session that waits under a reply scope, or keep it for the next.

        An answer may be faster than the flow that is about to wait for it. So the event is kept
        first, then the wait is looked for; who registers a wait calls :meth:`collect` after it.
        Whichever of both comes second finds the other's. Events come into the mailbox in the order
        in which they were kept, each once, and to one session, even if that is gone before it is
        there. Event ids are known of one session: what the channel delivers again when another
        session waits there goes to that one.

        :param ctx: the caller, as in :class:`WaitRegistry`.
        :param user_id: whose reply it is.
        :param scope: where it is anchored.
        :param event_id: as in :meth:`admit`.
        :param payload: as in :meth:`admit`.
        :returns: ``None`` if it is kept, or if somebody else has just admitted it.
        :raises PayloadTooLargeError: as :meth:`admit`.
        :raises InboxFullError: as many events are kept there as may and no session waits; or the
            waiting session's mailbox is full: then the event is kept. Either way, deliver it again.
        """
        self._store.check_open()
        place = EarlyEventQueue(owner_of(ctx, user_id), hash_of(scope))
        event_id = require_clean_text(event_id, "event_id", MAX_ID_CHARS)
        payload = self._fitting(payload)
        has_room = await self._store_early(place, event_id, payload)
        moved = await self._move_early(ctx, user_id, scope, place)
        if not has_room and moved:  # those that were kept had somebody to go to by now
            has_room = await self._store_early(place, event_id, payload)
            moved = await self._move_early(ctx, user_id, scope, place)
        if not has_room:
            raise InboxFullError(self._limits.early)
        return moved[event_id][1] if event_id in moved else None

    async def collect(self, ctx: TenantCtx, user_id: str, scope: ReplyScope) -> int:
        """Admit the events that were kept, for the session that waits under a reply scope now.

        Call it after ``register_wait`` and ``wait_again``.

        :returns: how many events were new to the session's mailbox.
        :raises InboxFullError: the session's mailbox is full; the rest is kept.
        """
        self._store.check_open()
        place = EarlyEventQueue(owner_of(ctx, user_id), hash_of(scope))
        moved = await self._move_early(ctx, user_id, scope, place)
        return sum(is_its_own and admitted.is_new for is_its_own, admitted in moved.values())

    async def _store_early(self, place: EarlyEventQueue, event_id: str, payload: bytes) -> bool:
        """Keep an event, unless as many are kept there as may."""
        backend = self._backend
        outcome = await backend.store_early(
            place, event_id, payload, self._early, backend.deadline()
        )
        if outcome.verdict not in (Verdict.DONE, Verdict.SEEN, Verdict.FULL):
            raise error_for("", outcome)
        return outcome.verdict is not Verdict.FULL

    async def _move_early(
        self, ctx: TenantCtx, user_id: str, scope: ReplyScope, place: EarlyEventQueue
    ) -> dict[str, tuple[bool, Admitted]]:
        """Admit the events that are kept at a place, if a session waits there.

        :returns: by their ids, whether each was for that session, and what became of it.
        """
        key = await self._waits.find_wait_by_scope(ctx, user_id, scope)
        if key is None:
            return {}
        backend, limit = self._backend, self._early
        _, allowed = tenancy.allowed_owners_of(presenting(ctx, user_id))
        moved: dict[str, tuple[bool, Admitted]] = {}
        full: set[SessionKey] = set()
        events = deque(await backend.assign_early(place, key, "", limit, backend.deadline()))
        # One after the other, and gone only when admitted: whoever else moves them at the same time
        # admits each after those before it, and the second of both finds its event known.
        while events:
            whose, message = events.popleft()
            if whose in full:
                continue
            mailbox = MailboxRef(place.wait_owner.scope, whose)
            try:
                admitted = await self._admit(mailbox, allowed, message.event_id, message.payload)
            except InboxFullError:
                if whose == key:
                    raise
                full.add(whose)  # which holds up no other session
            except TenantMismatchError:
                if whose == key:
                    raise
                # It was found for a session that is gone, and whose key is another's now.
                events = deque(
                    await backend.assign_early(place, key, whose, limit, backend.deadline())
                )
            else:
                moved[message.event_id] = whose == key, admitted
                await backend.delete_early(place, whose, message, backend.deadline())
        return moved

    # --- shared steps ------------------------------------------------------------------------

    def _fitting(self, payload: bytes) -> bytes:
        size = len(require_bytes(payload))
        if size > self._limits.payload_bytes:
            raise PayloadTooLargeError(size, self._limits.payload_bytes, "payload")
        return payload
