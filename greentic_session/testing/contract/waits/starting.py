"""Contract tests of flows that an event starts: once, and never as their first reply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from ....errors import (
    CasConflictError,
    DuplicateEventError,
    InvalidInputError,
    SessionError,
    StoreUnavailableError,
    TenantMismatchError,
)
from ....model import Cas
from ..samples import KEY, session
from .helpers import ANN, ANOTHER, BOB, CHAT, THREAD, race, wait_harness

if TYPE_CHECKING:
    from ....model import ReplyScope, TenantCtx
    from ...harness import StoreHarness
    from .helpers import WaitHarness

__all__ = ["WaitStartingContract"]

_DAY: Final = 86_400.0


async def start(
    at: WaitHarness,
    event_id: Any = "start",  # Any: valid and invalid values
    key: str = KEY,
    scope: ReplyScope = CHAT,
    *,
    owner: TenantCtx = ANN,
    expected: Cas | None = None,
) -> Cas:
    """Register a session that an event starts."""
    return await at.waits.register_wait(
        *(owner, owner.user_id or "", scope, session(key, owner=owner)),
        expected=expected,
        event_id=event_id,
    )


@pytest.mark.anyio
class WaitStartingContract:
    """``register_wait`` completes the given event in one step."""

    async def test_the_event_neither_starts_again_nor_answers(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        cas = await start(at)
        assert cas.value == 1
        assert await at.find() == KEY
        async with at.kept():
            for key in (KEY, ANOTHER):
                with pytest.raises(DuplicateEventError) as caught:
                    await start(at, key=key)
                assert caught.value.event_id == "start"
            with pytest.raises(DuplicateEventError):
                await at.claim(event_id="start")
        turn = await at.claim(event_id="reply")
        assert turn.cas.value == 2

    @pytest.mark.parametrize("how", ["complete", "finish", "clear", "delete", "forget"])
    async def test_the_event_stays_known(self, harness: StoreHarness, how: str) -> None:
        at = await wait_harness(harness)
        await start(at)
        if how == "clear":
            assert await at.clear() is True
        elif how == "delete":
            assert await at.store.delete(KEY, ctx=ANN) is True
        elif how == "forget":
            await harness.forget_indexes()  # the session itself stores the event
        else:
            turn = await at.claim(event_id="reply")
            await (turn.finish() if how == "finish" else turn.complete(turn.session))
        with pytest.raises(DuplicateEventError):
            await start(at)
        await harness.advance(_DAY)
        assert (await start(at)).value >= 1

    async def test_of_many_that_start_one_flow_one_does(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        ends = await race([lambda: start(at)] * 16)
        assert sum(isinstance(end, Cas) for end in ends) == 1
        assert sum(isinstance(end, DuplicateEventError) for end in ends) == 15
        assert (await at.record()).cas.value == 1

    async def test_what_was_refused_completes_nothing(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        old = await at.register()
        await at.register()
        async with at.kept():
            with pytest.raises(CasConflictError):
                await start(at, expected=old)
            with pytest.raises(TenantMismatchError):
                await start(at, owner=BOB)
        assert (await start(at)).value == 3

    async def test_the_event_is_of_its_place_and_user(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await start(at)
        await start(at, key=ANOTHER, scope=THREAD)
        await start(at, key="bob", owner=BOB)
        assert await at.listed() == [KEY, ANOTHER]

    @pytest.mark.parametrize("event_id", ["", "two\nlines", "x" * 513, 7, b"start"])
    async def test_a_bad_event_is_refused(self, harness: StoreHarness, event_id: object) -> None:
        at = await wait_harness(harness)
        with pytest.raises(InvalidInputError) as caught:
            await start(at, event_id)
        assert caught.value.field == "event_id"
        assert await harness.residue() == []

    async def test_waiting_again_is_where_it_was_unless_told(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await start(at, scope=THREAD)
        turn = await at.claim(THREAD, event_id="reply")
        cas = await turn.wait_again(turn.session)
        assert await at.find(THREAD) == KEY
        assert (await at.record()).cas == cas
        with pytest.raises(DuplicateEventError):
            await at.claim(THREAD, event_id="reply")

    async def test_a_closed_store_starts_nothing(self, harness: StoreHarness) -> None:
        at = await wait_harness(harness)
        await at.store.aclose()
        with pytest.raises(StoreUnavailableError) as caught:
            await start(at)
        assert isinstance(caught.value, SessionError)
