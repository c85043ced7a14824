"""Contract tests of holding a lock: one holder, increasing fencing tokens, nothing left behind."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel
import pytest

from ....errors import LeaseLostError, LockHeldError, StoreUnavailableError
from ....model import SessionKey
from ..assertions import everything
from ..samples import KEY, LIFE, ctx, session
from .helpers import ANN, LEASE, PATIENCE_SECS, SCOPES, lock_harness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ....ordering import SessionLease, SessionLocks
    from ...harness import StoreHarness

_ODD_KEYS: Final = (
    "k",
    "k:",
    "{k}",
    "{",
    "k%7B",
    "lock",
    "k:lock",
    "{k}:lock",
    "ключ",
    "*",
    "x" * 512,
)

_CLOSED: Final[dict[str, Callable[[SessionLocks], Awaitable[object]]]] = {
    "hold": lambda locks: locks.hold(KEY).__aenter__(),
    "try_hold": lambda locks: locks.try_hold(KEY).__aenter__(),
    "holder": lambda locks: locks.holder(KEY),
}


@pytest.mark.anyio
class LockHoldingContract:
    """One block holds a lock, and all others are excluded."""

    async def test_a_block_holds_the_lock_and_leaves_nothing(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        other = await at.peer()
        async with at.locks.hold(KEY):
            await at.assert_held()
            await other.assert_held()
        await other.assert_free()
        assert await harness.residue() == []

    async def test_a_lease_tells_what_it_is(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        async with at.locks.hold(KEY, LEASE, ctx=ANN) as lease:
            assert (lease.key, lease.ended) == (KEY, False)
            assert lease.fence > 0
            assert lease.guard == ("lock", "default/acme", KEY, lease.fence)
            assert lease.until.tzinfo is UTC
            # It is at least the store's time in microseconds at the grant.
            granted_at = lease.until - timedelta(seconds=LEASE)
            assert granted_at <= datetime.fromtimestamp(lease.fence / 1e6 + 0.001, UTC)
        assert lease.ended

    async def test_the_holder_of_a_lock_is_returned(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness, name="worker 7 (Füße)")
        other = await at.peer()
        assert await other.locks.holder(KEY) is None
        async with at.locks.hold(KEY) as lease:
            holder = await other.locks.holder(KEY)
            assert holder is not None
            assert (holder.name, holder.fence) == ("worker 7 (Füße)", lease.fence)
            assert holder.until == lease.until
            assert await other.locks.holder(SessionKey("another")) is None
        assert await other.locks.holder(KEY) is None

    async def test_a_lock_has_a_name_by_default(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        async with at.locks.hold(KEY):
            holder = await at.locks.holder(KEY)
            assert holder is not None
            assert holder.name

    async def test_held_lists_the_leases_of_its_locks(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        other = await at.peer()
        assert at.locks.held() == ()
        async with at.locks.hold(KEY) as one:
            async with at.locks.try_hold(SessionKey("another")) as two:
                assert at.locks.held() == (one, two)
                assert other.locks.held() == ()
            assert at.locks.held() == (one,)
            await one.release()
            assert at.locks.held() == ()
        assert at.locks.held() == ()

    async def test_a_caller_that_does_not_wait_gets_the_end_of_the_lease(
        self, harness: StoreHarness
    ) -> None:
        at = await lock_harness(harness)
        async with at.locks.hold(KEY) as lease:
            with pytest.raises(LockHeldError) as caught:
                await at.locks.hold(KEY, wait=0).__aenter__()
            assert (caught.value.key, caught.value.code) == (KEY, "conflict")
            assert caught.value.until == lease.until

    @pytest.mark.parametrize("verb", ["hold", "try_hold"])
    async def test_an_error_of_the_block_passes_and_gives_the_lock_back(
        self, harness: StoreHarness, verb: str
    ) -> None:
        at = await lock_harness(harness)
        with pytest.raises(KeyError, match="of the block"):
            async with getattr(at.locks, verb)(KEY):
                raise KeyError("of the block")
        await at.assert_free()

    async def test_a_cancelled_block_gives_the_lock_back(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        with anyio.CancelScope() as scope:
            async with at.locks.hold(KEY):
                scope.cancel()
                await anyio.sleep_forever()
        await at.assert_free()

    async def test_a_lock_can_be_given_back_before_the_block_ends(
        self, harness: StoreHarness
    ) -> None:
        at = await lock_harness(harness)
        other = await at.peer()
        async with at.locks.hold(KEY) as lease:
            assert await lease.release() is True
            assert lease.ended
            async with other.locks.hold(KEY, wait=0) as theirs:
                assert theirs.fence > lease.fence
                assert await lease.release() is False
                with pytest.raises(LeaseLostError):
                    await lease.renew()
                await other.assert_held()
        await at.assert_free()

    async def test_a_renewed_lease_never_gets_shorter(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        async with at.locks.hold(KEY, LEASE) as lease:
            until = lease.until
            assert await lease.renew(1) == lease.until == until
            assert await lease.renew(timedelta(seconds=2 * LEASE)) == lease.until
            assert lease.until >= until + timedelta(seconds=LEASE)
            holder = await at.locks.holder(KEY)
            assert holder is not None
            assert (holder.until, holder.fence) == (lease.until, lease.fence)
            longest = lease.until
            await lease.renew()
            assert lease.until == longest
        await at.assert_free()

    async def test_a_renewed_lease_holds_on(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        async with at.locks.hold(KEY, LIFE) as lease:
            for _ in range(3):
                await harness.advance(LIFE / 2)
                await lease.renew()
            await at.assert_held()

    async def test_a_lease_is_renewed_while_the_block_runs(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)

        async def is_renewed() -> bool:
            async with at.locks.hold(KEY, 2) as lease:
                until = lease.until
                await harness.advance(0.3)
                with anyio.fail_after(PATIENCE_SECS):
                    while lease.until <= until:  # noqa: ASYNC110 - renewals are not notified
                        await anyio.sleep(0.01)
                await at.assert_held()
                return True

        for _ in range(3):  # a machine that stops for a second may lose it
            with suppress(LeaseLostError):
                if await is_renewed():
                    return
        raise AssertionError("the lease was lost each time")

    async def test_fences_grow_from_one_holder_to_the_next(self, harness: StoreHarness) -> None:
        workers = [await lock_harness(harness)]
        workers.append(await workers[0].peer())
        fences: list[int] = []
        for turn in range(20):
            async with workers[turn % 2].locks.hold(KEY) as lease:
                fences.append(lease.fence)
        assert fences == sorted(set(fences))

    async def test_fences_grow_though_leases_ran_out(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        fences: list[int] = []
        for number in range(4):
            fences.append((await at.ask(str(number), lease=LEASE)).fence)
            await harness.advance(LIFE)
        assert fences == sorted(set(fences))
        assert await harness.residue() == []

    @pytest.mark.parametrize("whose", SCOPES)
    async def test_tenants_have_locks_of_their_own(self, harness: StoreHarness, whose: str) -> None:
        at = await lock_harness(harness)
        async with at.locks.hold(KEY, ctx=SCOPES[whose]) as lease:
            for other, caller in SCOPES.items():
                if other == whose:
                    await at.assert_held(ctx=caller)
                    continue
                assert await at.locks.holder(KEY, ctx=caller) is None
                async with at.locks.hold(KEY, wait=0, ctx=caller) as theirs:
                    assert theirs.guard.scope != lease.guard.scope

    async def test_a_lock_is_shared_by_all_callers_of_a_tenant(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        async with at.locks.hold(KEY, ctx=ANN):
            for caller in (ctx(), ctx(team_id="blue"), ctx(user_id="bob")):
                await at.assert_held(ctx=caller)

    async def test_any_key_can_be_locked(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        for caller in (None, ANN):
            async with AsyncExitStack() as stack:
                for key in map(SessionKey, _ODD_KEYS):
                    lease = await stack.enter_async_context(at.locks.hold(key, wait=0, ctx=caller))
                    assert lease.key == key
                assert {lease.key for lease in at.locks.held()} == {*_ODD_KEYS}
        assert await harness.residue() == []

    async def test_of_many_concurrent_callers_one_holds(self, harness: StoreHarness) -> None:
        workers = [await lock_harness(harness)]
        workers.append(await workers[0].peer())
        got: list[SessionLease] = []
        asked = 0
        all_asked = anyio.Event()

        async def attempt(locks: SessionLocks) -> None:
            nonlocal asked
            async with locks.try_hold(KEY) as lease:
                if lease is not None:
                    got.append(lease)
                asked += 1
                if asked == 16:
                    all_asked.set()
                await all_asked.wait()

        with anyio.fail_after(PATIENCE_SECS):
            async with anyio.create_task_group() as tasks:
                for number in range(16):
                    tasks.start_soon(attempt, workers[number % 2].locks)
        assert len(got) == 1

    async def test_tasks_never_hold_together(self, harness: StoreHarness) -> None:
        workers = [await lock_harness(harness)]
        workers.append(await workers[0].peer())
        inside = 0
        fences: list[int] = []

        async def work(locks: SessionLocks) -> None:
            nonlocal inside
            async with locks.hold(KEY) as lease:
                inside += 1
                assert inside == 1
                fences.append(lease.fence)
                await anyio.lowlevel.checkpoint()
                inside -= 1

        with anyio.fail_after(PATIENCE_SECS):
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(work, workers[number % 2].locks)
        assert len(fences) == 20
        assert fences == sorted(set(fences))
        await workers[0].assert_free()

    async def test_locks_and_sessions_are_apart(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        async with at.locks.hold(KEY, ctx=ANN), at.locks.hold(KEY):
            assert await everything(at.store) == {}
            cas = await at.store.create(session())
            assert list(await everything(at.store)) == [KEY]
            await at.store.touch(KEY, 10, ctx=ctx())
            assert await at.store.delete(KEY, expected=cas) is True
            await at.assert_held(ctx=ANN)
        await at.assert_free()

    @pytest.mark.parametrize("verb", _CLOSED)
    async def test_a_closed_store_keeps_no_locks(self, harness: StoreHarness, verb: str) -> None:
        at = await lock_harness(harness)
        await at.store.aclose()
        with pytest.raises(StoreUnavailableError, match="closed"):
            await _CLOSED[verb](at.locks)

    async def test_a_block_outlives_its_store(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        other = await at.peer()
        own = at.store is not other.store
        async with at.locks.hold(KEY) as lease:
            await at.store.aclose()
            for step in (lease.renew, lease.release):
                with pytest.raises(StoreUnavailableError, match="closed"):
                    await step()
        if own:  # a lock that could not be released is free when its lease expires
            await other.assert_held()
            await harness.advance(LIFE)
            await other.assert_free()
