"""Tests of one random walk through all operations of an inbox, in memory and on a server."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

import pytest

from greentic_session import InboxFullError
from greentic_session.ordering import InboxLimits
from greentic_session.testing.contract.inbox.helpers import LEASE, REST, InboxHarness, counted
from greentic_session.testing.harness import MemoryHarness, RedisHarness

from ..support.redis import SEED

if TYPE_CHECKING:
    from greentic_session.ordering import InboxTurn

    Turn = InboxTurn[Any]

pytestmark = pytest.mark.anyio

STEPS: Final = 60
KEYS: Final = "abcd"
ENDS: Final = (
    *("finish", "finish", "finish", "commit, finish", "commit, fail", "commit, leave"),
    *("fail", "fail", "release", "die", "commit, die", "remove", "commit all, die"),
)
TIMES: Final = (0.5, 5.0, REST, 2 * REST, 2 * LEASE)


class Walker:
    """Takes one walk on one backend, and returns what it saw."""

    def __init__(self, at: InboxHarness, seed: int) -> None:
        self._at = at
        self._dice = random.Random(seed)
        self.seen: list[object] = []
        self._admitted = 0

    async def go(self) -> None:
        for _ in range(STEPS):
            step = self._dice.choice((self._admit, self._admit, self._admit, self._work, self._age))
            await step()
            letters = [(one.key, one.event_id, one.attempts) for one in await self._at.dead()]
            self.seen.append(sorted(letters))
            if letters and self._dice.random() < 0.1:
                await self._see_to_the_dead()

    async def _admit(self) -> None:
        key = self._dice.choice(KEYS)
        self._admitted += self._dice.random() < 0.8  # or the last one again
        try:
            told = await self._at.admit(f"e{self._admitted}", key=key)
        except InboxFullError as error:
            self.seen.append(("full", key, error.limit))
        else:
            self.seen.append((key, told.is_new, told.waiting, told.worker))

    async def _age(self) -> None:
        await self._at.harness.advance(self._dice.choice(TIMES))

    async def _see_to_the_dead(self) -> None:
        letters = sorted(await self._at.dead(), key=lambda one: (one.key, one.event_id))
        letter = self._dice.choice(letters)
        call = self._dice.choice((self._at.inbox.replay, self._at.inbox.discard))
        try:
            self.seen.append((call.__name__, letter.key, letter.event_id, await call(letter)))
        except InboxFullError:
            self.seen.append(("full for", letter.event_id))

    async def _work(self) -> None:
        """Take the turn of each session that has one, in any order, and end it in a random way."""
        ways = {key: self._dice.choice(ENDS) for key in KEYS}
        most = self._dice.choice((1, 2, 100))
        turns: dict[str, object] = {}
        async with AsyncExitStack() as again:
            while True:
                taken = self._at.take(most=most)
                turn = await taken.__aenter__()
                if turn is None:
                    break
                if turn.key in turns:  # it is due again, and held until all had their turn
                    again.push_async_exit(taken)
                    continue
                way = ways[turn.key]
                turns[turn.key] = self._told(turn), way, await self._end(turn, way)
                await self._leave(taken, turn, way)
        self.seen.append(turns)

    def _told(self, turn: Turn) -> object:
        state = turn.session.context if turn.session else None
        mail = [(one.event_id, one.attempt) for one in turn.mail]
        return mail, state, turn.cas.value

    async def _end(self, turn: Turn, way: str) -> object:
        for step in way.split(", "):
            if step == "commit":
                await turn.commit(counted(turn), 1)
            elif step == "commit all":
                await turn.commit(counted(turn), len(turn.mail))
            elif step == "finish":
                await turn.finish(counted(turn))
            elif step == "remove":
                await turn.remove()
        return turn.cas.value, len(turn.mail)

    async def _leave(self, taken: Any, turn: Turn, way: str) -> None:
        if way.endswith("die"):
            # The worker makes no more calls, so its own end releases nothing.
            turn._renewer.ended = True
        error = RuntimeError("failed") if way.endswith("fail") else None
        try:
            await taken.__aexit__(type(error) if error else None, error, None)
        except RuntimeError:
            assert error is not None


@pytest.mark.parametrize("number", range(12))
async def test_a_walk_sees_the_same_everywhere(valkey_url: str, number: int) -> None:
    seed = SEED + number
    options: dict[str, Any] = {"attempts": 2, "limits": InboxLimits(mail=4, events=50)}
    seen: list[list[object]] = []
    for harness in (MemoryHarness(), RedisHarness(valkey_url)):
        async with harness:
            at = InboxHarness(harness, await harness.open(), **options)
            walker = Walker(at, seed)
            await walker.go()
            await harness.advance(10 * LEASE)
            while not await at.is_idle():
                await at.drain()
            walker.seen.append(sorted(await at.drain()))
            seen.append(walker.seen)
            assert (await at.inbox.depth()).sessions == 0
    print(f"GREENTIC_SESSION_TEST_SEED={SEED}")  # noqa: T201 - pytest shows it with a failure
    for here, there in zip(*seen, strict=True):
        assert there == here
