"""Contract tests of events: completed once with a turn, then known to that user and scope."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from ....errors import CasConflictError, DuplicateEventError, LeaseLostError, WaitNotFoundError
from ....model import ReplyScope
from ..samples import GLOBEX, KEY, LIFE, session
from .helpers import ANN, ANOTHER, BOB, CHAT, ENDINGS, MAIL, THREAD, evolve_ctx, wait_harness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ....waits import Claim
    from ...harness import StoreHarness
    from .helpers import WaitHarness


async def _expire(at: WaitHarness) -> None:
    await at.store.touch(KEY, LIFE, ctx=ANN)
    await at.harness.advance(LIFE)


async def _replace(at: WaitHarness) -> None:
    await at.register(key=ANOTHER)


async def _replace_and_finish(at: WaitHarness) -> None:
    await at.register(key=ANOTHER)
    await (await at.claim()).finish()


async def _finish(at: WaitHarness) -> None:
    await at.register()
    await (await at.claim()).finish()


async def _make_anew(at: WaitHarness) -> None:
    await _finish(at)
    await at.register()


async def _expire_and_make_anew(at: WaitHarness) -> None:
    await at.register(ttl=LIFE)
    await at.harness.advance(LIFE)
    await at.register()


async def _complete_others(at: WaitHarness) -> None:
    await at.register()
    for number in range(20):
        await at.take_turn(event_id=f"other-{number}")


_LATER: Final[dict[str, Callable[[WaitHarness], Awaitable[object]]]] = {
    "registered again": lambda at: at.register(),
    "moved": lambda at: at.register(MAIL),
    "another session there": _replace,
    "another session there and gone": _replace_and_finish,
    "finished": _finish,
    "expired": _expire,
    "made anew": _make_anew,
    "expired and made anew": _expire_and_make_anew,
    "other events": _complete_others,
}
"""Later operations under the reply scope in which an event was completed."""


async def _fail(at: WaitHarness) -> None:
    with pytest.raises(ZeroDivisionError):
        async with at.resume(event_id="e"):
            raise ZeroDivisionError


async def _leave_open(at: WaitHarness) -> None:
    async with at.resume(event_id="e"):
        pass


async def _claimed(at: WaitHarness) -> Claim[Any]:
    return await at.claim(event_id="e", lease=LIFE)


async def _release(at: WaitHarness) -> None:
    assert await (await _claimed(at)).release() is True


async def _save(at: WaitHarness) -> None:
    turn = await _claimed(at)
    await turn.save(turn.session)
    assert await turn.release() is True


async def _abandon(at: WaitHarness) -> None:
    await _claimed(at)
    await at.harness.advance(LIFE)


async def _conflict(at: WaitHarness) -> None:
    turn = await _claimed(at)
    await at.store.put(session(owner=ANN))
    with pytest.raises(CasConflictError):
        await turn.complete(turn.session)
    assert await turn.release() is True


async def _lose(at: WaitHarness) -> None:
    turn = await _claimed(at)
    await at.register()
    with pytest.raises(LeaseLostError):
        await turn.complete(turn.session)


_VAIN: Final[dict[str, Callable[[WaitHarness], Awaitable[None]]]] = {
    "released": _release,
    "saved and released": _save,
    "left open": _leave_open,
    "failed": _fail,
    "abandoned": _abandon,
    "met a conflict": _conflict,
    "lost": _lose,
}
"""Turns that did not complete their event."""


@pytest.mark.anyio
class WaitEventContract:
    """An event is completed in one step with its turn, and never again."""

    @pytest.mark.parametrize("ending", ENDINGS)
    async def test_a_completed_event_is_a_duplicate(
        self, harness: StoreHarness, ending: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        turn = await at.claim(event_id="e")
        assert turn.event_id == "e"
        await ENDINGS[ending](turn)
        async with at.kept():
            for attempt in (None, "a"):
                with pytest.raises(DuplicateEventError) as caught:
                    await at.claim(event_id="e", attempt_id=attempt)
                assert (caught.value.event_id, caught.value.code) == ("e", "conflict")
            with pytest.raises(DuplicateEventError):
                async with at.resume(event_id="e"):
                    pytest.fail("the block must not be entered")

    @pytest.mark.parametrize("later", _LATER)
    async def test_a_completed_event_stays_a_duplicate(
        self, harness: StoreHarness, later: str
    ) -> None:
        at = await wait_harness(harness)
        for ending, end in ENDINGS.items():
            await at.register()
            await end(await at.claim(event_id=ending))
        await _LATER[later](at)
        async with at.kept():
            for ending in ENDINGS:
                with pytest.raises(DuplicateEventError):
                    await at.claim(event_id=ending)

    async def test_a_completed_event_is_a_duplicate_to_every_worker(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        peer = await at.peer()
        await at.register()
        await at.take_turn(event_id="e")
        with pytest.raises(DuplicateEventError):
            await peer.claim(event_id="e")
        await peer.take_turn(event_id="f")
        with pytest.raises(DuplicateEventError):
            await at.claim(event_id="f")

    async def test_a_completed_event_is_a_duplicate_while_the_wait_is_claimed(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        await at.take_turn(event_id="e")
        turn = await at.claim(event_id="f", attempt_id="a")
        with pytest.raises(DuplicateEventError):
            await at.claim(event_id="e")
        with pytest.raises(DuplicateEventError):
            await at.claim(event_id="e", attempt_id="a")
        await turn.complete(turn.session)

    @pytest.mark.parametrize("vain", _VAIN)
    async def test_an_event_that_was_not_completed_comes_again(
        self, harness: StoreHarness, vain: str
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        await _VAIN[vain](at)
        turn = await at.claim(event_id="e")
        await turn.wait_again(turn.session, CHAT)
        with pytest.raises(DuplicateEventError):
            await at.claim(event_id="e")

    async def test_turns_without_an_event_are_no_duplicates(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        for _ in range(3):
            await at.take_turn()
        async with at.resume() as turn:
            await turn.complete(turn.session)
        assert (await at.record()).cas.value == 9

    async def test_an_event_is_what_its_id_says_to_the_letter(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register()
        for event_id in ("e", "E", "e ", " e", "é", "e\u0301", "1", "01", "e:", "e{}", "😀"):
            await at.take_turn(event_id=event_id)
            with pytest.raises(DuplicateEventError):
                await at.claim(event_id=event_id)

    # --- the scope and the user of an event --------------------------------------------------

    async def test_an_event_means_nothing_elsewhere(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.register(CHAT)
        await at.take_turn(CHAT, "e", onto=THREAD)
        await at.take_turn(THREAD, "e", onto=MAIL)
        await at.take_turn(MAIL, "e", onto=CHAT)
        for scope in (CHAT, THREAD, MAIL):
            with pytest.raises(DuplicateEventError):
                await at.claim(scope, event_id="e")
        with pytest.raises(WaitNotFoundError):
            await at.claim(ReplyScope(conversation="chat-2"), event_id="e")
        await at.register(THREAD, ANOTHER)
        with pytest.raises(DuplicateEventError):
            await at.claim(THREAD, event_id="e")
        await at.take_turn(THREAD, "f")

    @pytest.mark.parametrize(
        "owner",
        [
            pytest.param(BOB, id="another user"),
            pytest.param(evolve_ctx(ANN, team_id="blue"), id="another team"),
            pytest.param(evolve_ctx(ANN, tenant_id=GLOBEX), id="another tenant"),
            pytest.param(evolve_ctx(ANN, env="staging"), id="another env"),
        ],
    )
    async def test_an_event_means_nothing_to_another_owner(
        self, harness: StoreHarness, owner: Any
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        await at.register(key=ANOTHER, owner=owner)
        await at.take_turn(event_id="e")
        await at.take_turn(event_id="e", owner=owner)
        for each in (ANN, owner):
            with pytest.raises(DuplicateEventError):
                await at.claim(event_id="e", owner=each)

    async def test_an_event_means_nothing_to_the_next_owner_of_a_key(
        self, harness: StoreHarness
    ) -> None:
        at = await wait_harness(harness)
        await at.register()
        await (await at.claim(event_id="e")).finish()
        await at.register(owner=BOB)
        await at.take_turn(event_id="e", owner=BOB)
        for each in (ANN, BOB):
            with pytest.raises(DuplicateEventError):
                await at.claim(event_id="e", owner=each)
