"""Inboxes on one Redis or Valkey server.

What happens to mail takes steps in two slots, in an order that leaves a hint wherever one dies:

* To admit: the expectation of mail, which comes due soon (``expect``), the letter (``post``), and
  the hint is due in its place, unless somebody has the session in hand (``hint``).
* To take: the first hint that is due, put off for a visit (``due``); the turn (``take``). If there
  is none to take, the hint is put off until there may be, or taken out unless it was touched since
  (``hint``).
* To end a turn: the session, its mail and the lease (``commit``, ``release_turn``); the hint is due
  if mail is left, or taken out unless it was touched since (``hint``).
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, cast, final

import anyio

from .._compat import override
from .._core.fencing import FencingCounter
from .._core.tasks import run_to_completion, start_background
from ..abc.inbox import EnqueueOutcome, GrantedTurn, InboxBackend, InboxSize, NothingDue
from ..abc.records import Outcome, Verdict, mint_incarnation
from ..errors import (
    DecodeError,
    DurabilityError,
    OutcomeUnknownError,
    SessionError,
    StoreUnavailableError,
)
from ..model import SessionKey
from .inbox_scripts import InboxScripts, topic_of
from .message_format import (
    decode,
    decode_dead_letter,
    decode_turn,
    encode,
    encode_dead_letter,
    encode_new,
    mailbox_from_member,
    member_of,
)
from .replies import outcome_of, parsing_write_reply, scored, wrong_type, wrong_type_of
from .scripts import (
    ADMIT,
    ASSIGN_EARLY,
    COMMIT_TURN,
    DELETE_EARLY,
    DISCARD_DEAD_LETTER,
    INDEX_ADD_PENDING,
    INDEX_DEAD_LETTER,
    INDEX_NEXT_DUE,
    INDEX_REQUEUE,
    RELEASE_TURN,
    RENEW_TURN,
    REPLAY_DEAD_LETTER,
    STORE_EARLY,
    TAKE_TURN,
)
from .transport.failures import ForeignValueError, malformed_reply

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from ..abc.inbox import (
        EarlyEventQueue,
        MailboxRef,
        NewMessage,
        StoredDeadLetter,
        StoredMessage,
        TakeRequest,
        TurnCommit,
        TurnRef,
    )
    from ..abc.notifications import Subscription
    from ..abc.waits import EventMemory
    from .key_names import KeyNames
    from .notifications import RedisNotifications
    from .transport.client import RedisClient
    from .transport.protocol import Argument, Reply
    from .transport.script import Script
    from .waits import RedisWaits

__all__ = ["RedisInbox"]

_DEAD_LETTER: Final = -10
_UNREADABLE_BACKOFF_MS: Final = 10_000
_REQUEUE_SECS: Final = 5.0
_MARGIN_MS: Final = 250
"""How long forgoing may take to the server. If longer, what was put off comes due by itself."""
_PAGE: Final = 64
_TRANSIENT: Final = (StoreUnavailableError, OutcomeUnknownError)
"""What may keep a hint from being changed now: it comes due by itself."""


@final
class RedisInbox(InboxScripts, InboxBackend):
    """The steps of inboxes, each one script in one slot.

    :param client: of the store.
    :param names: of the store.
    :param notifications: of the store.
    :param waits: of the store; their index follows what is written here.
    :param keep_ms: longer than any call may be under way, in milliseconds.
    :param grace_ms: how long a caller may take from one of its steps to the next, in milliseconds.
    """

    def __init__(
        self,
        client: RedisClient,
        names: KeyNames,
        notifications: RedisNotifications,
        waits: RedisWaits,
        *,
        keep_ms: int,
        grace_ms: int,
    ) -> None:
        super().__init__(client, names)
        self._notifications: Final = notifications
        self._waits: Final = waits
        self._keep_ms: Final = keep_ms
        self._grace_ms: Final = grace_ms
        self._fencing: Final = FencingCounter()

    @override
    def deadline(self) -> float:
        return self._client.deadline()

    @override
    def subscribe(self, inbox: str) -> AbstractAsyncContextManager[Subscription]:
        return self._notifications.subscribe(topic_of(inbox))

    # --- mailboxes ---------------------------------------------------------------------------

    @override
    async def enqueue(self, message: NewMessage, until: float | None) -> EnqueueOutcome:
        inbox, mailbox, allowed, event_id, payload, most, events = message
        encoded = encode_new(allowed.exact, event_id, payload)
        reply = await self._enqueue(
            ADMIT,
            inbox,
            mailbox,
            ":seen",
            (*allowed, event_id, encoded, most, *events, self._keep_ms),
            until=until,
        )
        with parsing_write_reply():
            verdict = Verdict(reply[0])
            if len(reply) == 1:
                return EnqueueOutcome(verdict)
            return EnqueueOutcome(verdict, waiting=int(reply[1]), worker=reply[3].decode())

    async def _enqueue(
        self,
        script: Script,
        inbox: str,
        mailbox: MailboxRef,
        suffix: str,
        arguments: Sequence[Argument],
        *,
        until: float | None,
    ) -> Reply:
        """Run a script that may bring mail, between what its index has to be told."""
        token = secrets.token_hex(8)
        expectation = f"{token}!{member_of(mailbox)}"
        agenda = self._names.agenda(inbox)
        await self._on_index(INDEX_ADD_PENDING, agenda, (expectation, self._grace_ms), until)
        try:
            reply = await self._on_mailbox(script, mailbox, suffix, arguments, until)
        except DurabilityError:  # the mail is in
            await self._index_set_due(inbox, mailbox, "", 0, until, token=token)
            raise
        with parsing_write_reply():
            waiting, free_ms, worker = reply[1:] if len(reply) > 1 else (b"0", b"", b"")
        # Who has the session in hand sees the mail when the turn ends.
        delay_ms = "" if waiting == b"0" or worker else free_ms
        try:
            await self._index_set_due(inbox, mailbox, "", delay_ms, until, token=token)
        except _TRANSIENT:
            if self._client.confirms_apart:  # perhaps the expectation is lost as well
                raise OutcomeUnknownError("the index of the inbox was not reached") from None
        return reply

    @override
    async def take(self, request: TakeRequest, until: float | None) -> GrantedTurn | NothingDue:
        by = mint_incarnation()
        found: Reply = await self._first_due(request, by, until)
        with parsing_write_reply():
            if found[0] == 0:
                return NothingDue(int(found[1]) / 1000 if len(found) > 1 else None)
            member, mark = found[1:]
            mailbox = mailbox_from_member(member)
        if mailbox is None:  # not of this library's making: nobody misses it
            index = self._names.agenda(request.inbox)
            await self._client.read("ZREM", index, member, key=index, until=until)
            return NothingDue(0)
        taken = await self._claim(request, mailbox, mark, by, until)
        if isinstance(taken, GrantedTurn):
            return taken
        with suppress(*_TRANSIENT):
            await self._index_set_due(request.inbox, mailbox, mark, taken, until, rings=False)
        return NothingDue(0)

    async def _first_due(self, request: TakeRequest, by: str, until: float | None) -> Reply:
        """Return which session is due, put off for a visit, as ``inbox/index_next_due`` does."""
        visit_ms = min(request.lease_ms, self._grace_ms)
        index = self._names.agenda(request.inbox)
        asked_at = anyio.current_time()
        try:
            return await self._on_index(INDEX_NEXT_DUE, index, (visit_ms,), until, grants=by)
        except anyio.get_cancelled_exc_class():
            # Else nobody would look at it for as long as a visit may take.
            if self._client.may_still_arrive(by):
                age_ms = round((anyio.current_time() - asked_at) * 1000) + _MARGIN_MS
                terms = (visit_ms, age_ms, self._names.channel(topic_of(request.inbox)))

                async def forgo() -> None:
                    with suppress(SessionError):
                        await self._on_index(INDEX_REQUEUE, index, terms, self.deadline(), ends=by)

                start_background(forgo, "greentic_session end of a look")
            raise

    async def _claim(
        self, request: TakeRequest, mailbox: MailboxRef, mark: bytes, by: str, until: float | None
    ) -> GrantedTurn | bytes:
        """Take the turn, or return in how many ms it may be taken, empty if there is no mail."""
        terms = (by, request.worker, request.lease_ms, request.most, request.attempts)
        rest = (request.dead_ms, self._keep_ms, self._fencing.last)
        run = partial(self._on_mailbox, TAKE_TURN, mailbox, ":dead", grants=by)
        try:
            reply: Reply = await run((*terms, "", *rest), until)
            verdict = _first(reply)
            if verdict == _DEAD_LETTER:
                # The index first: a dead letter that no index leads to would not be found.
                index = f"{self._names.agenda(request.inbox)}:dead"
                terms_of_index = (member_of(mailbox), request.dead_ms)
                await self._on_index(INDEX_DEAD_LETTER, index, terms_of_index, until, is_hint=False)
                reply = await run((*terms, 1, *rest), until)
                verdict = _first(reply)
            if verdict != Verdict.DONE:
                with parsing_write_reply():
                    told: bytes = reply[1] if verdict == Verdict.CLAIMED else b""
                return told
            turn = decode_turn(request.inbox, mailbox, mark.decode(), reply[1:])
        except DecodeError:
            await self._requeue(request.inbox, mailbox, mark, by, _UNREADABLE_BACKOFF_MS)
            raise
        except (DurabilityError, anyio.get_cancelled_exc_class()):  # it was taken, or may have been
            await self._requeue(request.inbox, mailbox, mark, by, "")
            raise
        except OutcomeUnknownError:
            # Likewise, but the caller has waited long enough.
            forsake = partial(self._index_dead_letter, request.inbox, mailbox, mark, by, "")
            start_background(forsake, "greentic_session end of a lost inbox turn")
            raise
        self._fencing.observe(turn.ref.fence)
        return turn

    async def _requeue(
        self, inbox: str, mailbox: MailboxRef, mark: bytes, by: str, rest_ms: int | str
    ) -> None:
        """Give a turn back for a caller who will not, and who may have been cancelled."""
        give_up = partial(self._index_dead_letter, inbox, mailbox, mark, by, rest_ms)
        await run_to_completion(give_up, "greentic_session end of inbox turn", _REQUEUE_SECS)

    async def _index_dead_letter(
        self, inbox: str, mailbox: MailboxRef, mark: bytes, by: str, rest_ms: int | str
    ) -> None:
        with suppress(SessionError):
            until = self.deadline()
            if not await self._release(inbox, mailbox, ("", by, rest_ms), "", until):
                await self._index_set_due(
                    inbox, mailbox, mark, 0, until
                )  # it was not taken: let others

    @override
    async def renew(self, ref: TurnRef, lease_ms: int, until: float | None) -> tuple[int, int]:
        terms = (ref.fence, lease_ms, self._keep_ms)
        reply = await self._on_mailbox(RENEW_TURN, ref.mailbox, "", terms, until)
        with parsing_write_reply():
            return (int(reply[1]), int(reply[2])) if reply[0] == Verdict.DONE else (0, 0)

    @override
    async def commit(self, result: TurnCommit, until: float | None) -> Outcome:
        ref, encoded, removes, expected, handled, in_hand, ends = result
        scope, key = ref.mailbox
        state: tuple[Argument, ...] = ("", "", "")
        how = "remove" if removes else "leave"
        if encoded is not None:
            state, how = (encoded.owner, encoded.ttl_ms, encoded.body), "write"
        terms = (
            *(*state, expected.incarnation, expected.value, ref.fence, how),
            *(handled, in_hand, "1" if ends else "", mint_incarnation(), self._keep_ms),
        )
        try:
            reply = await self._on_mailbox(COMMIT_TURN, ref.mailbox, "", terms, until)
        except DurabilityError:  # the turn is over, and there may be mail
            if ends:
                with suppress(*_TRANSIENT):
                    await self._index_set_due(ref.inbox, ref.mailbox, ref.mark, 0, until)
            raise
        if _first(reply) != Verdict.DONE:
            return outcome_of(key, reply)
        outcome = outcome_of(key, reply[:4])
        with parsing_write_reply():
            is_empty = reply[4] == b"0"
        if len(reply) > 5:  # the session waits
            await self._waits.extend_index(scope, key, reply[5:], gone=removes, until=until)
        if ends:
            delay_ms = "" if is_empty else 0
            with suppress(*_TRANSIENT):
                await self._index_set_due(ref.inbox, ref.mailbox, ref.mark, delay_ms, until)
        return outcome

    @override
    async def release(self, ref: TurnRef, rest_ms: int | None, until: float | None) -> bool:
        terms = (ref.fence, "", "" if rest_ms is None else rest_ms)
        return await self._release(ref.inbox, ref.mailbox, terms, ref.mark, until)

    async def _release(
        self,
        inbox: str,
        mailbox: MailboxRef,
        terms: tuple[int | str, str, int | str],
        mark: str,
        until: float | None,
    ) -> bool:
        _, by, _ = terms
        given = (*terms, self._keep_ms)
        reply = await self._on_mailbox(RELEASE_TURN, mailbox, "", given, until, ends=by)
        if not _is_done(reply):
            return False
        with parsing_write_reply():
            delay_ms = "" if reply[1] == b"0" else terms[-1] or 0
        with suppress(*_TRANSIENT):
            await self._index_set_due(inbox, mailbox, mark, delay_ms, until)
        return True

    @override
    async def size(self, inbox: str, until: float | None) -> InboxSize:
        index = self._names.agenda(inbox)
        try:
            sessions, (secs, us) = await self._client.read_many(
                [("ZCARD", index), ("TIME",)], key=index, until=until
            )
            now_ms = f"{int(secs) * 1000 + int(us) / 1000:.3f}"
            due = await self._client.read("ZCOUNT", index, "-inf", now_ms, key=index, until=until)
            return InboxSize(int(sessions), min(int(sessions), int(due)))
        except ForeignValueError:
            raise wrong_type_of("an inbox's index") from None
        except (TypeError, ValueError):
            raise malformed_reply() from None

    # --- dead letters ------------------------------------------------------------------------

    @override
    async def dead_letters(
        self, inbox: str, dead_ms: int, position: object | None
    ) -> tuple[Sequence[StoredDeadLetter], object | None]:
        index = f"{self._names.agenda(inbox)}:dead"
        # A session that gets another dead letter moves to the end of the index. So where others are
        # now says nothing of where to go on: their times do, and which of the last were given.
        start, given = cast("tuple[int, frozenset[bytes]]", position or (0, frozenset()))
        most = len(given) + _PAGE
        page = "ZRANGEBYSCORE", index, start, "+inf", "WITHSCORES", "LIMIT", 0, most
        try:
            reply, (secs, us) = await self._client.read_many([page, ("TIME",)], key=index)
            since_ms = int(secs) * 1000 + int(us) // 1000 - dead_ms
            entries = scored(reply)
            boxes = [
                mailbox
                for member, _ in entries
                if member not in given and (mailbox := mailbox_from_member(member)) is not None
            ]
        except ForeignValueError:
            raise wrong_type_of("an inbox's index") from None
        except (TypeError, ValueError, AttributeError):
            raise malformed_reply() from None
        names = [f"{self._names.inbox(*mailbox)}:dead" for mailbox in boxes]
        try:
            replies = await self._client.read_each([("LRANGE", name, 0, -1) for name in names])
        except ForeignValueError as error:
            raise wrong_type(boxes[error.index].key) from None
        messages = [
            mail
            for mailbox, reply in zip(boxes, replies, strict=True)
            for entry in reply
            if (mail := decode_dead_letter(mailbox, entry)).died_ms > since_ms
        ]
        if len(entries) < most:
            return messages, None
        last = entries[-1][1]
        return messages, (last, frozenset(member for member, at in entries if at == last))

    @override
    async def replay(
        self, inbox: str, mail: StoredDeadLetter, dead_ms: int, most: int, until: float | None
    ) -> Outcome:
        message = encode_new(mail.message.owner, mail.message.event_id, mail.message.payload)
        terms = (encode_dead_letter(mail), message, mail.died_ms, dead_ms, most, self._keep_ms)
        reply = await self._enqueue(
            REPLAY_DEAD_LETTER, inbox, mail.mailbox, ":dead", terms, until=until
        )
        with parsing_write_reply():
            return Outcome(Verdict(reply[0]))

    @override
    async def discard(self, mail: StoredDeadLetter, until: float | None) -> bool:
        terms = (encode_dead_letter(mail), self._keep_ms)
        reply = await self._on_mailbox(DISCARD_DEAD_LETTER, mail.mailbox, ":dead", terms, until)
        return _is_done(reply)

    # --- events that came before their wait --------------------------------------------------

    @override
    async def store_early(
        self,
        place: EarlyEventQueue,
        event_id: str,
        payload: bytes,
        events: EventMemory,
        until: float | None,
    ) -> Outcome:
        terms = (encode_new(place.wait_owner.owner, event_id, b""), payload, *events)
        reply = await self._on_index(STORE_EARLY, self._early(place), terms, until, is_hint=False)
        with parsing_write_reply():
            return Outcome(Verdict(reply[0]))

    @override
    async def assign_early(
        self,
        place: EarlyEventQueue,
        key: SessionKey,
        gone: str,
        events: EventMemory,
        until: float | None,
    ) -> Sequence[tuple[SessionKey, StoredMessage]]:
        terms = (key, events.ttl_ms, gone)
        reply = await self._on_index(ASSIGN_EARLY, self._early(place), terms, until, is_hint=False)
        with parsing_write_reply():
            _, *told = reply
            return [
                (SessionKey(key.decode()), decode(message))
                for key, message in zip(told[::2], told[1::2], strict=True)
            ]

    @override
    async def delete_early(
        self, place: EarlyEventQueue, key: SessionKey, message: StoredMessage, until: float | None
    ) -> None:
        await self._on_index(DELETE_EARLY, self._early(place), (key, encode(message)), until)

    def _early(self, place: EarlyEventQueue) -> str:
        env, tenant_id = place.wait_owner.scope.split("/")
        team_id, user_id = place.wait_owner.owner.split("/", 1)
        return self._names.early(env, tenant_id, team_id, user_id, place.scope_hash)


def _first(reply: Reply) -> int:
    with parsing_write_reply():
        return int(reply[0])


def _is_done(reply: Reply) -> bool:
    verdict = _first(reply)
    if verdict == Verdict.UNKNOWN:
        raise OutcomeUnknownError("the mailbox has seen too much since to tell")
    return verdict == Verdict.DONE
