"""Contract tests of waiting for a lock: in order, past dead waiters, with nothing left behind."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel
import pytest

from ....abc.records import DONE, Verdict
from ....errors import LockHeldError, StoreUnavailableError
from ..assertions import asleep
from ..samples import KEY, LIFE
from .helpers import LEASE, PATIENCE_SECS, POSITION_MS, lock_harness

if TYPE_CHECKING:
    from ....abc.locks import LockOutcome
    from ...harness import StoreHarness
    from .helpers import LockHarness

_PLACE: Final = POSITION_MS / 1000
_TURN: Final = _PLACE / 4
"""Time in seconds for which a free lock is reserved for its next waiter."""


async def _queued(at: LockHarness, *tokens: str) -> None:
    """Have a holder and these waiters."""
    assert (await at.ask("holder")).verdict is DONE
    for token in tokens:
        assert (await at.ask(token)).verdict is Verdict.CLAIMED


async def _assert_order(at: LockHarness, *tokens: str) -> None:
    """Check that the lock serves these waiters in this order, whatever the order of requests."""
    for number, token in enumerate(tokens):
        for later in reversed(tokens[number + 1 :]):
            assert (await at.ask(later)).verdict is Verdict.CLAIMED, (later, token)
        assert (await at.ask(token)).verdict is DONE, token
        assert await at.leave(token) is True


@pytest.mark.anyio
class LockWaitingContract:
    """Waiters get a lock in turn."""

    async def test_waiting_callers_are_served_in_order(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        workers = [at, await at.peer()]
        served: list[int] = []
        with anyio.fail_after(PATIENCE_SECS):
            async with anyio.create_task_group() as tasks, at.locks.hold(KEY):
                for number in range(6):
                    await workers[number % 2].start_waiting(tasks, served, number)
                assert served == []
        assert served == list(range(6))
        await at.assert_free()

    async def test_a_later_caller_waits_behind_the_others(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        await _queued(at, "first")
        await at.leave("holder")
        assert (await at.ask("late")).verdict is Verdict.CLAIMED
        await _assert_order(at, "first", "late")
        assert await harness.residue() == []

    async def test_a_lock_that_others_wait_for_is_not_for_the_asking(
        self, harness: StoreHarness
    ) -> None:
        at = await lock_harness(harness)
        await _queued(at, "first")
        await at.leave("holder")
        async with at.locks.try_hold(KEY) as lease:
            assert lease is None
        with pytest.raises(LockHeldError) as caught:
            await at.locks.hold(KEY, wait=0).__aenter__()
        assert caught.value.until <= datetime.now(UTC)
        assert await at.locks.holder(KEY) is None
        assert (await at.ask("first")).verdict is DONE

    async def test_callers_are_served_in_the_order_of_arrival(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        names = [f"waiter-{number}" for number in (3, 1, 4, 15, 9, 2, 6, 5, 35)]
        await _queued(at, *names)
        await at.leave("holder")
        await _assert_order(at, *names)
        assert await harness.residue() == []

    async def test_a_caller_that_asks_again_keeps_its_place(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        await _queued(at, "a", "b", "a", "b", "a")
        assert await at.waiting() == 2
        await at.leave("holder")
        await _assert_order(at, "a", "b")

    async def test_a_holder_that_asks_again_gets_the_same_lease(
        self, harness: StoreHarness
    ) -> None:
        at = await lock_harness(harness)
        first = await at.ask("a")
        again = await at.ask("a", lease=2 * LEASE)
        assert (again.verdict, again.fence, again.lease_ms) == (DONE, first.fence, first.lease_ms)
        assert again.left_ms <= first.left_ms == LEASE * 1000

    async def test_a_refused_caller_gets_the_time_of_its_next_attempt(
        self, harness: StoreHarness
    ) -> None:
        at = await lock_harness(harness)
        held = await at.ask("holder")

        def assert_told(outcome: LockOutcome, ahead: int) -> None:
            assert (outcome.verdict, outcome.fence) == (Verdict.CLAIMED, 0)
            assert outcome.lease_ms == held.lease_ms
            opens_ms = ahead * _TURN * 1000
            assert opens_ms < outcome.left_ms <= LEASE * 1000 + opens_ms

        assert_told(await at.ask("a"), 0)
        assert_told(await at.ask("b"), 1)
        assert_told(await at.ask("stranger", queues=False), 2)
        assert_told(await at.ask("b"), 1)

    async def test_a_free_lock_is_reserved_for_each_waiting_caller_in_turn(
        self, harness: StoreHarness
    ) -> None:
        at = await lock_harness(harness)
        await _queued(at, "dead", "dead as well", "alive")
        await at.leave("holder")
        await harness.advance(1.5 * _TURN)  # one and a half reservations are over
        assert (await at.ask("alive")).verdict is Verdict.CLAIMED
        await harness.advance(_TURN)
        assert (await at.ask("alive")).verdict is DONE

    async def test_it_is_left_from_when_the_lease_has_run_out(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        await _queued(at, "dead", "alive")
        await harness.advance(LEASE + _TURN / 2)
        assert (await at.ask("alive")).verdict is Verdict.CLAIMED
        await harness.advance(_TURN)
        assert (await at.ask("alive")).verdict is DONE

    async def test_a_caller_that_was_passed_over_is_next(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        await _queued(at, "slow", "quick", "third")
        await at.leave("holder")
        await harness.advance(1.5 * _TURN)
        assert (await at.ask("quick")).verdict is DONE
        await at.leave("quick")
        await _assert_order(at, "slow", "third")

    async def test_a_place_that_is_not_renewed_expires(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        await _queued(at, "dead")
        await at.renew("holder", 3 * _PLACE)
        await harness.advance(0.6 * _PLACE)
        for token in ("dead as well", "alive"):
            assert (await at.ask(token)).verdict is Verdict.CLAIMED
        await harness.advance(0.5 * _PLACE)
        await at.leave("holder")
        assert (await at.ask("alive")).verdict is Verdict.CLAIMED
        await harness.advance(
            1.2 * _TURN
        )  # the second's reservation, because the first one's position has lapsed
        assert (await at.ask("alive")).verdict is DONE
        await at.leave("alive")
        await harness.advance(_PLACE)
        assert await harness.residue() == []

    async def test_nothing_is_left_of_the_dead(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        await _queued(at, "a", "b", "c")
        await harness.advance(LEASE + _PLACE)
        assert await harness.residue() == []
        await at.assert_free()

    async def test_a_lease_is_kept_while_others_wait(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        await _queued(at)
        await at.renew("holder", 2 * _PLACE)
        await at.ask("dead")
        await harness.advance(1.5 * _PLACE)
        assert (await at.renew("holder")).verdict is DONE
        assert await at.waiting() > 0
        assert await at.leave("holder") is True
        assert await harness.residue() == []

    async def test_leaving_a_place_keeps_the_order_of_the_others(
        self, harness: StoreHarness
    ) -> None:
        at = await lock_harness(harness)
        await _queued(at, "a", "b", "c")
        assert await at.leave("b") is False
        assert await at.waiting() == 2
        assert await at.leave("b") is False
        assert await at.leave("stranger") is False
        await at.leave("holder")
        await _assert_order(at, "a", "c")
        assert await harness.residue() == []

    async def test_leaving_the_only_place_leaves_nothing(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        await _queued(at, "a")
        await at.leave("a")
        assert (await at.renew("holder")).verdict is DONE
        await at.leave("holder")
        assert await harness.residue() == []

    @pytest.mark.parametrize("left", ["the lock", "the first place"])
    async def test_the_next_caller_is_notified(self, harness: StoreHarness, left: str) -> None:
        at = await lock_harness(harness)
        other = await at.peer()
        async with (
            other.backend.subscribe("b") as subscription,
            other.backend.subscribe("c") as later,
        ):
            assert await subscription.wait(PATIENCE_SECS) is True  # the subscription is active
            assert await later.wait(PATIENCE_SECS) is True
            if left == "the lock":
                await _queued(at, "b", "c")
                assert await subscription.wait(0) is False
                await at.leave("holder")
            else:
                await _queued(at, "a", "b", "c")
                await at.leave("holder")
                assert await subscription.wait(0) is False
                await at.leave("a")
            assert await subscription.wait(PATIENCE_SECS) is True
            assert await later.wait(0) is False

    async def test_a_caller_that_leaves_notifies_no_other_while_the_lock_is_held(
        self, harness: StoreHarness
    ) -> None:
        at = await lock_harness(harness)
        async with at.backend.subscribe("b") as subscription:
            assert await subscription.wait(PATIENCE_SECS) is True  # the subscription is active
            await _queued(at, "a", "b")
            await at.leave("a")  # the lock is still held
            await at.leave("stranger")
            assert await subscription.wait(0.02) is False  # no notification arrives

    async def test_waiting_ends_in_time(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        other = await at.peer()
        async with at.locks.hold(KEY) as lease:
            with anyio.fail_after(PATIENCE_SECS), pytest.raises(LockHeldError) as caught:
                await other.locks.hold(KEY, wait=0.05).__aenter__()
            assert caught.value.until == lease.until
            assert await at.waiting() == 0
        await at.assert_free()

    async def test_a_caller_that_is_cancelled_while_it_waits_leaves_nothing(
        self, harness: StoreHarness
    ) -> None:
        at = await lock_harness(harness)
        served: list[int] = []
        with anyio.fail_after(PATIENCE_SECS):
            async with anyio.create_task_group() as tasks, at.locks.hold(KEY):
                async with anyio.create_task_group() as cancelled:
                    await at.start_waiting(cancelled, served, 1)
                    await at.start_waiting(tasks, served, 2)
                    cancelled.cancel_scope.cancel()
                assert await at.waiting() == 1
        assert served == [2]
        await at.assert_free()

    async def test_a_waiting_caller_is_served_when_the_holder_died(
        self, harness: StoreHarness
    ) -> None:
        at = await lock_harness(harness, place=1)
        dead = await at.ask("dead", position_ms=1000)
        fences: list[int] = []

        async def wait() -> None:
            async with at.locks.hold(KEY) as lease:
                fences.append(lease.fence)

        with anyio.fail_after(PATIENCE_SECS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await anyio.lowlevel.checkpoint()
                await harness.advance(LIFE)
        assert fences[0] > dead.fence
        await at.assert_free()

    async def test_a_waiting_caller_gets_an_error_when_the_store_closes(
        self, harness: StoreHarness
    ) -> None:
        at = await lock_harness(harness)
        await at.ask("holder")
        ends: list[str] = []

        async def wait() -> None:
            try:
                async with at.locks.hold(KEY):
                    raise AssertionError("the lock was never released")
            except StoreUnavailableError as error:
                ends.append(error.reason)

        with anyio.fail_after(PATIENCE_SECS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await at.until_waiting(1)
                await asleep(at.store)
                await at.store.aclose()
        assert ends == ["the store is closed"]
