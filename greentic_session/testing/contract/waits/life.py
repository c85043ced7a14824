"""Contract tests of the lifetime of waiting or claimed sessions."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from ....errors import LeaseLostError, WaitNotFoundError
from ..samples import KEY, LIFE, PART, evolve, session
from ..store.verbs import CHANGES
from .helpers import ANN, ANOTHER, CHAT, HOUR, LEASE, THREAD, wait_harness

if TYPE_CHECKING:
    from ...harness import StoreHarness
    from .helpers import WaitHarness

_RENEWALS: Final = (*CHANGES, "touch")


async def _renew(at: WaitHarness, verb: str, ttl_secs: float) -> None:
    """Renew the lifetime of the session under KEY, by a plain verb that can."""
    if verb == "touch":
        assert await at.store.touch(KEY, ttl_secs, ctx=ANN) is True
    else:
        given = session(owner=ANN, ttl_secs=ttl_secs)
        await CHANGES[verb](at.store, given, (await at.record()).cas)


async def _is_waiting(at: WaitHarness) -> bool:
    """Return whether the session waits in the chat. All verbs must agree."""
    is_live = await at.store.get(KEY, ctx=ANN) is not None
    assert (await at.store.get(KEY) is not None) is is_live
    assert await at.find() == (KEY if is_live else None)
    assert await at.listed() == ([KEY] if is_live else [])
    if not is_live:
        with pytest.raises(WaitNotFoundError):
            await at.claim()
        assert await at.clear() is False
    return is_live


@pytest.mark.anyio
class WaitLifeContract:
    """A wait has exactly the lifetime of its session."""

    @pytest.mark.parametrize("ttl", [0.001, 0.5, LIFE, timedelta(seconds=LIFE)], ids=str)
    async def test_an_expired_wait_is_none(self, harness: StoreHarness, ttl: Any) -> None:
        at = await wait_harness(harness)
        await at.register(ttl=ttl)
        await harness.advance(ttl.total_seconds() if isinstance(ttl, timedelta) else ttl)
        assert await _is_waiting(at) is False
        assert await harness.residue() == []

    async def test_a_wait_lives_until_its_end(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register(ttl=LIFE)
        await harness.advance(PART)
        assert await _is_waiting(at) is True
        await harness.advance(LIFE - PART)
        assert await _is_waiting(at) is False

    async def test_a_wait_without_an_end_lives_on(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register(ttl=0)
        await harness.advance(100_000 * HOUR)
        assert await _is_waiting(at) is True
        await (await at.claim()).finish()

    async def test_waits_end_one_by_one(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register(CHAT, "c1", ttl=2 * LIFE)
        await harness.advance(1)
        await at.register(THREAD, "c2", ttl=LIFE)
        assert await at.listed() == ["c1", "c2"]
        await harness.advance(LIFE)
        assert await at.listed() == ["c1"]
        assert await at.find(THREAD) is None
        await harness.advance(LIFE)
        assert await at.listed() == []
        assert await harness.residue() == []

    # --- plain verbs -------------------------------------------------------------------------

    @pytest.mark.parametrize("verb", _RENEWALS)
    async def test_a_renewed_wait_starts_a_new_lifetime(
        self, harness: StoreHarness, verb: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register(ttl=LIFE)
        for _ in range(3):
            await harness.advance(PART)
            await _renew(at, verb, LIFE)
        await harness.advance(PART)
        assert await _is_waiting(at) is True
        await harness.advance(LIFE - PART)
        assert await _is_waiting(at) is False

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            pytest.param(LIFE, 10 * LIFE, id="longer"),
            pytest.param(10 * LIFE, LIFE, id="shorter"),
            pytest.param(LIFE, 0, id="made permanent"),
            pytest.param(0, LIFE, id="from permanent"),
        ],
    )
    @pytest.mark.parametrize("verb", _RENEWALS)
    async def test_a_wait_is_found_for_its_new_life(
        self, harness: StoreHarness, verb: str, before: float, after: float
    ) -> None:
        at = await wait_harness(harness)
        await at.register(ttl=before)
        await _renew(at, verb, after)
        await harness.advance(PART)
        assert await _is_waiting(at) is True
        await harness.advance(LIFE)
        assert await _is_waiting(at) is (after != LIFE)
        await harness.advance(10 * LIFE)
        assert await _is_waiting(at) is (after == 0)

    async def test_a_touch_that_keeps_the_ttl_keeps_the_wait(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register(ttl=LIFE)
        await harness.advance(PART)
        assert await at.store.touch(KEY, ctx=ANN) is True
        await harness.advance(PART)
        assert await _is_waiting(at) is True

    @pytest.mark.parametrize("with_caller", [True, False], ids=["with a caller", "without"])
    @pytest.mark.parametrize("claimed", [True, False], ids=["claimed", "free"])
    async def test_deleting_the_session_ends_the_wait(
        self, harness: StoreHarness, *, claimed: bool, with_caller: bool
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim() if claimed else None
        assert await at.store.delete(KEY, ctx=ANN if with_caller else None) is True
        assert await _is_waiting(at) is False
        if turn is not None:
            with pytest.raises(LeaseLostError):
                await turn.wait_again(turn.session, CHAT)
        assert await _is_waiting(at) is False
        await harness.advance(HOUR)
        assert await harness.residue() == []

    # --- claims ------------------------------------------------------------------------------

    @pytest.mark.parametrize("step", ["nothing", "save", "renew", "claim again"])
    async def test_while_a_claim_is_held_life_counts_from_its_end(
        self, harness: StoreHarness, step: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register(ttl=LIFE)
        await harness.advance(LIFE - 10)
        turn = await at.claim(lease=LIFE, attempt_id="a")
        if step == "save":
            await turn.save(turn.session)
        elif step == "renew":
            await turn.renew()
        elif step == "claim again":
            await at.claim(lease=LIFE, attempt_id="a")
        await harness.advance(PART)  # past the lifetime it had
        assert await _is_waiting(at) is True
        await harness.advance(PART)  # past the lease
        assert await _is_waiting(at) is True
        await harness.advance(2 * LIFE - 2 * PART)
        assert await _is_waiting(at) is False
        with pytest.raises(LeaseLostError):
            await turn.complete(turn.session)
        assert await harness.residue() == []

    async def test_a_turn_longer_than_the_life_can_be_completed(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register(ttl=1)
        turn = await at.claim(lease=LIFE)
        await harness.advance(PART)
        assert await _is_waiting(at) is True
        await turn.renew()
        await harness.advance(PART)
        cas = await turn.complete(evolve(turn.session, context={"n": 1}, ttl_secs=LIFE))
        assert (await at.record()).cas == cas
        await harness.advance(LIFE)
        assert await at.store.get(KEY, ctx=ANN) is None

    async def test_an_abandoned_wait_comes_back_and_expires_in_the_end(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register(ttl=LIFE)
        await harness.advance(LIFE - 10)
        await at.claim(lease=LEASE)
        await harness.advance(LEASE)
        assert await _is_waiting(at) is True
        turn = await at.claim(lease=LEASE)
        assert turn.key == KEY
        await harness.advance(LEASE + LIFE)
        assert await _is_waiting(at) is False
        assert await harness.residue() == []

    async def test_a_released_wait_starts_a_new_lifetime(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register(ttl=LIFE)
        for _ in range(3):
            await harness.advance(PART)
            async with at.resume():
                pass
        await harness.advance(PART)
        assert await _is_waiting(at) is True
        turn = await at.claim(lease=10 * LIFE)
        await harness.advance(PART)
        assert await turn.release() is True
        await harness.advance(PART)
        assert await _is_waiting(at) is True
        await harness.advance(LIFE - PART)
        assert await _is_waiting(at) is False

    @pytest.mark.parametrize("ending", ["complete", "wait again", "save and release"])
    async def test_after_the_turn_life_counts_from_its_ending(
        self, harness: StoreHarness, ending: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register(ttl=LIFE)
        turn = await at.claim(lease=10 * LIFE)
        claimed_at = turn.session.updated_at
        await harness.advance(PART)
        if ending == "complete":
            await turn.complete(turn.session)
        elif ending == "wait again":
            await turn.wait_again(turn.session, CHAT)
        else:
            await turn.save(turn.session)
            assert await turn.release() is True
        assert (await at.record()).session.updated_at >= claimed_at
        await harness.advance(PART)
        assert await at.store.get(KEY, ctx=ANN) is not None
        assert (await at.find() is None) is (ending == "complete")
        await harness.advance(LIFE - PART)
        assert await at.store.get(KEY, ctx=ANN) is None
        assert await _is_waiting(at) is False

    @pytest.mark.parametrize("verb", _RENEWALS)
    async def test_a_shorter_life_does_not_end_a_claim(
        self, harness: StoreHarness, verb: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register(ttl=LIFE)
        turn = await at.claim(lease=2 * LIFE)
        await _renew(at, verb, 1)
        await harness.advance(LIFE)
        assert await _is_waiting(at) is True
        if verb == "touch":
            await turn.save(turn.session)
        await harness.advance(LIFE + 2 * LIFE)
        assert await _is_waiting(at) is False

    async def test_a_superseded_session_lives_its_own_life(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register(ttl=2 * LIFE)
        await at.register(key=ANOTHER, ttl=LIFE)
        await harness.advance(LIFE)
        assert await at.find() is None
        assert await at.listed() == []
        assert (await at.record()).cas.value == 1
        await harness.advance(LIFE)
        assert await at.store.get(KEY, ctx=ANN) is None
        assert await harness.residue() == []

    async def test_a_superseding_session_may_be_gone_before_the_superseded(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register(ttl=0)
        await at.register(key=ANOTHER, ttl=LIFE)
        await harness.advance(LIFE)
        assert await at.waits.rebuild_index(ANN) == 0
        assert await at.find() is None
        await at.register()
        assert await _is_waiting(at) is True
