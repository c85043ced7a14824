"""Contract tests of ``resume`` with ``wait``, and of a registry on a scoped view."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest
from anyio.lowlevel import checkpoint

from ....errors import (
    DuplicateEventError,
    InvalidInputError,
    TenantMismatchError,
    WaitClaimedError,
    WaitNotFoundError,
)
from ....waits import WaitRegistry
from ..samples import KEY, OTHERS, ctx, session
from .helpers import ANN, CHAT, wait_harness, without_user

if TYPE_CHECKING:
    from ...harness import StoreHarness

_PATIENCE_SECS: Final = 20
_LEASE_SECS: Final = 3600
"""A lease that does not end in a test. So a waiter is woken by a notification."""


@pytest.mark.anyio
class WaitWaitingContract:
    """A worker can wait until another worker's claim ends."""

    @pytest.mark.parametrize("wait", [None, _PATIENCE_SECS])
    async def test_a_waiter_is_woken_by_a_release(
        self, harness: StoreHarness, wait: float | None
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        first = await at.waits.claim(ANN, "ann", CHAT, lease=_LEASE_SECS)
        fences: list[int] = []

        async def resume() -> None:
            async with at.waits.resume(ANN, "ann", CHAT, wait=wait) as turn:
                fences.append(turn.fence)
                await turn.complete(turn.session)

        with anyio.fail_after(_PATIENCE_SECS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(resume)
                for _ in range(20):
                    await checkpoint()
                assert fences == []
                assert await first.release() is True
        assert fences[0] > first.fence

    @pytest.mark.parametrize("ending", ["complete", "finish"])
    async def test_a_waiter_learns_of_the_end_of_the_wait(
        self, harness: StoreHarness, ending: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        first = await at.waits.claim(ANN, "ann", CHAT, event_id="e", lease=_LEASE_SECS)
        errors: list[type[Exception]] = []

        async def resume(event_id: str) -> None:
            try:
                async with at.waits.resume(ANN, "ann", CHAT, event_id=event_id, wait=None):
                    pytest.fail("the block must not be entered")
            except (DuplicateEventError, WaitNotFoundError) as error:
                errors.append(type(error))

        with anyio.fail_after(_PATIENCE_SECS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(resume, "e")
                tasks.start_soon(resume, "other")
                for _ in range(20):
                    await checkpoint()
                if ending == "complete":
                    await first.complete(first.session)
                else:
                    await first.finish()
        assert set(errors) == {DuplicateEventError, WaitNotFoundError}

    async def test_a_waiter_goes_on_after_the_wait_was_renewed(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        first = await at.waits.claim(ANN, "ann", CHAT, lease=_LEASE_SECS)
        seen: list[Any] = []

        async def resume() -> None:
            async with at.waits.resume(ANN, "ann", CHAT, wait=None) as turn:
                seen.append(turn.session.cursor.node_id)

        with anyio.fail_after(_PATIENCE_SECS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(resume)
                tasks.start_soon(resume)
                await first.wait_again(first.session.advance("again"))
        assert seen == ["again", "again"]

    async def test_a_claim_that_is_held_for_too_long_is_an_error(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        first = await at.waits.claim(ANN, "ann", CHAT, lease=_LEASE_SECS)
        for wait in (0, 0.05):
            with pytest.raises(WaitClaimedError) as caught:
                async with at.waits.resume(ANN, "ann", CHAT, wait=wait):
                    pytest.fail("the block must not be entered")
            assert caught.value.until == first.lease_until

    async def test_a_waiter_gets_the_wait_of_a_dead_worker(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        dead = await at.waits.claim(ANN, "ann", CHAT, lease=_LEASE_SECS)
        await harness.advance(2 * _LEASE_SECS)
        async with at.waits.resume(ANN, "ann", CHAT, wait=_PATIENCE_SECS) as turn:
            assert turn.fence > dead.fence

    @pytest.mark.parametrize("wait", [-1, float("nan"), "1"])
    async def test_a_bad_wait_is_refused(self, harness: StoreHarness, wait: Any) -> None:
        at = await wait_harness(harness)
        with pytest.raises(InvalidInputError, match="wait"):
            async with at.waits.resume(ANN, "ann", CHAT, wait=wait):
                pytest.fail("the block must not be entered")

    # --- a registry on a scoped view ---------------------------------------------------------

    @pytest.mark.parametrize("other", OTHERS)
    async def test_a_registry_on_a_scoped_view_keeps_to_its_caller(
        self, harness: StoreHarness, other: str
    ) -> None:
        store = await harness.open()
        waits: WaitRegistry[Any] = WaitRegistry(store.scoped(ANN))
        caller = OTHERS[other]
        user = caller.user_id or ""
        with pytest.raises(TenantMismatchError):
            await waits.register_wait(caller, user, CHAT, session(owner=caller))
        with pytest.raises(TenantMismatchError):
            await waits.find_wait_by_scope(caller, user, CHAT)
        with pytest.raises(TenantMismatchError):
            await waits.list_waits_for_user(caller, user)
        with pytest.raises(TenantMismatchError):
            await waits.clear_wait(caller, user, CHAT)
        with pytest.raises(TenantMismatchError):
            await waits.claim(caller, user, CHAT)
        with pytest.raises(TenantMismatchError):
            await waits.rebuild_index(caller)
        assert await harness.residue() == []
        await waits.register_wait(ANN, "ann", CHAT, session(owner=ANN))
        assert await waits.find_wait_by_scope(without_user(ANN), "ann", CHAT) == KEY

    async def test_a_team_presents_its_users(self, harness: StoreHarness) -> None:
        store = await harness.open()
        team = without_user(ANN)
        waits: WaitRegistry[Any] = WaitRegistry(store.scoped(team))
        await waits.register_wait(team, "ann", CHAT, session(owner=ANN))
        assert await waits.find_wait_by_scope(team, "ann", CHAT) == KEY
        with pytest.raises(TenantMismatchError):
            await waits.find_wait_by_scope(ctx(user_id="ann"), "ann", CHAT)
