"""Contract tests of locks on a scoped view."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from ....errors import LockHeldError, TenantMismatchError
from ....ordering import SessionLocks
from ..samples import GLOBEX, KEY, ctx

if TYPE_CHECKING:
    from ...harness import StoreHarness

_ANN: Final = ctx(team_id="red", user_id="ann")
_OTHERS: Final = {
    "tenant": ctx(GLOBEX, team_id="red", user_id="ann"),
    "env": ctx(env="staging", team_id="red", user_id="ann"),
    "team": ctx(team_id="blue", user_id="ann"),
    "user": ctx(team_id="red", user_id="bob"),
}


@pytest.mark.anyio
class LockScopingContract:
    """Locks on a view are locks of its caller's tenant."""

    async def test_locks_on_a_scoped_view_are_of_the_callers_tenant(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        mine, every = SessionLocks(store.scoped(_ANN), name="mine"), SessionLocks(store)
        async with mine.hold(KEY) as lease:
            found = await every.holder(KEY, ctx=ctx())
            assert found is not None
            assert found.fence == lease.fence
            assert await mine.holder(KEY, ctx=_ANN) == await mine.holder(KEY) == found
            assert await every.holder(KEY) is None
            with pytest.raises(LockHeldError):
                async with every.hold(KEY, wait=0, ctx=ctx()):
                    pytest.fail("the block must not be entered")

    @pytest.mark.parametrize("other", _OTHERS)
    async def test_locks_on_a_scoped_view_keep_to_its_caller(
        self, harness: StoreHarness, other: str
    ) -> None:
        locks = SessionLocks((await harness.open()).scoped(_ANN))
        caller = _OTHERS[other]
        with pytest.raises(TenantMismatchError) as caught:
            await locks.holder(KEY, ctx=caller)
        assert caught.value.key == KEY
        for hold in (locks.hold, locks.try_hold):
            with pytest.raises(TenantMismatchError):
                async with hold(KEY, ctx=caller):
                    pytest.fail("the block must not be entered")
        assert await harness.residue() == []
