"""Contract tests of a lost lease: its block ends, and later writes under it are refused."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from ....errors import CasConflictError, InvalidInputError, LeaseLostError, TenantMismatchError
from ....model import SessionKey
from ..assertions import kept, refusal
from ..samples import GLOBEX, KEY, LIFE, ctx, evolve, session
from .helpers import ANN, LEASE, PATIENCE_SECS, lock_harness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ....model import Cas
    from ....ordering import SessionLease
    from ...harness import StoreHarness
    from .helpers import LockHarness

    Write = Callable[[LockHarness, Cas, Any], Awaitable[Cas]]


async def _released(_at: LockHarness, lease: SessionLease) -> None:
    await lease.release()


async def _run_out(at: LockHarness, _lease: SessionLease) -> None:
    await at.harness.advance(LIFE)


async def _taken(at: LockHarness, _lease: SessionLease) -> None:
    await at.harness.advance(LIFE)
    await at.ask("another", lease=LIFE)


async def _released_and_taken(at: LockHarness, lease: SessionLease) -> None:
    await lease.release()
    await at.ask("another", lease=LIFE)


async def _released_to_one_who_waits(at: LockHarness, lease: SessionLease) -> None:
    await at.ask("another")
    await lease.release()


_LOSSES: Final[dict[str, Callable[[LockHarness, SessionLease], Awaitable[None]]]] = {
    "released": _released,
    "released while another waits": _released_to_one_who_waits,
    "released and taken": _released_and_taken,
    "run out": _run_out,
    "run out and taken": _taken,
}
_WRITES: Final[dict[str, Write]] = {
    "put": lambda at, _, lease: at.store.put(_changed(), fence=lease),
    "update_cas": lambda at, cas, lease: at.store.update_cas(_changed(), cas, fence=lease),
    "scoped put": lambda at, _, lease: at.store.scoped(ctx()).put(_changed(), fence=lease),
    "scoped update_cas": lambda at, cas, lease: at.store.scoped(ctx()).update_cas(
        _changed(), cas, fence=lease
    ),
}


async def _lost(at: LockHarness, loss: str) -> SessionLease:
    """Hold the lock until the lease is lost, and return that lease."""
    leases: list[SessionLease] = []
    with suppress(LeaseLostError):
        async with at.locks.hold(KEY) as lease:
            leases.append(lease)
            await _LOSSES[loss](at, lease)
    return leases[0]


def _changed(**fields: Any) -> Any:
    return evolve(session(), context={"step": "taken"}, **fields)


@pytest.mark.anyio
class LockLosingContract:
    """An expired lease has ended, even if no other worker took the lock since."""

    @pytest.mark.parametrize("loss", ["run out", "run out and taken"])
    async def test_a_lost_lease_is_not_renewed(self, harness: StoreHarness, loss: str) -> None:
        at = await lock_harness(harness)
        async with at.losing() as lease:
            await _LOSSES[loss](at, lease)
            for _ in range(2):
                with pytest.raises(LeaseLostError):
                    await lease.renew()
            assert await lease.release() is False
            assert at.locks.held() == ()

    @pytest.mark.parametrize("loss", ["run out", "run out and taken"])
    async def test_a_lost_lock_is_not_given_back(self, harness: StoreHarness, loss: str) -> None:
        at = await lock_harness(harness)
        async with at.losing() as lease:
            await _LOSSES[loss](at, lease)
            assert await lease.release() is False
            assert lease.ended
        if loss == "run out":
            await at.assert_free()
        else:
            await at.assert_held()

    async def test_a_lost_lease_is_told_on_leaving(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        async with at.losing() as lease:
            await _taken(at, lease)
        await at.assert_held()

    async def test_an_error_of_the_block_counts_more(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)

        async def fail() -> None:
            async with at.locks.hold(KEY) as lease:
                await _taken(at, lease)
                raise KeyError("of the block")

        with pytest.raises(KeyError):
            await fail()

    async def test_a_lost_lease_cancels_the_block_once(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        cancelled = 0
        with anyio.fail_after(PATIENCE_SECS):
            # The first renewal is due after 0.1 s of the loop's time and is refused.
            async with at.losing(0.3):
                await harness.advance(LIFE)
                try:
                    await anyio.sleep_forever()
                except anyio.get_cancelled_exc_class():
                    cancelled += 1
                    raise
        assert cancelled == 1
        await at.assert_free()

    # --- writes ------------------------------------------------------------------------------

    @pytest.mark.parametrize("write", _WRITES)
    async def test_the_holder_writes(self, harness: StoreHarness, write: str) -> None:
        at = await lock_harness(harness)
        cas = await at.store.create(session())
        for value, caller in ((2, None), (3, ctx()), (4, ANN)):
            async with at.locks.hold(KEY, ctx=caller) as lease:
                cas = await _WRITES[write](at, cas, lease)
                assert cas.value == value
        found = await at.store.get(KEY, ctx=ctx())
        assert found is not None
        assert (found.cas, found.session.context) == (cas, {"step": "taken"})

    async def test_the_holder_creates(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        async with at.locks.hold(KEY) as lease:
            cas = await at.store.put(session(ttl_secs=LIFE), fence=lease)
            assert cas.value == 1
            found = await at.store.get(KEY)
            assert found is not None
            assert (found.cas, found.session.ttl_secs) == (cas, LIFE)
        await harness.advance(LIFE)
        assert await harness.residue() == []

    @pytest.mark.parametrize("loss", _LOSSES)
    async def test_a_former_holder_writes_nothing(self, harness: StoreHarness, loss: str) -> None:
        at = await lock_harness(harness)
        cas = await at.store.create(session())
        lease = await _lost(at, loss)
        async with kept(at.store):
            for write in _WRITES.values():
                with pytest.raises(LeaseLostError):
                    await write(at, cas, lease)

    async def test_the_next_holder_writes(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        cas = await at.store.create(session())
        async with at.locks.hold(KEY) as old:
            pass
        async with at.locks.hold(KEY) as new:
            with pytest.raises(LeaseLostError):
                await at.store.update_cas(_changed(), cas, fence=old)
            await at.store.update_cas(_changed(), cas, fence=new)

    async def test_an_absent_session_is_not_made_by_a_lost_lease(
        self, harness: StoreHarness
    ) -> None:
        at = await lock_harness(harness)
        async with at.locks.hold(KEY) as lease:
            pass
        with pytest.raises(LeaseLostError):
            await at.store.put(session(), fence=lease)
        assert await harness.residue() == []

    async def test_a_lease_is_judged_first(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        old = await at.store.create(session(owner=ANN))
        await at.store.update_cas(session(owner=ANN), old)
        async with at.locks.hold(KEY) as lease, kept(at.store):
            with pytest.raises(CasConflictError) as caught:
                await at.store.update_cas(session(owner=ANN), old, fence=lease)
            assert (caught.value.expected, caught.value.current.value) == (old, 2)
            with pytest.raises(TenantMismatchError):
                await at.store.put(session(), fence=lease)
        async with kept(at.store):
            with pytest.raises(LeaseLostError):
                await at.store.update_cas(session(owner=ANN), old, fence=lease)
            with pytest.raises(LeaseLostError):
                await at.store.put(session(), fence=lease)

    @pytest.mark.parametrize("write", _WRITES)
    async def test_a_lease_of_something_else_is_refused(
        self, harness: StoreHarness, write: str
    ) -> None:
        at = await lock_harness(harness)
        cas = await at.store.create(session())
        async with (
            at.locks.hold(SessionKey("another")) as other_key,
            at.locks.hold(KEY, ctx=ctx(GLOBEX)) as other_tenant,
            kept(at.store),
        ):
            for wrong in (other_key, other_tenant, other_key.fence, "fence", True, None):
                with pytest.raises(InvalidInputError) as caught:
                    await _WRITES[write](at, cas, wrong)
                assert caught.value.field == "fence"

    @pytest.mark.parametrize("write", _WRITES)
    async def test_a_stranger_writes_nothing_under_a_lease(
        self, harness: StoreHarness, write: str
    ) -> None:
        at = await lock_harness(harness)
        cas = await at.store.create(session())
        async with at.locks.hold(KEY), at.locks.try_hold(KEY) as lease, kept(at.store):
            assert (await refusal(_WRITES[write](at, cas, lease))).field == "fence"

    async def test_a_lease_outlives_none_of_its_time(self, harness: StoreHarness) -> None:
        at = await lock_harness(harness)
        cas = await at.store.create(session())
        async with at.losing(LEASE) as lease:
            until = await lease.renew(LIFE)
            assert until >= lease.until - timedelta(seconds=LIFE)
            await harness.advance(LIFE - 5)
            cas = await at.store.update_cas(_changed(), cas, fence=lease)
            await harness.advance(5)
            with pytest.raises(LeaseLostError):
                await at.store.update_cas(_changed(), cas, fence=lease)
