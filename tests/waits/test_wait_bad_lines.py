"""Tests of many turns over a faulty connection, alone and with rivals: reports are true."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import pytest

from greentic_session import (
    Cas,
    DuplicateEventError,
    LeaseLostError,
    OutcomeUnknownError,
    ReplyScope,
    SessionKey,
    WaitClaimedError,
    WaitNotFoundError,
    WaitRegistry,
)
from greentic_session.redis import scripts
from greentic_session.testing.harness import RedisHarness

from ..support.redis import SEED, next_of, store_at
from ..support.redis_proxy import BREAKS, Fate, Proxy, at_random
from ..support.waits import CTX, Wait, answered, chat, owner, paused
from .test_wait_faults import HERE, THERE, Scene, Theatre

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from greentic_session.redis.transport.script import Script

    from ..support.waits import Registry, Store, Turn
    from .test_wait_faults import Play

pytestmark = pytest.mark.anyio

CHATS: Final = [chat(number) for number in range(3)]


@pytest.fixture
async def harness(tcp_server_url: str) -> AsyncIterator[RedisHarness]:
    async with RedisHarness(tcp_server_url) as harness:
        yield harness


class Conversation:
    """The only client of its user's waits, so it knows the result that each call must have.

    Any other result or error fails the test. Examples are a conflict, a lost lease, a wait that is
    not found, or a known event.
    """

    def __init__(self, store: Store, number: int) -> None:
        self._store = store
        self._waits: Registry = WaitRegistry(store)
        self._dice = random.Random(SEED * 100 + number)
        self._user = f"user {number}"
        self._new = paused(f"walk-{number}", self._user)
        self._session = self._new
        self._cas = Cas.none()
        self._scope: ReplyScope | None = None
        self._events: dict[str, ReplyScope] = {}
        self.calls = 0
        self.turns = 0

    async def go_on(self, turns: int) -> None:
        ends_at = self.turns + turns
        while self.turns < ends_at:
            if self._scope is None or self._dice.random() < 0.1:
                await self._register()
            elif self._dice.random() < 0.1:
                await self._clear()
            else:
                await self._take_turn(f"turn {self.turns}")
                self.turns += 1
            await self._look_around()

    async def _register(self) -> None:
        scope = self._dice.choice(CHATS)
        expected = self._dice.choice((None, self._cas))
        cas = await self._waits.register_wait(
            CTX, self._user, scope, self._session, expected=expected
        )
        self._wrote(cas)
        self._scope = scope

    def _wrote(self, cas: Cas) -> None:
        assert cas.value == self._cas.value + 1
        assert not self._cas.value or cas == next_of(self._cas)
        self._cas = cas

    async def _clear(self) -> None:
        assert self._scope is not None
        assert await self._waits.clear_wait(CTX, self._user, self._scope)
        self._gone()

    def _gone(self) -> None:
        self._cas, self._scope, self._session = Cas.none(), None, self._new

    async def _take_turn(self, name: str) -> None:
        assert self._scope is not None
        if self._dice.random() < 0.5:
            turn = await self._waits.claim(CTX, self._user, self._scope, event_id=name)
            await self._end(turn, name)
        else:
            async with self._waits.resume(CTX, self._user, self._scope, event_id=name) as turn:
                await self._end(turn, name)

    async def _end(self, turn: Turn, name: str) -> None:
        assert self._scope is not None
        self._wrote(turn.cas)
        assert turn.session.context == self._session.context
        for step in self._dice.sample(("renew", "save"), self._dice.randrange(3)):
            if step == "renew":
                before = turn.lease_until
                assert await turn.renew() >= before
            else:
                self._wrote(await turn.save(turn.session))
        after = answered(turn.session, name)
        how = self._dice.choice(("complete", "complete", "wait again", "finish", "release"))
        if how == "release":
            assert await turn.release()
            return
        self._events[name] = self._scope
        if how == "finish":
            await turn.finish()
            self._gone()
            return
        self._session = after
        if how == "complete":
            self._wrote(await turn.complete(after))
            self._scope = None
        else:
            self._scope = self._dice.choice(CHATS)
            self._wrote(await turn.wait_again(after, self._scope))

    async def _look_around(self) -> None:
        self.calls += 1
        scope = self._dice.choice(CHATS)
        waits_there = scope == self._scope
        found = await self._waits.find_wait_by_scope(CTX, self._user, scope)
        assert found == (self._session.key if waits_there else None)
        listed = await self._waits.list_waits_for_user(CTX, self._user)
        assert listed == ([self._session.key] if self._scope else [])
        if not waits_there:
            with pytest.raises(WaitNotFoundError):
                await self._waits.claim(CTX, self._user, scope, event_id="never seen")
        if self._events:
            name, place = self._dice.choice(list(self._events.items()))
            with pytest.raises(DuplicateEventError):
                await self._waits.claim(CTX, self._user, place, event_id=name)

    async def check(self, direct: Store) -> None:
        stored = await direct.get(self._session.key, ctx=owner(self._user))
        assert (stored.cas if stored else Cas.none()) == self._cas
        if stored is not None:
            assert stored.session.context == self._session.context
            assert stored.session.outbox == self._session.outbox


@pytest.mark.timeout(150)  # seconds; about eight are needed on an idle machine
async def test_hundreds_of_turns_over_a_bad_line(
    harness: RedisHarness, scaled: Callable[[int], int]
) -> None:
    namespace = harness.config.namespace
    direct = await harness.open()
    async with (
        Proxy(harness.config.port, at_random(0.2)) as proxy,
        store_at(proxy.url, namespace=namespace, max_connections=8) as store,
    ):
        conversations = [Conversation(store, number) for number in range(8)]
        rounds = 0
        while min(proxy.met[fate] for fate in BREAKS) < scaled(30):  # a fate is for one request
            rounds += 1
            assert rounds <= 10, f"the line was never as bad as meant: {proxy.met}"
            async with asyncio.TaskGroup() as tasks:
                for conversation in conversations:
                    tasks.create_task(conversation.go_on(15))
        for conversation in conversations:
            await conversation.check(direct)
        print(  # noqa: T201 - pytest shows it with a failure
            f"{8 * 15 * rounds} turns, {store.statistics().retries} retries,",
            ", ".join(f"{count} {fate.name}" for fate, count in proxy.met.items() if count),
        )
        assert store.statistics().in_flight == 0


@pytest.mark.timeout(150)
async def test_rivals_over_a_bad_line_take_each_turn_once(
    harness: RedisHarness, *, is_full_run: bool
) -> None:
    namespace = harness.config.namespace
    direct = await harness.open()
    registry: Registry = WaitRegistry(direct)
    waits = [Wait.of(number, 6) for number in range(90 if is_full_run else 40)]
    for wait in waits:
        await registry.register_wait(CTX, wait.user, wait.scope, paused(wait.key, wait.user))
    won: dict[SessionKey, list[Any]] = {}
    unknown: set[str] = set()
    tally: Counter[str] = Counter()

    async def rival(name: str, store: Store) -> None:
        mine: Registry = WaitRegistry(store)
        todo = [*waits]
        random.Random(f"{SEED} {name}").shuffle(todo)
        todo.sort(key=lambda wait: wait.number // 4)  # so that the rivals conflict
        while todo:
            wait = todo.pop(0)
            mark = f"{name} {tally['turns']}"
            tally["turns"] += 1
            try:
                async with mine.resume(
                    CTX, wait.user, wait.scope, event_id=wait.event_id, lease=5
                ) as turn:
                    await turn.save(turn.session)
                    await turn.complete(answered(turn.session, mark))
                    won.setdefault(wait.key, []).append(mark)
            except WaitClaimedError:
                tally["met a claim"] += 1
                todo.append(wait)
            except (DuplicateEventError, WaitNotFoundError):
                tally["came late"] += 1
                assert await wait.turns(direct), f"{wait.key} was not over"
            except OutcomeUnknownError:
                unknown.add(mark)
                todo.append(wait)
            except LeaseLostError:
                tally["lost the lease"] += 1
                todo.append(wait)

    async with (
        Proxy(harness.config.port, at_random(0.25)) as proxy,
        store_at(proxy.url, namespace=namespace, max_connections=8) as first,
        store_at(proxy.url, namespace=namespace, max_connections=8) as second,
        asyncio.TaskGroup() as tasks,
    ):
        for number in range(8):
            tasks.create_task(rival(f"rival {number}", (first, second)[number % 2]))
    print(  # noqa: T201 - pytest shows it with a failure
        f"{len(waits)} waits, {len(unknown)} outcomes unknown,",
        ", ".join(f"{count} {what}" for what, count in tally.items()),
    )
    for wait in waits:
        turns: list[Any] = await wait.turns(direct)
        assert len(turns) == 1
        told = won.get(wait.key, [])
        assert told == turns or (not told and turns[0] in unknown)
    # No other worker claimed meanwhile: a lease of five seconds is longer than any fault.
    assert tally["lost the lease"] == 0
    assert tally["met a claim"] + tally["came late"] == tally["turns"] - len(waits) - len(unknown)
    for user in {wait.user for wait in waits}:
        assert await registry.list_waits_for_user(CTX, user) == []


# --- another client acts between a lost reply and the next attempt --------------------------------


async def resumed(scene: Scene, scope: ReplyScope) -> None:
    turn = await scene.claim(scope, scene.near)
    await turn.complete(answered(turn.session, "between"))


async def registered_then_resumed(scene: Scene) -> Play:
    yield
    cas = await scene.far.register_wait(CTX, scene.user, HERE, scene.session("form"))
    assert cas.value == 1
    yield
    assert await scene.turns("form") == ["between"]
    await scene.assert_waiting()


async def completed_then_registered(scene: Scene) -> Play:
    await scene.register("form", HERE)
    claim = await scene.claim(HERE, event_id="reply")
    yield
    assert await claim.complete(answered(claim.session, "a turn")) == next_of(claim.cas)
    yield
    assert await scene.turns("form") == []
    await scene.assert_waiting(here="form")
    await scene.assert_known(HERE, "reply")


async def finished_then_registered(scene: Scene) -> Play:
    await scene.register("form", HERE)
    claim = await scene.claim(HERE, event_id="reply")
    yield
    await claim.finish()
    yield
    token = await scene.token("form")
    assert token
    assert token.value == 1
    assert token.incarnation != claim.cas.incarnation
    await scene.assert_waiting(here="form")
    await scene.assert_known(HERE, "reply")


async def paused_again_then_resumed(scene: Scene) -> Play:
    await scene.register("form", HERE)
    claim = await scene.claim(HERE)
    yield
    assert await claim.wait_again(answered(claim.session, "a turn"), THERE) == next_of(claim.cas)
    yield
    assert await scene.turns("form") == ["a turn", "between"]
    await scene.assert_waiting()


async def released_then_claimed(scene: Scene) -> Play:
    await scene.register("form", HERE)
    claim = await scene.claim(HERE)
    yield
    assert await claim.release()
    yield
    assert await scene.claimed("form")
    assert await scene.token("form") == next_of(claim.cas)


async def cleared_then_registered(scene: Scene) -> Play:
    await scene.register("form", HERE)
    yield
    assert await scene.far.clear_wait(CTX, scene.user, HERE)
    yield
    await scene.assert_waiting(here="form")


async def claimed_then_cleared(scene: Scene) -> Play:
    await scene.register("form", HERE)
    yield
    with pytest.raises(WaitNotFoundError):
        await scene.claim(HERE)
    yield
    await scene.assert_waiting()


BETWEEN: Final[dict[Callable[[Scene], Play], tuple[Script, Callable[[Scene], Any]]]] = {
    registered_then_resumed: (scripts.REGISTER, lambda scene: resumed(scene, HERE)),
    completed_then_registered: (scripts.END_CLAIM, lambda scene: scene.register("form", HERE)),
    finished_then_registered: (scripts.END_CLAIM, lambda scene: scene.register("form", HERE)),
    paused_again_then_resumed: (scripts.END_CLAIM, lambda scene: resumed(scene, THERE)),
    released_then_claimed: (scripts.RELEASE_CLAIM, lambda scene: scene.claim(HERE, scene.near)),
    cleared_then_registered: (scripts.CLEAR, lambda scene: scene.register("form", HERE)),
    claimed_then_cleared: (
        scripts.CLAIM,
        lambda scene: scene.near.clear_wait(CTX, scene.user, HERE),
    ),
}


@pytest.mark.parametrize("verb", BETWEEN, ids=lambda verb: verb.__name__)
async def test_a_lost_answer_is_repeated_although_another_call_came_between(
    harness: RedisHarness, verb: Callable[[Scene], Play]
) -> None:
    script, interfere = BETWEEN[verb]
    theatre = await Theatre.of(harness)
    async with theatre.stage(Fate.LOSE, script.sha1) as (scene, proxy, _):

        async def come_between() -> None:
            await interfere(scene)

        proxy.before_loss = come_between
        play = verb(scene)
        await anext(play)
        with scene.broken():
            await anext(play)
        async for _ in play:
            pass
        assert proxy.met[Fate.LOSE] == 1
