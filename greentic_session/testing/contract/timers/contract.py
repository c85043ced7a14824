"""The contract suite on timers: inherit :class:`TimerContract`, give it a ``harness`` fixture.

.. code-block:: python

    class TestTimersOnMyStore(TimerContract):
        @pytest.fixture
        async def harness(self) -> AsyncIterator[MyHarness]:
            async with MyHarness() as harness:
                yield harness

For stores that can keep timers (:class:`greentic_session.abc.timers.SupportsTimers`). The fixture
and the rest are as for :class:`SessionStoreContract`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio
import pytest

from ....abc.records import Verdict
from ....abc.timers import TimerShard, timer_backend_of
from ..samples import LIFE, PART

if TYPE_CHECKING:
    from ....abc.timers import TakenTimers, TimerBackend
    from ...harness import StoreHarness

__all__ = ["TimerContract"]

SHARD: Final = TimerShard("events", 3)
_LEASE_MS: Final = round(LIFE * 1000)
_PATIENCE_SECS: Final = 20
"""Limit in seconds, generous because the machine may be busy."""
_DAY_MS: Final = 86_400_000


async def _backend(harness: StoreHarness) -> TimerBackend:
    store = await harness.open()
    return timer_backend_of(store)


async def _take(timers: TimerBackend, attempt: str = "a1", *, most: int = 64) -> TakenTimers:
    return await timers.take(SHARD, most, _LEASE_MS, attempt)


def _ids(taken: TakenTimers) -> list[str]:
    return [timer.timer_id for timer in taken.timers]


@pytest.mark.anyio
class TimerContract:
    """Requirements for timers on every store that supports them."""

    async def test_a_timer_is_taken_when_it_is_due_and_not_before(
        self, harness: StoreHarness
    ) -> None:
        timers = await _backend(harness)
        entered = await timers.enter(SHARD, "t1", b"payload", delay_ms=_LEASE_MS)
        assert entered.verdict is Verdict.DONE
        before = await _take(timers)
        assert _ids(before) == []
        assert before.next_secs is not None
        assert PART < before.next_secs <= LIFE
        await harness.advance(PART)
        assert _ids(await _take(timers)) == []
        await harness.advance(PART)
        (timer,) = (await _take(timers)).timers
        assert (timer.timer_id, timer.payload) == ("t1", b"payload")

    async def test_timers_are_taken_in_due_order(self, harness: StoreHarness) -> None:
        timers = await _backend(harness)
        for delay in (3, 1, 2):
            await timers.enter(SHARD, f"t{delay}", b"p", delay_ms=delay * 1000)
        await harness.advance(PART)
        first = await _take(timers, most=2)
        assert _ids(first) == ["t1", "t2"]
        assert first.next_secs == 0
        due = [timer.due_ms for timer in first.timers]
        assert due[0] < due[1]
        assert _ids(await _take(timers, "a2")) == ["t3"]

    async def test_an_absolute_time_is_on_the_clock_of_the_store(
        self, harness: StoreHarness
    ) -> None:
        timers = await _backend(harness)
        now = (await timers.enter(SHARD, "now", b"p")).due_ms
        entered = await timers.enter(SHARD, "later", b"p", at_ms=now + _LEASE_MS)
        assert entered.due_ms == now + _LEASE_MS
        past = await timers.enter(SHARD, "past", b"p", at_ms=now - _DAY_MS)
        assert past.due_ms == now - _DAY_MS
        assert _ids(await _take(timers)) == ["past", "now"]

    async def test_shards_and_sets_have_timers_of_their_own(self, harness: StoreHarness) -> None:
        timers = await _backend(harness)
        names = ("events", "a:b", "{a}", "%7B", " ", "\N{SNOWMAN}", "x" * 128)
        for name in names:
            for number in (0, 15):
                await timers.enter(TimerShard(name, number), "t", f"{name} {number}".encode())
        for name in names:
            for number in (0, 15):
                taken = await timers.take(TimerShard(name, number), 64, _LEASE_MS, "a")
                assert [timer.payload for timer in taken.timers] == [f"{name} {number}".encode()]

    async def test_payloads_are_any_bytes_and_ids_any_text(self, harness: StoreHarness) -> None:
        timers = await _backend(harness)
        stored = {"\N{SNOWMAN}:{}%": bytes(range(256)), "x" * 256: b"\x00", "i:1": b"\n"}
        for timer_id, payload in stored.items():
            await timers.enter(SHARD, timer_id, payload)
        assert {timer.timer_id: timer.payload for timer in (await _take(timers)).timers} == stored

    # --- the number of shards ----------------------------------------------------------------

    async def test_the_first_number_of_shards_is_kept(self, harness: StoreHarness) -> None:
        timers = await _backend(harness)
        assert await timers.declare("events", 16) == 16
        assert await timers.declare("events", 8) == 16
        assert await timers.declare("others", 8) == 8

    # --- entering ----------------------------------------------------------------------------

    async def test_a_second_timer_with_the_same_id_is_refused(self, harness: StoreHarness) -> None:
        timers = await _backend(harness)
        first = await timers.enter(SHARD, "t1", b"first", delay_ms=_LEASE_MS)
        second = await timers.enter(SHARD, "t1", b"second")
        assert (second.verdict, second.due_ms) == (Verdict.EXISTS, first.due_ms)
        assert _ids(await _take(timers)) == []

    @pytest.mark.parametrize("is_taken", [False, True])
    async def test_replacing_a_timer_makes_it_due_at_the_new_time(
        self, harness: StoreHarness, *, is_taken: bool
    ) -> None:
        timers = await _backend(harness)
        await timers.enter(SHARD, "t1", b"first", delay_ms=0 if is_taken else _LEASE_MS)
        assert len((await _take(timers)).timers) == is_taken
        await timers.enter(SHARD, "t1", b"second", replaces=True)
        (timer,) = (await _take(timers, "a2")).timers
        assert timer.payload == b"second"
        await timers.finish(SHARD, "a1", {"t1": None})  # the first forwarder no longer holds it
        assert (await timers.statistics(SHARD)).scheduled == 1

    async def test_moving_a_timer_keeps_its_payload(self, harness: StoreHarness) -> None:
        timers = await _backend(harness)
        assert (await timers.enter(SHARD, "t1", None)).verdict is Verdict.ABSENT
        await timers.enter(SHARD, "t1", b"payload", delay_ms=_LEASE_MS)
        assert (await timers.enter(SHARD, "t1", None)).verdict is Verdict.DONE
        (timer,) = (await _take(timers)).timers
        assert timer.payload == b"payload"

    # --- cancelling --------------------------------------------------------------------------

    async def test_a_cancelled_timer_is_not_taken(self, harness: StoreHarness) -> None:
        timers = await _backend(harness)
        await timers.enter(SHARD, "t1", b"p")
        assert await timers.cancel(SHARD, "t1") == (Verdict.DONE, False)
        assert await timers.cancel(SHARD, "t1") == (Verdict.ABSENT, False)
        assert _ids(await _take(timers)) == []

    async def test_cancelling_a_taken_timer_says_so(self, harness: StoreHarness) -> None:
        timers = await _backend(harness)
        await timers.enter(SHARD, "t1", b"p")
        await _take(timers)
        assert await timers.cancel(SHARD, "t1") == (Verdict.DONE, True)
        await harness.advance(2 * PART)
        assert _ids(await _take(timers, "a2")) == []

    # --- leases ------------------------------------------------------------------------------

    async def test_a_taken_timer_is_due_again_when_the_lease_ends(
        self, harness: StoreHarness
    ) -> None:
        timers = await _backend(harness)
        due_ms = (await timers.enter(SHARD, "t1", b"p")).due_ms
        taken = await _take(timers)
        assert _ids(taken) == ["t1"]
        assert taken.next_secs is not None
        assert PART < taken.next_secs <= LIFE
        assert _ids(await _take(timers, "a2")) == []
        await harness.advance(PART)
        assert _ids(await _take(timers, "a2")) == []
        await harness.advance(PART)
        (timer,) = (await _take(timers, "a2")).timers
        # A harness that makes stored times older moves the due time, and rounds it.
        moved_ms = due_ms - timer.due_ms
        assert min(abs(moved_ms), abs(moved_ms - 2 * PART * 1000)) <= 2

    async def test_a_lease_ends_in_time_after_the_clock_was_set_back(
        self, harness: StoreHarness
    ) -> None:
        timers = await _backend(harness)
        await timers.enter(SHARD, "t1", b"p")
        assert _ids(await _take(timers)) == ["t1"]
        await harness.advance(-10 * LIFE)
        assert _ids(await _take(timers, "a2")) == []
        await harness.advance(LIFE)
        assert _ids(await _take(timers, "a2")) == ["t1"]

    async def test_a_clock_set_back_makes_no_timer_due_early_and_loses_none(
        self, harness: StoreHarness
    ) -> None:
        timers = await _backend(harness)
        await timers.enter(SHARD, "t1", b"p", delay_ms=_LEASE_MS)
        await harness.advance(-LIFE)
        await harness.advance(PART)
        assert _ids(await _take(timers)) == []
        await harness.advance(PART + LIFE)
        assert _ids(await _take(timers)) == ["t1"]

    # --- finishing ---------------------------------------------------------------------------

    async def test_a_finished_timer_is_gone(self, harness: StoreHarness) -> None:
        timers = await _backend(harness)
        await timers.enter(SHARD, "t1", b"p")
        await timers.enter(SHARD, "t2", b"p")
        await _take(timers)
        await timers.finish(SHARD, "a1", {"t1": None, "t2": None, "never": None})
        await harness.advance(2 * PART)
        taken = await _take(timers, "a2")
        assert _ids(taken) == []
        assert taken.next_secs is None
        assert await harness.residue() == []

    async def test_only_the_holder_finishes_a_timer(self, harness: StoreHarness) -> None:
        timers = await _backend(harness)
        await timers.enter(SHARD, "t1", b"p")
        await _take(timers)
        await harness.advance(2 * PART)
        assert _ids(await _take(timers, "a2")) == ["t1"]
        await timers.finish(SHARD, "a1", {"t1": None})
        assert (await timers.statistics(SHARD)).scheduled == 1
        await timers.finish(SHARD, "a2", {"t1": None})
        assert (await timers.statistics(SHARD)).scheduled == 0

    async def test_a_postponed_timer_is_due_at_its_new_time(self, harness: StoreHarness) -> None:
        timers = await _backend(harness)
        due_ms = (await timers.enter(SHARD, "t1", b"p")).due_ms
        await _take(timers)
        await timers.finish(SHARD, "a1", {"t1": due_ms + _LEASE_MS})
        assert _ids(await _take(timers, "a2")) == []
        await harness.advance(2 * PART)
        (timer,) = (await _take(timers, "a2")).timers
        assert timer.payload == b"p"

    # --- reading -----------------------------------------------------------------------------

    async def test_the_next_due_time_is_known_without_taking(self, harness: StoreHarness) -> None:
        timers = await _backend(harness)
        assert await timers.next_due(SHARD) is None
        await timers.enter(SHARD, "t1", b"p", delay_ms=_LEASE_MS)
        secs = await timers.next_due(SHARD)
        assert secs is not None
        assert PART < secs <= LIFE
        await timers.enter(SHARD, "t2", b"p")
        assert await timers.next_due(SHARD) == 0

    async def test_a_timer_is_found_by_its_id(self, harness: StoreHarness) -> None:
        timers = await _backend(harness)
        assert await timers.find(SHARD, "t1") is None
        due_ms = (await timers.enter(SHARD, "t1", b"p")).due_ms
        for attempt in ("", "a1"):
            if attempt:
                await _take(timers, attempt)
            found = await timers.find(SHARD, "t1")
            assert found == ("t1", due_ms, b"p")
        await timers.cancel(SHARD, "t1")
        assert await timers.find(SHARD, "t1") is None

    async def test_statistics_count_timers(self, harness: StoreHarness) -> None:
        timers = await _backend(harness)
        assert await timers.statistics(SHARD) == (0, 0, None)
        first = await timers.enter(SHARD, "t1", b"p")
        await timers.enter(SHARD, "t2", b"p", delay_ms=_LEASE_MS)
        assert await timers.statistics(SHARD) == (2, 1, first.due_ms)
        await _take(timers)
        assert await timers.statistics(SHARD) == (2, 0, None)

    async def test_pages_list_every_timer_once(self, harness: StoreHarness) -> None:
        timers = await _backend(harness)
        for number in range(600):
            await timers.enter(SHARD, f"t{number}", b"%d" % number, delay_ms=number % 2 * _LEASE_MS)
        await _take(timers)
        found: dict[str, bytes] = {}
        position: object | None = None
        for _ in range(100):
            page = await timers.page(SHARD, position)
            for timer in page.timers:
                assert timer.timer_id not in found
                found[timer.timer_id] = timer.payload
            position = page.position
            if position is None:
                break
        assert found == {f"t{number}": b"%d" % number for number in range(600)}

    # --- notifications -----------------------------------------------------------------------

    async def test_an_earlier_timer_wakes_a_forwarder(self, harness: StoreHarness) -> None:
        timers = await _backend(harness)
        await timers.enter(SHARD, "later", b"p", delay_ms=_LEASE_MS)
        woken: list[bool] = []
        with anyio.fail_after(_PATIENCE_SECS):
            async with timers.subscribe(SHARD.name) as subscription:
                await subscription.wait(_PATIENCE_SECS)  # it starts notified
                async with anyio.create_task_group() as tasks:

                    async def sleep() -> None:
                        woken.append(await subscription.wait(_PATIENCE_SECS))

                    tasks.start_soon(sleep)
                    await timers.enter(SHARD, "now", b"p")
        assert woken == [True]

    # --- races -------------------------------------------------------------------------------

    async def test_racing_forwarders_take_each_timer_once(self, harness: StoreHarness) -> None:
        timers = await _backend(harness)
        for number in range(100):
            await timers.enter(SHARD, f"t{number}", b"p")
        taken: list[str] = []

        async def forward(name: str) -> None:
            for turn in range(4):
                some = await _take(timers, f"{name}.{turn}", most=10)
                taken.extend(_ids(some))

        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(forward, f"w{number}")
        assert sorted(taken) == sorted(f"t{number}" for number in range(100))
