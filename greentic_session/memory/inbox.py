"""Inboxes in this process."""

from __future__ import annotations

from collections import deque
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Final, final

from anyio.lowlevel import checkpoint

from .._compat import override
from .._core.tenancy import admission_of, admits
from ..abc.inbox import (
    DeadMail,
    Grant,
    InboxBackend,
    InboxSize,
    Letter,
    Mailbox,
    Nothing,
    PostOutcome,
    TurnHold,
)
from ..abc.records import Outcome, Verdict, mint_incarnation
from .dedupe import SeenIds
from .due_queue import DueQueue
from .expiring import Shelves
from .expiry import ExpiryIndex

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from ..abc.fencing import Guard
    from ..abc.inbox import Bid, Commitment, EarlyPlace, Posting
    from ..abc.notifications import Bell
    from ..abc.records import Record
    from ..abc.waits import EventMemory
    from ..model import SessionKey
    from .expiry import Name
    from .notifications import MemoryBells
    from .records import Records
    from .waits import MemoryWaits

__all__ = ["MemoryInbox"]


@final
class _Box:
    """A mailbox that has mail, or whose turn is held.

    :ivar whose: whose it is.
    :ivar mail: in order.
    :ivar fence: number of the newest turn.
    :ivar lease_ms: when its lease ends; 0 once it was given back.
    :ivar worker: who took it.
    :ivar tries: how often the head was tried, the turn that is held included.
    :ivar rest_ms: when the head may be tried again.
    :ivar done: how many letters of the newest turn have gone.
    """

    __slots__ = ("done", "fence", "lease_ms", "mail", "rest_ms", "tries", "whose", "worker")

    def __init__(self, whose: Mailbox) -> None:
        self.whose: Final = whose
        self.mail: Final[deque[Letter]] = deque()
        self.fence = 0
        self.lease_ms = 0
        self.worker = ""
        self.tries = 0
        self.rest_ms = 0
        self.done = 0


@final
class _Early:
    """An event that came before its wait.

    :ivar letter: the event.
    :ivar key: whose it is, once a session was found for it.
    """

    __slots__ = ("key", "letter")

    def __init__(self, letter: Letter) -> None:
        self.letter: Final = letter
        self.key: SessionKey | None = None


@final
class MemoryInbox(InboxBackend):
    """The steps of inboxes. None of them waits for anything.

    :param records: of the store.
    :param waits: of the store.
    :param bells: of the store.
    :param check_open: raises once the store is closed.
    """

    def __init__(
        self,
        records: Records,
        waits: MemoryWaits,
        bells: MemoryBells,
        check_open: Callable[[], None],
    ) -> None:
        self._records: Final = records
        self._check_open: Final = check_open
        self._waits: Final = waits
        self._bells: Final = bells
        self._boxes: Final[dict[Name, _Box]] = {}
        self._queues: Final[dict[str, DueQueue]] = {}
        self._seen: Final = SeenIds()
        self._dead: Final[Shelves[tuple[str, DeadMail]]] = Shelves()
        self._early: Final[Shelves[_Early]] = Shelves()
        # Of turns that go on without mail: nobody comes to look when their worker has died.
        self._lapses: Final = ExpiryIndex()
        self._fence = 0

    def sizes(self) -> dict[str, int]:
        """Return how many letters and turns there are, and memories of events."""
        return {
            "mail": sum(len(box.mail) for box in self._boxes.values()),
            "turns": sum(box.lease_ms > 0 for box in self._boxes.values()),
            "dead_letters": len(self._dead),
            "early": len(self._early),
        }

    @property
    def remembered(self) -> int:
        """Of how many sessions event ids are known."""
        return len(self._seen)

    def is_held(self, guard: Guard) -> bool:
        """Tell whether a turn is held."""
        box = self._boxes.get(Mailbox(guard.scope, guard.key))
        return box is not None and box.fence == guard.fence and self._now_ms() < box.lease_ms

    def pop_due(self, now_ms: int) -> bool:
        """Look at something that may have come to its end.

        :returns: ``False`` if nothing is due.
        """
        name = self._lapses.pop_due(now_ms)
        if name is not None:
            box = self._boxes.get(name)
            if box is not None and not box.mail:
                if now_ms < box.lease_ms:
                    self._lapses.add(name, box.lease_ms, now_ms)
                else:
                    self._forget(box.whose)
            return True
        return (
            self._seen.pop_due(now_ms) or self._dead.pop_due(now_ms) or self._early.pop_due(now_ms)
        )

    def forget_all(self) -> None:
        """Forget everything."""
        self._boxes.clear()
        self._queues.clear()
        self._seen.clear()
        self._dead.clear()
        self._early.clear()
        self._lapses.clear()

    @override
    def deadline(self) -> None:
        return None

    @override
    def listen(self, inbox: str) -> AbstractAsyncContextManager[Bell]:
        return self._bells.listen(_topic(inbox))

    # --- mailboxes ---------------------------------------------------------------------------

    @override
    async def post(self, posting: Posting, until: float | None) -> PostOutcome:
        now_ms = self._now_ms()
        name = posting.box
        live = self._records.live(*name, now_ms)
        if live is not None and not admits(posting.admission, live.owner):
            return PostOutcome(Verdict.MISMATCH)
        box = self._boxes.get(name)
        waiting = 0 if box is None else len(box.mail)
        worker = "" if box is None or now_ms >= box.lease_ms else box.worker
        if self._seen.knows(name, posting.event_id, posting.events, now_ms):
            if waiting and not worker:
                self._bells.ring(_topic(posting.inbox))
            return PostOutcome(Verdict.SEEN, waiting=waiting, worker=worker)
        if waiting >= posting.most:
            return PostOutcome(Verdict.FULL, waiting=waiting, worker=worker)
        self._seen.add(name, posting.event_id, posting.events, now_ms)
        letter = Letter(posting.event_id, posting.payload, now_ms, posting.admission.exact)
        self._append(posting.inbox, name, letter, now_ms)
        return PostOutcome(Verdict.DONE, waiting=waiting + 1, worker=worker)

    @override
    async def take(self, bid: Bid, until: float | None) -> Grant | Nothing:
        await checkpoint()  # who asks in a loop lets others run, perhaps who admits
        self._check_open()
        now_ms = self._now_ms()
        queue = self._queues.get(bid.inbox)
        while queue is not None and (first := queue.first()) is not None:
            due_ms, name = first
            if now_ms < due_ms:
                return Nothing((due_ms - now_ms) / 1000)
            box = self._boxes.get(name)
            if box is not None and now_ms < (free_ms := max(box.lease_ms, box.rest_ms)):
                queue.move(name, free_ms)
            elif box is None or not self._try_head(bid, box, now_ms):
                self._forget(name)
            else:
                return self._grant(bid, box, now_ms)
        return Nothing(None)

    @override
    async def renew(self, hold: TurnHold, lease_ms: int, until: float | None) -> tuple[int, int]:
        now_ms = self._now_ms()
        box = self._held(hold, now_ms)
        if box is None:
            return 0, 0
        box.lease_ms = max(now_ms + lease_ms, box.lease_ms)
        return box.lease_ms, box.lease_ms - now_ms

    @override
    async def commit(self, commitment: Commitment, until: float | None) -> Outcome:
        hold, *_, handled, in_hand, ends = commitment
        now_ms = self._now_ms()
        box = self._held(hold, now_ms)
        if box is None:
            return Outcome(Verdict.LOST)
        outcome = self._write(commitment, now_ms)
        if outcome.verdict is not Verdict.DONE:
            return outcome
        if handled > box.done:
            for _ in range(min(handled - box.done, len(box.mail))):
                box.mail.popleft()
            box.done = handled
            box.tries = 1 if in_hand and not ends else 0
        elif ends:
            box.tries = max(0, box.tries - 1)  # the head is left: this was no attempt at it
        if ends:
            self._give_back(hold, box, now_ms)
        elif not box.mail:
            self._lapses.add(hold.box, box.lease_ms, now_ms)
        return outcome

    @override
    async def release(self, hold: TurnHold, rest_ms: int | None, until: float | None) -> bool:
        now_ms = self._now_ms()
        box = self._held(hold, now_ms)
        if box is None:
            return False
        if rest_ms is None:
            box.tries = max(0, box.tries - 1)
        else:
            box.rest_ms = now_ms + rest_ms
        self._give_back(hold, box, now_ms)
        return True

    @override
    async def size(self, inbox: str, until: float | None) -> InboxSize:
        queue = self._queues.get(inbox)
        return (
            InboxSize(0, 0) if queue is None else InboxSize(len(queue), queue.due(self._now_ms()))
        )

    # --- dead letters ------------------------------------------------------------------------

    @override
    async def dead(
        self, inbox: str, dead_ms: int, position: object | None
    ) -> tuple[Sequence[DeadMail], object | None]:
        now_ms = self._now_ms()
        found = [
            mail
            for name in self._dead.names()
            for whence, mail in self._dead.of(name, now_ms)
            if whence == inbox
        ]
        return found, None

    @override
    async def replay(
        self, inbox: str, mail: DeadMail, dead_ms: int, most: int, until: float | None
    ) -> Outcome:
        now_ms = self._now_ms()
        name = mail.box
        found = [dead for dead in self._dead.of(name, now_ms) if dead[1] == mail]
        if not found:
            return Outcome(Verdict.ABSENT)
        box = self._boxes.get(name)
        if box is not None and len(box.mail) >= most:
            return Outcome(Verdict.FULL)
        self._dead.remove(name, found[0], now_ms)
        self._append(inbox, name, mail.letter._replace(at_ms=now_ms), now_ms)
        return Outcome(Verdict.DONE)

    @override
    async def discard(self, mail: DeadMail, until: float | None) -> bool:
        now_ms = self._now_ms()
        name = mail.box
        return any(
            one == mail and self._dead.remove(name, (whence, one), now_ms)
            for whence, one in self._dead.of(name, now_ms)
        )

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
        now_ms = self._now_ms()
        name = _name_of(place)
        kept = self._early.of(name, now_ms)
        if any(early.letter.event_id == event_id for early in kept):
            return Outcome(Verdict.SEEN)
        if len(kept) >= events.most:
            return Outcome(Verdict.FULL)
        letter = Letter(event_id, payload, now_ms, place.whose.owner)
        self._early.add(name, _Early(letter), now_ms + events.ttl_ms, now_ms)
        return Outcome(Verdict.DONE)

    @override
    async def assign(
        self,
        place: EarlyPlace,
        key: SessionKey,
        gone: str,
        events: EventMemory,
        until: float | None,
    ) -> Sequence[tuple[SessionKey, Letter]]:
        told: list[tuple[SessionKey, Letter]] = []
        for early in self._early.of(_name_of(place), self._now_ms()):
            if early.key is None or early.key == gone:
                early.key = key
            told.append((early.key, early.letter))
        return told

    @override
    async def drop(
        self, place: EarlyPlace, key: SessionKey, letter: Letter, until: float | None
    ) -> None:
        now_ms = self._now_ms()
        name = _name_of(place)
        for early in self._early.of(name, now_ms):
            if (early.key, early.letter) == (key, letter):
                self._early.remove(name, early, now_ms)

    # --- shared steps ------------------------------------------------------------------------

    def _now_ms(self) -> int:
        return self._records.clock.now_ms()

    def _append(self, inbox: str, name: Mailbox, letter: Letter, now_ms: int) -> None:
        box = self._boxes.get(name)
        if box is None:
            box = self._boxes[name] = _Box(name)
        box.mail.append(letter)
        queue = self._queues.setdefault(inbox, DueQueue())
        if name not in queue:
            queue.move(name, max(now_ms, box.lease_ms, box.rest_ms))
        if now_ms >= box.lease_ms:
            self._bells.ring(_topic(inbox))

    def _try_head(self, bid: Bid, box: _Box, now_ms: int) -> bool:
        """Count an attempt at the head, or at the first that has not had all of its own and is for
        the session.

        :returns: ``False`` if no mail is left.
        """
        live = self._records.live(*box.whose, now_ms)
        while box.mail and (box.tries >= bid.attempts or not _is_for(live, box.mail[0])):
            dead = DeadMail(box.whose, box.mail.popleft(), now_ms, box.tries)
            self._dead.add(box.whose, (bid.inbox, dead), now_ms + bid.dead_ms, now_ms)
            box.tries = 0
        box.tries += 1
        return bool(box.mail)

    def _grant(self, bid: Bid, box: _Box, now_ms: int) -> Grant:
        self._fence = box.fence = max(now_ms * 1000, self._fence + 1)
        box.lease_ms, box.worker = now_ms + bid.lease_ms, bid.worker
        box.rest_ms = box.done = 0
        self._queues[bid.inbox].move(box.whose, box.lease_ms)
        live = self._records.live(*box.whose, now_ms)
        first = box.mail[0].owner

        def follows(letter: Letter) -> bool:
            # Whose session it will be is not known where there is none: one caller's at a time.
            return letter.owner == first or (live is not None and _is_for(live, letter))

        letters = islice(box.mail, bid.most if box.tries == 1 else 1)
        return Grant(
            TurnHold(bid.inbox, box.whose, box.fence),
            box.lease_ms,
            bid.lease_ms,
            tuple(takewhile(follows, letters)),
            box.tries,
            live,
        )

    def _held(self, hold: TurnHold, now_ms: int) -> _Box | None:
        box = self._boxes.get(hold.box)
        return box if box and box.fence == hold.fence and now_ms < box.lease_ms else None

    def _write(self, commitment: Commitment, now_ms: int) -> Outcome:
        hold, draft, removes, expected, *_ = commitment
        if draft is None and not removes:
            return Outcome(Verdict.DONE, at_ms=now_ms)
        live = self._records.live(*hold.box, now_ms)
        if live is not None and draft is not None and live.owner != draft.owner:
            return Outcome(Verdict.MISMATCH)
        token = (live.value, live.incarnation) if live is not None else (0, "")
        if token != (expected.value, expected.incarnation):
            return Outcome(Verdict.CONFLICT, *token)
        if draft is not None:
            if live is None:
                return self._records.write(draft, 1, mint_incarnation(), now_ms)
            return self._records.rewrite(draft, live, now_ms)
        if live is not None:
            self._records.remove(*hold.box, live)
            self._waits.forget_events(*hold.box)
        return Outcome(Verdict.DONE, at_ms=now_ms)

    def _give_back(self, hold: TurnHold, box: _Box, now_ms: int) -> None:
        box.lease_ms, box.worker = 0, ""
        if not box.mail:
            self._forget(hold.box)
            return
        self._queues.setdefault(hold.inbox, DueQueue()).move(hold.box, max(now_ms, box.rest_ms))
        self._bells.ring(_topic(hold.inbox))

    def _forget(self, name: Mailbox) -> None:
        self._boxes.pop(name, None)
        for inbox, queue in [*self._queues.items()]:
            queue.discard(name)
            if not queue:
                del self._queues[inbox]


def _is_for(live: Record | None, letter: Letter) -> bool:
    return live is None or admits(admission_of(letter.owner), live.owner)


def _topic(inbox: str) -> str:
    return f"inbox:{inbox}"


def _name_of(place: EarlyPlace) -> Name:
    return "\n".join(place.whose), place.scope_hash
