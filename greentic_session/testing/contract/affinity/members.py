"""Contract tests of a group's members: names, leases and fencing tokens."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import pytest

from ....abc.affinity import MembershipOutcome
from ....abc.records import Verdict
from ....errors import LeaseLostError, MemberExistsError
from ..samples import LIFE, PART
from .helpers import HOUR, AffinityHarness, affinity_harness, patience

if TYPE_CHECKING:
    from ....ordering import Membership
    from ...harness import StoreHarness

_MS = round(LIFE * 1000)
_LOST = MembershipOutcome(Verdict.LOST)


@pytest.mark.anyio
class AffinityMemberContract:
    """A worker is a member while its lease lasts, and its name is unique."""

    async def test_a_member_is_listed_while_its_block_runs(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness)
        assert await at.affinity.members() == ()
        async with at.affinity.member("w2") as two, at.affinity.member("w1") as one:
            assert (one.worker, two.worker) == ("w1", "w2")
            found = await at.affinity.members()
            assert [member.worker for member in found] == ["w1", "w2"]
            assert [member.fence for member in found] == [one.fence, two.fence]
            # It may have been renewed since it was read.
            assert found[0].lease_until <= one.lease_until
            assert not one.ended
        assert one.ended
        assert two.ended
        assert await at.affinity.members() == ()

    async def test_nothing_is_left_of_members(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness)
        async with at.affinity.member("w1"):
            await at.join("dead")
        await harness.advance(HOUR)
        assert await harness.residue() == []

    @pytest.mark.parametrize("end", ["error", "cancelled"])
    async def test_a_member_leaves_however_its_block_ends(
        self, harness: StoreHarness, end: str
    ) -> None:
        at = await affinity_harness(harness)
        with patience():
            if end == "error":
                with pytest.raises(ZeroDivisionError):
                    async with at.affinity.member("w1"):
                        raise ZeroDivisionError
            else:
                with anyio.CancelScope() as scope:
                    async with at.affinity.member("w1"):
                        scope.cancel()
                        await anyio.sleep_forever()
                assert scope.cancelled_caught
            assert await at.living() == []

    async def test_a_name_has_one_member(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness)
        async with at.affinity.member("w1", lease=timedelta(seconds=LIFE)) as first:
            with pytest.raises(MemberExistsError) as caught:
                async with at.affinity.member("w1"):
                    pytest.fail("two are there")
            assert (caught.value.code, caught.value.worker) == ("conflict", "w1")
            assert caught.value.until == first.lease_until
            assert [member.fence for member in await at.affinity.members()] == [first.fence]

    async def test_another_group_has_names_of_its_own(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness)
        other = AffinityHarness(harness, at.store, "other")
        async with at.affinity.member("w1"), other.affinity.member("w1"):
            assert await at.living() == await other.living() == ["w1"]
            await at.worker_for("k")
            assert await other.server_of("k") is None
        assert await other.living() == []

    async def test_names_with_special_characters_do_not_collide(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        names = ("a:b", "a", "{a}", "%7Ba%7D", "*", " ", "\N{SNOWMAN}", "-", "ops", "x" * 128)
        for name in names:
            await AffinityHarness(harness, store, name).join(name)
        for name in names:
            at = AffinityHarness(harness, store, name)
            assert await at.living() == [name]
            assert await at.worker_for(name) == name
            assert await at.keys_of(name) == [name]

    # --- leases ------------------------------------------------------------------------------

    async def test_a_worker_that_died_is_a_member_until_its_lease_ends(
        self, harness: StoreHarness
    ) -> None:
        at = await affinity_harness(harness, workers=("other",))
        await at.join("w1", lease=LIFE)
        await harness.advance(PART)
        assert await at.living() == ["other", "w1"]
        with pytest.raises(MemberExistsError):
            async with at.affinity.member("w1"):
                pytest.fail("two are there")
        await harness.advance(PART)
        assert await at.living() == ["other"]
        async with at.affinity.member("w1"):
            assert await at.living() == ["other", "w1"]

    async def test_a_renewal_starts_a_new_lease(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness)
        (fence,) = await at.join("w1")
        ends_ms = 0
        for _ in range(3):
            await harness.advance(PART)
            outcome = await at.backend.renew("default", "w1", "w1!", _MS)
            assert (outcome.verdict, outcome.fence) == (Verdict.DONE, fence)
            assert outcome.left_ms == _MS
            ends_ms = outcome.ends_ms
        shorter = await at.backend.renew("default", "w1", "w1!", 1)
        assert shorter.ends_ms == ends_ms
        assert [member.fence for member in await at.affinity.members()] == [fence]

    @pytest.mark.parametrize("loss", ["ended", "left", "taken", "never"])
    async def test_what_is_lost_is_not_renewed(self, harness: StoreHarness, loss: str) -> None:
        at = await affinity_harness(harness, workers=("other",))
        if loss != "never":
            await at.join("w1")
        if loss == "left":
            await at.leave("w1")
        elif loss != "never":
            await harness.advance(LIFE)
        if loss == "taken":
            await at.backend.join("default", "w1", "another's", _MS)
        before = await at.affinity.members()
        assert await at.backend.renew("default", "w1", "w1!", _MS) == _LOST
        assert await at.backend.leave("default", "w1", "w1!") is False
        assert await at.affinity.members() == before
        assert len(before) == 1 + (loss == "taken")

    async def test_joining_again_is_the_same_membership(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness)
        first = await at.backend.join("default", "w1", "a", _MS)
        again = await at.backend.join("default", "w1", "a", _MS)
        assert again.fence == first.fence
        assert again.ends_ms >= first.ends_ms
        shorter = await at.backend.join("default", "w1", "a", 1)
        assert (shorter.fence, shorter.ends_ms) == (first.fence, again.ends_ms)
        other = await at.backend.join("default", "w1", "b", _MS)
        assert other == MembershipOutcome(Verdict.CLAIMED, ends_ms=again.ends_ms)

    async def test_a_lost_lease_ends_the_block(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness)
        held: list[Membership] = []
        cancellations = 0

        async def serve() -> None:
            nonlocal cancellations
            async with at.affinity.member("w1", lease=0.6) as membership:
                held.append(membership)
                await harness.advance(1)
                await at.backend.join("default", "w1", "another's", _MS)
                try:
                    await anyio.sleep_forever()
                except anyio.get_cancelled_exc_class():
                    cancellations += 1
                    raise

        with patience(), pytest.raises(LeaseLostError):
            await serve()
        assert held[0].ended
        assert cancellations == 1
        assert await at.living() == ["w1"]

    async def test_a_lease_found_lost_on_leaving_is_told(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness)
        with pytest.raises(LeaseLostError):
            async with at.affinity.member("w1", lease=LIFE):
                await harness.advance(LIFE)
        assert await at.living() == []

    # --- fencing tokens ----------------------------------------------------------------------

    async def test_fencing_tokens_of_a_name_grow(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness)
        fences: list[int] = []
        for number in range(20):
            async with at.affinity.member("w1", lease=LIFE) as membership:
                fences.append(membership.fence)
                if number == 0:
                    at_us = (membership.lease_until.timestamp() - LIFE) * 1_000_000
                    # A lease expires at a whole millisecond.
                    assert membership.fence >= at_us - 1000
        assert fences == sorted(set(fences))

    async def test_a_fence_outgrows_that_of_a_lease_that_ended(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness)
        fences = await at.join("w1", lease=PART)
        await at.join("other", lease=LIFE)
        await harness.advance(PART)
        fences += await at.join("w1", lease=PART)
        await harness.advance(HOUR)
        assert await at.living() == []
        fences += await at.join("w1", lease=PART)
        assert fences == sorted(set(fences))

    async def test_of_many_that_join_under_a_name_one_does(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness)
        ends: list[str] = []
        all_there = anyio.Event()

        def tell(end: str) -> None:
            ends.append(end)
            if len(ends) == 20:
                all_there.set()

        async def join() -> None:
            try:
                async with at.affinity.member("w1"):
                    tell("in")
                    await all_there.wait()
            except MemberExistsError:
                tell("out")

        with patience():
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(join)
        assert sorted(ends) == ["in"] + ["out"] * 19
        assert await at.living() == []
