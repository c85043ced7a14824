"""Contract tests of ``replace_incarnation`` on a session that waits or is claimed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ....abc.waits import wait_backend_of
from ....errors import LeaseLostError, WaitNotFoundError
from ..samples import KEY, LIFE, session
from .helpers import ANN, BOB, CHAT, STEPS, wait_harness

if TYPE_CHECKING:
    from ....model import Cas, TenantCtx
    from ...harness import StoreHarness
    from .helpers import Step, WaitHarness


async def _replace(at: WaitHarness, cas: Cas, owner: TenantCtx = ANN) -> Cas:
    return await at.store.replace_incarnation(session(owner=owner, context={"new": 1}), cas)


@pytest.mark.anyio
class ReplacedWaitContract:
    """The wait, the claim and the completed events end with the incarnation."""

    @pytest.mark.parametrize("owner", [ANN, BOB], ids=["same user", "another user"])
    async def test_a_replaced_session_waits_no_longer(
        self, harness: StoreHarness, owner: TenantCtx
    ) -> None:
        at = await wait_harness(harness)
        await _replace(at, await at.register(), owner)
        for user in (ANN, BOB):
            assert await at.find(CHAT, user) is None
            assert user.user_id is not None
            assert await at.waits.list_waits_for_user(user, user.user_id) == []
        with pytest.raises(WaitNotFoundError):
            await at.claim()

    @pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
    async def test_a_late_step_of_a_claim_is_refused_and_changes_nothing(
        self, harness: StoreHarness, step: Step
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim()
        new = await _replace(at, turn.cas)
        with pytest.raises(LeaseLostError):
            await step(turn)
        found = await at.record()
        assert (found.cas, found.session.context) == (new, {"new": 1})

    async def test_a_replaced_session_is_claimed_with_a_higher_token(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim()
        new = await _replace(at, turn.cas)
        await at.register(expected=new)
        again = await at.claim()
        assert again.fence > turn.fence
        with pytest.raises(LeaseLostError):
            await turn.complete(turn.session)
        await again.complete(again.session)

    async def test_the_lifetime_no_longer_counts_from_the_end_of_the_lease(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register(ttl=LIFE)
        turn = await at.claim(lease=LIFE * 10)
        await at.store.replace_incarnation(session(owner=ANN, ttl_secs=LIFE), turn.cas)
        await harness.advance(LIFE * 2)
        assert await at.store.get(KEY, ctx=ANN) is None

    async def test_the_completed_events_of_the_old_incarnation_are_forgotten_with_it(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        async with at.waits.resume(ANN, "ann", CHAT, event_id="event") as turn:
            again = await turn.wait_again(turn.session, CHAT)
        steps = wait_backend_of(at.store).call()
        assert await steps.events_of("default/acme", [KEY])
        await _replace(at, again)
        assert not await steps.events_of("default/acme", [KEY])
