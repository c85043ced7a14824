"""Contract tests of claiming: one worker at a time, increasing tokens, until the lease ends."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from ....errors import CasConflictError, LeaseLostError, WaitClaimedError, WaitNotFoundError
from ....model import ReplyScope
from ..samples import KEY, LIFE, PART, evolve, session
from .helpers import ANN, ANOTHER, BOB, CHAT, ENDINGS, MAIL, THREAD, wait_harness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ....waits import Claim
    from ...harness import StoreHarness
    from .helpers import WaitHarness


async def _again_when_it_has_run_out(at: WaitHarness, _turn: Claim[Any]) -> None:
    await at.harness.advance(LIFE)


async def _again_after_release(_at: WaitHarness, turn: Claim[Any]) -> None:
    assert await turn.release() is True


async def _again_after_waiting_again(_at: WaitHarness, turn: Claim[Any]) -> None:
    await turn.wait_again(turn.session, CHAT)


async def _again_after_completing(at: WaitHarness, turn: Claim[Any]) -> None:
    await turn.complete(turn.session)
    await at.register()


async def _again_after_finishing(at: WaitHarness, turn: Claim[Any]) -> None:
    await turn.finish()
    await at.register()


async def _again_after_registering(at: WaitHarness, _turn: Claim[Any]) -> None:
    await at.register()


async def _again_after_deleting(at: WaitHarness, _turn: Claim[Any]) -> None:
    assert await at.store.delete(KEY, ctx=ANN) is True
    await at.register()


async def _again_after_clearing(at: WaitHarness, _turn: Claim[Any]) -> None:
    assert await at.clear() is True
    await at.register()


_AGAIN: Final[dict[str, Callable[[WaitHarness, Claim[Any]], Awaitable[None]]]] = {
    "run out": _again_when_it_has_run_out,
    "released": _again_after_release,
    "waits again": _again_after_waiting_again,
    "completed": _again_after_completing,
    "finished": _again_after_finishing,
    "registered": _again_after_registering,
    "deleted": _again_after_deleting,
    "cleared": _again_after_clearing,
}
"""Ways in which a claimed wait is claimed again."""


@pytest.mark.anyio
class WaitClaimingContract:
    """A claim excludes all others, and has an end."""

    async def test_a_claim_gives_the_session_and_moves_its_token(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        cas = await at.register(context={"n": 1}, ttl=LIFE)
        turn = await at.claim(event_id="e")
        assert (turn.key, turn.event_id, turn.ended) == (KEY, "e", False)
        assert (turn.cas.value, turn.cas.incarnation) == (cas.value + 1, cas.incarnation)
        assert turn.fence > 0
        assert turn.session.context == {"n": 1}
        assert turn.session.ttl_secs == LIFE
        assert (turn.session, turn.cas) == await at.record()
        assert await at.find() == KEY
        assert await at.listed() == [KEY]

    async def test_an_older_token_writes_no_more(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        cas = await at.register()
        turn = await at.claim()
        async with at.kept():
            with pytest.raises(CasConflictError) as caught:
                await at.store.update_cas(session(owner=ANN, context={"n": 2}), cas)
            assert caught.value.current == turn.cas
            with pytest.raises(CasConflictError) as caught:
                await at.register(THREAD, expected=cas)
            assert caught.value.current == turn.cas
            with pytest.raises(CasConflictError):
                await at.store.delete(KEY, ctx=ANN, expected=cas)

    @pytest.mark.parametrize(
        "state", ["deleted", "cleared", "expired", "completed", "finished", "moved", "displaced"]
    )
    async def test_where_a_wait_was_once_there_is_none(
        self, harness: StoreHarness, state: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register(ttl=LIFE)
        if state == "deleted":
            assert await at.store.delete(KEY, ctx=ANN) is True
        elif state == "cleared":
            assert await at.clear() is True
        elif state == "expired":
            await harness.advance(LIFE)
        elif state == "moved":
            await at.register(THREAD)
        elif state == "displaced":
            await at.register(key=ANOTHER)
            await (await at.claim()).finish()
        else:
            await ENDINGS["finish" if state == "finished" else "complete"](await at.claim())
        async with at.kept():
            with pytest.raises(WaitNotFoundError) as caught:
                await at.claim()
            assert caught.value.code == "not_found"
            assert isinstance(caught.value, LookupError)
            with pytest.raises(WaitNotFoundError):
                await at.claim(event_id="e", attempt_id="a")
        assert await at.find() is None

    async def test_a_second_worker_gets_the_end_of_the_lease(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim(lease=LIFE)
        async with at.kept():
            for _ in range(2):
                with pytest.raises(WaitClaimedError) as caught:
                    await at.claim(event_id="e", attempt_id="b")
                assert caught.value.code == "conflict"
                assert caught.value.until == turn.lease_until
                assert caught.value.until.utcoffset() == timedelta(0)
            with pytest.raises(WaitClaimedError):
                async with at.resume():
                    pytest.fail("the block must not be entered")
        await turn.complete(turn.session)

    async def test_claims_on_other_waits_are_no_matter(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        waits_by_owner = [
            (CHAT, KEY, ANN),
            (THREAD, "c2", ANN),
            (MAIL, "c3", ANN),
            (CHAT, "c4", BOB),
        ]
        for scope, key, owner in waits_by_owner:
            await at.register(scope, key, owner=owner)
        turns = [
            await at.claim(scope, owner=owner, attempt_id="a", event_id="e")
            for scope, _, owner in waits_by_owner
        ]
        assert [turn.key for turn in turns] == [key for _, key, _ in waits_by_owner]
        for turn in turns:
            await turn.complete(turn.session)

    # --- the fencing token -------------------------------------------------------------------

    @pytest.mark.parametrize("again", _AGAIN)
    async def test_the_fence_grows(self, harness: StoreHarness, again: str) -> None:
        at = await wait_harness(harness)
        await at.register()
        turns: list[Claim[Any]] = []
        for _ in range(4):
            turns.append(await at.claim(lease=LIFE))
            await _AGAIN[again](at, turns[-1])
        fences = [turn.fence for turn in turns]
        assert fences == sorted(set(fences))

    @pytest.mark.parametrize("again", _AGAIN)
    async def test_an_earlier_claim_does_not_touch_a_later_one(
        self, harness: StoreHarness, again: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        first, same = [await at.claim(lease=LIFE, attempt_id="a") for _ in range(2)]
        await _AGAIN[again](at, first)
        later = await at.claim(lease=LIFE, attempt_id="b")
        async with at.kept():
            with pytest.raises(LeaseLostError):
                await same.renew(10 * LIFE)
            assert await first.release() is False
        assert await at.claimed_until() == later.lease_until
        await later.complete(evolve(later.session, context={"by": "the later"}))
        assert (await at.record()).session.context == {"by": "the later"}

    # --- attempts ----------------------------------------------------------------------------

    async def test_the_same_attempt_gets_the_same_claim(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register(context={"n": 1}, ttl=LIFE)
        first = await at.claim(attempt_id="a", event_id="e")
        async with at.kept():
            second = await at.claim(attempt_id="a", event_id="e")
        assert second.fence == first.fence
        assert second.cas == first.cas
        assert second.session == first.session
        assert second.lease_until >= first.lease_until
        cas = await first.complete(evolve(first.session, context={"n": 2}))
        assert cas.value == 3
        async with at.kept():
            with pytest.raises(LeaseLostError):
                await second.complete(second.session)

    async def test_the_same_attempt_starts_a_new_lease(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        await at.claim(attempt_id="a", lease=LIFE)
        await harness.advance(PART)
        turn = await at.claim(attempt_id="a", lease=LIFE)
        await harness.advance(PART)
        await at.claimed_until()
        assert (await at.claim(attempt_id="a", lease=LIFE)).fence == turn.fence
        await harness.advance(LIFE)
        await at.claim(attempt_id="b")

    async def test_the_same_attempt_does_not_shorten_its_lease(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        first = await at.claim(attempt_id="a", lease=LIFE)
        second = await at.claim(attempt_id="a", lease=1)
        assert second.lease_until == first.lease_until == await at.claimed_until()
        await harness.advance(PART)
        await at.claimed_until()

    async def test_another_attempt_is_another_worker(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim(attempt_id="a")
        async with at.kept():
            for attempt in (None, "b", "A", "a ", turn.key, str(turn.fence)):
                with pytest.raises(WaitClaimedError):
                    await at.claim(attempt_id=attempt)

    async def test_the_same_attempt_finds_its_claim_after_another_write(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        first = await at.claim(attempt_id="a")
        await at.store.put(session(owner=ANN, context={"n": 2}))
        with pytest.raises(CasConflictError):
            await first.complete(first.session)
        second = await at.claim(attempt_id="a")
        assert second.fence == first.fence
        assert (second.session, second.cas) == await at.record()
        await second.complete(second.session)
        assert (await at.record()).session.context == {"n": 2}

    async def test_an_attempt_that_has_ended_claims_again(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        first = await at.claim(attempt_id="a")
        await first.wait_again(first.session, CHAT)
        second = await at.claim(attempt_id="a")
        assert second.fence > first.fence
        assert await second.release() is True
        third = await at.claim(attempt_id="a")
        assert third.fence > second.fence
        assert third.cas.value == second.cas.value + 1

    # --- the lease ---------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("lease", "secs"),
        [
            pytest.param(0.001, 0.001, id="a millisecond"),
            pytest.param(90.123, 90.123, id="fractions"),
            pytest.param(100, 100, id="whole seconds"),
            pytest.param(timedelta(minutes=2), 120, id="timedelta"),
            pytest.param(50 * 366 * 86_400, 50 * 366 * 86_400, id="half a century"),
        ],
    )
    async def test_the_lease_is_kept_to_the_millisecond(
        self, harness: StoreHarness, lease: Any, secs: float
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim(lease=lease)
        assert turn.lease_until - turn.session.updated_at == timedelta(seconds=secs)
        assert turn.lease_until.utcoffset() == timedelta(0)

    async def test_the_lease_is_thirty_seconds_unless_said(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.waits.claim(ANN, "ann", CHAT)
        assert turn.lease_until - turn.session.updated_at == timedelta(seconds=30)

    async def test_when_the_lease_has_run_out_another_claims(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register(context={"n": 1})
        first = await at.claim(lease=LIFE)
        await harness.advance(PART)
        await at.claimed_until()
        await harness.advance(LIFE - PART)
        assert await at.find() == KEY
        second = await at.claim()
        assert second.fence > first.fence
        assert second.cas.value == first.cas.value + 1
        assert second.session.context == {"n": 1}
        assert await at.claimed_until() == second.lease_until

    async def test_renewing_starts_a_new_lease(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim(lease=LIFE)
        for _ in range(3):
            await harness.advance(PART)
            before = turn.cas
            assert await turn.renew() == turn.lease_until == await at.claimed_until()
            assert turn.cas == before == (await at.record()).cas
        await harness.advance(LIFE)
        await at.claim()

    @pytest.mark.parametrize("lease", [3 * LIFE, timedelta(seconds=3 * LIFE)], ids=["s", "delta"])
    async def test_renewing_for_longer_extends_the_lease(
        self, harness: StoreHarness, lease: Any
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim(lease=1)
        first = turn.lease_until
        assert await turn.renew(lease) >= first + timedelta(seconds=3 * LIFE - 1)
        await harness.advance(2 * LIFE)
        await at.claimed_until()
        await harness.advance(LIFE)
        await at.claim()

    async def test_renewing_never_shortens_the_lease(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim(lease=LIFE)
        first = turn.lease_until
        assert await turn.renew(1) == first == turn.lease_until == await at.claimed_until()

    async def test_an_expired_lease_is_renewed_unless_another_worker_claimed(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim(lease=LIFE)
        await harness.advance(2 * LIFE)
        await turn.renew()
        assert await at.claimed_until() == turn.lease_until
        await turn.complete(turn.session)

    async def test_a_place_of_any_text_is_claimed(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        scope = ReplyScope(
            conversation="{a}:b%*\u2028😀", thread=" ", reply_to="/", correlation=":"
        )
        await at.register(scope, "{k}:é%*\u2028")
        turn = await at.claim(scope)
        assert turn.key == "{k}:é%*\u2028"
        await turn.wait_again(turn.session, scope)
        assert await at.clear(scope) is True
