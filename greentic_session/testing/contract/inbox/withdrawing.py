"""Contract tests of withdrawing: a message that no worker has begun is taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from ....abc.inbox import MailboxRef
from ....abc.records import Verdict
from ....abc.waits import EventMemory
from ..samples import KEY
from .helpers import InboxHarness, counted, desk

if TYPE_CHECKING:
    from ...harness import StoreHarness

_REF: Final = MailboxRef("default/acme", KEY)
_EVENTS: Final = EventMemory(2000, 86_400_000)


async def _withdraw(
    at: InboxHarness, event_id: str, *, prefix: str = "", refuses: bool = False
) -> Verdict:
    call = at.backend.call()
    return await call.withdraw(_REF, event_id, _EVENTS, prefix=prefix, refuses=refuses)


@pytest.mark.anyio
class InboxWithdrawingContract:
    """A message is taken back before a worker begins it, or not at all."""

    async def test_a_waiting_message_is_taken_back_and_stays_known(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        await at.admit("e1", "e2", "e3")
        assert await _withdraw(at, "e2") is Verdict.DONE
        assert await _withdraw(at, "e2") is Verdict.ABSENT
        assert not (await at.admit("e2")).is_new
        assert await at.handle() == ["e1", "e3"]

    async def test_a_message_of_a_held_turn_stays(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.admit("e1", "e2", "e3")
        async with at.turn(most=2) as turn:
            assert await _withdraw(at, "e1") is Verdict.CLAIMED
            assert await _withdraw(at, "e2") is Verdict.CLAIMED
            assert await _withdraw(at, "e3") is Verdict.DONE
            await turn.commit(counted(turn), 1)
            assert await _withdraw(at, "e1") is Verdict.ABSENT
            assert await _withdraw(at, "e2") is Verdict.CLAIMED
            await turn.finish()
        assert await at.is_idle()

    async def test_a_message_that_failed_once_stays(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.admit("e1", "e2")
        await at.fail()
        assert await _withdraw(at, "e1") is Verdict.CLAIMED

    async def test_a_message_that_was_released_is_taken_back(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.admit("e1")
        async with at.turn() as turn:
            await turn.release()
        assert await _withdraw(at, "e1") is Verdict.DONE
        assert await at.is_idle()

    async def test_messages_with_a_prefix_are_taken_back(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.admit("e#1", "e#2", "e2")
        assert await _withdraw(at, "e", prefix="e#") is Verdict.DONE
        assert await at.handle() == ["e2"]

    async def test_a_refused_event_is_not_admitted_later(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        assert await _withdraw(at, "e1") is Verdict.ABSENT
        assert await _withdraw(at, "e1", refuses=True) is Verdict.DONE
        assert not (await at.admit("e1")).is_new
        assert await at.is_idle()
