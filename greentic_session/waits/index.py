"""The index of waits: leads from a reply scope to the session that waits there.

An index entry may be stale. So an entry is written before the record, the record decides, and a
reader that finds a stale entry removes it. Of two sessions that wait under one reply scope, the one
registered last is found. A reader that finds the other supersedes it.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, final

import anyio

from .._core.leases import RELEASE_SECS
from .._core.tasks import run_to_completion, start_background
from ..abc.records import Verdict, error_for
from ..abc.waits import (
    INTENT_ONLY,
    KEEP_ENTRY,
    ClaimRef,
    ClaimRequest,
    EventMemory,
    IndexChange,
    IndexEntry,
    IndexIntent,
    IndexRemoval,
    IndexUpsert,
    SeenEvent,
    WaitBackend,
    WaitOutcome,
    WaitOwner,
    WaitStatus,
)
from ..errors import (
    DecodeError,
    DurabilityError,
    OutcomeUnknownError,
    SessionError,
    StoreUnavailableError,
)
from ..model import SessionKey

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from ..abc.records import EncodedSession

__all__ = ["WaitAddress", "WaitIndex", "rebuild_index"]

_LOOKUP_ATTEMPTS: Final = 4
"""Lookups of one call when the index changes meanwhile."""
_REPAIRED_LATER: Final = (StoreUnavailableError, OutcomeUnknownError, DecodeError)
"""Errors that may prevent a repair of the index. The next reader repairs it."""


class WaitAddress(NamedTuple):
    """The address of a wait.

    :ivar wait_owner: names the index.
    :ivar scope_hash: the reply scope in it.
    """

    wait_owner: WaitOwner
    scope_hash: str


@final
class WaitIndex:
    """Keeps indexes and records together, in the steps of one verb.

    :param backend: of the store.
    :param events: how long completed events are known.
    :ivar call: the steps. Their deadline counts from when this object was made.
    """

    def __init__(self, backend: WaitBackend, events: EventMemory) -> None:
        self._backend: Final = backend
        self._events: Final = events
        self.call: Final = backend.call()

    async def find(self, address: WaitAddress) -> SessionKey | None:
        """Return the key of the session that waits there."""
        key, _ = await self._locate(address)
        return key

    async def is_seen(self, address: WaitAddress, event: str) -> bool:
        """Tell whether the event was completed there."""
        found = await self.call.entries(*address, event, self._events)
        if found.seen or not found.entries:
            return found.seen
        # The index may not know all completed events of the sessions.
        await self._copy_events(address.wait_owner, [entry.key for entry in found.entries])
        return (await self.call.entries(*address, event, self._events)).seen

    async def find_all(self, wait_owner: WaitOwner) -> list[SessionKey]:
        """Return the keys of an owner's sessions that wait, the oldest wait first."""
        found = await self.call.all_entries(wait_owner)
        keys = list(dict.fromkeys(entry.key for _, entry in found))
        statuses = await self._read_status(wait_owner.scope, keys)
        # The record says where a session waits. The index entry may be of another reply scope.
        newest: dict[str, tuple[int, SessionKey]] = {}
        for key, status in statuses.items():
            if status is not None and status.owner == wait_owner.owner and status.scope_hash:
                since = (status.since_us, key)
                newest[status.scope_hash] = max(newest.get(status.scope_hash, since), since)
        stale = [
            (scope_hash, entry)
            for scope_hash, entry in found
            if scope_hash not in newest or newest[scope_hash][1] != entry.key
        ]
        await self._repair(wait_owner, stale, statuses)
        for scope_hash, entry in found:
            if newest.get(scope_hash, (0, ""))[1] == entry.key:
                await self._extend(WaitAddress(wait_owner, scope_hash), entry, statuses[entry.key])
        return [key for _, key in sorted(newest.values())]

    async def claim(
        self, address: WaitAddress, attempt: str, *, is_named: bool, event: str, lease_ms: int
    ) -> tuple[WaitOutcome, SessionKey | None]:
        """Claim the wait that is there.

        :param attempt: names the attempt.
        :param is_named: whether the caller named the attempt, and so can repeat the call.
        :param event: digest of the event, empty for none.
        :param lease_ms: length of the lease, in milliseconds.
        :returns: the outcome, and the key of the session that waits there; no key if the verdict is
            ``ABSENT``, or ``SEEN`` by the index.
        """
        scope, owner = address.wait_owner
        before: Sequence[IndexEntry] | None = None
        for _ in range(_LOOKUP_ATTEMPTS):
            found = await self.call.entries(*address, event, self._events)
            if found.seen:
                return await self._seen(address, found.entries), None
            if not found.entries or found.entries == before:
                break
            before = found.entries
            key: SessionKey | None = found.entries[0].key
            if len(found.entries) > 1:
                key, _ = await self._resolve(address, found.entries)
                # The index now knows the completed events of the superseded sessions.
                if (await self.call.entries(*address, event, self._events)).seen:
                    return await self._seen(address, found.entries), None
            if key is None:
                continue
            request = ClaimRequest(
                scope=scope,
                key=key,
                owner=owner,
                scope_hash=address.scope_hash,
                attempt=attempt,
                event=event,
                lease_ms=lease_ms,
            )
            outcome = await self._claim(request, is_named=is_named)
            if outcome.verdict is not Verdict.ABSENT:
                return outcome, key
            await self._resolve(address, found.entries)  # and look again
        return WaitOutcome(Verdict.ABSENT), None

    async def _claim(self, request: ClaimRequest, *, is_named: bool) -> WaitOutcome:
        try:
            return await self.call.claim(request, self._events)
        except DecodeError:
            await self._release_attempt(request)
            raise
        except (DurabilityError, anyio.get_cancelled_exc_class()):
            # The claim was made, or may have been. A caller that named its attempt can repeat the
            # call. A release that arrives late would end the claim that the second call gets.
            if not is_named:
                await self._release_attempt(request)
            raise
        except OutcomeUnknownError:
            if not is_named:  # the caller does not wait longer
                release = partial(self._release_attempt, request)
                start_background(release, "greentic_session release of a lost claim")
            raise

    async def _release_attempt(self, request: ClaimRequest) -> None:
        """Release a claim whose fencing token is not known."""
        ref = ClaimRef(scope=request.scope, key=request.key, owner=request.owner, fence=0)
        await self.release(ref, request.attempt)

    async def _seen(self, address: WaitAddress, entries: Sequence[IndexEntry]) -> WaitOutcome:
        """Return that the event is known. That rests on an earlier write."""
        await self.call.confirm(address.wait_owner, [entry.key for entry in entries])
        return WaitOutcome(Verdict.SEEN)

    async def release(self, ref: ClaimRef, attempt: str = "") -> None:
        """Release a claim for a caller that may have been cancelled, in a call of its own.

        If this fails, the claim ends with its lease.

        :param attempt: names the attempt, if the fencing token is not known.
        """

        async def release() -> None:
            with suppress(SessionError):
                await self._backend.call().release(ref, attempt)

        await run_to_completion(release, "greentic_session release", RELEASE_SECS)

    async def clear(self, address: WaitAddress) -> bool:
        """Remove the session that waits there."""
        for _ in range(_LOOKUP_ATTEMPTS):
            key, since_us = await self._locate(address)
            if key is None:
                break
            scope, owner = address.wait_owner
            with suppress(*_REPAIRED_LATER):
                await self._copy_events(address.wait_owner, [key])
            outcome = await self.call.clear(scope, key, owner, address.scope_hash)
            if outcome.verdict is Verdict.UNKNOWN:
                raise error_for(key, outcome)
            if outcome.verdict is Verdict.DONE:
                await self._remove(address, key, since_us, ())
            outcome.raise_shortfall()
            if outcome.verdict is Verdict.DONE:
                return True
        await self.call.confirm(address.wait_owner, ())  # an earlier call may have removed it
        return False

    async def enter(
        self,
        address: WaitAddress,
        encoded: EncodedSession,
        write: Callable[[int], Awaitable[WaitOutcome]],
        *,
        event: str = "",
        left: Sequence[IndexRemoval] = (),
    ) -> WaitOutcome:
        """Let a session wait there, and supersede other sessions that wait there.

        :param encoded: the session.
        :param write: writes the record. Its argument is a number that ``since_us`` has to exceed.
        :param event: digest of the event that this completes, empty for none.
        :param left: index entries that are stale afterwards.
        :raises DurabilityError: the session waits there, and the index leads to it. Or the event
            was completed before. In both cases, too few replicas have confirmed it.
        :raises OutcomeUnknownError: with replicas that confirm, also if the session waits there and
            the index may have lost its entry.
        """
        wait_owner, scope_hash = address
        key = SessionKey(encoded.key)
        intent = await self.call.index_intent(wait_owner, scope_hash, key, encoded.ttl_ms)
        others = intent.others
        try:
            statuses = await self._read_status(wait_owner.scope, [entry.key for entry in others])
            rivals = {k: s for k, s in statuses.items() if s is not None and _waits(s, address)}
            floor_us = max((rival.since_us for rival in rivals.values()), default=0)
            outcome = await write(floor_us)
        except (OutcomeUnknownError, DurabilityError):
            raise  # the record may need the index entry, or does
        except SessionError:
            await self._cancel_intent(address, key, intent)
            raise
        if outcome.verdict is Verdict.SEEN:
            await self._restore_entry(address, key, intent)
            outcome.raise_shortfall()
            return outcome
        if outcome.verdict is not Verdict.DONE:
            await self._cancel_intent(address, key, intent)
            outcome.raise_shortfall()
            return outcome
        expires_ms = outcome.at_ms + encoded.ttl_ms if encoded.ttl_ms else 0
        removals = [IndexRemoval(scope_hash, entry.key, entry.since_us) for entry in others]
        if outcome.moved_from:
            removals.append(IndexRemoval(outcome.moved_from, key, outcome.since_us))
        entered = IndexChange(
            upsert=IndexUpsert(scope_hash, key, outcome.since_us, expires_ms, intent.intent_id),
            events=(SeenEvent(event, outcome.at_ms),) if event else (),
            confirms=outcome.shortfall is None,
        )
        try:
            for other, rival in rivals.items():
                await self.call.supersede(wait_owner.scope, other, scope_hash, rival.since_us)
            # Copy completed events to the index before their index entries are removed.
            removed_keys = [entry.key for entry in others]
            if left or outcome.moved_from:
                removed_keys.append(key)
            change = entered
            if removed_keys:
                events = await self.call.events_of(wait_owner.scope, removed_keys)
                change = IndexChange(
                    upsert=entered.upsert,
                    removals=(*removals, *left),
                    events=(*events, *entered.events),
                    confirms=entered.confirms,
                )
            await self.call.update_index(wait_owner, change, self._events)
        except _REPAIRED_LATER:
            # The session waits, and the index intent leads the next reader to it. But a failover
            # may have lost the intent.
            if self.call.confirms:
                await self._write_entry(wait_owner, entered)
        outcome.raise_shortfall()
        return outcome

    async def leave(
        self, address: WaitAddress, key: SessionKey, since_us: int, event: SeenEvent | None
    ) -> None:
        """Remove the index entry of a wait that has ended.

        The completed events of the session are copied to the index. The event that ended the wait
        is the last of them.
        """
        with suppress(*_REPAIRED_LATER):
            events = list(await self.call.events_of(address.wait_owner.scope, [key]))
            if event is not None:
                events.append(event)
            await self._remove(address, key, since_us, events)

    # --- shared steps ------------------------------------------------------------------------

    async def _read_status(
        self, scope: str, keys: Sequence[SessionKey]
    ) -> dict[SessionKey, WaitStatus | None]:
        if not keys:
            return {}
        return dict(zip(keys, await self.call.read_status(scope, keys), strict=True))

    async def _locate(self, address: WaitAddress) -> tuple[SessionKey | None, int]:
        """Return the session that waits there, and since when. Retry when the index changes."""
        before: Sequence[IndexEntry] | None = None
        for _ in range(_LOOKUP_ATTEMPTS):
            entries = (await self.call.entries(*address, "", self._events)).entries
            if not entries or entries == before:
                break
            before = entries
            key, since_us = await self._resolve(address, entries)
            if key is not None:
                return key, since_us
        return None, 0

    async def _resolve(
        self, address: WaitAddress, entries: Sequence[IndexEntry]
    ) -> tuple[SessionKey | None, int]:
        """Return the session that waits there, and since when. Repair the index."""
        statuses = await self._read_status(
            address.wait_owner.scope, [entry.key for entry in entries]
        )
        waiting = [
            (status.since_us, key)
            for key, status in statuses.items()
            if status is not None and _waits(status, address)
        ]
        since_us, found = max(waiting) if waiting else (0, None)
        stale = [(address.scope_hash, entry) for entry in entries if entry.key != found]
        await self._repair(address.wait_owner, stale, statuses)
        for entry in entries:
            if entry.key == found:
                await self._extend(address, entry, statuses[entry.key])
        return found, since_us

    async def _extend(
        self, address: WaitAddress, entry: IndexEntry, status: WaitStatus | None
    ) -> None:
        """Extend the lifetime of the index to that of the record, if it is shorter."""
        if status is None or not entry.expires_ms:
            return
        if status.expires_ms and status.expires_ms <= entry.expires_ms:
            return
        entered = IndexUpsert(address.scope_hash, entry.key, 0, status.expires_ms)
        with suppress(*_REPAIRED_LATER):
            await self.call.update_index(
                address.wait_owner, IndexChange(upsert=entered), self._events
            )

    async def _copy_events(self, wait_owner: WaitOwner, keys: Sequence[SessionKey]) -> None:
        """Copy the completed events of sessions to the index."""
        events = await self.call.events_of(wait_owner.scope, keys)
        if events:
            change = IndexChange(events=tuple(events))
            await self.call.update_index(wait_owner, change, self._events)

    async def _repair(
        self,
        wait_owner: WaitOwner,
        stale: Sequence[tuple[str, IndexEntry]],
        statuses: Mapping[SessionKey, WaitStatus | None],
    ) -> None:
        """Remove stale index entries, and supersede sessions that are not found any more."""
        if not stale:
            return
        with suppress(*_REPAIRED_LATER):
            for scope_hash, entry in stale:
                status = statuses[entry.key]
                if status is not None and _waits(status, WaitAddress(wait_owner, scope_hash)):
                    await self.call.supersede(
                        wait_owner.scope, entry.key, scope_hash, status.since_us
                    )
            keys = list(dict.fromkeys(entry.key for _, entry in stale))
            events = await self.call.events_of(wait_owner.scope, keys)
            removals = tuple(IndexRemoval(at, entry.key, entry.since_us) for at, entry in stale)
            change = IndexChange(removals=removals, events=tuple(events))
            await self.call.update_index(wait_owner, change, self._events)

    async def _remove(
        self, address: WaitAddress, key: SessionKey, since_us: int, events: Sequence[SeenEvent]
    ) -> None:
        """Remove an index entry, and remember completed events."""
        removals = (IndexRemoval(address.scope_hash, key, since_us),)
        change = IndexChange(removals=removals, events=tuple(events))
        with suppress(*_REPAIRED_LATER):
            await self.call.update_index(address.wait_owner, change, self._events)

    async def _write_entry(self, wait_owner: WaitOwner, entered: IndexChange) -> None:
        """Write an index entry that leads to a stored wait.

        :raises OutcomeUnknownError: it may be missing after a failover.
        """
        try:
            await self.call.update_index(wait_owner, entered, self._events)
        except _REPAIRED_LATER:
            if self.call.confirms and entered.confirms:
                raise OutcomeUnknownError("the index of waits was not reached") from None

    async def _restore_entry(
        self, address: WaitAddress, key: SessionKey, intent: IndexIntent
    ) -> None:
        """Write the index entry of a session that an earlier call registered, if it waits there.

        That call did not return, or its entry was lost in a failover.
        """
        status = (await self._read_status(address.wait_owner.scope, [key]))[key]
        if status is None or not _waits(status, address):
            await self._cancel_intent(address, key, intent)
            return
        upsert = IndexUpsert(
            address.scope_hash, key, status.since_us, status.expires_ms, intent.intent_id
        )
        await self._write_entry(address.wait_owner, IndexChange(upsert=upsert, confirms=True))

    async def _cancel_intent(
        self, address: WaitAddress, key: SessionKey, intent: IndexIntent
    ) -> None:
        """Cancel an index intent that no record followed."""
        # An entry that existed may be of an earlier call that never confirmed it.
        since_us = INTENT_ONLY if intent.is_new else KEEP_ENTRY
        removals = (IndexRemoval(address.scope_hash, key, since_us, intent.intent_id),)
        with suppress(*_REPAIRED_LATER):
            await self.call.update_index(
                address.wait_owner, IndexChange(removals=removals), self._events
            )


async def rebuild_index(backend: WaitBackend, events: EventMemory, scope: str) -> int:
    """Write the index entries of a tenant's waits, and return their number. Each step is a call."""
    entered: set[SessionKey] = set()
    position: object | None = None
    while True:
        keys, position = await backend.list_keys(scope, position)
        statuses = await backend.call().read_status(scope, keys) if keys else ()
        for key, status in dict(zip(keys, statuses, strict=True)).items():
            if status is None or not status.scope_hash:
                continue
            entry = IndexUpsert(status.scope_hash, key, status.since_us, status.expires_ms)
            change = IndexChange(upsert=entry)
            await backend.call().update_index(WaitOwner(scope, status.owner), change, events)
            entered.add(key)  # a scan may return a key twice
        if position is None:
            return len(entered)


def _waits(status: WaitStatus, address: WaitAddress) -> bool:
    return status.owner == address.wait_owner.owner and status.scope_hash == address.scope_hash
