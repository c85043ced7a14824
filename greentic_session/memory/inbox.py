"""Inboxes in one process."""

from __future__ import annotations

from itertools import islice, takewhile
from typing import TYPE_CHECKING, Final, cast, final

from anyio.lowlevel import checkpoint

from .._compat import override
from .._core.fencing import FencingCounter
from .._core.tenancy import allows, owners_open_to
from ..abc.inbox import (
    EarlyPage,
    EnqueueOutcome,
    GrantedTurn,
    InboxBackend,
    InboxCall,
    InboxSize,
    MailboxRef,
    NothingDue,
    StoredDeadLetter,
    StoredMessage,
    TurnRef,
)
from ..abc.records import Outcome, Verdict, mint_incarnation
from .dedupe import DedupeWindow
from .due_queue import InboxQueues
from .expiring_lists import ExpiringLists
from .expiry import ExpiryIndex
from .mailboxes import EarlyEvent, InboxDeadLetter, Mailbox

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from ..abc.fencing import LeaseRef
    from ..abc.inbox import EarlyEventQueue, NewMessage, TakeRequest, TurnCommit
    from ..abc.notifications import Subscription
    from ..abc.records import Record
    from ..abc.waits import EventMemory
    from ..model import SessionKey
    from .expiry import Name
    from .notifications import MemoryNotifications
    from .records import Records
    from .waits import MemoryWaits

__all__ = ["MemoryInbox"]

_EXPIRED_PER_CALL: Final = 8
"""Limit on the expired early events that a call removes. A call adds at most one."""
_EARLY_PAGE: Final = 16
_DEAD_PAGE: Final = 64


@final
class MemoryInbox(InboxBackend, InboxCall):
    """The steps of inboxes. No step waits for I/O, so a call needs no deadline.

    :param records: the records of the store.
    :param waits: the waits of the store.
    :param notifications: the notifications of the store.
    :param check_open: the function that raises an error if the store was closed.
    """

    def __init__(
        self,
        records: Records,
        waits: MemoryWaits,
        notifications: MemoryNotifications,
        check_open: Callable[[], None],
    ) -> None:
        self._records: Final = records
        self._check_open: Final = check_open
        self._waits: Final = waits
        self._notifications: Final = notifications
        self._mailboxes: Final[dict[Name, Mailbox]] = {}
        self._queues: Final[dict[str, InboxQueues]] = {}
        self._seen: Final = DedupeWindow()
        self._dead: Final[ExpiringLists[StoredDeadLetter, InboxDeadLetter]] = ExpiringLists()
        self._early: Final[ExpiringLists[str, EarlyEvent]] = ExpiringLists()
        # Held turns without messages. If their worker dies, no other worker takes them.
        self._lapses: Final = ExpiryIndex()
        self._fencing: Final = FencingCounter()
        self._dropped = 0  # dead letters that the current take dropped
        self._latest_ms = 0

    def sizes(self) -> dict[str, int]:
        """Return the numbers of messages, turns, dead letters and early events."""
        return {
            "mail": sum(len(mailbox.mail) for mailbox in self._mailboxes.values()),
            "turns": sum(mailbox.lease_ms > 0 for mailbox in self._mailboxes.values()),
            "dead_letters": len(self._dead),
            "early": len(self._early),
        }

    @property
    def remembered(self) -> int:
        """Number of sessions with remembered event ids."""
        return len(self._seen)

    def is_held(self, lease: LeaseRef) -> bool:
        """Return whether a turn is held."""
        mailbox = self._mailboxes.get(MailboxRef(lease.scope, lease.key))
        return (
            mailbox is not None
            and mailbox.fence == lease.fence
            and self._now_ms() < mailbox.lease_ms
        )

    def pop_due(self, now_ms: int) -> bool:
        """Check one turn, or one list of events or dead letters, that may have expired.

        :returns: ``False`` if nothing is due.
        """
        name = self._lapses.pop_due(now_ms)
        if name is not None:
            mailbox = self._mailboxes.get(name)
            if mailbox is not None and not mailbox.mail:
                if now_ms < mailbox.lease_ms:
                    self._lapses.add(name, mailbox.lease_ms, now_ms)
                else:
                    self._forget(mailbox.ref)
            return True
        return (
            self._seen.pop_due(now_ms) or self._dead.pop_due(now_ms) or self._early.pop_due(now_ms)
        )

    def forget_all(self) -> None:
        """Forget everything."""
        self._mailboxes.clear()
        self._queues.clear()
        self._seen.clear()
        self._dead.clear()
        self._early.clear()
        self._lapses.clear()

    @override
    def call(self) -> MemoryInbox:
        return self

    @override
    def subscribe(self, inbox: str, scope: str) -> AbstractAsyncContextManager[Subscription]:
        return self._notifications.subscribe(_topic(inbox, scope))

    # --- mailboxes ---------------------------------------------------------------------------

    @override
    async def enqueue(self, message: NewMessage) -> EnqueueOutcome:
        now_ms = self._now_ms()
        name = message.mailbox
        live = self._records.live(*name, now_ms)
        if live is not None and not allows(message.allowed, live.owner):
            return EnqueueOutcome(Verdict.MISMATCH)
        mailbox = self._mailboxes.get(name)
        waiting = 0 if mailbox is None else len(mailbox.mail)
        worker = "" if mailbox is None or now_ms >= mailbox.lease_ms else mailbox.worker
        if self._seen.knows(name, message.event_id, message.events, now_ms):
            if waiting and not worker:
                self._notify(message.inbox, name)
            return EnqueueOutcome(Verdict.SEEN, waiting=waiting, worker=worker)
        if waiting >= message.most:
            return EnqueueOutcome(Verdict.FULL, waiting=waiting, worker=worker)
        self._seen.add(name, message.event_id, message.events, now_ms)
        stored = StoredMessage(
            message.event_id, message.payload, now_ms, message.allowed.exact, message.headers
        )
        self._append(message.inbox, name, stored, now_ms)
        return EnqueueOutcome(Verdict.DONE, waiting=waiting + 1, worker=worker)

    @override
    async def take(self, request: TakeRequest) -> GrantedTurn | NothingDue:
        await checkpoint()  # a caller that polls in a loop lets other tasks run, which may admit
        self._check_open()
        now_ms = self._now_ms()
        self._dropped = 0
        queues = self._queues.get(request.inbox)
        while (
            queues is not None
            and (queue := queues.of(request.scope)) is not None
            and (first := queue.first()) is not None
        ):
            due_ms, name = first
            if now_ms < due_ms:
                return NothingDue((due_ms - now_ms) / 1000, self._dropped)
            mailbox = self._mailboxes.get(name)
            if mailbox is not None and now_ms < (
                free_ms := max(mailbox.lease_ms, mailbox.backoff_ms)
            ):
                queues.move(name, free_ms)
            elif mailbox is None or not self._try_head(request, mailbox, now_ms):
                self._forget(name)
            else:
                return self._grant(request, mailbox, now_ms)
        return NothingDue(None, self._dropped)

    @override
    async def renew(self, ref: TurnRef, lease_ms: int) -> tuple[int, int]:
        now_ms = self._now_ms()
        mailbox = self._held(ref, now_ms)
        if mailbox is None:
            return 0, 0
        mailbox.lease_ms = max(now_ms + lease_ms, mailbox.lease_ms)
        return mailbox.lease_ms, mailbox.lease_ms - now_ms

    @override
    async def commit(self, result: TurnCommit) -> Outcome:
        ref, handled, ends = result.ref, result.handled, result.ends
        now_ms = self._now_ms()
        mailbox = self._held(ref, now_ms)
        if mailbox is None:
            return Outcome(Verdict.LOST)
        outcome = self._write(result, now_ms)
        if outcome.verdict is not Verdict.DONE:
            return outcome
        if handled > mailbox.done:
            for _ in range(min(handled - mailbox.done, len(mailbox.mail))):
                mailbox.mail.popleft()
            mailbox.done = handled
            mailbox.tries = 1 if result.in_hand and not ends else 0
        elif ends:
            # The head was not handled, so this was not an attempt at it.
            mailbox.tries = max(0, mailbox.tries - 1)
        if ends:
            self._release(ref, mailbox, now_ms)
        elif not mailbox.mail:
            self._lapses.add(ref.mailbox, mailbox.lease_ms, now_ms)
        return outcome

    @override
    async def release(self, ref: TurnRef, backoff_ms: int | None) -> bool:
        now_ms = self._now_ms()
        mailbox = self._held(ref, now_ms)
        if mailbox is None:
            return False
        if backoff_ms is None:
            mailbox.tries = max(0, mailbox.tries - 1)
        else:
            mailbox.backoff_ms = now_ms + backoff_ms
        self._release(ref, mailbox, now_ms)
        return True

    @override
    async def size(self, inbox: str, scope: str) -> InboxSize:
        queues = self._queues.get(inbox)
        queue = None if queues is None else queues.of(scope)
        return (
            InboxSize(0, 0) if queue is None else InboxSize(len(queue), queue.due(self._now_ms()))
        )

    # --- dead letters ------------------------------------------------------------------------

    @override
    async def dead_letters(
        self, inbox: str, scope: str, dead_ms: int, position: object | None
    ) -> tuple[Sequence[StoredDeadLetter], object | None]:
        names, start = (
            (self._dead.names(), 0)
            if position is None
            else cast("tuple[list[Name], int]", position)
        )
        now_ms = self._now_ms()
        found: list[StoredDeadLetter] = []
        for end, name in enumerate(names[start : start + _DEAD_PAGE], start + 1):
            found += [
                dead.mail
                for dead in self._dead.page(name, 0, None, now_ms)
                if dead.inbox == inbox and scope in ("", dead.mail.mailbox.scope)
            ]
            if len(found) >= _DEAD_PAGE:
                return found, (names, end) if end < len(names) else None
        start += _DEAD_PAGE
        return found, (names, start) if start < len(names) else None

    @override
    async def replay(self, inbox: str, mail: StoredDeadLetter, dead_ms: int, most: int) -> Outcome:
        now_ms = self._now_ms()
        name = mail.mailbox
        if self._dead.get(name, mail, now_ms) is None:
            return Outcome(Verdict.ABSENT)
        mailbox = self._mailboxes.get(name)
        if mailbox is not None and len(mailbox.mail) >= most:
            return Outcome(Verdict.FULL)
        self._dead.remove(name, mail)
        self._append(inbox, name, mail.message._replace(at_ms=now_ms), now_ms)
        return Outcome(Verdict.DONE)

    @override
    async def discard(self, mail: StoredDeadLetter) -> bool:
        if self._dead.get(mail.mailbox, mail, self._now_ms()) is None:
            return False
        self._dead.remove(mail.mailbox, mail)
        return True

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
        now_ms = self._now_ms()
        stored = self._mailboxes.get(mailbox)
        found: list[StoredMessage] = []
        if stored is not None:
            has_begun = stored.tries > 0 or now_ms < stored.lease_ms
            begun = max(1, stored.hand - stored.done) if has_begun else 0
            for position, message in enumerate(stored.mail):
                name = message.event_id
                if name == event_id or (prefix and name.startswith(prefix)):
                    if position < begun:
                        return Verdict.CLAIMED
                    found.append(message)
            for message in found:
                stored.mail.remove(message)
        if found:
            return Verdict.DONE
        if not refuses or self._seen.knows(mailbox, event_id, events, now_ms):
            return Verdict.ABSENT
        self._seen.add(mailbox, event_id, events, now_ms)
        return Verdict.DONE

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
        now_ms = self._now_ms()
        name = _name_of(queue)
        self._early.remove_expired_first(name, _EXPIRED_PER_CALL, now_ms)
        if self._early.get(name, event_id, now_ms) is not None:
            return Outcome(Verdict.SEEN)
        if self._early.count(name) >= events.most:
            return Outcome(Verdict.FULL)
        message = StoredMessage(event_id, payload, now_ms, queue.wait_owner.owner, headers)
        self._early.add(name, event_id, EarlyEvent(message), now_ms + events.ttl_ms, now_ms)
        return Outcome(Verdict.DONE)

    @override
    async def assign_early(
        self,
        queue: EarlyEventQueue,
        key: SessionKey,
        gone: str,
        events: EventMemory,
        position: int = 0,
    ) -> EarlyPage:
        name, following = _name_of(queue), position + _EARLY_PAGE
        assigned: list[tuple[SessionKey, StoredMessage]] = []
        for early in self._early.page(name, position, following, self._now_ms()):
            if early.key is None or early.key == gone:
                early.key = key
            assigned.append((early.key, early.message))
        return EarlyPage(assigned, following if following < self._early.count(name) else None)

    @override
    async def delete_early(
        self, queue: EarlyEventQueue, key: SessionKey, message: StoredMessage
    ) -> None:
        name = _name_of(queue)
        early = self._early.get(name, message.event_id, self._now_ms())
        if early is not None and (early.key, early.message) == (key, message):
            self._early.remove(name, message.event_id)

    # --- shared steps ------------------------------------------------------------------------

    def _now_ms(self) -> int:
        now_ms = self._records.clock.now_ms()
        if now_ms < self._latest_ms:
            self._move_back(self._latest_ms - now_ms, now_ms)
        self._latest_ms = now_ms
        return now_ms

    def _move_back(self, back_ms: int, now_ms: int) -> None:
        """Move the ends of leases and backoffs back by the time that the clock was set back.

        So a dead worker's turn ends within the length of its lease.
        """
        for name, mailbox in self._mailboxes.items():
            mailbox.lease_ms = max(0, mailbox.lease_ms - back_ms)
            mailbox.backoff_ms = max(0, mailbox.backoff_ms - back_ms)
            if not mailbox.mail:
                self._lapses.add(name, mailbox.lease_ms, now_ms)
        for queues in self._queues.values():
            queues.move_all(-back_ms)

    def _append(self, inbox: str, name: MailboxRef, message: StoredMessage, now_ms: int) -> None:
        mailbox = self._mailboxes.get(name)
        if mailbox is None:
            mailbox = self._mailboxes[name] = Mailbox(name)
        mailbox.mail.append(message)
        queues = self._queues.setdefault(inbox, InboxQueues())
        if name not in queues:
            queues.move(name, max(now_ms, mailbox.lease_ms, mailbox.backoff_ms))
        if now_ms >= mailbox.lease_ms:
            self._notify(inbox, name)

    def _notify(self, inbox: str, name: MailboxRef) -> None:
        self._notifications.notify(_topic(inbox, ""))
        self._notifications.notify(_topic(inbox, name.scope))

    def _try_head(self, request: TakeRequest, mailbox: Mailbox, now_ms: int) -> bool:
        """Make dead letters of messages that may not be tried, and count an attempt at the head.

        :returns: ``False`` if no message is left.
        """
        live = self._records.live(*mailbox.ref, now_ms)
        while mailbox.mail and (
            mailbox.tries >= request.attempts or not _is_for(live, mailbox.mail[0])
        ):
            dead = StoredDeadLetter(mailbox.ref, mailbox.mail.popleft(), now_ms, mailbox.tries)
            self._dead.add(
                mailbox.ref,
                dead,
                InboxDeadLetter(request.inbox, dead),
                now_ms + request.dead_ms,
                now_ms,
            )
            while self._dead.count(mailbox.ref) > request.dead_most:
                self._dead.remove_first(mailbox.ref)
                self._dropped += 1
            mailbox.tries = 0
        mailbox.tries += 1
        return bool(mailbox.mail)

    def _grant(self, request: TakeRequest, mailbox: Mailbox, now_ms: int) -> GrantedTurn:
        mailbox.fence = self._fencing.issue(now_ms)
        mailbox.lease_ms, mailbox.worker = now_ms + request.lease_ms, request.worker
        mailbox.backoff_ms = mailbox.done = 0
        self._queues[request.inbox].move(mailbox.ref, mailbox.lease_ms)
        live = self._records.live(*mailbox.ref, now_ms)
        first = mailbox.mail[0].owner

        def follows(message: StoredMessage) -> bool:
            # Without a session, its future owner is unknown. So a turn has messages of one owner.
            return message.owner == first or (live is not None and _is_for(live, message))

        messages = islice(mailbox.mail, request.most if mailbox.tries == 1 else 1)
        returned = tuple(takewhile(follows, messages))
        mailbox.hand = len(returned)
        return GrantedTurn(
            TurnRef(request.inbox, mailbox.ref, mailbox.fence),
            mailbox.lease_ms,
            request.lease_ms,
            returned,
            mailbox.tries,
            live,
            self._dropped,
        )

    def _held(self, ref: TurnRef, now_ms: int) -> Mailbox | None:
        mailbox = self._mailboxes.get(ref.mailbox)
        return (
            mailbox
            if mailbox and mailbox.fence == ref.fence and now_ms < mailbox.lease_ms
            else None
        )

    def _write(self, result: TurnCommit, now_ms: int) -> Outcome:
        ref, encoded, expected = result.ref, result.encoded, result.expected
        if encoded is None and not result.removes:
            return Outcome(Verdict.DONE, at_ms=now_ms)
        live = self._records.live(*ref.mailbox, now_ms)
        if live is not None and encoded is not None and live.owner != encoded.owner:
            return Outcome(Verdict.MISMATCH)
        token = (live.value, live.incarnation) if live is not None else (0, "")
        if token != (expected.value, expected.incarnation):
            return Outcome(Verdict.CONFLICT, *token)
        if encoded is not None:
            if live is None:
                return self._records.write(encoded, 1, mint_incarnation(), now_ms)
            return self._records.rewrite(encoded, live, now_ms)
        if live is not None:
            self._records.remove(*ref.mailbox, live)
            self._waits.forget_events(*ref.mailbox)
        return Outcome(Verdict.DONE, at_ms=now_ms)

    def _release(self, ref: TurnRef, mailbox: Mailbox, now_ms: int) -> None:
        mailbox.lease_ms, mailbox.worker = 0, ""
        if not mailbox.mail:
            self._forget(ref.mailbox)
            return
        self._queues.setdefault(ref.inbox, InboxQueues()).move(
            ref.mailbox, max(now_ms, mailbox.backoff_ms)
        )
        self._notify(ref.inbox, ref.mailbox)

    def _forget(self, name: MailboxRef) -> None:
        self._mailboxes.pop(name, None)
        for inbox, queues in [*self._queues.items()]:
            queues.discard(name)
            if not queues:
                del self._queues[inbox]


def _is_for(live: Record | None, message: StoredMessage) -> bool:
    return live is None or allows(owners_open_to(message.owner), live.owner)


def _topic(inbox: str, scope: str) -> str:
    return f"inbox:{inbox}:{scope}" if scope else f"inbox:{inbox}"


def _name_of(queue: EarlyEventQueue) -> Name:
    return "\n".join(queue.wait_owner), queue.scope_hash
