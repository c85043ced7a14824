"""Sessions in this process: for tests, development and single-process services."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Final, cast, final

from anyio.lowlevel import checkpoint

from .. import fence
from .._compat import override
from ..clock import Clock, SystemClock
from ..codec import CodecFactory, JsonCodec
from ..config import MemoryConfig
from ..model import C, Cas, SessionKey
from ..record import Admission, Draft, Outcome, Record, Verdict, mint_incarnation
from ..scanning import Page
from ..statistics import StoreStatistics
from ..store import AsyncSessionStore
from .expiry import ExpiryIndex
from .sweeper import Sweeper, start_sweeper

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["InMemorySessionStore"]

_SLICE_SECS: Final = 0.0005
"""How long a sweep may hold the event loop at a time."""


class _Held(Record, frozen=True, gc=False):
    """A record and the time at which the expiry index looks at it (0: never)."""

    due: int = 0


@final
class InMemorySessionStore(AsyncSessionStore[C]):
    """Keeps encoded sessions in dictionaries, under the same rules as a server.

    Runs on asyncio and trio. No verb waits for anything, so each is done or not begun when its
    task is cancelled. Nothing outlives the process.

    Expired records are absent at once; their memory is freed by a background task that runs from
    ``async with`` to its end, by :meth:`sweep`, and by a write over them.

    :param context_type: as in :class:`AsyncSessionStore`.
    :param config: limits and the sweeper's interval.
    :param codec: as in :class:`AsyncSessionStore`.
    :param clock: tells the time; give a :class:`ManualClock` in tests.
    """

    def __init__(
        self,
        context_type: type[C] = cast("type[C]", dict),  # noqa: B008 - a cast is no call
        *,
        config: MemoryConfig | None = None,
        codec: CodecFactory = JsonCodec,
        clock: Clock | None = None,
    ) -> None:
        config = MemoryConfig() if config is None else config
        config.check()
        super().__init__(
            context_type,
            codec=codec,
            max_payload_bytes=config.max_payload_bytes,
            verify=config.verify,
        )
        self._interval_secs: Final = config.sweep_interval_secs
        self._clock: Final[Clock] = SystemClock() if clock is None else clock
        self._tenants: Final[dict[str, dict[str, _Held]]] = {}
        self._lookup: Final[dict[str, tuple[str, ...]]] = {}
        self._expiry: Final = ExpiryIndex()
        self._sweeper: Sweeper | None = None
        self._swept = 0

    @override
    async def _open(self) -> None:
        if self._sweeper is None:
            self._sweeper = start_sweeper(self.sweep, self._interval_secs)

    @override
    async def _aclose(self) -> None:
        self._tenants.clear()
        self._lookup.clear()
        self._expiry.clear()
        if self._sweeper is not None:
            await self._sweeper.stop()
            self._sweeper = None

    @override
    async def _ping(self) -> None:
        return

    @override
    def statistics(self) -> StoreStatistics:
        """As :meth:`AsyncSessionStore.statistics`."""
        return StoreStatistics(
            backend="memory",
            closed=self._closed,
            sessions=sum(map(len, self._tenants.values())),
            expiring=len(self._expiry),
            tenants=len(self._tenants),
            lookups=len(self._lookup),
            swept=self._swept,
        )

    async def sweep(self) -> int:
        """Remove every expired record.

        Costs in proportion to what expired, and lets other tasks run every half millisecond.

        :returns: how many were removed.
        """
        swept = 0
        pause_at = perf_counter() + _SLICE_SECS
        visited = 0
        now_ms = self._clock.now_ms()
        while (due := self._expiry.pop_due(now_ms)) is not None:
            swept += self._visit(*due, now_ms)
            visited += 1
            if visited % 32 == 0 and perf_counter() >= pause_at:
                await checkpoint()
                pause_at = perf_counter() + _SLICE_SECS
        return swept

    def _visit(self, scope: str, key: str, now_ms: int) -> int:
        held = self._tenants[scope][key]
        if not _expired(held, now_ms):
            # Touched since it was entered: look again when the new life ends.
            due = self._expiry.add((scope, key), held.at_ms + held.ttl_ms, now_ms)
            self._tenants[scope][key] = _restamped(held, held.ttl_ms, held.at_ms, due)
            return 0
        self._forget(scope, key)
        self._swept += 1
        return 1

    # --- reading -----------------------------------------------------------------------------

    def _live(self, scope: str, key: str, now_ms: int) -> _Held | None:
        tenant = self._tenants.get(scope)
        held = None if tenant is None else tenant.get(key)
        return None if held is None or _expired(held, now_ms) else held

    @override
    async def _read(self, scope: str, key: SessionKey, until: float | None) -> Record | None:
        return self._live(scope, key, self._clock.now_ms())

    @override
    async def _read_many(self, scope: str, keys: Sequence[SessionKey]) -> Sequence[Record | None]:
        now_ms = self._clock.now_ms()
        return [self._live(scope, key, now_ms) for key in keys]

    @override
    async def _holders(self, key: SessionKey, until: float | None) -> Sequence[str]:
        now_ms = self._clock.now_ms()
        scopes = self._lookup.get(key, ())
        return [scope for scope in scopes if self._live(scope, key, now_ms) is not None]

    @override
    async def _page(self, scope: str, position: object | None, batch_size: int) -> Page:
        if position is None:
            keys, start = list(self._tenants.get(scope, ())), 0
        else:
            keys, start = cast("tuple[list[str], int]", position)
            await checkpoint()  # a scan of many sessions lets others run
        now_ms = self._clock.now_ms()
        end = start + batch_size
        records = [
            (SessionKey(key), held)
            for key in keys[start:end]
            if (held := self._live(scope, key, now_ms)) is not None
        ]
        return Page(records, (keys, end) if end < len(keys) else None)

    # --- writing -----------------------------------------------------------------------------

    @override
    async def _create(self, draft: Draft) -> Outcome:
        now_ms = self._clock.now_ms()
        live = self._live(draft.scope, draft.key, now_ms)
        if live is None:
            return self._write(draft, 1, mint_incarnation(), now_ms)
        return _MISMATCH if live.owner != draft.owner else Outcome(Verdict.EXISTS)

    @override
    async def _put(self, draft: Draft) -> Outcome:
        now_ms = self._clock.now_ms()
        live = self._live(draft.scope, draft.key, now_ms)
        if live is None:
            return self._write(draft, 1, mint_incarnation(), now_ms)
        if live.owner != draft.owner:
            return _MISMATCH
        return self._write(draft, live.value + 1, live.incarnation, now_ms)

    @override
    async def _update_cas(self, draft: Draft, expected: Cas, until: float | None) -> Outcome:
        now_ms = self._clock.now_ms()
        live = self._live(draft.scope, draft.key, now_ms)
        if live is None:
            return Outcome(Verdict.CONFLICT)
        if live.owner != draft.owner:
            return _MISMATCH
        if live.value != expected.value or live.incarnation != expected.incarnation:
            return Outcome(Verdict.CONFLICT, live.value, live.incarnation)
        return self._write(draft, live.value + 1, live.incarnation, now_ms)

    @override
    async def _touch(
        self,
        scope: str,
        key: SessionKey,
        ttl_ms: int | None,
        admission: Admission | None,
        until: float | None,
    ) -> Outcome:
        now_ms = self._clock.now_ms()
        live = self._live(scope, key, now_ms)
        refusal = self._refusal(live, scope, key, admission, now_ms)
        if live is None or refusal is not None:
            return refusal or _ABSENT
        ttl_ms = live.ttl_ms if ttl_ms is None else ttl_ms
        due = self._schedule(scope, key, live.due, ttl_ms, now_ms)
        self._tenants[scope][key] = _restamped(live, ttl_ms, now_ms, due)
        return Outcome(Verdict.DONE, live.value, live.incarnation, now_ms)

    @override
    async def _delete(
        self,
        scope: str,
        key: SessionKey,
        admission: Admission | None,
        expected: Cas | None,
        until: float | None,
    ) -> Outcome:
        now_ms = self._clock.now_ms()
        live = self._live(scope, key, now_ms)
        refusal = self._refusal(live, scope, key, admission, now_ms)
        if live is None or refusal is not None:
            return refusal or _ABSENT
        if expected is not None and (
            live.value != expected.value or live.incarnation != expected.incarnation
        ):
            return Outcome(Verdict.CONFLICT, live.value, live.incarnation)
        self._expiry.discard((scope, key), live.due)
        self._forget(scope, key)
        return Outcome(Verdict.DONE, live.value, live.incarnation, now_ms)

    def _refusal(
        self,
        live: _Held | None,
        scope: str,
        key: str,
        admission: Admission | None,
        now_ms: int,
    ) -> Outcome | None:
        if live is None:
            return _ABSENT
        if admission is not None:
            return None if fence.admits(admission, live.owner) else _MISMATCH
        others = (other for other in self._lookup[key] if other != scope)
        if any(self._live(other, key, now_ms) is not None for other in others):
            return Outcome(Verdict.AMBIGUOUS)
        return None

    def _write(self, draft: Draft, value: int, incarnation: str, now_ms: int) -> Outcome:
        scope, key = draft.scope, draft.key
        tenant = self._tenants.get(scope)
        if tenant is None:
            tenant = self._tenants[scope] = {}
        stored = tenant.get(key)
        if stored is None:
            self._lookup[key] = (*self._lookup.get(key, ()), scope)
        due = self._schedule(scope, key, stored.due if stored else 0, draft.ttl_ms, now_ms)
        tenant[key] = _Held(value, incarnation, draft.owner, draft.ttl_ms, now_ms, draft.body, due)
        return Outcome(Verdict.DONE, value, incarnation, now_ms)

    def _schedule(self, scope: str, key: str, due: int, ttl_ms: int, now_ms: int) -> int:
        expires_ms = now_ms + ttl_ms
        if due:
            if ttl_ms and due <= expires_ms:
                return due  # the index looks no later than needed: leave the record where it is
            self._expiry.discard((scope, key), due)
        return self._expiry.add((scope, key), expires_ms, now_ms) if ttl_ms else 0

    def _forget(self, scope: str, key: str) -> None:
        tenant = self._tenants[scope]
        del tenant[key]
        if not tenant:
            del self._tenants[scope]
        scopes = tuple(other for other in self._lookup[key] if other != scope)
        if scopes:
            self._lookup[key] = scopes
        else:
            del self._lookup[key]


def _restamped(held: _Held, ttl_ms: int, at_ms: int, due: int) -> _Held:
    # Written out: `structs.replace` costs ten times as much, and a touch is little else.
    return _Held(held.value, held.incarnation, held.owner, ttl_ms, at_ms, held.body, due)


def _expired(held: _Held, now_ms: int) -> bool:
    return held.ttl_ms != 0 and now_ms >= held.at_ms + held.ttl_ms


_ABSENT: Final = Outcome(Verdict.ABSENT)
_MISMATCH: Final = Outcome(Verdict.MISMATCH)
