"""From a reply scope to the session that waits there.

The index of a user is a hint. Here is all that follows from it: a hint is written before the
record, the record decides, and who meets a hint that the record does not bear out takes it away. Of
two sessions that both wait under one reply scope, the one registered last is found, and the other
is displaced on sight.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, final

import anyio

from .._core.tasks import run_to_end
from ..abc.records import Verdict, undone
from ..abc.waits import (
    KEPT,
    UNCONFIRMED,
    Announcement,
    Bid,
    EnteredHint,
    EventMemory,
    Hint,
    Hold,
    IndexChange,
    RetiredHint,
    SeenEvent,
    Standing,
    WaitBackend,
    WaitOutcome,
    WaitOwner,
)
from ..errors import DecodeError, OutcomeUnknownError, SessionError, StoreUnavailableError
from ..model import SessionKey

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from ..abc.records import Draft

__all__ = ["RELEASE_SECS", "Place", "Router"]

_LOOKS: Final = 4
"""How often to follow an index that changes under the call."""
RELEASE_SECS: Final = 5.0
"""How long a claim may take to be given back; the end of its lease does so anyway."""
_PASSING: Final = (StoreUnavailableError, OutcomeUnknownError, DecodeError)
"""What may keep an index from being mended now, so that the next reader does it."""


class Place(NamedTuple):
    """Where a session can wait.

    :ivar whose: the index.
    :ivar scope_hash: the reply scope in it.
    """

    whose: WaitOwner
    scope_hash: str


@final
class Router:
    """Keeps indexes and records together.

    :ivar backend: the steps it is made of.
    :ivar events: how long completed events are known.
    :ivar check_open: raises :class:`StoreUnavailableError` if the store was closed.
    """

    def __init__(
        self, backend: WaitBackend, events: EventMemory, check_open: Callable[[], None]
    ) -> None:
        self.backend: Final = backend
        self.events: Final = events
        self.check_open: Final = check_open

    async def find(self, place: Place, until: float | None) -> SessionKey | None:
        """Return the key of the session that waits there."""
        key, _ = await self._locate(place, until)
        return key

    async def is_seen(self, place: Place, event: str, until: float | None) -> bool:
        """Tell whether the event was completed there."""
        found = await self.backend.hints(*place, event, self.events, until)
        if found.seen or not found.hints:
            return found.seen
        # What the sessions remember may not have come to the index.
        await self._carry(place.whose, [hint.key for hint in found.hints], until)
        return (await self.backend.hints(*place, event, self.events, until)).seen

    async def find_all(self, whose: WaitOwner, until: float | None) -> list[SessionKey]:
        """Return the keys of an owner's sessions that wait, the oldest wait first."""
        found = await self.backend.all_hints(whose, until)
        keys = list(dict.fromkeys(hint.key for _, hint in found))
        standings = await self._inspect(whose.scope, keys, until)
        # Where a session waits, its record says; the hint that led there may be of another place.
        newest: dict[str, tuple[int, SessionKey]] = {}
        for key, standing in standings.items():
            if standing is not None and standing.owner == whose.owner and standing.scope_hash:
                since = (standing.since_us, key)
                newest[standing.scope_hash] = max(newest.get(standing.scope_hash, since), since)
        stale = [
            (scope_hash, hint)
            for scope_hash, hint in found
            if scope_hash not in newest or newest[scope_hash][1] != hint.key
        ]
        await self._mend(whose, stale, standings, until)
        for scope_hash, hint in found:
            if newest.get(scope_hash, (0, ""))[1] == hint.key:
                await self._prolong(Place(whose, scope_hash), hint, standings[hint.key], until)
        return [key for _, key in sorted(newest.values())]

    async def claim(
        self, place: Place, bid: Bid, until: float | None, *, is_named: bool
    ) -> tuple[WaitOutcome, Hold]:
        """Claim the wait that is there.

        :param bid: its hold names no key yet.
        :param is_named: whether the caller named the attempt, and so can ask again.
        :returns: what became of it, and the hold.
        """
        before: Sequence[Hint] | None = None
        for _ in range(_LOOKS):
            found = await self.backend.hints(*place, bid.event, self.events, until)
            if found.seen:
                return WaitOutcome(Verdict.SEEN), bid.hold
            if not found.hints or found.hints == before:
                break
            before = found.hints
            key: SessionKey | None = found.hints[0].key
            if len(found.hints) > 1:
                key, _ = await self._resolve(place, found.hints, until)
                # What the displaced ones remember is now in the index.
                if (await self.backend.hints(*place, bid.event, self.events, until)).seen:
                    return WaitOutcome(Verdict.SEEN), bid.hold
            if key is None:
                continue
            hold = bid.hold._replace(key=key)
            outcome = await self._claim(bid._replace(hold=hold), until, is_named=is_named)
            if outcome.verdict is not Verdict.ABSENT:
                return outcome, hold._replace(fence=outcome.fence)
            await self._resolve(place, found.hints, until)  # and look again
        return WaitOutcome(Verdict.ABSENT), bid.hold

    async def _claim(self, bid: Bid, until: float | None, *, is_named: bool) -> WaitOutcome:
        try:
            return await self.backend.claim(bid, self.events, until)
        except DecodeError:
            await self.give_back(bid.hold, bid.attempt)
            raise
        except anyio.get_cancelled_exc_class():
            if not is_named:
                await self.give_back(bid.hold, bid.attempt)  # should it have been taken
            raise

    async def give_back(self, hold: Hold, attempt: str = "") -> None:
        """Release a claim for a caller who will not, and who may have been cancelled.

        Should this fail, the end of the lease does the same.
        """

        async def release() -> None:
            with suppress(SessionError):
                await self.backend.release(hold, attempt, self.backend.deadline())

        await run_to_end(release, "greentic_session release", RELEASE_SECS)

    async def clear(self, place: Place, until: float | None) -> bool:
        """Remove the session that waits there."""
        for _ in range(_LOOKS):
            key, since_us = await self._locate(place, until)
            if key is None:
                break
            scope, owner = place.whose
            with suppress(*_PASSING):
                await self._carry(place.whose, [key], until)
            outcome = await self.backend.clear(scope, key, owner, place.scope_hash, until)
            if outcome.verdict is Verdict.UNKNOWN:
                raise undone(key, outcome)
            if outcome.verdict is Verdict.DONE:
                await self._retire(place, key, since_us, (), until)
                return True
        return False

    async def enter(
        self,
        place: Place,
        draft: Draft,
        write: Callable[[int], Awaitable[WaitOutcome]],
        *,
        event: str = "",
        left: Sequence[RetiredHint] = (),
        until: float | None,
    ) -> WaitOutcome:
        """Let a session wait there, and displace others that do.

        :param draft: the session.
        :param write: writes the record, given what ``since_us`` has to exceed.
        :param event: digest of the event that is completed by this.
        :param left: hints that no longer hold when this is done.
        """
        whose, scope_hash = place
        key = SessionKey(draft.key)
        announcement = await self.backend.announce(whose, scope_hash, key, draft.ttl_ms, until)
        others = announcement.others
        try:
            standings = await self._inspect(whose.scope, [hint.key for hint in others], until)
            rivals = {k: s for k, s in standings.items() if s is not None and _waits(s, place)}
            floor_us = max((rival.since_us for rival in rivals.values()), default=0)
            outcome = await write(floor_us)
        except OutcomeUnknownError:
            raise  # the hint may be needed
        except SessionError:
            await self._conclude(place, key, announcement, until)
            raise
        if outcome.verdict is not Verdict.DONE:
            await self._conclude(place, key, announcement, until)
            return outcome
        expires_ms = outcome.at_ms + draft.ttl_ms if draft.ttl_ms else 0
        retired = [RetiredHint(scope_hash, hint.key, hint.since_us) for hint in others]
        if outcome.moved_from:
            retired.append(RetiredHint(outcome.moved_from, key, outcome.since_us))
        events: list[SeenEvent] = []
        # The session waits: what is left to do mends itself where it fails.
        with suppress(*_PASSING):
            for other, rival in rivals.items():
                await self.backend.displace(whose.scope, other, scope_hash, rival.since_us, until)
            # Nothing that a hint leads to is forgotten with it.
            forsaken = [hint.key for hint in others]
            if left or outcome.moved_from:
                forsaken.append(key)
            if forsaken:
                events += await self.backend.events_of(whose.scope, forsaken, until)
            if event:
                events.append(SeenEvent(event, outcome.at_ms))
            change = IndexChange(
                entered=EnteredHint(
                    scope_hash, key, outcome.since_us, expires_ms, announcement.mark
                ),
                retired=(*retired, *left),
                events=tuple(events),
            )
            await self.backend.reindex(whose, change, self.events, until)
        return outcome

    async def leave(
        self,
        place: Place,
        key: SessionKey,
        since_us: int,
        event: SeenEvent | None,
        until: float | None,
    ) -> None:
        """Take the hint of a wait that has ended out of the index.

        What the session remembers goes there in its place, the event that ended it last.
        """
        with suppress(*_PASSING):
            events = list(await self.backend.events_of(place.whose.scope, [key], until))
            if event is not None:
                events.append(event)
            await self._retire(place, key, since_us, events, until)

    async def rebuild(self, scope: str) -> int:
        """Enter every session of a tenant that waits; return how many."""
        entered: set[SessionKey] = set()
        position: object | None = None
        while True:
            keys, position = await self.backend.survey(scope, position)
            until = self.backend.deadline()
            for key, standing in (await self._inspect(scope, keys, until)).items():
                if standing is None or not standing.scope_hash:
                    continue
                until = self.backend.deadline()
                hint = EnteredHint(standing.scope_hash, key, standing.since_us, standing.expires_ms)
                whose = WaitOwner(scope, standing.owner)
                await self.backend.reindex(whose, IndexChange(entered=hint), self.events, until)
                entered.add(key)  # a survey may give it again
            if position is None:
                return len(entered)

    # --- shared steps ------------------------------------------------------------------------

    async def _inspect(
        self, scope: str, keys: Sequence[SessionKey], until: float | None
    ) -> dict[SessionKey, Standing | None]:
        if not keys:
            return {}
        told = await self.backend.inspect(scope, keys, until)
        return dict(zip(keys, told, strict=True))

    async def _locate(self, place: Place, until: float | None) -> tuple[SessionKey | None, int]:
        """Return the session that waits there, and since when, however the index changes."""
        before: Sequence[Hint] | None = None
        for _ in range(_LOOKS):
            hints = (await self.backend.hints(*place, "", self.events, until)).hints
            if not hints or hints == before:
                break
            before = hints
            key, since_us = await self._resolve(place, hints, until)
            if key is not None:
                return key, since_us
        return None, 0

    async def _resolve(
        self, place: Place, hints: Sequence[Hint], until: float | None
    ) -> tuple[SessionKey | None, int]:
        """Return the session that waits there, and since when; and mend the index."""
        standings = await self._inspect(place.whose.scope, [hint.key for hint in hints], until)
        waiting = [
            (standing.since_us, key)
            for key, standing in standings.items()
            if standing is not None and _waits(standing, place)
        ]
        since_us, found = max(waiting) if waiting else (0, None)
        stale = [(place.scope_hash, hint) for hint in hints if hint.key != found]
        await self._mend(place.whose, stale, standings, until)
        for hint in hints:
            if hint.key == found:
                await self._prolong(place, hint, standings[hint.key], until)
        return found, since_us

    async def _prolong(
        self, place: Place, hint: Hint, standing: Standing | None, until: float | None
    ) -> None:
        """Let the index live as long as a record whose life it did not hear of."""
        if standing is None or not hint.expires_ms:
            return
        if standing.expires_ms and standing.expires_ms <= hint.expires_ms:
            return
        entered = EnteredHint(place.scope_hash, hint.key, 0, standing.expires_ms)
        with suppress(*_PASSING):
            await self.backend.reindex(
                place.whose, IndexChange(entered=entered), self.events, until
            )

    async def _carry(
        self, whose: WaitOwner, keys: Sequence[SessionKey], until: float | None
    ) -> None:
        """Let the index remember what sessions do."""
        events = await self.backend.events_of(whose.scope, keys, until)
        if events:
            change = IndexChange(events=tuple(events))
            await self.backend.reindex(whose, change, self.events, until)

    async def _mend(
        self,
        whose: WaitOwner,
        stale: Sequence[tuple[str, Hint]],
        standings: Mapping[SessionKey, Standing | None],
        until: float | None,
    ) -> None:
        """Take away hints that no record bears out, and displace sessions that wait no longer."""
        if not stale:
            return
        with suppress(*_PASSING):
            for scope_hash, hint in stale:
                standing = standings[hint.key]
                if standing is not None and _waits(standing, Place(whose, scope_hash)):
                    await self.backend.displace(
                        whose.scope, hint.key, scope_hash, standing.since_us, until
                    )
            keys = list(dict.fromkeys(hint.key for _, hint in stale))
            events = await self.backend.events_of(whose.scope, keys, until)
            retired = tuple(RetiredHint(at, hint.key, hint.since_us) for at, hint in stale)
            change = IndexChange(retired=retired, events=tuple(events))
            await self.backend.reindex(whose, change, self.events, until)

    async def _retire(
        self,
        place: Place,
        key: SessionKey,
        since_us: int,
        events: Sequence[SeenEvent],
        until: float | None,
    ) -> None:
        """Take a hint out of the index, and remember events in its place."""
        retired = (RetiredHint(place.scope_hash, key, since_us),)
        change = IndexChange(retired=retired, events=tuple(events))
        with suppress(*_PASSING):
            await self.backend.reindex(place.whose, change, self.events, until)

    async def _conclude(
        self, place: Place, key: SessionKey, announcement: Announcement, until: float | None
    ) -> None:
        """End an announcement that nothing came of."""
        # A hint that was there may be that of an earlier call which did not come to confirm it.
        since_us = UNCONFIRMED if announcement.is_new else KEPT
        retired = (RetiredHint(place.scope_hash, key, since_us, announcement.mark),)
        with suppress(*_PASSING):
            await self.backend.reindex(
                place.whose, IndexChange(retired=retired), self.events, until
            )


def _waits(standing: Standing, place: Place) -> bool:
    return standing.owner == place.whose.owner and standing.scope_hash == place.scope_hash
