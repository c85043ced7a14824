"""Tests of endings whose reply was lost for good: later calls drop no message twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from greentic_session import OutcomeUnknownError
from greentic_session.redis.scripts import TAKE_TURN
from greentic_session.testing.contract.inbox.helpers import LEASE, counted, desk
from greentic_session.testing.harness import RedisHarness

from .test_inbox_crashes import Mortal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from greentic_session.ordering import InboxTurn
    from greentic_session.testing.contract.inbox.helpers import InboxHarness

    Turn = InboxTurn[Any]

pytestmark = pytest.mark.anyio


@pytest.fixture
async def at(valkey_url: str) -> AsyncIterator[InboxHarness]:
    async with RedisHarness(valkey_url) as harness:
        yield await desk(harness)


class Deaf(Mortal):
    """A connection of a process that executes its steps and gets no reply."""

    async def run(self, *arguments: Any, **options: Any) -> Any:
        await super().run(*arguments, **options)
        raise OutcomeUnknownError("not heard")


async def unheard(at: InboxHarness, step: Callable[[], Awaitable[object]]) -> None:
    backend: Any = at.inbox._backend
    line = backend.client
    backend.client = Deaf(line, None)
    try:
        with pytest.raises(OutcomeUnknownError):
            await step()
    finally:
        backend.client = line


@pytest.mark.parametrize("state", [True, False], ids=["state", "mail alone"])
async def test_mail_that_came_meanwhile_is_not_dropped(at: InboxHarness, *, state: bool) -> None:
    await at.admit("e1", "e2")
    async with at.turn() as turn:
        await unheard(at, lambda: turn.commit(counted(turn) if state else None, 1))
        await at.admit("e3")
        await turn.finish()
    assert await at.handle() == ["e3"]


async def test_a_commit_may_be_repeated(at: InboxHarness) -> None:
    await at.admit("e1", "e2", "e3")
    async with at.turn() as turn:
        await turn.commit(None, 1)
        await unheard(at, lambda: turn.commit(None, 1))
        await turn.commit(None, 1)
        assert [mail.event_id for mail in turn.mail] == ["e3"]
    async with at.turn() as turn:
        assert [(mail.event_id, mail.attempt) for mail in turn.mail] == [("e3", 1)]
        await turn.finish()
    assert await at.is_idle()


async def test_what_was_taken_unheard_is_given_back_and_was_no_attempt(
    at: InboxHarness,
) -> None:
    """The caller's deadline has passed, so a background task releases the turn."""
    backend: Any = at.inbox._backend
    line = backend.client
    await at.admit("e1")

    class HearsWhatIsDue(Deaf):
        async def run(self, script: Any, *arguments: Any, **options: Any) -> Any:
            if script is TAKE_TURN:
                backend.client = line  # from now on it gets all replies
                return await super().run(script, *arguments, **options)
            return await line.run(script, *arguments, **options)

    backend.client = HearsWhatIsDue(line, None)
    with pytest.raises(OutcomeUnknownError):
        await at.is_idle()
    with anyio.fail_after(LEASE / 2):
        async with at.inbox.take("worker-2") as turn:
            assert [(mail.event_id, mail.attempt) for mail in turn.mail] == [("e1", 1)]
            await turn.finish()
