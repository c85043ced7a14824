"""Contract tests of affinity on a scoped view."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ....errors import TenantMismatchError
from ....ordering import SessionAffinity
from ..samples import KEY, OTHERS, RED_ANN, ctx

if TYPE_CHECKING:
    from ...harness import StoreHarness


@pytest.mark.anyio
class AffinityScopingContract:
    """The keys of affinity on a view are of its caller's tenant."""

    async def test_keys_on_a_scoped_view_are_of_the_callers_tenant(
        self, harness: StoreHarness
    ) -> None:
        store = await harness.open()
        mine, every = SessionAffinity(store.scoped(RED_ANN)), SessionAffinity(store)
        async with every.member("w"):
            placed = await mine.worker_for(KEY)
            assert placed is not None
            assert await every.placement(KEY) is None
            assert await every.placement(KEY, ctx=ctx()) is not None
            assert [key async for key in mine.keys_of("w")] == [KEY]
            assert [key async for key in every.keys_of("w")] == []
            assert await mine.touch(KEY, ctx=RED_ANN) is True
            assert await mine.forget(KEY) is True

    @pytest.mark.parametrize("other", OTHERS)
    async def test_affinity_on_a_scoped_view_keeps_to_its_caller(
        self, harness: StoreHarness, other: str
    ) -> None:
        affinity = SessionAffinity((await harness.open()).scoped(RED_ANN))
        caller = OTHERS[other]
        for verb in (
            affinity.worker_for,
            affinity.placement,
            affinity.unpin,
            affinity.touch,
            affinity.forget,
        ):
            with pytest.raises(TenantMismatchError) as caught:
                await verb(KEY, ctx=caller)
            assert caught.value.key == KEY
        with pytest.raises(TenantMismatchError):
            await affinity.pin(KEY, "w", ctx=caller)
        with pytest.raises(TenantMismatchError):
            affinity.keys_of("w", ctx=caller)
        assert await harness.residue() == []
