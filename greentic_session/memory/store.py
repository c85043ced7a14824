"""The store of sessions in one process, for tests, development and single-process services."""

from __future__ import annotations

from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Final, TypeVar, cast, final

from anyio.lowlevel import checkpoint

from .._compat import override
from .._core import tenancy
from .._core.lifetime import wait_until_idle
from ..abc.affinity import SupportsAffinity
from ..abc.clock import SupportsClock
from ..abc.fencing import LeaseKind, SupportsFencing
from ..abc.finding import SupportsFinding
from ..abc.generations import SupportsGenerations
from ..abc.inbox import SupportsInbox
from ..abc.locks import SupportsLocks
from ..abc.records import (
    DONE,
    AllowedOwners,
    EncodedSession,
    Outcome,
    Page,
    Record,
    Verdict,
    mint_incarnation,
)
from ..abc.store import settled
from ..abc.streams import SupportsStreams
from ..abc.timers import SupportsTimers
from ..abc.waits import SupportsWaits
from ..clock import Clock, SystemClock
from ..codec import CodecFactory, JsonCodec
from ..config import MemoryConfig
from ..model import C, Cas, SessionKey
from ..statistics import StoreStatistics
from ..store import AsyncSessionStore
from .affinity import MemoryAffinity
from .finding import MemoryFinding
from .generations import MemoryGenerations
from .inbox import MemoryInbox
from .locks import MemoryLocks
from .notifications import MemoryNotifications
from .records import Records
from .streams import MemoryStreams
from .sweeper import start_sweeper
from .timers import MemoryTimers
from .waits import MemoryWaits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from .._core.evolution import Upgrades
    from .._core.tasks import BackgroundTask
    from ..abc.fencing import LeaseRef
    from ..errors import SessionError
    from .records import StoredRecord

__all__ = ["InMemorySessionStore"]

_T = TypeVar("_T")

_FREED_PER_CALL: Final = 8
"""Number of entries that a call checks for expiry without a sweeper. A call adds fewer."""
_LOOK_EVERY_MS: Final = 1000
"""Interval in milliseconds at which such calls check entries other than records."""
_MAX_STEP_BYTES: Final = 1 << 20
"""Number of bytes that a read of several records returns before other tasks run."""
_STEPS_AT_ONCE: Final = 64
"""Number of steps of a call that run before other tasks run."""
_SLICE_SECS: Final = 0.0005
"""Time for which a sweep may block the event loop before other tasks run."""


@final
class InMemorySessionStore(
    AsyncSessionStore[C],
    SupportsWaits,
    SupportsFencing,
    SupportsLocks,
    SupportsAffinity,
    SupportsInbox,
    SupportsClock,
    SupportsGenerations,
    SupportsTimers,
    SupportsStreams,
    SupportsFinding,
):
    """Keeps encoded sessions in dictionaries, under the same rules as a server.

    The store runs on asyncio and trio. No verb waits for I/O. So if its task is cancelled, a verb
    is either complete or was not begun. No session outlives the process.

    Records are absent from the instant they expire. Three things free their memory: a background
    task that runs during ``async with``, :meth:`sweep`, and a write to the same key. Without
    ``async with``, each later call frees a few of them.

    :param context_type: as in :class:`AsyncSessionStore`.
    :param config: the limits and the sweeper's interval.
    :param codec: as in :class:`AsyncSessionStore`.
    :param clock: the clock of the store. Tests can pass a :class:`ManualClock`.
    :param schema_version: as in :class:`AsyncSessionStore`.
    :param upgrades: as in :class:`AsyncSessionStore`.
    """

    def __init__(
        self,
        context_type: type[C] = cast("type[C]", dict),  # noqa: B008 - a cast is no call
        *,
        config: MemoryConfig | None = None,
        codec: CodecFactory = JsonCodec,
        clock: Clock | None = None,
        schema_version: int | None = None,
        upgrades: Upgrades | None = None,
    ) -> None:
        config = MemoryConfig() if config is None else config
        config.check()
        super().__init__(
            context_type,
            codec=codec,
            max_payload_bytes=config.max_payload_bytes,
            verify=config.verify,
            close_secs=config.close_secs,
            require_ctx=config.require_ctx,
            unknown_fields=config.unknown_fields,
            schema_version=schema_version,
            upgrades=upgrades,
            indexed_labels=config.indexed_labels,
        )
        self._interval_secs: Final = config.sweep_interval_secs
        self._records: Final = Records(SystemClock() if clock is None else clock)
        self._notifications: Final = MemoryNotifications()
        self._waits: Final = MemoryWaits(self._records, self._notifications)
        self._locks: Final = MemoryLocks(self._records.clock, self._notifications, self._check_open)
        self._affinity: Final = MemoryAffinity(self._records.clock)
        self._generations: Final = MemoryGenerations(self._records.clock, self._check_open)
        self._inbox: Final = MemoryInbox(
            self._records, self._waits, self._notifications, self._check_open
        )
        self._timers: Final = MemoryTimers(self._records.clock, self._notifications)
        self._streams: Final = MemoryStreams(self._records, self._notifications, self._check_open)
        self._finding_steps: Final = MemoryFinding(
            self._records,
            lambda: self._now_ms(),  # noqa: PLW0108 - an open store has another function
        )
        self._is_held: Final[Mapping[LeaseKind, Callable[[LeaseRef], bool]]] = {
            LeaseKind.LOCK: self._locks.is_held,
            LeaseKind.INBOX: self._inbox.is_held,
        }
        self._due_times: Final = self._records.due_times
        # Every verb calls this once, before anything else.
        self._now_ms: Callable[[], int] = self._free_some
        self._look_at_ms = 0
        self._sweeper: BackgroundTask | None = None
        self._swept = 0

    @override
    async def _open(self) -> None:
        if self._sweeper is None:
            self._sweeper = start_sweeper(self.sweep, self._interval_secs)
            self._now_ms = self._records.clock.now_ms

    @override
    async def _aclose(self) -> None:
        if self._queues:  # otherwise no call is waiting that needs the records later
            await wait_until_idle(self._has_waiting_calls, self._close_secs)
        self._records.clear()
        self._waits.forget_all()
        self._locks.forget_all()
        self._affinity.forget_all()
        self._generations.forget_all()
        self._inbox.forget_all()
        self._timers.forget_all()
        self._streams.forget_all()
        self._notifications.notify_all()
        if self._sweeper is not None:
            await self._sweeper.stop()
            self._sweeper = None

    @override
    def _check_open(self) -> None:
        """As :meth:`StoreLifetime._check_open`. Services on top of the store call it first."""
        super()._check_open()
        if self._sweeper is None:
            self._free_some()

    @override
    async def _ping(self) -> None:
        return

    @override
    def statistics(self) -> StoreStatistics:
        """As :meth:`AsyncSessionStore.statistics`."""
        sizes = {
            **self._records.sizes(),
            **self._waits.sizes(),
            **self._affinity.sizes(),
            **self._generations.sizes(),
            **self._inbox.sizes(),
            "timers": len(self._timers),
            "locks": len(self._locks),
        }
        sizes["events"] += self._inbox.remembered
        return StoreStatistics(backend="memory", closed=self._closed, swept=self._swept, **sizes)

    @override
    def _wait_backend(self) -> MemoryWaits:
        """As :meth:`SupportsWaits._wait_backend`."""
        return self._waits

    @override
    def _inbox_backend(self) -> MemoryInbox:
        """As :meth:`SupportsInbox._inbox_backend`."""
        return self._inbox

    @override
    def _affinity_backend(self) -> MemoryAffinity:
        """As :meth:`SupportsAffinity._affinity_backend`."""
        return self._affinity

    @override
    def _generation_backend(self) -> MemoryGenerations:
        """As :meth:`SupportsGenerations._generation_backend`."""
        return self._generations

    @override
    def _timer_backend(self) -> MemoryTimers:
        """As :meth:`SupportsTimers._timer_backend`."""
        return self._timers

    @override
    def _stream_backend(self) -> MemoryStreams:
        """As :meth:`SupportsStreams._stream_backend`."""
        return self._streams

    @override
    def _finding_backend(self) -> MemoryFinding:
        """As :meth:`SupportsFinding._finding_backend`."""
        return self._finding_steps

    @override
    def _lock_backend(self) -> MemoryLocks:
        """As :meth:`SupportsLocks._lock_backend`."""
        return self._locks

    @override
    def backend_clock_ms(self) -> int:
        """As :meth:`SupportsClock.backend_clock_ms`."""
        return self._records.clock.now_ms()

    async def sweep(self) -> int:
        """Remove every expired record.

        The cost is proportional to the number of expired records. Other tasks run every half
        millisecond.

        :returns: number of removed records.
        """
        swept = 0
        pause_at = perf_counter() + _SLICE_SECS
        visited = 0
        now_ms = self._records.clock.now_ms()
        while (gone := self._pop_due(now_ms)) is not None:
            swept += gone
            visited += 1
            if visited % 32 == 0 and perf_counter() >= pause_at:
                await checkpoint()
                pause_at = perf_counter() + _SLICE_SECS
        return swept

    def _pop_due(self, now_ms: int) -> bool | None:
        """Check one record or other entry that may have expired, and remove it if it has.

        :returns: whether a record was removed. ``None`` if nothing is due.
        """
        gone = self._records.pop_due(now_ms)
        if gone is not None:
            self._swept += gone
            return gone
        is_due = (
            self._waits.pop_due(now_ms)
            or self._inbox.pop_due(now_ms)
            or self._affinity.pop_due(now_ms)
            or self._generations.pop_due(now_ms)
            or self._locks.pop_due(now_ms)
            or self._streams.pop_due(now_ms)
        )
        return False if is_due else None

    def _free_some(self) -> int:
        """Free a few expired entries, and return the time. It runs while there is no sweeper."""
        now_ms = self._records.clock.now_ms()
        times = self._due_times
        if (times and times[0] <= now_ms) or now_ms >= self._look_at_ms:
            for _ in range(_FREED_PER_CALL):
                if self._pop_due(now_ms) is None:
                    self._look_at_ms = now_ms + _LOOK_EVERY_MS
                    return now_ms
            self._look_at_ms = now_ms  # more may be due
        return now_ms

    # --- reading -----------------------------------------------------------------------------

    @override
    def _read(self, scope: str, key: SessionKey, until: float | None) -> Record | None:
        return self._records.live(scope, key, self._now_ms())

    @override
    async def _read_many(self, scope: str, keys: Sequence[SessionKey]) -> Sequence[Record | None]:
        now_ms = self._now_ms()
        records: list[Record | None] = []
        size = 0
        for key in keys:
            record = self._records.live(scope, key, now_ms)
            records.append(record)
            size += 0 if record is None else len(record.body)
            if size > _MAX_STEP_BYTES:
                await checkpoint()  # a read of many bytes lets other tasks run
                break
        return records

    @override
    async def _holders(self, key: SessionKey, until: float | None) -> Sequence[str]:
        now_ms = self._now_ms()
        return list(islice(self._records.holders(key, now_ms), 2))

    @override
    async def _page(self, scope: str, position: object | None, batch_size: int) -> Page:
        if position is None:
            keys, start = self._records.keys(scope), 0
        else:
            keys, start = cast("tuple[list[str], int]", position)
            await checkpoint()  # a scan of many sessions lets other tasks run
        now_ms = self._now_ms()
        records: list[tuple[SessionKey, Record]] = []
        size = 0
        end = start
        for key in keys[start : start + batch_size]:
            end += 1
            held = self._records.live(scope, key, now_ms)
            if held is not None:
                records.append((SessionKey(key), held))
                size += len(held.body)
                if size > _MAX_STEP_BYTES:
                    break
        return Page(records, (keys, end) if end < len(keys) else None)

    # --- writing -----------------------------------------------------------------------------

    @override
    async def _run_each(
        self, steps: Sequence[Callable[[], Awaitable[_T]]]
    ) -> list[_T | SessionError]:
        found: list[_T | SessionError] = []
        for number, step in enumerate(steps, 1):
            found.append(await settled(step))
            if number % _STEPS_AT_ONCE == 0:
                await checkpoint()
        return found

    @override
    async def _create(self, encoded: EncodedSession, *, until: float | None = None) -> Outcome:
        now_ms = self._now_ms()
        live = self._records.live(encoded.scope, encoded.key, now_ms)
        if live is None:
            return self._records.write(encoded, 1, mint_incarnation(), now_ms)
        return _MISMATCH if live.owner != encoded.owner else Outcome(Verdict.EXISTS)

    @override
    def _put(
        self, encoded: EncodedSession, lease: LeaseRef | None, *, until: float | None = None
    ) -> Outcome:
        if lease is not None and not self._is_held[lease.kind](lease):
            return _LOST
        now_ms = self._now_ms()
        live = self._records.live(encoded.scope, encoded.key, now_ms)
        if live is None:
            return self._records.write(encoded, 1, mint_incarnation(), now_ms)
        if live.owner != encoded.owner:
            return _MISMATCH
        return self._records.rewrite(encoded, live, now_ms)

    @override
    def _update_cas(
        self, encoded: EncodedSession, expected: Cas, until: float | None, lease: LeaseRef | None
    ) -> Outcome:
        if lease is not None and not self._is_held[lease.kind](lease):
            return _LOST
        now_ms = self._now_ms()
        live = self._records.live(encoded.scope, encoded.key, now_ms)
        if live is None:
            return Outcome(Verdict.CONFLICT)
        if live.owner != encoded.owner:
            return _MISMATCH
        if live.value != expected.value or live.incarnation != expected.incarnation:
            return Outcome(Verdict.CONFLICT, live.value, live.incarnation)
        return self._records.rewrite(encoded, live, now_ms)

    @override
    async def _replace(
        self, encoded: EncodedSession, expected: Cas, *, until: float | None = None
    ) -> Outcome:
        now_ms = self._now_ms()
        live = self._records.live(encoded.scope, encoded.key, now_ms)
        if live is None:
            return Outcome(Verdict.CONFLICT)
        team, new_team = (tenancy.owners_open_to(one.owner).shared for one in (live, encoded))
        if team != new_team:
            return _MISMATCH
        if Cas(value=live.value, incarnation=live.incarnation) != expected:
            return Outcome(Verdict.CONFLICT, live.value, live.incarnation)
        if live.is_newer(encoded):
            return Outcome(Verdict.NEWER)
        self._records.remove(encoded.scope, encoded.key, live)
        self._waits.forget_events(encoded.scope, encoded.key)
        return self._records.write(encoded, 1, mint_incarnation(), now_ms)

    @override
    def _touch(
        self,
        scope: str,
        key: SessionKey,
        ttl_ms: int | None,
        allowed: AllowedOwners | None,
        until: float | None,
    ) -> Outcome:
        now_ms = self._now_ms()
        live = self._records.live(scope, key, now_ms)
        if live is None:
            return _ABSENT
        refusal = self._refusal(live, scope, key, allowed, now_ms)
        if refusal is not None:
            return refusal
        self._records.restamp(scope, key, live, live.ttl_ms if ttl_ms is None else ttl_ms, now_ms)
        return Outcome(DONE, live.value, live.incarnation, now_ms)

    @override
    async def _delete(
        self,
        scope: str,
        key: SessionKey,
        allowed: AllowedOwners | None,
        expected: Cas | None,
        until: float | None,
    ) -> Outcome:
        now_ms = self._now_ms()
        live = self._records.live(scope, key, now_ms)
        if live is None:
            return _ABSENT
        refusal = self._refusal(live, scope, key, allowed, now_ms)
        if refusal is not None:
            return refusal
        if expected is not None and (
            live.value != expected.value or live.incarnation != expected.incarnation
        ):
            return Outcome(Verdict.CONFLICT, live.value, live.incarnation)
        self._records.remove(scope, key, live)
        self._waits.forget_events(scope, key)
        return Outcome(DONE, live.value, live.incarnation, now_ms)

    def _refusal(
        self,
        live: StoredRecord,
        scope: str,
        key: str,
        allowed: AllowedOwners | None,
        now_ms: int,
    ) -> Outcome | None:
        if allowed is not None:
            return None if tenancy.allows(allowed, live.owner) else _MISMATCH
        if any(other != scope for other in self._records.holders(key, now_ms)):
            return Outcome(Verdict.AMBIGUOUS)
        return None


_ABSENT: Final = Outcome(Verdict.ABSENT)
_MISMATCH: Final = Outcome(Verdict.MISMATCH)
_LOST: Final = Outcome(Verdict.LOST)
