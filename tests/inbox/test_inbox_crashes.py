"""Tests of processes that die between any two steps: no message is lost or doubled."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from greentic_session import SessionError, StoreUnavailableError
from greentic_session.testing.harness import RedisHarness

from ..support.inbox_scenarios import ACTS, assert_healed, desk_for, drained_and_told

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from greentic_session.testing.contract.inbox.helpers import InboxHarness

pytestmark = pytest.mark.anyio


class Mortal:
    """A connection of a process that dies after some scripts. The server gets no later one.

    :param before: work of other clients before each of its scripts.
    """

    def __init__(
        self,
        client: Any,
        steps: int | None,
        before: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._client = client
        self._left = steps
        self._before = before
        self.taken = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def run(self, *arguments: Any, **options: Any) -> Any:
        if self._left == self.taken:
            raise StoreUnavailableError("dead")
        if self._before is not None:
            await self._before()
        self.taken += 1
        return await self._client.run(*arguments, **options)


def mortal(at: InboxHarness, steps: int | None, *before: Callable[[], Awaitable[object]]) -> Mortal:
    backend: Any = at.inbox._backend
    line = backend.client = Mortal(backend.client, steps, *before)
    return line


@pytest.mark.parametrize("name", ACTS)
async def test_a_process_may_die_after_any_step(name: str, valkey_url: str) -> None:
    act = ACTS[name]
    steps = 0
    while True:
        async with RedisHarness(valkey_url) as harness:
            sound = await desk_for(harness, act)
            await act.prepare(sound)
            doomed = await desk_for(harness, act)
            line = mortal(doomed, steps)
            with suppress(SessionError):
                await act.act(doomed)
            await assert_healed(sound, act)
        if line.taken < steps:
            break
        steps += 1
    # Each script of the act was once the last one.
    assert steps == line.taken + 1 >= 2


@pytest.mark.parametrize("name", ["admit the first", "admit another", "replay", "deliver"])
async def test_a_process_may_die_after_any_step_while_others_look_at_its_session(
    name: str, valkey_url: str
) -> None:
    act = ACTS[name]
    steps = 0
    while True:
        async with RedisHarness(valkey_url) as harness:
            sound = await desk_for(harness, act)
            await act.prepare(sound)
            doomed = await desk_for(harness, act)

            async def others(sound: InboxHarness = sound) -> None:
                # All messages are handled, and the index entries removed.
                await drained_and_told(sound, act)

            line = mortal(doomed, steps, others)
            with suppress(SessionError):
                await act.act(doomed)
            await assert_healed(sound, act)
        if line.taken < steps:
            break
        steps += 1
    assert steps == line.taken + 1 >= 4
