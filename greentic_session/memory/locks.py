"""Locks in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from anyio.lowlevel import checkpoint

from .._compat import override
from ..abc.locks import LockBackend, LockBid, LockHolding, LockOutcome, LockPlace
from ..abc.records import DONE, Verdict
from .expiry import ExpiryIndex

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from ..abc.fencing import Guard
    from ..abc.notifications import Bell
    from ..clock import Clock
    from ..model import SessionKey
    from .expiry import Name
    from .notifications import MemoryBells

__all__ = ["MemoryLocks"]


@final
class _Entry:
    """A lock that is held or waited for: what ``redis/lua/lock.lua`` keeps of it.

    :ivar waiters: token of each, and when its place lapses; in the order in which they came.
    :ivar due: when the expiry index looks at it.
    """

    __slots__ = ("by", "due", "fence", "lease_ms", "name", "waiters")

    def __init__(self) -> None:
        self.by = ""
        self.name = ""
        self.fence = 0
        self.lease_ms = 0
        self.due = 0
        self.waiters: Final[dict[str, int]] = {}

    @property
    def ends_ms(self) -> int:
        """When nobody holds the lock or has a place any more."""
        return max(self.lease_ms, *self.waiters.values()) if self.waiters else self.lease_ms

    def look_at(self, now_ms: int, token: str) -> None:
        """See what is over: places of those who have not asked for too long, but for the token's,
        and a lease that was given back.
        """
        if not self.by:  # else it would come again where the clock is set back
            self.lease_ms = min(self.lease_ms, now_ms)
        lapsed = [
            waiter for waiter, ends in self.waiters.items() if now_ms >= ends and waiter != token
        ]
        for waiter in lapsed:
            del self.waiters[waiter]


@final
class MemoryLocks(LockBackend):
    """The steps on locks. None of them waits for anything.

    :param clock: of the store.
    :param bells: of the store.
    :param check_open: raises once the store is closed.
    """

    def __init__(self, clock: Clock, bells: MemoryBells, check_open: Callable[[], None]) -> None:
        self._now_ms: Final = clock.now_ms
        self._check_open: Final = check_open
        self._bells: Final = bells
        self._entries: Final[dict[Name, _Entry]] = {}
        self._expiry: Final = ExpiryIndex()
        self._fence = 0

    def __len__(self) -> int:
        return len(self._entries)

    def is_held(self, guard: Guard) -> bool:
        """Tell whether a lease holds."""
        entry = self._entries.get((guard.scope, guard.key))
        return (
            entry is not None
            and entry.fence == guard.fence
            and entry.by != ""
            and self._now_ms() < entry.lease_ms
        )

    def pop_due(self, now_ms: int) -> bool:
        """Look at one entry that may have ended.

        :returns: ``False`` if none is due.
        """
        name = self._expiry.pop_due(now_ms)
        if name is None:
            return False
        entry = self._entries[name]
        entry.due = 0
        self._see_to_the_end(name, entry, now_ms)
        return True

    def forget_all(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._expiry.clear()

    @override
    def deadline(self) -> None:
        return None

    @override
    async def lock(self, bid: LockBid, until: float | None) -> LockOutcome:
        await checkpoint()  # who asks in a loop lets others run, perhaps who holds it
        self._check_open()
        scope, key, token = bid.place
        name, now_ms = (scope, key), self._now_ms()
        entry = self._entries.get(name) or _Entry()
        if entry.by == token and now_ms < entry.lease_ms:
            return LockOutcome(DONE, entry.fence, entry.lease_ms, entry.lease_ms - now_ms)
        entry.look_at(now_ms, token)
        waiters = entry.waiters
        ahead = list(waiters).index(token) if token in waiters else len(waiters)
        opens_ms = entry.lease_ms + -(-ahead * bid.place_ms // 4)
        if now_ms < opens_ms:
            if bid.queues:
                waiters[token] = now_ms + bid.place_ms
                self._keep(name, entry, now_ms)
            return LockOutcome(Verdict.CLAIMED, 0, entry.lease_ms, opens_ms - now_ms)
        waiters.pop(token, None)
        self._fence = entry.fence = max(now_ms * 1000, self._fence + 1)
        entry.lease_ms, entry.by, entry.name = now_ms + bid.lease_ms, token, bid.name
        self._keep(name, entry, now_ms)
        return LockOutcome(DONE, entry.fence, entry.lease_ms, bid.lease_ms)

    @override
    async def renew(self, place: LockPlace, lease_ms: int, until: float | None) -> LockOutcome:
        name, now_ms = (place.scope, place.key), self._now_ms()
        entry = self._entries.get(name)
        if entry is None or entry.by != place.token or now_ms >= entry.lease_ms:
            return LockOutcome(Verdict.LOST)
        entry.lease_ms = max(now_ms + lease_ms, entry.lease_ms)
        self._keep(name, entry, now_ms)
        return LockOutcome(DONE, entry.fence, entry.lease_ms, entry.lease_ms - now_ms)

    @override
    async def leave(self, place: LockPlace, lease_ms: int, until: float | None) -> bool:
        name, now_ms = (place.scope, place.key), self._now_ms()
        entry = self._entries.get(name)
        if entry is None:
            return False
        holds = entry.by == place.token and now_ms < entry.lease_ms
        was_first = next(iter(entry.waiters), "") == place.token
        entry.waiters.pop(place.token, None)
        if holds:
            entry.by, entry.name, entry.lease_ms = "", "", now_ms
        entry.look_at(now_ms, "")
        if entry.waiters and now_ms >= entry.lease_ms and (holds or was_first):
            self._bells.ring(next(iter(entry.waiters)))
        self._see_to_the_end(name, entry, now_ms)
        return holds

    @override
    async def holder(self, scope: str, key: SessionKey, until: float | None) -> LockHolding | None:
        entry = self._entries.get((scope, key))
        if entry is None or not entry.by or self._now_ms() >= entry.lease_ms:
            return None
        return LockHolding(entry.name, entry.fence, entry.lease_ms)

    @override
    def listen(self, token: str) -> AbstractAsyncContextManager[Bell]:
        return self._bells.listen(token)

    # --- shared steps ------------------------------------------------------------------------

    def _keep(self, name: Name, entry: _Entry, now_ms: int) -> None:
        """Have the index look at the entry no later than it ends."""
        self._entries[name] = entry
        ends_ms = entry.ends_ms
        if entry.due and entry.due > ends_ms:
            self._expiry.discard(name, entry.due)
            entry.due = 0
        if not entry.due:
            entry.due = self._expiry.add(name, ends_ms, now_ms)

    def _see_to_the_end(self, name: Name, entry: _Entry, now_ms: int) -> None:
        """Forget the entry if nobody holds the lock or has a place any more."""
        if entry.ends_ms > now_ms:
            self._keep(name, entry, now_ms)
            return
        self._expiry.discard(name, entry.due)
        del self._entries[name]
