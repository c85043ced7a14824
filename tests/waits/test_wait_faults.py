"""Tests of waits with lost, cut or late requests and replies: reports are true, no turn is lost."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import uuid4

import pytest

from greentic_session import (
    Cas,
    DuplicateEventError,
    ReplyScope,
    Session,
    Versioned,
    WaitClaimedError,
    WaitNotFoundError,
    WaitRegistry,
)
from greentic_session.redis import scripts
from greentic_session.redis.transport.script import Script
from greentic_session.testing.harness import RedisHarness

from ..support.redis import next_of, store_at, until, until_async
from ..support.redis_proxy import Fate, Line, Proxy
from ..support.waits import CTX, answered, chat, owner, paused

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from ..support.waits import Registry, Store, Turn

    Play = AsyncGenerator[None, None]

pytestmark = pytest.mark.anyio

HERE: Final = chat("here")
THERE: Final = chat("there")
DEADLINE_SECS: Final = 10.0
DELAY_SECS: Final = 5.5
"""Longer in seconds than an attempt, which is half the deadline."""


@pytest.fixture
async def harness(tcp_server_url: str) -> AsyncIterator[RedisHarness]:
    async with RedisHarness(tcp_server_url) as harness:
        yield harness


# --- one fault ------------------------------------------------------------------------------------


class Scene:
    """A user for the waits of a verb, over a faulty connection and over a sound one."""

    def __init__(self, harness: RedisHarness, near: Store, far: Store, line: Line) -> None:
        self._harness = harness
        self._near = near
        self.near: Registry = WaitRegistry(near)
        self.far: Registry = WaitRegistry(far)
        self.broken = line.broken
        self.user = uuid4().hex

    def session(self, name: str, **context: Any) -> Session[dict[str, Any]]:
        return paused(f"{name} of {self.user}", self.user, **context)

    async def register(self, name: str, scope: ReplyScope) -> Cas:
        return await self.near.register_wait(CTX, self.user, scope, self.session(name))

    async def claim(self, scope: ReplyScope, registry: Registry | None = None, **how: Any) -> Turn:
        return await (registry or self.far).claim(CTX, self.user, scope, **how)

    async def stored(self, name: str) -> Versioned[dict[str, Any]] | None:
        return await self._near.get(self.session(name).key, ctx=owner(self.user))

    async def token(self, name: str) -> Cas | None:
        found = await self.stored(name)
        return found and found.cas

    async def turns(self, name: str) -> list[object]:
        found = await self.stored(name)
        assert found is not None
        turns: list[object] = found.session.context.get("turns", [])
        assert len(found.session.outbox) == len(turns)
        return turns

    async def claimed(self, name: str) -> bool:
        record = f"{self._harness.config.namespace}:default:acme:{{{self.session(name).key}}}"
        return bool(await self._harness.client.read("HEXISTS", record, "lease"))

    async def assert_free(self, name: str) -> None:
        """Check that the wait is free, within a moment."""

        async def is_free() -> bool:
            return not await self.claimed(name)

        await until_async(is_free)

    async def assert_waiting(self, *, here: str = "", there: str = "") -> None:
        """Check the waiting sessions of the two chats, by lookup and by list."""
        for scope, name in ((HERE, here), (THERE, there)):
            key = await self.near.find_wait_by_scope(CTX, self.user, scope)
            assert key == (self.session(name).key if name else None)
        listed = {self.session(name).key for name in (here, there) if name}
        assert set(await self.near.list_waits_for_user(CTX, self.user)) == listed

    async def assert_known(self, scope: ReplyScope, event_id: str) -> None:
        for registry in (self.near, self.far):
            with pytest.raises(DuplicateEventError):
                await self.claim(scope, registry, event_id=event_id)


async def registering(scene: Scene) -> Play:
    with scene.broken():
        cas = await scene.far.register_wait(CTX, scene.user, HERE, scene.session("form"))
    assert cas.value == 1
    for _ in range(2):
        assert await scene.token("form") == cas
        await scene.assert_waiting(here="form")
        yield


async def registering_only_if_absent(scene: Scene) -> Play:
    with scene.broken():
        cas = await scene.far.register_wait(
            CTX, scene.user, HERE, scene.session("form"), expected=Cas.none()
        )
    assert cas.value == 1
    for _ in range(2):
        assert await scene.token("form") == cas
        await scene.assert_waiting(here="form")
        yield


async def registering_in_the_place_of_another(scene: Scene) -> Play:
    rival = await scene.register("rival", HERE)
    before = await scene.register("form", THERE)
    with scene.broken():
        cas = await scene.far.register_wait(
            CTX, scene.user, HERE, scene.session("form"), expected=before
        )
    assert cas == next_of(before)
    for _ in range(2):
        assert await scene.token("form") == cas
        assert await scene.token("rival") == rival
        await scene.assert_waiting(here="form")
        yield


async def claiming(scene: Scene) -> Play:
    before = await scene.register("form", HERE)
    with scene.broken():
        claim = await scene.claim(HERE, event_id="reply")
    assert claim.cas == next_of(before)
    for _ in range(2):
        assert await scene.token("form") == claim.cas
        await scene.assert_waiting(here="form")
        with pytest.raises(WaitClaimedError):
            await scene.claim(HERE, scene.near)
        yield
    # The turn belongs to the caller, although the grant's reply was lost.
    assert await claim.complete(answered(claim.session, "a turn")) == next_of(claim.cas)
    assert await scene.turns("form") == ["a turn"]


async def claiming_by_name(scene: Scene) -> Play:
    await scene.register("form", HERE)
    with scene.broken():
        claim = await scene.claim(HERE, attempt_id="worker 1")
    for _ in range(2):
        again = await scene.claim(HERE, scene.near, attempt_id="worker 1")
        assert (again.fence, again.cas) == (claim.fence, claim.cas)
        yield
    await claim.complete(answered(claim.session, "a turn"))
    assert await scene.turns("form") == ["a turn"]


async def claiming_what_another_holds(scene: Scene) -> Play:
    await scene.register("form", HERE)
    claim = await scene.claim(HERE, scene.near)
    with scene.broken(), pytest.raises(WaitClaimedError) as caught:
        await scene.claim(HERE)
    assert caught.value.until == claim.lease_until
    for _ in range(2):
        assert await scene.token("form") == claim.cas
        yield
    await claim.complete(claim.session)


async def claiming_what_is_over(scene: Scene) -> Play:
    await scene.register("form", HERE)
    claim = await scene.claim(HERE, scene.near, event_id="reply")
    await claim.complete(answered(claim.session, "a turn"))
    with scene.broken():
        with pytest.raises(DuplicateEventError):
            await scene.claim(HERE, event_id="reply")
        with pytest.raises(WaitNotFoundError):
            await scene.claim(HERE, event_id="another reply")
    for _ in range(2):
        assert await scene.turns("form") == ["a turn"]
        assert not await scene.claimed("form")
        yield


async def renewing(scene: Scene) -> Play:
    await scene.register("form", HERE)
    claim = await scene.claim(HERE)
    before = claim.lease_until
    with scene.broken():
        until = await claim.renew(60)
    assert before < until == claim.lease_until
    for _ in range(2):
        assert await scene.token("form") == claim.cas
        assert await scene.claimed("form")
        yield
    await claim.complete(claim.session)


async def saving(scene: Scene) -> Play:
    await scene.register("form", HERE)
    claim = await scene.claim(HERE)
    before = claim.cas
    with scene.broken():
        cas = await claim.save(answered(claim.session, "a draft"))
    assert cas == claim.cas == next_of(before)
    for _ in range(2):
        assert await scene.token("form") == cas
        assert await scene.turns("form") == ["a draft"]
        assert await scene.claimed("form")
        yield
    assert await claim.complete(answered(claim.session, "a turn")) == next_of(cas)


async def completing(scene: Scene) -> Play:
    await scene.register("form", HERE)
    claim = await scene.claim(HERE, event_id="reply")
    with scene.broken():
        cas = await claim.complete(answered(claim.session, "a turn"))
    assert cas == next_of(claim.cas)
    for _ in range(2):
        assert await scene.token("form") == cas
        assert await scene.turns("form") == ["a turn"]
        assert not await scene.claimed("form")
        await scene.assert_waiting()
        await scene.assert_known(HERE, "reply")
        yield


async def waiting_again_elsewhere(scene: Scene) -> Play:
    rival = await scene.register("rival", THERE)
    await scene.register("form", HERE)
    claim = await scene.claim(HERE, event_id="reply")
    with scene.broken():
        cas = await claim.wait_again(answered(claim.session, "a turn"), THERE)
    assert cas == next_of(claim.cas)
    for _ in range(2):
        assert await scene.token("form") == cas
        assert await scene.token("rival") == rival
        assert await scene.turns("form") == ["a turn"]
        assert not await scene.claimed("form")
        await scene.assert_waiting(there="form")
        await scene.assert_known(HERE, "reply")
        yield
    await (await scene.claim(THERE, event_id="reply")).complete(claim.session)


async def waiting_again_here(scene: Scene) -> Play:
    await scene.register("form", HERE)
    claim = await scene.claim(HERE, event_id="reply")
    with scene.broken():
        cas = await claim.wait_again(answered(claim.session, "a turn"), HERE)
    assert cas == next_of(claim.cas)
    for _ in range(2):
        assert await scene.token("form") == cas
        assert await scene.turns("form") == ["a turn"]
        assert not await scene.claimed("form")
        await scene.assert_waiting(here="form")
        await scene.assert_known(HERE, "reply")
        yield


async def finishing(scene: Scene) -> Play:
    await scene.register("form", HERE)
    claim = await scene.claim(HERE, event_id="reply")
    with scene.broken():
        await claim.finish()
    for _ in range(2):
        assert await scene.token("form") is None
        await scene.assert_waiting()
        await scene.assert_known(HERE, "reply")
        yield


async def releasing(scene: Scene) -> Play:
    await scene.register("form", HERE)
    claim = await scene.claim(HERE)
    with scene.broken():
        assert await claim.release()
    assert not await scene.claimed("form")
    assert await scene.token("form") == claim.cas
    other = await scene.claim(HERE, scene.near)
    assert other.fence > claim.fence
    yield
    assert await scene.claimed("form")  # the late request did not release another worker's claim
    await other.complete(answered(other.session, "a turn"))
    assert await scene.turns("form") == ["a turn"]


async def clearing(scene: Scene) -> Play:
    await scene.register("form", HERE)
    with scene.broken():
        assert await scene.far.clear_wait(CTX, scene.user, HERE)
    assert await scene.token("form") is None
    await scene.assert_waiting()
    cas = await scene.register("form", HERE)
    yield
    assert await scene.token("form") == cas  # nor did it clear a wait registered since
    await scene.assert_waiting(here="form")


async def clearing_nothing(scene: Scene) -> Play:
    with scene.broken():
        assert not await scene.far.clear_wait(CTX, scene.user, HERE)
    await scene.register("form", HERE)
    yield
    await scene.assert_waiting(here="form")


async def finding_and_listing(scene: Scene) -> Play:
    await scene.register("form", HERE)
    with scene.broken():
        assert await scene.far.find_wait_by_scope(CTX, scene.user, HERE) is not None
        assert await scene.far.find_wait_by_scope(CTX, scene.user, THERE) is None
        listed = await scene.far.list_waits_for_user(CTX, scene.user)
    assert listed == [scene.session("form").key]
    for _ in range(2):
        await scene.assert_waiting(here="form")
        yield


async def resuming(scene: Scene) -> Play:
    before = await scene.register("form", HERE)
    with scene.broken():
        async with scene.far.resume(CTX, scene.user, HERE, event_id="reply") as turn:
            await turn.complete(answered(turn.session, "a turn"))
    for _ in range(2):
        assert await scene.token("form") == next_of(next_of(before))
        assert await scene.turns("form") == ["a turn"]
        assert not await scene.claimed("form")
        await scene.assert_waiting()
        await scene.assert_known(HERE, "reply")
        yield


VERBS: Final[list[Callable[[Scene], Play]]] = [
    *(registering, registering_only_if_absent, registering_in_the_place_of_another),
    *(claiming, claiming_by_name, claiming_what_another_holds, claiming_what_is_over),
    *(renewing, saving, completing, waiting_again_elsewhere, waiting_again_here, finishing),
    *(releasing, clearing, clearing_nothing, finding_and_listing, resuming),
]


class Theatre:
    """Plays verbs, each with a user and a connection of its own."""

    def __init__(self, harness: RedisHarness, near: Store) -> None:
        self._harness = harness
        self._near = near

    @classmethod
    async def of(cls, harness: RedisHarness) -> Self:
        # The server has every script, so that each request executes one.
        for script in vars(scripts).values():
            if isinstance(script, Script):
                await harness.client.read("SCRIPT", "LOAD", script.source)
        return cls(harness, await harness.open())

    async def requests(self, verb: Callable[[Scene], Play]) -> int:
        """Return the number of requests that a verb sends."""
        async with self.stage(Fate.PASS, 0) as (scene, _, line):
            async for _ in verb(scene):
                pass
        return line.seen

    async def play(self, verb: Callable[[Scene], Play], fate: Fate, at: int) -> None:
        """Play the verb, and apply the fate to its request of that number."""
        async with self.stage(fate, at) as (scene, proxy, _):
            play = verb(scene)
            await anext(play)
            if fate is Fate.DELAY:
                await until(lambda: proxy.executed_late + proxy.never_executed == 1)
            async for _ in play:
                pass
            assert proxy.met[fate] == 1

    @asynccontextmanager
    async def stage(self, fate: Fate, at: int | str) -> AsyncIterator[tuple[Scene, Proxy, Line]]:
        line = Line(fate, at)
        namespace = self._harness.config.namespace
        async with (
            Proxy(self._harness.config.port, line, delay_secs=DELAY_SECS) as proxy,
            store_at(proxy.url, namespace=namespace, deadline=DEADLINE_SECS) as far,
        ):
            await far.ping()  # connected before the fault
            yield Scene(self._harness, self._near, far, line), proxy, line
            assert far.statistics().in_flight == 0


FATES: Final = tuple(fate for fate in Fate if fate is not Fate.PASS)


@pytest.mark.parametrize("fate", FATES, ids=lambda fate: fate.name.lower())
async def test_a_verb_is_done_once_and_answered_whichever_of_its_requests_meets_a_fault(
    harness: RedisHarness, fate: Fate, *, is_full_run: bool
) -> None:
    theatre = await Theatre.of(harness)
    cases = [(verb, at) for verb in VERBS for at in range(await theatre.requests(verb))]
    assert len(cases) > 40
    if not is_full_run:  # each request meets every other fate
        cases = cases[FATES.index(fate) % 2 :: 2]

    async def play(verb: Callable[[Scene], Play], at: int) -> str:
        try:
            await theatre.play(verb, fate, at)
        except Exception as error:  # noqa: BLE001 - all of them are shown below
            return f"{verb.__name__}, request {at}: {error!r}"
        return ""

    told = await asyncio.gather(*(play(*case) for case in cases))
    print(f"{len(cases)} requests met {fate.name}")  # noqa: T201 - pytest shows it with a failure
    failures = [failure for failure in told if failure]
    assert not failures, "\n".join(failures)
