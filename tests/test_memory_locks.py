"""Locks in memory: a clock that is set back, and a loop that others need, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from greentic_session import InMemorySessionStore, LeaseLostError, ManualClock
from greentic_session.locking import LockBid, LockOutcome, LockPlace
from greentic_session.ordering import SessionLocks
from greentic_session.record import DONE, Verdict

from .redis_rig import KEY, session

pytestmark = pytest.mark.anyio

PLACE_MS: Final = 400_000


class Rig:
    """Locks in memory, by a clock that is set by hand."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store: InMemorySessionStore[dict[str, Any]] = InMemorySessionStore(clock=self.clock)
        self.locks = SessionLocks(self.store)

    async def ask(self, token: str) -> LockOutcome:
        bid = LockBid(LockPlace("", KEY, token), token, 30_000, PLACE_MS, queues=True)
        return await self.store.lock_backend().lock(bid, None)


async def test_a_lock_that_was_given_back_is_open_though_the_clock_is_set_back() -> None:
    rig = Rig()
    async with rig.locks.hold(KEY) as lease:
        for token in ("b", "c"):
            assert (await rig.ask(token)).verdict is Verdict.CLAIMED
    rig.clock.set_ms(rig.clock.now_ms() - 5000)
    with pytest.raises(LeaseLostError):
        await rig.store.put(session(), fence=lease)
    told = await rig.ask("c")
    assert (told.lease_ms, told.left_ms) == (rig.clock.now_ms(), PLACE_MS // 4)
    taken = await rig.ask("b")
    assert taken.verdict is DONE
    assert taken.fence > lease.fence
