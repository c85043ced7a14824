"""Locks in one process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from anyio.lowlevel import checkpoint

from .._compat import override
from .._core.fencing import FencingCounter
from ..abc.locks import LockBackend, LockCall, LockOutcome, LockRef, LockRequest, LockState
from ..abc.records import DONE, Verdict
from .expiry import ExpiryIndex

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from ..abc.fencing import LeaseRef
    from ..abc.notifications import Subscription
    from ..clock import Clock
    from ..model import SessionKey
    from .expiry import Name
    from .notifications import MemoryNotifications

__all__ = ["MemoryLocks"]


@final
class _Lock:
    """A lock that is held or has waiters, with the fields of ``redis/lua/lib/lock.lua``.

    :ivar waiters: tokens of the waiters in order, and when each queue position lapses.
    :ivar start_ms: when the lease was granted or renewed last, or the lock was released.
    :ivar due: when the expiry index checks the lock.
    """

    __slots__ = ("by", "due", "fence", "lease_ms", "name", "start_ms", "waiters")

    def __init__(self) -> None:
        self.by = ""
        self.name = ""
        self.fence = 0
        self.lease_ms = 0
        self.start_ms = 0
        self.due = 0
        self.waiters: Final[dict[str, int]] = {}

    @property
    def ends_ms(self) -> int:
        """The end of the lease or of the last queue position, whichever is later."""
        return max(self.lease_ms, *self.waiters.values()) if self.waiters else self.lease_ms

    def follow_clock(self, now_ms: int) -> None:
        """Move every end back by the time that the clock was set back.

        A start in the future shows that time. So a dead holder's lease ends within its own length,
        and a released lock stays free.
        """
        back_ms = self.start_ms - now_ms
        if back_ms > 0:
            self.start_ms = now_ms
            self.lease_ms -= back_ms
            for waiter, ends in self.waiters.items():
                self.waiters[waiter] = ends - back_ms

    def look_at(self, now_ms: int, token: str) -> None:
        """Remove the lapsed queue positions, except that of the token."""
        lapsed = [
            waiter for waiter, ends in self.waiters.items() if now_ms >= ends and waiter != token
        ]
        for waiter in lapsed:
            del self.waiters[waiter]


@final
class MemoryLocks(LockBackend, LockCall):
    """The steps on locks. No step waits for I/O, so a call needs no deadline.

    :param clock: the clock of the store.
    :param notifications: the notifications of the store.
    :param check_open: the function that raises an error if the store was closed.
    """

    def __init__(
        self, clock: Clock, notifications: MemoryNotifications, check_open: Callable[[], None]
    ) -> None:
        self._now_ms: Final = clock.now_ms
        self._check_open: Final = check_open
        self._notifications: Final = notifications
        self._entries: Final[dict[Name, _Lock]] = {}
        self._expiry: Final = ExpiryIndex()
        self._fencing: Final = FencingCounter()

    def __len__(self) -> int:
        return len(self._entries)

    def is_held(self, lease: LeaseRef) -> bool:
        """Return whether a lease is held."""
        entry = self._entries.get((lease.scope, lease.key))
        return (
            entry is not None
            and entry.fence == lease.fence
            and entry.by != ""
            and self._now_ms() < entry.lease_ms
        )

    def pop_due(self, now_ms: int) -> bool:
        """Check one lock that may have ended.

        :returns: ``False`` if nothing is due.
        """
        name = self._expiry.pop_due(now_ms)
        if name is None:
            return False
        entry = self._entries[name]
        entry.due = 0
        self._schedule_expiry(name, entry, now_ms)
        return True

    def forget_all(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._expiry.clear()

    @override
    def call(self) -> MemoryLocks:
        return self

    @override
    async def acquire(self, request: LockRequest) -> LockOutcome:
        await checkpoint()  # a caller that polls in a loop lets other tasks run, such as the holder
        self._check_open()
        scope, key, token = request.ref
        name, now_ms = (scope, key), self._now_ms()
        entry = self._entries.get(name) or _Lock()
        entry.follow_clock(now_ms)
        if entry.by == token and now_ms < entry.lease_ms:
            return LockOutcome(DONE, entry.fence, entry.lease_ms, entry.lease_ms - now_ms)
        entry.look_at(now_ms, token)
        waiters = entry.waiters
        ahead = list(waiters).index(token) if token in waiters else len(waiters)
        opens_ms = entry.lease_ms + -(-ahead * request.position_ms // 4)
        if now_ms < opens_ms:
            if request.queues:
                waiters[token] = now_ms + request.position_ms
                self._keep(name, entry, now_ms)
            return LockOutcome(Verdict.CLAIMED, 0, entry.lease_ms, opens_ms - now_ms)
        waiters.pop(token, None)
        entry.fence = self._fencing.issue(now_ms)
        entry.lease_ms, entry.by, entry.name = now_ms + request.lease_ms, token, request.name
        entry.start_ms = now_ms
        self._keep(name, entry, now_ms)
        return LockOutcome(DONE, entry.fence, entry.lease_ms, request.lease_ms)

    @override
    async def renew(self, ref: LockRef, lease_ms: int) -> LockOutcome:
        name, now_ms = (ref.scope, ref.key), self._now_ms()
        entry = self._entries.get(name)
        if entry is None or entry.by != ref.token:
            return LockOutcome(Verdict.LOST)
        entry.follow_clock(now_ms)
        if now_ms >= entry.lease_ms:
            return LockOutcome(Verdict.LOST)
        entry.lease_ms, entry.start_ms = max(now_ms + lease_ms, entry.lease_ms), now_ms
        self._keep(name, entry, now_ms)
        return LockOutcome(DONE, entry.fence, entry.lease_ms, entry.lease_ms - now_ms)

    @override
    async def release(self, ref: LockRef, lease_ms: int) -> bool:  # noqa: ARG002 - no reply is lost
        name, now_ms = (ref.scope, ref.key), self._now_ms()
        entry = self._entries.get(name)
        if entry is None:
            return False
        entry.follow_clock(now_ms)
        holds = entry.by == ref.token and now_ms < entry.lease_ms
        was_first = next(iter(entry.waiters), "") == ref.token
        entry.waiters.pop(ref.token, None)
        if holds:
            entry.by, entry.name, entry.lease_ms, entry.start_ms = "", "", now_ms, now_ms
        entry.look_at(now_ms, "")
        if entry.waiters and now_ms >= entry.lease_ms and (holds or was_first):
            self._notifications.notify(next(iter(entry.waiters)))
        self._schedule_expiry(name, entry, now_ms)
        return holds

    @override
    async def holder(self, scope: str, key: SessionKey) -> LockState | None:
        entry = self._entries.get((scope, key))
        if entry is None or not entry.by or self._now_ms() >= entry.lease_ms:
            return None
        return LockState(entry.name, entry.fence, entry.lease_ms)

    @override
    def subscribe(self, token: str) -> AbstractAsyncContextManager[Subscription]:
        return self._notifications.subscribe(token)

    # --- shared steps ------------------------------------------------------------------------

    def _keep(self, name: Name, entry: _Lock, now_ms: int) -> None:
        """Store the lock, and make the index check it when it ends, or before."""
        self._entries[name] = entry
        ends_ms = entry.ends_ms
        if entry.due and entry.due > ends_ms:
            self._expiry.discard(name, entry.due)
            entry.due = 0
        if not entry.due:
            entry.due = self._expiry.add(name, ends_ms, now_ms)

    def _schedule_expiry(self, name: Name, entry: _Lock, now_ms: int) -> None:
        """Schedule the next check of the lock, or remove it if it is free and has no waiters."""
        if entry.ends_ms > now_ms:
            self._keep(name, entry, now_ms)
            return
        self._expiry.discard(name, entry.due)
        del self._entries[name]
