"""Contract tests of locks on a scoped view."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ....errors import LockHeldError, TenantMismatchError
from ....ordering import SessionLocks
from ..samples import KEY, OTHERS, RED_ANN, ctx

if TYPE_CHECKING:
    from ...harness import StoreHarness


@pytest.mark.anyio
class LockScopingContract:
    """Locks on a view are locks of its caller's tenant."""

    async def test_locks_on_a_scoped_view_are_of_the_callers_tenant(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        mine, every = SessionLocks(store.scoped(RED_ANN), name="mine"), SessionLocks(store)
        async with mine.hold(KEY) as lease:
            found = await every.holder(KEY, ctx=ctx())
            assert found is not None
            assert found.fence == lease.fence
            assert await mine.holder(KEY, ctx=RED_ANN) == await mine.holder(KEY) == found
            assert await every.holder(KEY) is None
            with pytest.raises(LockHeldError):
                async with every.hold(KEY, wait=0, ctx=ctx()):
                    pytest.fail("the block must not be entered")

    @pytest.mark.parametrize("other", OTHERS)
    async def test_locks_on_a_scoped_view_keep_to_its_caller(
        self, harness: StoreHarness, other: str
    ) -> None:
        locks = SessionLocks((await harness.open()).scoped(RED_ANN))
        caller = OTHERS[other]
        with pytest.raises(TenantMismatchError) as caught:
            await locks.holder(KEY, ctx=caller)
        assert caught.value.key == KEY
        for hold in (locks.hold, locks.try_hold):
            with pytest.raises(TenantMismatchError):
                async with hold(KEY, ctx=caller):
                    pytest.fail("the block must not be entered")
        assert await harness.residue() == []
