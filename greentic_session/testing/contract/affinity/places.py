"""Contract tests of placements: stable while the worker lives, with as few moves as possible."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import pytest

from ....abc.affinity import affinity_key, rendezvous
from ....model import SessionKey
from ....ordering import SessionAffinity
from ..samples import ACME, GLOBEX, KEY, LIFE, PART, ctx
from .helpers import HOUR, WORKERS, affinity_harness, chosen, keys, patience

if TYPE_CHECKING:
    from ...harness import StoreHarness

_CALLERS = (None, ctx(), ctx(GLOBEX), ctx(env="staging"))


@pytest.mark.anyio
class AffinityPlaceContract:
    """A key has one worker and keeps it."""

    async def test_a_group_without_members_returns_no_worker(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness)
        assert await at.worker_for() is None
        assert await harness.residue() == []
        await at.join("w1", lease=PART)
        await harness.advance(LIFE)
        assert await at.worker_for() is None
        assert await harness.residue() == []

    async def test_a_key_goes_where_its_hash_says(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness, workers=WORKERS)
        for key in keys(40):
            assert await at.worker_for(key) == chosen(key, *WORKERS)
        assert len({await at.server_of(key) for key in keys(40)}) == len(WORKERS)

    async def test_a_key_stays_when_other_workers_join_or_leave(
        self, harness: StoreHarness
    ) -> None:
        at = await affinity_harness(harness, workers=("w1", "w2"))
        before = {key: await at.worker_for(key) for key in keys(30)}
        await at.join("w3", "w4")
        assert {key: await at.worker_for(key) for key in keys(30)} == before
        await at.leave("w3")
        assert {key: await at.worker_for(key) for key in keys(30)} == before

    async def test_new_keys_go_to_new_members_as_well(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness, workers=("w1", "w2"))
        for key in keys(10):
            await at.worker_for(key)
        await at.join("w3", "w4")
        fresh = [SessionKey(f"fresh-{number}") for number in range(30)]
        assert {key: await at.worker_for(key) for key in fresh} == {
            key: chosen(key, *WORKERS) for key in fresh
        }

    @pytest.mark.parametrize("end", ["died", "left"])
    async def test_only_keys_of_a_worker_that_is_gone_move(
        self, harness: StoreHarness, end: str
    ) -> None:
        at = await affinity_harness(harness, ttl=HOUR, workers=WORKERS[1:])
        await at.join("w1", lease=LIFE)
        before = {key: await at.worker_for(key) for key in keys(40)}
        if end == "died":
            await harness.advance(LIFE)
        else:
            await at.leave("w1")
        its_own = [key for key, worker in before.items() if worker == "w1"]
        assert its_own
        for key in its_own:
            assert await at.server_of(key) is None
        await at.join("w1", lease=LIFE)  # back before any request
        assert await at.worker_for(its_own[0]) == "w1"
        await at.leave("w1")
        after = {key: await at.worker_for(key) for key in keys(40)}
        assert after == {
            key: chosen(key, *WORKERS[1:]) if worker == "w1" else worker
            for key, worker in before.items()
        }
        await at.join("w1", lease=LIFE)  # back too late
        assert {key: await at.worker_for(key) for key in keys(40)} == after

    async def test_concurrent_callers_get_the_same_worker(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness, workers=WORKERS)
        answers: dict[str, set[str | None]] = {key: set() for key in keys(5)}

        async def ask(key: str) -> None:
            answers[key].add(await at.worker_for(key))

        with patience():
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    for key in answers:
                        tasks.start_soon(ask, key)
                    if number == 10:
                        tasks.start_soon(at.join, "w5")
        assert all(len(workers) == 1 for workers in answers.values())

    # --- tenants -----------------------------------------------------------------------------

    async def test_keys_of_two_tenants_never_meet(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness, workers=WORKERS)
        scopes = ("", f"default/{ACME}", f"default/{GLOBEX}", f"staging/{ACME}")
        for caller, scope in zip(_CALLERS, scopes, strict=True):
            assert await at.server_of(caller=caller) is None
            expected = rendezvous(affinity_key(scope, KEY), WORKERS)
            assert await at.worker_for(caller=caller) == expected
        await at.affinity.pin(KEY, "w1", ctx=ctx())
        for caller in _CALLERS:
            is_pinned = caller == ctx()
            server = await at.server_of(caller=caller, pinned=is_pinned)
            assert not is_pinned or server == "w1"
        assert await at.affinity.forget(KEY, ctx=ctx(GLOBEX)) is True
        assert await at.affinity.touch(KEY, ctx=ctx(GLOBEX)) is False
        assert await at.affinity.unpin(KEY) is False
        for caller in _CALLERS:
            is_pinned = caller == ctx()
            server = await at.server_of(caller=caller, pinned=is_pinned)
            assert (server is None) is (caller == ctx(GLOBEX))

    async def test_team_and_user_make_no_difference(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness, workers=WORKERS)
        worker = await at.worker_for(caller=ctx(team_id="red", user_id="ann"))
        assert await at.server_of(caller=ctx(team_id="blue")) == worker
        assert await at.server_of(caller=ctx()) == worker
        assert await at.keys_of(f"{worker}", caller=ctx(user_id="bob")) == [KEY]

    # --- lifetimes ---------------------------------------------------------------------------

    async def test_each_use_starts_a_new_lifetime(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness, workers=WORKERS)
        worker = await at.worker_for()
        await at.join("w5", lease=HOUR)
        for _ in range(3):
            await harness.advance(PART)
            assert await at.worker_for() == worker
        await harness.advance(PART)
        assert await at.affinity.touch(KEY) is True
        await harness.advance(PART)
        assert await at.server_of() == worker

    async def test_an_expired_placement_is_absent(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness, workers=WORKERS[:2])
        for key in keys(20):
            await at.worker_for(key)
        await at.join(*WORKERS[2:], lease=HOUR)
        await harness.advance(LIFE)
        for key in keys(20):
            assert await at.server_of(key) is None
        for worker in WORKERS:
            assert await at.keys_of(worker) == []
        assert await at.affinity.touch(keys(1)[0]) is False
        assert await at.affinity.forget(keys(1)[0]) is False
        # Nothing keeps it at the old worker.
        for key in keys(20):
            assert await at.worker_for(key) == chosen(key, *WORKERS)

    async def test_looking_at_a_placement_changes_nothing(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness, workers=WORKERS)
        assert await at.server_of() is None
        await at.worker_for()
        before = await at.expiry()
        await harness.advance(PART)
        await at.server_of()
        for worker in WORKERS:
            await at.keys_of(worker)
        await at.affinity.members()
        assert await at.expiry() <= before
        await harness.advance(PART)
        assert await at.server_of() is None

    async def test_a_placement_says_when_it_expires(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness, ttl=timedelta(seconds=LIFE), workers=WORKERS)
        placement = await at.affinity.worker_for(KEY)
        assert placement is not None
        assert placement.expires_at.tzinfo is not None
        assert placement.expires_at.timestamp() == await at.expiry()
        (member, *_) = await at.affinity.members()
        # Both times are the store's: the member joined for an hour before the key was placed.
        assert (member.lease_until - placement.expires_at).total_seconds() <= HOUR - LIFE

    async def test_a_touch_can_set_another_life(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness, workers=WORKERS)
        worker = await at.worker_for()
        assert await at.affinity.touch(KEY, 5 * LIFE) is True
        await harness.advance(4 * LIFE)
        assert await at.worker_for() == worker  # restarts that lifetime
        await harness.advance(4 * LIFE)
        assert await at.affinity.touch(KEY) is True  # and so does this
        await harness.advance(4 * LIFE)
        assert await at.server_of() == worker
        assert await at.affinity.touch(KEY, timedelta(seconds=PART)) is True
        await harness.advance(PART)
        assert await at.server_of() is None

    async def test_a_key_that_was_forgotten_gets_a_new_placement(
        self, harness: StoreHarness
    ) -> None:
        at = await affinity_harness(harness, workers=("w1",))
        await at.worker_for("a")
        await at.worker_for("b")
        await at.join("w2", lease=HOUR)
        assert await at.affinity.forget(SessionKey("a")) is True
        assert await at.affinity.forget(SessionKey("a")) is False
        assert await at.server_of("a") is None
        assert await at.server_of("b") == "w1"
        assert await at.worker_for("a") == chosen("a", "w1", "w2")

    async def test_each_affinity_has_its_own_life_for_what_it_places(
        self, harness: StoreHarness
    ) -> None:
        at = await affinity_harness(harness, ttl=LIFE, workers=WORKERS)
        longer = SessionAffinity(at.store, ttl=5 * LIFE)
        await longer.worker_for(SessionKey("a"))
        await at.worker_for("a")  # keeps the lifetime of the placement
        await at.worker_for("b")
        await longer.worker_for(SessionKey("b"))
        await harness.advance(LIFE)
        assert await at.server_of("a") is not None
        assert await at.server_of("b") is None

    async def test_nothing_is_left_of_placements(self, harness: StoreHarness) -> None:
        at = await affinity_harness(harness, workers=WORKERS)
        for key in keys(30):
            await at.worker_for(key)
        await at.affinity.pin(SessionKey("pinned"), "w1", 2 * LIFE)
        await at.affinity.pin(KEY, "w1", 2 * LIFE)
        assert await at.affinity.unpin(KEY) is True
        assert await at.affinity.forget(SessionKey("pinned")) is True
        assert await at.affinity.forget(keys(1)[0]) is True
        await harness.advance(HOUR)
        assert await harness.residue() == []
