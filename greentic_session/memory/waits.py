"""Waits in one process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast, final

from msgspec.structs import replace

from .._compat import override
from .._core.fencing import FencingCounter
from ..abc.records import Verdict, mint_incarnation
from ..abc.waits import (
    KEEP_ENTRY,
    ClaimEnding,
    ClaimRef,
    ClaimRequest,
    EndingMode,
    EventMemory,
    IndexChange,
    IndexEntries,
    IndexEntry,
    IndexIntent,
    Registration,
    SeenEvent,
    WaitBackend,
    WaitCall,
    WaitOutcome,
    WaitOwner,
    WaitStatus,
)
from ..model import SessionKey
from .dedupe import EventLog
from .records import Records, StoredRecord, WaitState

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from ..abc.notifications import Subscription
    from ..abc.records import Outcome
    from ..model import Cas
    from .notifications import MemoryNotifications

__all__ = ["MemoryWaits"]

_NOWHERE: Final = WaitState()
_KEYS_PER_PAGE: Final = 512


@final
class MemoryWaits(WaitBackend, WaitCall):
    """The steps of waits. No step waits for I/O.

    So a verb with several steps is one step for other tasks, and a call needs no deadline.

    :param records: the records of the store.
    :param notifications: the notifications of the store.
    """

    def __init__(self, records: Records, notifications: MemoryNotifications) -> None:
        self._records: Final = records
        self._notifications: Final = notifications
        self._index: Final[dict[WaitOwner, dict[str, dict[str, int]]]] = {}
        self._events: Final = EventLog()
        self._events_of_owners: Final = EventLog()
        self._fencing: Final = FencingCounter()
        self._since_us = 0
        records.on_forget = self._remove_entry_of

    def sizes(self) -> dict[str, int]:
        """Return the number of index entries, and that of sessions and users with known events."""
        entries = sum(len(at) for scopes in self._index.values() for at in scopes.values())
        return {"waits": entries, "events": len(self._events) + len(self._events_of_owners)}

    def pop_due(self, now_ms: int) -> bool:
        """Check events that may be old enough to forget.

        :returns: ``False`` if none are due.
        """
        return self._events.pop_due(now_ms) or self._events_of_owners.pop_due(now_ms)

    def forget_all(self) -> None:
        """Forget everything."""
        self._index.clear()
        self._events.clear()
        self._events_of_owners.clear()

    def forget_indexes(self) -> None:
        """Forget the indexes and their events. The records stay."""
        self._index.clear()
        self._events_of_owners.clear()

    def forget_events(self, scope: str, key: str) -> None:
        """Forget the events of a deleted session."""
        self._events.discard((scope, key))

    @override
    def call(self) -> MemoryWaits:
        return self

    @override
    def subscribe(self, scope: str, key: SessionKey) -> AbstractAsyncContextManager[Subscription]:
        return self._notifications.subscribe(_topic(scope, key))

    # --- on a record -------------------------------------------------------------------------

    @override
    async def register(self, registration: Registration, events: EventMemory) -> WaitOutcome:
        encoded, expected, event = registration.encoded, registration.expected, registration.event
        scope_hash = registration.scope_hash
        name = encoded.scope, encoded.key
        now_ms = self._now_ms()
        if event and self._events.knows(name, event, events, now_ms):
            return WaitOutcome(Verdict.SEEN)
        live = self._records.live(*name, now_ms)
        before, value, incarnation, left = _NOWHERE, 0, "", ""
        if live is not None:
            if live.owner != encoded.owner:
                return WaitOutcome(Verdict.MISMATCH)
            before, value, incarnation = live.wait or _NOWHERE, live.value, live.incarnation
            left = before.scope_hash if before.scope_hash != scope_hash else ""
        if expected is not None and (value, incarnation) != (expected.value, expected.incarnation):
            return WaitOutcome(Verdict.CONFLICT, value, incarnation)
        if live is not None and live.is_newer(encoded):
            return WaitOutcome(Verdict.NEWER)
        if event:
            self._events.add(name, [SeenEvent(event, now_ms)], events, now_ms)
        wait = WaitState(scope_hash, self._next_since(now_ms, registration.floor_us), before.fence)
        done = self._records.write(
            encoded, value + 1, incarnation or mint_incarnation(), now_ms, wait
        )
        return _outcome_of(done, wait.since_us, left)

    @override
    async def claim(self, request: ClaimRequest, events: EventMemory) -> WaitOutcome:
        now_ms = self._now_ms()
        scope, key, event = request.scope, request.key, request.event
        if event and self._events.knows((scope, key), event, events, now_ms):
            return WaitOutcome(Verdict.SEEN)
        live = self._records.live(scope, key, now_ms)
        if live is None or live.owner != request.owner:
            return WaitOutcome(Verdict.ABSENT)
        before = live.wait
        if before is None or before.scope_hash != request.scope_hash:
            return WaitOutcome(Verdict.ABSENT)
        moved = before.following_clock(now_ms)
        if moved is not before:
            before, live = moved, replace(live, wait=moved)
            self._records.rewait(scope, key, live, now_ms)
        ends_ms, fence = now_ms + request.lease_ms, before.fence
        at_ms, value = live.at_ms, live.value
        if now_ms < before.lease_ms:
            if before.attempt != request.attempt:
                return WaitOutcome(
                    Verdict.CLAIMED, lease_ms=before.lease_ms, left_ms=before.lease_ms - now_ms
                )
            ends_ms = max(ends_ms, before.lease_ms)
        else:
            at_ms, value, fence = now_ms, value + 1, self._fencing.issue(now_ms, above=fence)
        wait = WaitState(
            before.scope_hash, before.since_us, fence, request.attempt, ends_ms, now_ms
        )
        self._records.rewait(scope, key, replace(live, wait=wait, value=value, at_ms=at_ms), now_ms)
        return WaitOutcome(
            Verdict.DONE,
            value,
            live.incarnation,
            at_ms,
            since_us=before.since_us,
            ttl_ms=live.ttl_ms,
            body=live.body,
            fence=fence,
            lease_ms=ends_ms,
            left_ms=ends_ms - now_ms,
        )

    @override
    async def renew(self, ref: ClaimRef, lease_ms: int) -> WaitOutcome:
        now_ms = self._now_ms()
        live, wait = self._held(ref, now_ms)
        if live is None:
            return WaitOutcome(Verdict.LOST)
        ends_ms = max(now_ms + lease_ms, wait.following_clock(now_ms).lease_ms)
        wait = WaitState(wait.scope_hash, wait.since_us, wait.fence, wait.attempt, ends_ms, now_ms)
        self._records.rewait(ref.scope, ref.key, replace(live, wait=wait), now_ms)
        return WaitOutcome(Verdict.DONE, lease_ms=ends_ms, left_ms=ends_ms - now_ms)

    @override
    async def end_claim(self, ending: ClaimEnding, events: EventMemory) -> WaitOutcome:
        ref, how, encoded = ending.ref, ending.how, ending.encoded
        now_ms = self._now_ms()
        live, wait = self._held(ref, now_ms)
        if live is None:
            return WaitOutcome(Verdict.LOST)
        if not _is_at(live, ending.expected):
            return WaitOutcome(Verdict.CONFLICT, live.value, live.incarnation)
        if encoded is not None and live.is_newer(encoded):
            return WaitOutcome(Verdict.NEWER)
        if ending.event and how is not EndingMode.SAVE:
            seen = SeenEvent(ending.event, now_ms)
            self._events.add((ref.scope, ref.key), [seen], events, now_ms)
        if how is not EndingMode.SAVE:
            self._notifications.notify(_topic(ref.scope, ref.key))
        if encoded is None:
            self._records.remove(ref.scope, ref.key, live)
            return WaitOutcome(Verdict.DONE, at_ms=now_ms, since_us=wait.since_us)
        since_us = wait.since_us
        if how is EndingMode.COMPLETE:
            wait = WaitState("", since_us, wait.fence)
        elif how is EndingMode.WAIT:
            since_us = self._next_since(now_ms, ending.floor_us)
            wait = WaitState(ending.scope_hash, since_us, wait.fence)
        value = live.value + 1
        done = self._records.write(encoded, value, live.incarnation, now_ms, wait)
        return _outcome_of(done, since_us)

    @override
    async def release(self, ref: ClaimRef, attempt: str) -> WaitOutcome:
        now_ms = self._now_ms()
        live, wait = self._held(ref, now_ms, attempt)
        if live is None:
            return WaitOutcome(Verdict.LOST)
        wait = WaitState(wait.scope_hash, wait.since_us, wait.fence)
        self._records.rewait(ref.scope, ref.key, replace(live, wait=wait, at_ms=now_ms), now_ms)
        self._notifications.notify(_topic(ref.scope, ref.key))
        return WaitOutcome(Verdict.DONE, live.value, live.incarnation, now_ms)

    @override
    async def supersede(self, scope: str, key: SessionKey, scope_hash: str, since_us: int) -> None:
        now_ms = self._now_ms()
        live = self._records.live(scope, key, now_ms)
        if live is not None and live.wait is not None:
            wait = live.wait
            if wait.scope_hash == scope_hash and wait.since_us == since_us:
                wait = replace(wait, scope_hash="")
                self._records.rewait(scope, key, replace(live, wait=wait), now_ms)

    @override
    async def events_of(self, scope: str, keys: Sequence[SessionKey]) -> Sequence[SeenEvent]:
        now_ms = self._now_ms()
        return [event for key in keys for event in self._events.of((scope, key), now_ms)]

    @override
    async def clear(self, scope: str, key: SessionKey, owner: str, scope_hash: str) -> WaitOutcome:
        now_ms = self._now_ms()
        live = self._records.live(scope, key, now_ms)
        if live is None or live.owner != owner or live.wait is None:
            return WaitOutcome(Verdict.ABSENT)
        if live.wait.scope_hash != scope_hash:
            return WaitOutcome(Verdict.ABSENT)
        self._records.remove(scope, key, live)
        self.forget_events(scope, key)
        return WaitOutcome(Verdict.DONE, at_ms=now_ms, since_us=live.wait.since_us)

    @override
    async def read_status(
        self, scope: str, keys: Sequence[SessionKey]
    ) -> Sequence[WaitStatus | None]:
        now_ms = self._now_ms()
        held = (self._records.live(scope, key, now_ms) for key in keys)
        return [None if one is None else _status_of(one) for one in held]

    @override
    async def list_keys(
        self, scope: str, position: object | None
    ) -> tuple[Sequence[SessionKey], object | None]:
        keys = self._records.keys(scope) if position is None else cast("list[str]", position)
        page = [SessionKey(key) for key in keys[:_KEYS_PER_PAGE]]
        return page, keys[_KEYS_PER_PAGE:] or None

    # --- on an index -------------------------------------------------------------------------

    @override
    async def entries(
        self, wait_owner: WaitOwner, scope_hash: str, event: str, events: EventMemory
    ) -> IndexEntries:
        seen = event != "" and self._events_of_owners.knows(
            wait_owner, event, events, self._now_ms()
        )
        at = self._index.get(wait_owner, {}).get(scope_hash, {})
        return IndexEntries(
            [IndexEntry(SessionKey(key), since, 0) for key, since in at.items()], seen
        )

    @override
    async def all_entries(self, wait_owner: WaitOwner) -> Sequence[tuple[str, IndexEntry]]:
        return [
            (scope_hash, IndexEntry(SessionKey(key), since_us, 0))
            for scope_hash, at in self._index.get(wait_owner, {}).items()
            for key, since_us in at.items()
        ]

    @override
    async def index_intent(
        self,
        wait_owner: WaitOwner,
        scope_hash: str,
        key: SessionKey,
        ttl_ms: int,  # noqa: ARG002 - an entry in memory has no lifetime of its own
    ) -> IndexIntent:
        at = self._index.setdefault(wait_owner, {}).setdefault(scope_hash, {})
        others = [
            IndexEntry(SessionKey(other), since, 0) for other, since in at.items() if other != key
        ]
        is_new = key not in at
        at.setdefault(key, 0)
        return IndexIntent("", is_new, others)

    @override
    async def update_index(
        self, wait_owner: WaitOwner, change: IndexChange, events: EventMemory
    ) -> None:
        for entry in change.removals:
            self._remove(wait_owner, entry.scope_hash, entry.key, entry.since_us)
        if change.upsert is not None:
            new = change.upsert
            at = self._index.setdefault(wait_owner, {}).setdefault(new.scope_hash, {})
            at[new.key] = max(at.get(new.key, 0), new.since_us)
        if change.events:
            self._events_of_owners.add(wait_owner, change.events, events, self._now_ms())

    # --- shared steps ------------------------------------------------------------------------

    def _now_ms(self) -> int:
        return self._records.clock.now_ms()

    def _next_since(self, now_ms: int, floor_us: int) -> int:
        # Several registrations in one millisecond get ascending numbers.
        self._since_us = max(now_ms * 1000, floor_us + 1, self._since_us + 1)
        return self._since_us

    def _held(
        self, ref: ClaimRef, now_ms: int, attempt: str = ""
    ) -> tuple[StoredRecord, WaitState] | tuple[None, WaitState]:
        live = self._records.live(ref.scope, ref.key, now_ms)
        if live is None or live.wait is None or not live.wait.lease_ms:
            return None, _NOWHERE
        if live.wait.fence == ref.fence or live.wait.attempt == attempt:
            return live, live.wait
        return None, _NOWHERE

    def _remove_entry_of(self, scope: str, key: str, held: StoredRecord) -> None:
        """Remove the index entry of a removed record."""
        wait = held.wait
        if wait is not None and wait.scope_hash:
            self._remove(WaitOwner(scope, held.owner), wait.scope_hash, key, wait.since_us)

    def _remove(self, wait_owner: WaitOwner, scope_hash: str, key: str, since_us: int) -> None:
        scopes = self._index.get(wait_owner, {})
        at = scopes.get(scope_hash, {})
        if since_us == KEEP_ENTRY or key not in at or at[key] > max(since_us, 0):
            return
        del at[key]
        if not at:
            del scopes[scope_hash]
        if not scopes:
            del self._index[wait_owner]


def _topic(scope: str, key: str) -> str:
    return f"wait:{scope}/{key}"


def _is_at(held: StoredRecord, cas: Cas) -> bool:
    return held.value == cas.value and held.incarnation == cas.incarnation


def _outcome_of(done: Outcome, since_us: int, moved_from: str = "") -> WaitOutcome:
    return WaitOutcome(
        done.verdict,
        done.value,
        done.incarnation,
        done.at_ms,
        since_us=since_us,
        moved_from=moved_from,
    )


def _status_of(held: StoredRecord) -> WaitStatus:
    wait = held.wait or _NOWHERE
    return WaitStatus(held.owner, wait.scope_hash, wait.since_us, held.expires_ms)
