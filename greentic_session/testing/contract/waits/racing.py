"""Contract tests of races between workers: exactly one winner, and no turn is lost."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest
from anyio.lowlevel import checkpoint

from ....errors import (
    CasConflictError,
    DuplicateEventError,
    LeaseLostError,
    SessionError,
    WaitClaimedError,
    WaitNotFoundError,
)
from ....model import Cas, SessionKey
from ..samples import KEY, LIFE, evolve, session
from .helpers import ANN, ANOTHER, CHAT, ENDINGS, THREAD, race, wait_harness

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ....waits import Claim
    from ...harness import StoreHarness
    from .helpers import WaitHarness

_RACERS: Final = 30


def _winner(ends: Sequence[Any], *losing: type[SessionError]) -> int:
    """Return the index of the only success. The others failed with an expected error."""
    winners = [place for place, end in enumerate(ends) if not isinstance(end, SessionError)]
    assert len(winners) == 1, winners
    assert {type(end) for end in ends if isinstance(end, SessionError)} <= set(losing)
    return winners[0]


async def _workers(at: WaitHarness, count: int) -> list[WaitHarness]:
    return [at, *[await at.peer() for _ in range(count - 1)]]


async def _claim_when_free(at: WaitHarness, event_id: str) -> Claim[Any]:
    while True:
        try:
            return await at.claim(event_id=event_id, lease=LIFE)
        except WaitClaimedError:
            await checkpoint()


@pytest.mark.anyio
class WaitRaceContract:
    """A wait resumes exactly once, whatever other workers do."""

    @pytest.mark.parametrize("workers", [1, 4])
    async def test_of_many_claims_one_wins(self, harness: StoreHarness, workers: int) -> None:
        at = await wait_harness(harness)
        each = await _workers(at, workers)
        await at.register()
        fences: list[int] = []
        for number in range(5):
            calls = [partial(each[n % workers].claim, lease=LIFE) for n in range(_RACERS)]
            ends = await race(calls)
            turn: Claim[Any] = ends[_winner(ends, WaitClaimedError)]
            untils = {end.until for end in ends if isinstance(end, WaitClaimedError)}
            assert untils == {turn.lease_until}
            assert turn.cas == (await at.record()).cas
            assert turn.cas.value == 2 + 2 * number
            fences.append(turn.fence)
            await turn.wait_again(turn.session, CHAT)
        assert fences == sorted(set(fences))

    async def test_of_many_claims_of_one_attempt_all_are_one(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        ends = await race([partial(at.claim, attempt_id="a")] * _RACERS)
        assert {end.fence for end in ends} == {ends[0].fence}
        assert {end.cas for end in ends} == {ends[0].cas}
        done = await race(partial(turn.complete, turn.session) for turn in ends)
        assert isinstance(done[_winner(done, LeaseLostError)], Cas)
        assert (await at.record()).cas.value == 3

    async def test_of_many_claims_after_a_lease_one_wins(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        first = await at.claim(lease=LIFE)
        await harness.advance(LIFE)
        ends = await race([partial(at.claim, lease=LIFE)] * _RACERS)
        turn = ends[_winner(ends, WaitClaimedError)]
        assert turn.fence > first.fence
        with pytest.raises(LeaseLostError):
            await first.complete(first.session)

    @pytest.mark.parametrize("round_number", range(4))
    async def test_of_a_late_ending_and_a_new_claim_one_wins(
        self, harness: StoreHarness, round_number: int
    ) -> None:
        at = await wait_harness(harness)
        peer = await at.peer()
        await at.register()
        late = await at.claim(lease=LIFE)
        await harness.advance(LIFE)
        calls: list[Any] = [partial(late.complete, late.session), partial(peer.claim, lease=LIFE)]
        order = (0, 1) if round_number % 2 else (1, 0)
        ends = dict(zip(order, await race(calls[place] for place in order), strict=True))
        if isinstance(ends[0], Cas):
            assert isinstance(ends[1], WaitNotFoundError)
            assert (await at.record()).cas == ends[0]
            assert await at.find() is None
        else:
            assert isinstance(ends[0], LeaseLostError)
            assert await at.claimed_until() == ends[1].lease_until
            await ends[1].complete(ends[1].session)

    @pytest.mark.parametrize("attempts", [1, 3])
    async def test_of_many_endings_of_one_claim_one_wins(
        self, harness: StoreHarness, attempts: int
    ) -> None:
        at = await wait_harness(harness)
        for _ in range(3):
            await at.register()
            turns = [await at.claim(attempt_id="a") for _ in range(attempts)]
            endings = [ENDINGS[name] for name in ("complete", "wait again", "wait elsewhere")]
            ends = await race(partial(endings[n % 3], turns[n % attempts]) for n in range(_RACERS))
            winner = _winner(ends, LeaseLostError)
            assert (await at.record()).cas == ends[winner]
            where = [await at.find(CHAT), await at.find(THREAD)]
            assert where == [None if winner % 3 != place else KEY for place in (1, 2)]

    async def test_of_many_finishes_one_wins(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        turns = [await at.claim(attempt_id="a") for _ in range(10)]
        _winner(await race(turn.finish for turn in turns), LeaseLostError)
        assert await at.store.get(KEY, ctx=ANN) is None

    async def test_an_event_is_completed_once(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        workers = await _workers(at, 4)
        await at.register(context={"n": 0})
        turns: Counter[str] = Counter()

        async def work(number: int) -> None:
            worker = workers[number % 4]
            for event in ("e1", "e2", "e3"):
                while True:
                    try:
                        async with worker.resume(event_id=event, lease=LIFE) as turn:
                            count = turn.session.context["n"] + 1
                            await turn.wait_again(evolve(turn.session, context={"n": count}), CHAT)
                            turns[event] += 1
                        break
                    except WaitClaimedError:
                        await checkpoint()
                    except DuplicateEventError:
                        break

        await race(partial(work, number) for number in range(12))
        assert turns == {"e1": 1, "e2": 1, "e3": 1}
        assert (await at.record()).session.context == {"n": 3}

    async def test_no_turn_is_lost(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        workers = await _workers(at, 3)
        await at.register(context={"n": 0})
        fences: list[int] = []

        async def work(number: int) -> None:
            for turn_number in range(4):
                turn = await _claim_when_free(workers[number % 3], f"{number}/{turn_number}")
                fences.append(turn.fence)
                await checkpoint()
                count = turn.session.context["n"] + 1
                await turn.wait_again(evolve(turn.session, context={"n": count}), CHAT)

        ends = await race(partial(work, number) for number in range(6))
        assert ends == [None] * 6
        found = await at.record()
        assert found.session.context == {"n": 24}
        assert found.cas.value == 1 + 2 * 24
        assert fences == sorted(set(fences))

    # --- registering -------------------------------------------------------------------------

    async def test_of_many_first_registrations_one_wins(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        ends = await race(
            partial(at.register, expected=Cas.none(), context={"n": n}) for n in range(_RACERS)
        )
        winner = _winner(ends, CasConflictError)
        found = await at.record()
        assert (found.cas, found.session.context) == (ends[winner], {"n": winner})
        assert await at.find() == KEY

    async def test_each_of_many_registrations_is_a_version_of_its_own(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        ends = await race(partial(at.register, context={"n": n}) for n in range(_RACERS))
        assert sorted(cas.value for cas in ends) == list(range(1, _RACERS + 1))
        found = await at.record()
        assert found.session.context == {"n": ends.index(found.cas)}
        assert await at.listed() == [KEY]

    @pytest.mark.parametrize("workers", [1, 4])
    async def test_of_many_sessions_in_one_place_one_waits(
        self, harness: StoreHarness, workers: int
    ) -> None:
        at = await wait_harness(harness)
        each = await _workers(at, workers)
        keys = [SessionKey(f"c{number}") for number in range(16)]
        ends = await race(
            partial(each[n % workers].register, key=key) for n, key in enumerate(keys)
        )
        assert [cas.value for cas in ends] == [1] * len(keys)
        found = await at.find()
        assert found in keys
        assert await at.listed() == [found]
        assert await at.find() == found
        assert (await at.claim()).key == found
        # All the others are stored and no longer wait.
        assert await at.waits.rebuild_index(ANN) == 1
        assert await at.listed() == [found]
        for key in keys:
            assert (await at.record(key)).cas.value == (2 if key == found else 1)

    async def test_a_session_in_many_places_waits_in_one(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        scopes = [CHAT, THREAD] * 8
        ends = await race(partial(at.register, scope) for scope in scopes)
        last = scopes[ends.index((await at.record()).cas)]
        assert await at.find(last) == KEY
        assert await at.find(CHAT if last is THREAD else THREAD) is None
        assert await at.listed() == [KEY]

    async def test_of_many_clears_one_removes(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        for _ in range(3):
            await at.register()
            ends = await race([at.clear] * _RACERS)
            assert sorted(ends) == [False] * (_RACERS - 1) + [True]
            assert await at.store.get(KEY, ctx=ANN) is None
            assert await at.listed() == []

    @pytest.mark.parametrize("round_number", range(4))
    async def test_a_claim_meets_a_superseding_registration(
        self, harness: StoreHarness, round_number: int
    ) -> None:
        at = await wait_harness(harness)
        peer = await at.peer()
        await at.register()
        calls: list[Any] = [partial(at.claim, lease=LIFE), partial(peer.register, key=ANOTHER)]
        order = (0, 1) if round_number % 2 else (1, 0)
        ends = dict(zip(order, await race(calls[place] for place in order), strict=True))
        turn, cas = ends[0], ends[1]
        assert cas.value == 1
        assert await at.find() == ANOTHER
        assert await at.listed() == [ANOTHER]
        # Whichever was claimed, its turn ends normally.
        done = await turn.complete(evolve(turn.session, context={"n": 1}))
        assert (await at.record(turn.key)).cas == done
        assert await at.find() == (None if turn.key == ANOTHER else ANOTHER)

    async def test_plain_writes_and_a_turn_do_not_overwrite_one_another(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        for _ in range(5):
            turn = await at.claim(lease=LIFE)
            beside = session(owner=ANN, context={"by": "plain"})
            ends = await race(
                [
                    partial(turn.wait_again, evolve(turn.session, context={"by": "turn"}), CHAT),
                    *[partial(at.store.update_cas, beside, turn.cas)] * 3,
                ]
            )
            winner = _winner(ends, CasConflictError)
            found = await at.record()
            assert found.cas == ends[winner]
            assert found.session.context == {"by": "turn" if winner == 0 else "plain"}
            if winner:
                assert await turn.release() is True
            assert await at.find() == KEY
