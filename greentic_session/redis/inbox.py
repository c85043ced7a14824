"""Inboxes on a Redis or Valkey server.

A call takes steps in two slots. If the process dies between two steps, an index entry remains:

* To enqueue, add a pending entry that is due soon (``index_add_pending``). Then admit the message
  (``admit``). Then replace the pending entry with an index entry, unless a turn is held
  (``index_set_due``).
* To take a turn, defer the first due index entry (``index_next_due``), and take the turn
  (``take_turn``). If there is none, set the time when there may be one, or remove the entry
  unless it was changed since (``index_set_due``).
* To end a turn, write the session, the messages and the lease (``commit_turn``, ``release_turn``).
  If messages are left, make the entry due. Otherwise remove it unless it was changed since
  (``index_set_due``).
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, final

import anyio
import msgspec

from .._compat import override
from .._core.fencing import FencingCounter
from .._core.labels import NOT_COMPARED
from .._core.leases import RELEASE_SECS
from .._core.tasks import run_to_completion, start_background
from ..abc.inbox import EnqueueOutcome, GrantedTurn, InboxBackend, InboxCall, InboxSize, NothingDue
from ..abc.records import Outcome, Verdict, mint_incarnation
from ..errors import (
    DecodeError,
    DurabilityError,
    OutcomeUnknownError,
    SessionError,
    StoreUnavailableError,
)
from .dead_letters import read_dead_letters
from .early_events import EarlyEvents
from .inbox_index import CopyPasses, InboxIndex
from .inbox_script_runner import InboxScriptRunner, topic_of
from .message_format import (
    decode_turn,
    encode_dead_letter,
    encode_new,
    mailbox_from_member,
    member_of,
)
from .replies import outcome_of, parsing_write_reply
from .scripts import inbox as lua
from .scripts.sessions import with_schema_version
from .transport.acks import UnconfirmedError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from ..abc.inbox import (
        EarlyEventQueue,
        EarlyPage,
        MailboxRef,
        NewMessage,
        StoredDeadLetter,
        StoredMessage,
        TakeRequest,
        TurnCommit,
        TurnRef,
    )
    from ..abc.notifications import Subscription
    from ..abc.records import EncodedSession
    from ..abc.waits import EventMemory
    from ..model import SessionKey
    from .entries import Held, SessionEntries
    from .key_names import KeyNames
    from .notifications import RedisNotifications
    from .transport.client import RedisClient
    from .transport.protocol import Arguments, Reply
    from .transport.script import Script
    from .waits import RedisWaits

__all__ = ["RedisInbox"]

_DEAD_LETTER: Final = -10
_UNREADABLE_BACKOFF_MS: Final = 10_000
_REMOVED_REPLIES: Final = (6, 9)
"""Lengths of a reply that ends with the owner and the labels of a removed session."""
_DUE_LATER: Final = (StoreUnavailableError, OutcomeUnknownError)
"""Errors after which an index entry stays unchanged, and becomes due at its time."""


@final
class RedisInbox(InboxBackend):
    """Creates calls on the inboxes of a store.

    :ivar client: the client of the store.
    :ivar names: the key names of the store.
    :param notifications: the notifications of the store.
    :ivar waits: the waits of the store. A commit updates their index.
    :ivar index_entries: the index entries of the store's sessions.
    :ivar keep_ms: a time longer than any call may take, in milliseconds.
    :ivar grace_ms: limit on the time from one step of a call to the next, in milliseconds.
    :ivar fencing: the fencing counter of the store's turns.
    :ivar passes: the passes that copy entries to the indexes of tenants.
    """

    def __init__(
        self,
        client: RedisClient,
        names: KeyNames,
        notifications: RedisNotifications,
        waits: RedisWaits,
        index_entries: SessionEntries,
        *,
        keep_ms: int,
        grace_ms: int,
    ) -> None:
        self.client: Final = client
        self.names: Final = names
        self._notifications: Final = notifications
        self.waits: Final = waits
        self.index_entries: Final = index_entries
        self.keep_ms: Final = keep_ms
        self.grace_ms: Final = grace_ms
        self.fencing: Final = FencingCounter()
        self.passes: Final = CopyPasses()

    def scripts(self) -> InboxScriptRunner:
        """Return a runner of the scripts whose deadline starts now."""
        return InboxScriptRunner(self.client, self.names, self.client.deadline())

    @override
    def call(self) -> RedisInboxCall:
        return RedisInboxCall(self, self.scripts())

    @override
    def subscribe(self, inbox: str, scope: str) -> AbstractAsyncContextManager[Subscription]:
        return self._notifications.subscribe(topic_of(inbox, scope))

    @override
    async def dead_letters(
        self, inbox: str, scope: str, dead_ms: int, position: object | None
    ) -> tuple[Sequence[StoredDeadLetter], object | None]:
        return await read_dead_letters(
            self.client, self.names, inbox, scope=scope, dead_ms=dead_ms, position=position
        )


@final
class RedisInboxCall(InboxCall):
    """Runs each step on an inbox as one script in one slot.

    :param backend: the backend of the store's inboxes.
    :param scripts: the runner of the scripts, with the deadline of the call.
    """

    def __init__(self, backend: RedisInbox, scripts: InboxScriptRunner) -> None:
        self._backend: Final = backend
        self._client: Final = backend.client
        self._names: Final = backend.names
        self._keep_ms: Final = backend.keep_ms
        self._scripts: Final = scripts
        self._early_events: Final = EarlyEvents(scripts, backend.names)
        self._index: Final = InboxIndex(
            backend.client, backend.names, scripts, backend.passes, backend.scripts
        )

    # --- mailboxes ---------------------------------------------------------------------------

    @override
    async def enqueue(self, message: NewMessage) -> EnqueueOutcome:
        allowed, event_id, memory = message.allowed, message.event_id, message.headers_memory
        arguments = lua.admit_arguments(
            allowed.exact,
            allowed.shared,
            event_id,
            encode_new(allowed.exact, event_id, message.payload),
            message_limit=message.most,
            event_limit=message.events.most,
            event_memory_ms=message.events.ttl_ms,
            keep_ms=self._keep_ms,
            headers=message.headers,
            header_limit=0 if memory is None else memory.most,
            header_ms=0 if memory is None else memory.ttl_ms,
        )
        reply = await self._enqueue(lua.ADMIT, message.inbox, message.mailbox, ":seen", arguments)
        with parsing_write_reply():
            verdict = Verdict(reply[0])
            if len(reply) == 1:
                return EnqueueOutcome(verdict)
            return EnqueueOutcome(verdict, waiting=int(reply[1]), worker=reply[3].decode())

    async def _enqueue(
        self, script: Script, inbox: str, mailbox: MailboxRef, suffix: str, arguments: Arguments
    ) -> Reply:
        """Run a script that may enqueue a message, between the two writes of its index entry."""
        token = secrets.token_hex(8)
        pending = lua.index_add_pending_arguments(
            f"{token}!{member_of(mailbox)}", self._backend.grace_ms
        )
        indexes = self._names.inbox_indexes(inbox, mailbox.scope)
        await self._scripts.on_index(lua.INDEX_ADD_PENDING, *indexes, arguments=pending)
        set_due = partial(self._scripts.set_due, inbox, mailbox, "", pending_token=token)
        try:
            reply = await self._scripts.on_mailbox(script, mailbox, suffix, arguments)
        except DurabilityError:
            # The message is in the mailbox. So an error of `set_due` must not replace this one.
            with suppress(SessionError):  # otherwise the pending entry is due at its time
                await set_due(0)
            raise
        with parsing_write_reply():
            count, free_ms, worker = reply[1:] if len(reply) > 1 else (b"0", b"", b"")
        # A worker that holds the turn finds the message when it ends the turn.
        delay_ms = "" if count == b"0" or worker else free_ms
        try:
            await set_due(delay_ms)
        except _DUE_LATER:
            if self._client.confirms_apart:  # the pending entry may be lost as well
                raise OutcomeUnknownError("the index of the inbox was not reached") from None
        return reply

    @override
    async def take(self, request: TakeRequest) -> GrantedTurn | NothingDue:
        attempt = mint_incarnation()
        defer_ms = min(request.lease_ms, self._backend.grace_ms)
        longest_ms = self._longest_ms(request)
        found = await self._index.next_due(request, attempt, defer_ms, longest_ms)
        if isinstance(found, NothingDue):
            return found
        member, score = found
        with parsing_write_reply():
            mailbox = mailbox_from_member(member)
        if mailbox is None:  # this library did not write the entry
            index = self._names.inbox_index(request.inbox)
            await self._client.read("ZREM", index, member, key=index, until=self._scripts.until)
            return NothingDue(0)
        taken = await self._take_turn(request, mailbox, score, attempt)
        if isinstance(taken, GrantedTurn):
            return taken
        free_ms, dropped = taken
        if free_ms:  # an entry that is due later tells `inbox/index_next_due` of a clock set back
            with parsing_write_reply():
                free_ms = b"%d" % min(int(free_ms), self._longest_ms(request))
        with suppress(*_DUE_LATER):
            await self._scripts.set_due(request.inbox, mailbox, score, free_ms, notifies=False)
        return NothingDue(0, dropped)

    def _longest_ms(self, request: TakeRequest) -> int:
        """Return the longest time for which a worker defers a session, in milliseconds."""
        return max(request.lease_ms, self._backend.grace_ms)

    async def _take_turn(
        self, request: TakeRequest, mailbox: MailboxRef, score: bytes, attempt: str
    ) -> GrantedTurn | tuple[bytes, int]:
        """Take the turn of a session.

        :returns: the turn. If it cannot be taken, the milliseconds until it may be taken, empty
            without messages, and the number of dropped dead letters.
        """
        dropped = 0
        arguments = partial(
            lua.take_turn_arguments,
            attempt,
            request.worker,
            request.lease_ms,
            batch_limit=request.most,
            attempt_limit=request.attempts,
            retention_ms=request.dead_ms,
            keep_ms=self._keep_ms,
            fence_floor=self._backend.fencing.last,
            dead_limit=request.dead_most,
        )
        run = partial(self._scripts.on_mailbox, lua.TAKE_TURN, mailbox, ":dead", grants=attempt)
        complete = partial(
            run_to_completion, name="greentic_session end of inbox turn", limit_secs=RELEASE_SECS
        )

        async def requeue(backoff_ms: int | None = None) -> None:
            with suppress(SessionError):
                call = self._backend.call()  # the deadline of this call may be over
                await call.release_or_requeue(request.inbox, mailbox, score, attempt, backoff_ms)

        try:
            reply: Reply = await run(arguments(may_dead_letter=False))
            verdict = _first(reply)
            if verdict == _DEAD_LETTER:
                # The index entry comes first, because a dead letter without one is never found.
                index = f"{self._names.inbox_index(request.inbox)}:dead"
                entry = lua.index_dead_letter_arguments(member_of(mailbox), request.dead_ms)
                await self._scripts.on_index(
                    lua.INDEX_DEAD_LETTER, index, arguments=entry, skips_acks=False
                )
            while verdict == _DEAD_LETTER:  # a call moves a bounded number of messages
                reply = await run(arguments(may_dead_letter=True))
                verdict = _first(reply)
                if verdict in (_DEAD_LETTER, Verdict.ABSENT):
                    with parsing_write_reply():
                        dropped += int(reply[1])
            if verdict != Verdict.DONE:
                with parsing_write_reply():
                    free_ms: bytes = reply[1] if verdict == Verdict.CLAIMED else b""
                return free_ms, dropped
            turn = decode_turn(request.inbox, mailbox, score.decode(), reply[1:])
        except DecodeError:
            await complete(partial(requeue, backoff_ms=_UNREADABLE_BACKOFF_MS))
            raise
        except (DurabilityError, anyio.get_cancelled_exc_class()):  # the turn may have been taken
            await complete(requeue)  # even if the caller was cancelled
            raise
        except OutcomeUnknownError:
            # The turn may have been taken, but the caller does not wait longer.
            start_background(requeue, "greentic_session end of a lost inbox turn")
            raise
        self._backend.fencing.observe(turn.ref.fence)
        return turn._replace(dropped=turn.dropped + dropped) if dropped else turn

    async def release_or_requeue(
        self, inbox: str, mailbox: MailboxRef, score: bytes, attempt: str, backoff_ms: int | None
    ) -> None:
        """Release the turn of an attempt. If it was not taken, make the session due."""
        if not await self._release(inbox, mailbox, attempt=attempt, backoff_ms=backoff_ms):
            await self._scripts.set_due(inbox, mailbox, score, 0)

    @override
    async def renew(self, ref: TurnRef, lease_ms: int) -> tuple[int, int]:
        arguments = lua.renew_turn_arguments(ref.fence, lease_ms, self._keep_ms)
        reply = await self._scripts.on_mailbox(lua.RENEW_TURN, ref.mailbox, "", arguments)
        with parsing_write_reply():
            return (int(reply[1]), int(reply[2])) if reply[0] == Verdict.DONE else (0, 0)

    @override
    async def commit(self, result: TurnCommit) -> Outcome:
        ref, encoded = result.ref, result.encoded
        scope, key = ref.mailbox
        set_due = partial(self._scripts.set_due, ref.inbox, ref.mailbox, ref.index_score)
        arguments = lua.commit_turn_arguments(
            new_owner="" if encoded is None else encoded.owner,
            new_ttl_ms=None if encoded is None else encoded.ttl_ms,
            new_body=b"" if encoded is None else encoded.body,
            expected_incarnation=result.expected.incarnation,
            expected_version=result.expected.value,
            turn_fence=ref.fence,
            action="write" if encoded is not None else "remove" if result.removes else "leave",
            handled_count=result.handled,
            remaining_count=result.in_hand,
            ends_turn=result.ends,
            new_incarnation=mint_incarnation(),
            keep_ms=self._keep_ms,
            held_ms="",
            new_labels=NOT_COMPARED if encoded is None else encoded.labels,
        )
        shortfall: tuple[int, int] | None = None
        try:
            reply = await self._commit(ref, encoded, arguments)
        except UnconfirmedError as error:  # the script was executed
            reply, shortfall = error.reply, error.shortfall
        if _first(reply) != Verdict.DONE:
            return outcome_of(key, reply)
        outcome = outcome_of(key, reply[:4])
        with parsing_write_reply():
            is_empty = reply[4] == b"0"
        if len(reply) in _REMOVED_REPLIES:
            ended = reply.pop()
            await self._backend.index_entries.remove(scope, key, ended, self._scripts.until)
        if len(reply) > 5:  # the session waits
            await self._backend.waits.call(self._scripts.until).extend_index(
                scope, key, reply[5:], gone=result.removes
            )
        if result.ends:
            delay_ms = "" if is_empty else 0
            with suppress(*_DUE_LATER):
                await set_due(delay_ms)
        if shortfall is not None:
            return msgspec.structs.replace(outcome, shortfall=shortfall)
        return outcome

    async def _commit(
        self, ref: TurnRef, encoded: EncodedSession | None, arguments: Arguments
    ) -> Reply:
        run = self._scripts.on_mailbox
        if encoded is None:
            return await run(lua.COMMIT_TURN, ref.mailbox, "", arguments)

        async def attempt(indexes: tuple[str, ...], held: Held) -> Reply:
            given = with_schema_version((*arguments[:-2], held, arguments[-1]), encoded)
            return await run(lua.COMMIT_TURN, ref.mailbox, "", given, indexes=indexes)

        return await self._backend.index_entries.write(
            attempt,
            encoded.scope,
            encoded.key,
            encoded.owner,
            encoded.labels,
            until=self._scripts.until,
        )

    @override
    async def release(self, ref: TurnRef, backoff_ms: int | None) -> bool:
        return await self._release(
            ref.inbox,
            ref.mailbox,
            turn_fence=ref.fence,
            backoff_ms=backoff_ms,
            score=ref.index_score,
        )

    async def _release(
        self,
        inbox: str,
        mailbox: MailboxRef,
        *,
        turn_fence: int | None = None,
        attempt: str = "",
        backoff_ms: int | None,
        score: str = "",
    ) -> bool:
        arguments = lua.release_turn_arguments(turn_fence, attempt, backoff_ms, self._keep_ms)
        reply = await self._scripts.on_mailbox(
            lua.RELEASE_TURN, mailbox, "", arguments, ends=attempt
        )
        if not _is_done(reply):
            return False
        with parsing_write_reply():
            delay_ms = "" if reply[1] == b"0" else backoff_ms or 0
        with suppress(*_DUE_LATER):
            await self._scripts.set_due(inbox, mailbox, score, delay_ms)
        return True

    @override
    async def size(self, inbox: str, scope: str) -> InboxSize:
        return await self._index.size(inbox, scope)

    # --- dead letters ------------------------------------------------------------------------

    @override
    async def replay(self, inbox: str, mail: StoredDeadLetter, dead_ms: int, most: int) -> Outcome:
        message = encode_new(mail.message.owner, mail.message.event_id, mail.message.payload)
        arguments = lua.replay_dead_letter_arguments(
            encode_dead_letter(mail),
            message,
            died_ms=mail.died_ms,
            retention_ms=dead_ms,
            message_limit=most,
            keep_ms=self._keep_ms,
        )
        reply = await self._enqueue(lua.REPLAY_DEAD_LETTER, inbox, mail.mailbox, ":dead", arguments)
        with parsing_write_reply():
            return Outcome(Verdict(reply[0]))

    @override
    async def discard(self, mail: StoredDeadLetter) -> bool:
        arguments = lua.discard_dead_letter_arguments(encode_dead_letter(mail), self._keep_ms)
        reply = await self._scripts.on_mailbox(
            lua.DISCARD_DEAD_LETTER, mail.mailbox, ":dead", arguments
        )
        return _is_done(reply)

    @override
    async def withdraw(
        self,
        mailbox: MailboxRef,
        event_id: str,
        events: EventMemory,
        *,
        prefix: str = "",
        refuses: bool = False,
    ) -> Verdict:
        arguments = lua.withdraw_arguments(
            event_id,
            prefix,
            refuses=refuses,
            event_limit=events.most,
            event_memory_ms=events.ttl_ms,
            keep_ms=self._keep_ms,
        )
        reply = await self._scripts.on_mailbox(lua.WITHDRAW, mailbox, ":seen", arguments)
        with parsing_write_reply():
            return _known(Verdict(reply[0]))

    # --- early events ------------------------------------------------------------------------

    @override
    async def store_early(
        self,
        queue: EarlyEventQueue,
        event_id: str,
        payload: bytes,
        events: EventMemory,
        headers: bytes = b"",
    ) -> Outcome:
        return await self._early_events.store(
            queue, event_id, payload, events=events, headers=headers
        )

    @override
    async def assign_early(
        self,
        queue: EarlyEventQueue,
        key: SessionKey,
        gone: str,
        events: EventMemory,
        position: int = 0,
    ) -> EarlyPage:
        return await self._early_events.assign(queue, key, gone, events, position)

    @override
    async def delete_early(
        self, queue: EarlyEventQueue, key: SessionKey, message: StoredMessage
    ) -> None:
        await self._early_events.delete(queue, key, message)


def _first(reply: Reply) -> int:
    with parsing_write_reply():
        return int(reply[0])


def _is_done(reply: Reply) -> bool:
    return _known(Verdict(_first(reply))) is Verdict.DONE


def _known(verdict: Verdict) -> Verdict:
    if verdict is Verdict.UNKNOWN:
        raise OutcomeUnknownError("the mailbox's operation log no longer covers this call")
    return verdict
