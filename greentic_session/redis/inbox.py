"""Inboxes on one Redis or Valkey server.

What happens to mail takes steps in two slots, in an order that leaves a hint wherever one dies:

* To admit: the expectation of mail, which comes due soon (``expect``), the letter (``post``), and
  the hint is due in its place, unless somebody has the session in hand (``hint``).
* To take: the first hint that is due, put off for a visit (``due``); the turn (``take``). If there
  is none to take, the hint is put off until there may be, or taken out unless it was touched since
  (``hint``).
* To end a turn: the session, its mail and the lease (``commit``, ``give_back``); the hint is due if
  mail is left, or taken out unless it was touched since (``hint``).
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, cast, final

import anyio

from .._compat import override
from .._core.tasks import run_to_end, start_background
from ..abc.inbox import Grant, InboxBackend, InboxSize, Nothing, PostOutcome
from ..abc.records import Outcome, Verdict, mint_incarnation
from ..errors import (
    DecodeError,
    DurabilityError,
    OutcomeUnknownError,
    SessionError,
    StoreUnavailableError,
)
from ..model import SessionKey
from .inbox_scripts import MailSteps, foreign_index, topic_of
from .message_format import (
    dead_mail_of,
    entry_of,
    grant_of,
    letter_of,
    mailbox_of,
    member_of,
    packed,
    stored,
)
from .replies import being_read, foreign, outcome_of, scored
from .scripts import (
    ASSIGN,
    COMMIT,
    DISCARD,
    DROP,
    DUE,
    EXPECT,
    FORGO,
    GIVE_BACK,
    KEEP,
    MOURN,
    POST,
    PROLONG,
    REPLAY,
    TAKE,
)
from .transport.failures import ForeignValueError, garbled

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from ..abc.inbox import (
        Bid,
        Commitment,
        DeadMail,
        EarlyPlace,
        Letter,
        Mailbox,
        Posting,
        TurnHold,
    )
    from ..abc.notifications import Bell
    from ..abc.waits import EventMemory
    from .key_names import Names
    from .notifications import RedisBells
    from .transport.client import RedisClient
    from .transport.protocol import Argument, Reply
    from .transport.script import Script
    from .waits import RedisWaits

__all__ = ["RedisInbox"]

_BURY: Final = -10
_UNREADABLE_REST_MS: Final = 10_000
_FORSAKE_SECS: Final = 5.0
_MARGIN_MS: Final = 250
"""How long forgoing may take to the server. If longer, what was put off comes due by itself."""
_PAGE: Final = 64
_PASSING: Final = (StoreUnavailableError, OutcomeUnknownError)
"""What may keep a hint from being changed now: it comes due by itself."""


@final
class RedisInbox(MailSteps, InboxBackend):
    """The steps of inboxes, each one script in one slot.

    :param client: of the store.
    :param names: of the store.
    :param bells: of the store.
    :param waits: of the store; their index follows what is written here.
    :param keep_ms: longer than any call may be under way, in milliseconds.
    :param grace_ms: how long a caller may take from one of its steps to the next, in milliseconds.
    """

    def __init__(
        self,
        client: RedisClient,
        names: Names,
        bells: RedisBells,
        waits: RedisWaits,
        *,
        keep_ms: int,
        grace_ms: int,
    ) -> None:
        super().__init__(client, names)
        self._bells: Final = bells
        self._waits: Final = waits
        self._keep_ms: Final = keep_ms
        self._grace_ms: Final = grace_ms
        self._fence = 0  # as in `RedisLocks`

    @override
    def deadline(self) -> float:
        return self._client.deadline()

    @override
    def listen(self, inbox: str) -> AbstractAsyncContextManager[Bell]:
        return self._bells.listen(topic_of(inbox))

    # --- mailboxes ---------------------------------------------------------------------------

    @override
    async def post(self, posting: Posting, until: float | None) -> PostOutcome:
        inbox, box, admission, event_id, payload, most, events = posting
        letter = packed(admission.exact, event_id, payload)
        reply = await self._posted(
            POST,
            inbox,
            box,
            ":seen",
            (*admission, event_id, letter, most, *events, self._keep_ms),
            until=until,
        )
        with being_read():
            verdict = Verdict(reply[0])
            if len(reply) == 1:
                return PostOutcome(verdict)
            return PostOutcome(verdict, waiting=int(reply[1]), worker=reply[3].decode())

    async def _posted(
        self,
        script: Script,
        inbox: str,
        box: Mailbox,
        suffix: str,
        arguments: Sequence[Argument],
        *,
        until: float | None,
    ) -> Reply:
        """Run a script that may bring mail, between what its index has to be told."""
        token = secrets.token_hex(8)
        expectation = f"{token}!{member_of(box)}"
        agenda = self._names.agenda(inbox)
        await self._on_index(EXPECT, agenda, (expectation, self._grace_ms), until)
        try:
            reply = await self._on_mailbox(script, box, suffix, arguments, until)
        except DurabilityError:  # the mail is in
            await self._hint(inbox, box, "", 0, until, token=token)
            raise
        with being_read():
            waiting, free_ms, worker = reply[1:] if len(reply) > 1 else (b"0", b"", b"")
        # Who has the session in hand sees the mail when the turn ends.
        delay_ms = "" if waiting == b"0" or worker else free_ms
        try:
            await self._hint(inbox, box, "", delay_ms, until, token=token)
        except _PASSING:
            if self._client.confirms_apart:  # perhaps the expectation is lost as well
                raise OutcomeUnknownError("the index of the inbox was not reached") from None
        return reply

    @override
    async def take(self, bid: Bid, until: float | None) -> Grant | Nothing:
        by = mint_incarnation()
        found: Reply = await self._first_due(bid, by, until)
        with being_read():
            if found[0] == 0:
                return Nothing(int(found[1]) / 1000 if len(found) > 1 else None)
            member, mark = found[1:]
            box = mailbox_of(member)
        if box is None:  # not of this library's making: nobody misses it
            index = self._names.agenda(bid.inbox)
            await self._client.read("ZREM", index, member, key=index, until=until)
            return Nothing(0)
        taken = await self._claim(bid, box, mark, by, until)
        if isinstance(taken, Grant):
            return taken
        with suppress(*_PASSING):
            await self._hint(bid.inbox, box, mark, taken, until, rings=False)
        return Nothing(0)

    async def _first_due(self, bid: Bid, by: str, until: float | None) -> Reply:
        """Return which session is due, put off for a visit, as ``due.lua`` does."""
        visit_ms = min(bid.lease_ms, self._grace_ms)
        index = self._names.agenda(bid.inbox)
        asked_at = anyio.current_time()
        try:
            return await self._on_index(DUE, index, (visit_ms,), until, grants=by)
        except anyio.get_cancelled_exc_class():
            # Else nobody would look at it for as long as a visit may take.
            if self._client.may_arrive(by):
                age_ms = round((anyio.current_time() - asked_at) * 1000) + _MARGIN_MS
                terms = (visit_ms, age_ms, self._names.bell(topic_of(bid.inbox)))

                async def forgo() -> None:
                    with suppress(SessionError):
                        await self._on_index(FORGO, index, terms, self.deadline(), ends=by)

                start_background(forgo, "greentic_session end of a look")
            raise

    async def _claim(
        self, bid: Bid, box: Mailbox, mark: bytes, by: str, until: float | None
    ) -> Grant | bytes:
        """Take the turn, or return in how many ms it may be taken, empty if there is no mail."""
        terms = (by, bid.worker, bid.lease_ms, bid.most, bid.attempts)
        rest = (bid.dead_ms, self._keep_ms, self._fence)
        run = partial(self._on_mailbox, TAKE, box, ":dead", grants=by)
        try:
            reply: Reply = await run((*terms, "", *rest), until)
            verdict = _first(reply)
            if verdict == _BURY:
                # The index first: a dead letter that no index leads to would not be found.
                index = f"{self._names.agenda(bid.inbox)}:dead"
                terms_of_index = (member_of(box), bid.dead_ms)
                await self._on_index(MOURN, index, terms_of_index, until, is_hint=False)
                reply = await run((*terms, 1, *rest), until)
                verdict = _first(reply)
            if verdict != Verdict.DONE:
                with being_read():
                    told: bytes = reply[1] if verdict == Verdict.CLAIMED else b""
                return told
            grant = grant_of(bid.inbox, box, mark.decode(), reply[1:])
        except DecodeError:
            await self._forsake(bid.inbox, box, mark, by, _UNREADABLE_REST_MS)
            raise
        except (DurabilityError, anyio.get_cancelled_exc_class()):  # it was taken, or may have been
            await self._forsake(bid.inbox, box, mark, by, "")
            raise
        except OutcomeUnknownError:
            # Likewise, but the caller has waited long enough.
            forsake = partial(self._give_up, bid.inbox, box, mark, by, "")
            start_background(forsake, "greentic_session end of a lost inbox turn")
            raise
        self._fence = max(self._fence, grant.hold.fence)
        return grant

    async def _forsake(
        self, inbox: str, box: Mailbox, mark: bytes, by: str, rest_ms: int | str
    ) -> None:
        """Give a turn back for a caller who will not, and who may have been cancelled."""
        give_up = partial(self._give_up, inbox, box, mark, by, rest_ms)
        await run_to_end(give_up, "greentic_session end of inbox turn", _FORSAKE_SECS)

    async def _give_up(
        self, inbox: str, box: Mailbox, mark: bytes, by: str, rest_ms: int | str
    ) -> None:
        with suppress(SessionError):
            until = self.deadline()
            if not await self._release(inbox, box, ("", by, rest_ms), "", until):
                await self._hint(inbox, box, mark, 0, until)  # it was not taken: let others

    @override
    async def renew(self, hold: TurnHold, lease_ms: int, until: float | None) -> tuple[int, int]:
        terms = (hold.fence, lease_ms, self._keep_ms)
        reply = await self._on_mailbox(PROLONG, hold.box, "", terms, until)
        with being_read():
            return (int(reply[1]), int(reply[2])) if reply[0] == Verdict.DONE else (0, 0)

    @override
    async def commit(self, commitment: Commitment, until: float | None) -> Outcome:
        hold, draft, removes, expected, handled, in_hand, ends = commitment
        scope, key = hold.box
        state: tuple[Argument, ...] = ("", "", "")
        how = "remove" if removes else "leave"
        if draft is not None:
            state, how = (draft.owner, draft.ttl_ms, draft.body), "write"
        terms = (
            *(*state, expected.incarnation, expected.value, hold.fence, how),
            *(handled, in_hand, "1" if ends else "", mint_incarnation(), self._keep_ms),
        )
        try:
            reply = await self._on_mailbox(COMMIT, hold.box, "", terms, until)
        except DurabilityError:  # the turn is over, and there may be mail
            if ends:
                with suppress(*_PASSING):
                    await self._hint(hold.inbox, hold.box, hold.mark, 0, until)
            raise
        if _first(reply) != Verdict.DONE:
            return outcome_of(key, reply)
        outcome = outcome_of(key, reply[:4])
        with being_read():
            is_empty = reply[4] == b"0"
        if len(reply) > 5:  # the session waits
            await self._waits.follow(scope, key, reply[5:], gone=removes, until=until)
        if ends:
            delay_ms = "" if is_empty else 0
            with suppress(*_PASSING):
                await self._hint(hold.inbox, hold.box, hold.mark, delay_ms, until)
        return outcome

    @override
    async def release(self, hold: TurnHold, rest_ms: int | None, until: float | None) -> bool:
        terms = (hold.fence, "", "" if rest_ms is None else rest_ms)
        return await self._release(hold.inbox, hold.box, terms, hold.mark, until)

    async def _release(
        self,
        inbox: str,
        box: Mailbox,
        terms: tuple[int | str, str, int | str],
        mark: str,
        until: float | None,
    ) -> bool:
        _, by, _ = terms
        given = (*terms, self._keep_ms)
        reply = await self._on_mailbox(GIVE_BACK, box, "", given, until, ends=by)
        if not _is_done(reply):
            return False
        with being_read():
            delay_ms = "" if reply[1] == b"0" else terms[-1] or 0
        with suppress(*_PASSING):
            await self._hint(inbox, box, mark, delay_ms, until)
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
            raise foreign_index() from None
        except (TypeError, ValueError):
            raise garbled() from None

    # --- dead letters ------------------------------------------------------------------------

    @override
    async def dead(
        self, inbox: str, dead_ms: int, position: object | None
    ) -> tuple[Sequence[DeadMail], object | None]:
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
                box
                for member, _ in entries
                if member not in given and (box := mailbox_of(member)) is not None
            ]
        except ForeignValueError:
            raise foreign_index() from None
        except (TypeError, ValueError, AttributeError):
            raise garbled() from None
        names = [f"{self._names.inbox(*box)}:dead" for box in boxes]
        try:
            replies = await self._client.read_each([("LRANGE", name, 0, -1) for name in names])
        except ForeignValueError as error:
            raise foreign(boxes[error.index].key) from None
        letters = [
            mail
            for box, reply in zip(boxes, replies, strict=True)
            for entry in reply
            if (mail := dead_mail_of(box, entry)).died_ms > since_ms
        ]
        if len(entries) < most:
            return letters, None
        last = entries[-1][1]
        return letters, (last, frozenset(member for member, at in entries if at == last))

    @override
    async def replay(
        self, inbox: str, mail: DeadMail, dead_ms: int, most: int, until: float | None
    ) -> Outcome:
        letter = packed(mail.letter.owner, mail.letter.event_id, mail.letter.payload)
        terms = (entry_of(mail), letter, mail.died_ms, dead_ms, most, self._keep_ms)
        reply = await self._posted(REPLAY, inbox, mail.box, ":dead", terms, until=until)
        with being_read():
            return Outcome(Verdict(reply[0]))

    @override
    async def discard(self, mail: DeadMail, until: float | None) -> bool:
        terms = (entry_of(mail), self._keep_ms)
        reply = await self._on_mailbox(DISCARD, mail.box, ":dead", terms, until)
        return _is_done(reply)

    # --- events that came before their wait --------------------------------------------------

    @override
    async def keep(
        self,
        place: EarlyPlace,
        event_id: str,
        payload: bytes,
        events: EventMemory,
        until: float | None,
    ) -> Outcome:
        terms = (packed(place.whose.owner, event_id, b""), payload, *events)
        reply = await self._on_index(KEEP, self._early(place), terms, until, is_hint=False)
        with being_read():
            return Outcome(Verdict(reply[0]))

    @override
    async def assign(
        self,
        place: EarlyPlace,
        key: SessionKey,
        gone: str,
        events: EventMemory,
        until: float | None,
    ) -> Sequence[tuple[SessionKey, Letter]]:
        terms = (key, events.ttl_ms, gone)
        reply = await self._on_index(ASSIGN, self._early(place), terms, until, is_hint=False)
        with being_read():
            _, *told = reply
            return [
                (SessionKey(whose.decode()), letter_of(letter))
                for whose, letter in zip(told[::2], told[1::2], strict=True)
            ]

    @override
    async def drop(
        self, place: EarlyPlace, key: SessionKey, letter: Letter, until: float | None
    ) -> None:
        await self._on_index(DROP, self._early(place), (key, stored(letter)), until)

    def _early(self, place: EarlyPlace) -> str:
        env, tenant_id = place.whose.scope.split("/")
        team_id, user_id = place.whose.owner.split("/", 1)
        return self._names.early(env, tenant_id, team_id, user_id, place.scope_hash)


def _first(reply: Reply) -> int:
    with being_read():
        return int(reply[0])


def _is_done(reply: Reply) -> bool:
    verdict = _first(reply)
    if verdict == Verdict.UNKNOWN:
        raise OutcomeUnknownError("the mailbox has seen too much since to tell")
    return verdict == Verdict.DONE
