"""Contract tests of ending a turn: state, wait and outbox of the session change in one step."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from ....errors import (
    CasConflictError,
    InvalidInputError,
    LeaseLostError,
    PayloadTooLargeError,
    TenantMismatchError,
    WaitNotFoundError,
)
from ....model import Cas, SessionKey
from ..samples import GLOBEX, KEY, LIFE, PART, AppState, evolve, session
from ..store.verbs import CHANGES
from .helpers import (
    ANN,
    ANOTHER,
    BOB,
    CHAT,
    ENDINGS,
    MAIL,
    STEPS,
    THREAD,
    WAYS_TO_WRITE,
    evolve_ctx,
    wait_harness,
    without_user,
)

if TYPE_CHECKING:
    from ...harness import StoreHarness


@pytest.mark.anyio
class WaitEndingContract:
    """Each way to end a turn has its effect once."""

    async def test_completing_writes_and_ends_the_wait(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register(ttl=LIFE)
        turn = await at.claim()
        given = evolve(turn.session.advance("done"), context={"n": 2}, ttl_secs=2 * LIFE)
        cas = await turn.complete(given)
        assert cas == Cas(value=turn.cas.value + 1, incarnation=turn.cas.incarnation)
        assert turn.ended is True
        found = await at.record()
        assert found.cas == cas
        assert (found.session.context, found.session.cursor) == ({"n": 2}, given.cursor)
        assert found.session.ttl_secs == 2 * LIFE
        assert await at.find() is None
        assert await at.listed() == []
        with pytest.raises(WaitNotFoundError):
            await at.claim()
        await harness.advance(LIFE)
        assert (await at.record()).cas == cas
        assert (await at.store.update_cas(session(owner=ANN), cas)).value == cas.value + 1

    async def test_a_completed_session_can_wait_again_later(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        first = await at.claim()
        cas = await first.complete(first.session)
        assert (await at.register(expected=cas)).value == cas.value + 1
        assert await at.find() == KEY
        second = await at.claim()
        assert second.fence > first.fence

    @pytest.mark.parametrize("scope", [CHAT, THREAD], ids=["there", "elsewhere"])
    @pytest.mark.parametrize(
        ("ttl", "secs"),
        [(None, 5 * LIFE), (0, 0), (2 * LIFE, 2 * LIFE), (timedelta(seconds=90.5), 90.5)],
        ids=["none", "zero", "seconds", "timedelta"],
    )
    async def test_waiting_again_writes_and_pauses(
        self, harness: StoreHarness, ttl: Any, secs: float, scope: Any
    ) -> None:
        at = await wait_harness(harness)
        await at.register(ttl=LIFE)
        turn = await at.claim()
        given = evolve(turn.session.advance("ask_age"), context={"n": 2}, ttl_secs=5 * LIFE)
        cas = await turn.wait_again(given, scope, ttl)
        assert cas == Cas(value=turn.cas.value + 1, incarnation=turn.cas.incarnation)
        assert turn.ended is True
        found = await at.record()
        assert found.cas == cas
        assert (found.session.context, found.session.cursor) == ({"n": 2}, given.cursor)
        assert found.session.ttl_secs == secs
        assert await at.find(scope) == KEY
        assert await at.listed() == [KEY]
        if scope is THREAD:
            assert await at.find(CHAT) is None
            with pytest.raises(WaitNotFoundError):
                await at.claim(CHAT)
        again = await at.claim(scope)
        assert again.fence > turn.fence
        assert again.session.context == {"n": 2}
        await again.wait_again(again.session, scope)
        await harness.advance(PART)
        assert await at.find(scope) == KEY

    async def test_waiting_again_supersedes_the_session_there(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register(CHAT)
        await at.register(THREAD, ANOTHER, context={"n": 7})
        before = await at.record(ANOTHER)
        turn = await at.claim(CHAT)
        await turn.wait_again(turn.session, THREAD)
        assert await at.find(CHAT) is None
        assert await at.find(THREAD) == KEY
        assert await at.listed() == [KEY]
        assert await at.record(ANOTHER) == before
        again = await at.claim(THREAD)
        assert again.key == KEY
        await again.complete(again.session)
        assert await at.find(THREAD) is None

    async def test_waiting_again_where_another_is_claimed_supersedes_it(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register(CHAT)
        await at.register(THREAD, ANOTHER)
        turn, other = await at.claim(CHAT), await at.claim(THREAD)
        await turn.wait_again(turn.session, THREAD)
        assert (await at.claim(THREAD)).key == KEY
        # The other's turn continues. Only its wait is superseded.
        await other.complete(evolve(other.session, context={"n": 2}))
        assert (await at.record(ANOTHER)).session.context == {"n": 2}
        assert await at.listed() == [KEY]

    async def test_finishing_removes_the_session(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        first = await at.register()
        await at.register(THREAD, ANOTHER)
        turn = await at.claim()
        await turn.finish()
        assert turn.ended is True
        assert await at.store.get(KEY, ctx=ANN) is None
        assert await at.store.get(KEY) is None
        assert await at.find() is None
        assert await at.listed() == [ANOTHER]
        second = await at.register()
        assert second.value == 1
        assert second.incarnation != first.incarnation
        assert await at.find() == KEY

    async def test_saving_writes_and_goes_on(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register(ttl=LIFE)
        turn = await at.claim()
        first, until = turn.cas, turn.lease_until
        for number in (1, 2):
            given = evolve(turn.session.advance(f"n{number}"), context={"n": number})
            cas = await turn.save(given)
            assert cas == turn.cas == Cas(value=first.value + number, incarnation=first.incarnation)
            assert turn.ended is False
            assert (turn.session, turn.cas) == await at.record()
            assert turn.session.context == {"n": number}
            assert turn.session.cursor == given.cursor
            assert turn.session.ttl_secs == LIFE
            assert await at.find() == KEY
            assert await at.claimed_until() == until
        assert (await turn.complete(turn.session)).value == first.value + 3
        assert await at.find() is None

    async def test_what_was_saved_stays_when_the_claim_is_given_back(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim()
        cas = await turn.save(evolve(turn.session, context={"n": 1}))
        assert await turn.release() is True
        again = await at.claim()
        assert again.session.context == {"n": 1}
        assert again.cas.value == cas.value + 1

    async def test_releasing_gives_the_wait_back_as_it_was(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register(ttl=LIFE, context={"n": 1})
        turn = await at.claim()
        await harness.advance(10)
        assert await turn.release() is True
        assert turn.ended is True
        found = await at.record()
        assert found.session.updated_at >= turn.session.updated_at
        assert (found.cas, found.session.context) == (turn.cas, {"n": 1})
        assert found.session.ttl_secs == LIFE
        assert await at.find() == KEY
        assert await at.listed() == [KEY]
        async with at.kept():
            assert await turn.release() is False
        again = await at.claim()
        assert again.fence > turn.fence
        assert again.session.context == {"n": 1}

    @pytest.mark.parametrize("way", WAYS_TO_WRITE)
    async def test_the_outbox_is_written_with_the_turn(
        self, harness: StoreHarness, way: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim()
        given, is_new = turn.session.with_outbox(b"hello")
        assert is_new
        given, is_new = given.advance("next").with_outbox(b"hello")
        assert is_new
        await WAYS_TO_WRITE[way](turn, evolve(given, outbox=given.outbox + given.outbox))
        found = (await at.record()).session
        assert found.outbox == given.outbox
        again, is_new = found.with_outbox(b"hello")
        assert not is_new
        assert again is found

    # --- once --------------------------------------------------------------------------------

    @pytest.mark.parametrize("ending", [*ENDINGS, "release"])
    async def test_after_an_ending_the_turn_is_over(
        self, harness: StoreHarness, ending: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim(event_id="e")
        if ending == "release":
            assert await turn.release() is True
        else:
            await ENDINGS[ending](turn)
        async with at.kept():
            for name, step in STEPS.items():
                with pytest.raises(LeaseLostError) as caught:
                    await step(turn)
                assert caught.value.code == "conflict", name
            assert await turn.release() is False

    @pytest.mark.parametrize("step", STEPS)
    async def test_a_late_step_succeeds_unless_another_worker_claimed(
        self, harness: StoreHarness, step: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim(lease=LIFE)
        await harness.advance(2 * LIFE)
        await STEPS[step](turn)
        if step in WAYS_TO_WRITE:
            assert (await at.record()).session.context == {"step": "taken"}
        assert (await at.find() is None) is (step in ("complete", "finish", "wait elsewhere"))

    async def test_a_late_release_succeeds_unless_another_worker_claimed(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim(lease=LIFE)
        await harness.advance(2 * LIFE)
        assert await turn.release() is True
        assert await at.find() == KEY

    # --- other writers -----------------------------------------------------------------------

    @pytest.mark.parametrize("plain", CHANGES)
    async def test_a_write_next_to_the_claim_is_not_overwritten(
        self, harness: StoreHarness, plain: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register(ttl_secs=LIFE)
        turn = await at.claim(event_id="e")
        beside = session(owner=ANN, context={"by": "another"}, ttl_secs=LIFE)
        current = await CHANGES[plain](at.store, beside, turn.cas)
        async with at.kept():
            for name in (*WAYS_TO_WRITE, "finish"):
                with pytest.raises(CasConflictError) as caught:
                    await STEPS[name](turn)
                error = caught.value
                assert (error.key, error.expected, error.current) == (KEY, turn.cas, current), name
        # The claim is still held, and its event does not count as completed.
        assert turn.ended is False
        assert await at.claimed_until() == turn.lease_until
        assert (await at.record()).session.context == {"by": "another"}
        assert await turn.release() is True
        await at.claim(event_id="e")

    async def test_a_touch_next_to_the_claim_does_not_conflict(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register(ttl=LIFE)
        turn = await at.claim()
        assert await at.store.touch(KEY, 2 * LIFE, ctx=ANN) is True
        await turn.complete(turn.session)
        assert await at.find() is None

    # --- what a turn may not write -----------------------------------------------------------

    @pytest.mark.parametrize("way", WAYS_TO_WRITE)
    async def test_another_session_is_refused(self, harness: StoreHarness, way: str) -> None:
        at = await wait_harness(harness)
        await at.register()
        await at.create(ANOTHER)
        turn = await at.claim()
        async with at.kept():
            for key in (ANOTHER, SessionKey("nobody")):
                with pytest.raises(InvalidInputError) as caught:
                    await WAYS_TO_WRITE[way](turn, evolve(turn.session, key=key))
                assert caught.value.field == "session"
            for owner in (
                BOB,
                without_user(ANN),
                *(evolve_ctx(ANN, team_id=team) for team in ("blue", None)),
                evolve_ctx(ANN, tenant_id=GLOBEX),
                evolve_ctx(ANN, env="staging"),
            ):
                with pytest.raises(TenantMismatchError) as refused:
                    await WAYS_TO_WRITE[way](turn, session(owner=owner))
                assert refused.value.key == KEY
        assert turn.ended is False
        await WAYS_TO_WRITE[way](turn, turn.session)

    @pytest.mark.parametrize("way", WAYS_TO_WRITE)
    async def test_a_session_over_the_limit_is_refused(
        self, harness: StoreHarness, way: str
    ) -> None:
        at = await wait_harness(harness, max_payload_bytes=1000)
        await at.register()
        await at.register(THREAD, ANOTHER)
        turn = await at.claim()
        async with at.kept():
            with pytest.raises(PayloadTooLargeError):
                await WAYS_TO_WRITE[way](turn, evolve(turn.session, context={"t": "x" * 1000}))
        assert turn.ended is False
        assert await at.claimed_until() == turn.lease_until
        await WAYS_TO_WRITE[way](turn, turn.session)

    async def test_a_typed_context_goes_through_a_turn(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness, AppState)
        state = AppState(step=1, answers={"name": "Ann"}, tags=("a", "b"))
        await at.register(context=state)
        turn = await at.claim()
        assert turn.session.context == state
        assert type(turn.session.context) is AppState
        async with at.kept():
            for wrong in ({"step": 2}, None, AppState):
                with pytest.raises(InvalidInputError) as caught:
                    await turn.wait_again(evolve(turn.session, context=wrong), MAIL)
                assert caught.value.field == "context"
        await turn.save(evolve(turn.session, context=AppState(step=2)))
        assert turn.session.context == AppState(step=2)
        await turn.wait_again(evolve(turn.session, context=AppState(step=3)), MAIL)
        async with at.resume(MAIL) as again:
            assert again.session.context == AppState(step=3)
            await again.complete(evolve(again.session, context=AppState(step=4)))
        assert (await at.record()).session.context == AppState(step=4)
