"""Tests of calls on waits that are cancelled at any step: done or not, and nothing is left."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from greentic_session import LeaseLostError, WaitClaimedError
from greentic_session.testing.harness import RedisHarness

from ..support.redis import next_of, store_at, until, until_async
from ..support.redis_proxy import Fate, Line
from ..support.waits import CTX, answered
from .test_wait_faults import HERE, THERE, Scene

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator

    from ..support.waits import Store

    Call = Callable[[], Awaitable[object]]
    Play = AsyncGenerator[Call, bool]
    """Yields a call, gets whether it was cancelled, and checks its effects."""

pytestmark = pytest.mark.anyio


@pytest.fixture
async def harness(valkey_url: str) -> AsyncIterator[RedisHarness]:
    async with RedisHarness(valkey_url) as harness:
        yield harness


# --- how to cancel --------------------------------------------------------------------------------


class CancelledWithin:
    """Awaits something, and has its task cancelled at the n-th suspension.

    :param at: number of the suspension, from 0.
    :param answered: cancel only when the awaited result is there, in the same step of the loop.
    """

    def __init__(self, awaited: Awaitable[object], at: int, *, answered: bool) -> None:
        self._awaited = awaited
        self._at = at
        self._answered = answered

    def __await__(self) -> Generator[Any, Any, object]:
        inner = self._awaited.__await__()
        step: Callable[[Any], Any] = inner.send
        value: Any = None
        number = 0
        while True:
            try:
                future = step(value)
            except StopIteration as stop:
                return stop.value
            if number == self._at:
                self._arrange(future)
            number += 1
            try:
                value, step = (yield future), inner.send
            except BaseException as error:  # noqa: BLE001 - handed on
                value, step = error, inner.throw

    def _arrange(self, future: asyncio.Future[object] | None) -> None:
        task = asyncio.current_task()
        assert task is not None
        if future is not None and self._answered:
            future.add_done_callback(lambda _: task.cancel())
        else:
            asyncio.get_running_loop().call_soon(task.cancel)


async def cancelled_while_waiting(call: Call, at: int) -> bool:
    return await ended(asyncio.ensure_future(CancelledWithin(call(), at, answered=False)))


async def cancelled_with_the_answer(call: Call, at: int) -> bool:
    return await ended(asyncio.ensure_future(CancelledWithin(call(), at, answered=True)))


async def cancelled_after_steps(call: Call, at: int) -> bool:
    task = asyncio.ensure_future(call())
    for _ in range(at):
        await asyncio.sleep(0)
    task.cancel()
    return await ended(task)


async def ended(task: asyncio.Future[object]) -> bool:
    """Return whether the task was cancelled. A cancellation is never swallowed or replaced."""
    asked = False

    def watch() -> None:
        nonlocal asked
        asked = isinstance(task, asyncio.Task) and task.cancelling() > 0

    async with asyncio.timeout(10):
        await asyncio.wait([task])
    watch()
    assert task.cancelled() is asked
    if not task.cancelled():
        task.result()
    return task.cancelled()


WAYS: Final = [cancelled_while_waiting, cancelled_with_the_answer, cancelled_after_steps]


# --- what is cancelled ----------------------------------------------------------------------------


async def registering(scene: Scene) -> Play:
    yield lambda: scene.far.register_wait(CTX, scene.user, HERE, scene.session("form"))
    written = await scene.token("form")
    await scene.assert_waiting(here="form" if written else "")
    again = await scene.register("form", HERE)
    assert again.value == (2 if written else 1)
    await scene.assert_waiting(here="form")


async def registering_in_the_place_of_another(scene: Scene) -> Play:
    rival = await scene.register("rival", HERE)
    before = await scene.register("form", THERE)
    yield lambda: scene.far.register_wait(
        CTX, scene.user, HERE, scene.session("form"), expected=before
    )
    assert await scene.token("rival") == rival
    written = await scene.token("form")
    assert written in (before, next_of(before))
    if written == before:
        await scene.assert_waiting(here="rival", there="form")
    else:
        await scene.assert_waiting(here="form")


async def claiming(scene: Scene) -> Play:
    before = await scene.register("form", HERE)
    was_cancelled = yield lambda: scene.claim(HERE, event_id="reply")
    if not was_cancelled:
        return
    await scene.assert_free("form")
    assert await scene.token("form") in (before, next_of(before))
    claim = await scene.claim(HERE, scene.near, event_id="reply")
    await claim.complete(answered(claim.session, "a turn"))
    assert await scene.turns("form") == ["a turn"]


async def claiming_by_name(scene: Scene) -> Play:
    await scene.register("form", HERE)
    yield lambda: scene.claim(HERE, attempt_id="worker 1")
    # The caller can retry, and another caller gets the true state.
    if await scene.claimed("form"):
        with pytest.raises(WaitClaimedError):
            await scene.claim(HERE, scene.near)
    claim = await scene.claim(HERE, scene.near, attempt_id="worker 1")
    await claim.complete(answered(claim.session, "a turn"))


async def completing(scene: Scene) -> Play:
    await scene.register("form", HERE)
    claim = await scene.claim(HERE, event_id="reply")
    session = answered(claim.session, "a turn")
    yield lambda: claim.complete(session)
    if await scene.turns("form"):
        with pytest.raises(LeaseLostError):
            await claim.complete(session)
        assert await scene.token("form") == next_of(claim.cas)
    else:
        assert await scene.token("form") == claim.cas
        with pytest.raises(WaitClaimedError):
            await scene.claim(HERE, scene.near)
        assert await claim.complete(session) == next_of(claim.cas)
    assert await scene.turns("form") == ["a turn"]
    await scene.assert_free("form")
    await scene.assert_waiting()
    await scene.assert_known(HERE, "reply")


async def waiting_again(scene: Scene) -> Play:
    await scene.register("form", HERE)
    claim = await scene.claim(HERE, event_id="reply")
    session = answered(claim.session, "a turn")
    yield lambda: claim.wait_again(session, THERE)
    if await scene.turns("form"):
        assert await scene.token("form") == next_of(claim.cas)
        with pytest.raises(LeaseLostError):
            await claim.complete(session)
    else:
        assert await scene.token("form") == claim.cas
        await scene.assert_waiting(here="form")
        assert await claim.wait_again(session, THERE) == next_of(claim.cas)
    assert await scene.turns("form") == ["a turn"]
    await scene.assert_free("form")
    await scene.assert_waiting(there="form")
    await scene.assert_known(HERE, "reply")


async def finishing(scene: Scene) -> Play:
    await scene.register("form", HERE)
    claim = await scene.claim(HERE, event_id="reply")
    yield claim.finish
    if await scene.token("form"):
        await scene.assert_waiting(here="form")
        await claim.finish()
    else:
        with pytest.raises(LeaseLostError):
            await claim.finish()
    assert await scene.token("form") is None
    await scene.assert_waiting()
    await scene.assert_known(HERE, "reply")


async def saving(scene: Scene) -> Play:
    await scene.register("form", HERE)
    claim = await scene.claim(HERE)
    before = claim.cas
    yield lambda: claim.save(answered(claim.session, "a draft"))
    encoded = await scene.turns("form")
    assert await scene.token("form") == (next_of(before) if encoded else before)
    with pytest.raises(WaitClaimedError):
        await scene.claim(HERE, scene.near)
    assert await claim.release()
    await scene.assert_free("form")


async def renewing(scene: Scene) -> Play:
    await scene.register("form", HERE)
    claim = await scene.claim(HERE)
    yield lambda: claim.renew(60)
    await claim.renew(90)
    assert await claim.complete(claim.session) == next_of(claim.cas)


async def releasing(scene: Scene) -> Play:
    await scene.register("form", HERE)
    claim = await scene.claim(HERE)
    yield claim.release
    was_held = await scene.claimed("form")
    # A released claim is no longer held, and a retry gets that answer.
    assert await claim.release() is (was_held and not claim.ended) or claim.ended
    await scene.assert_free("form")
    assert await scene.token("form") == claim.cas
    await scene.assert_waiting(here="form")


async def clearing(scene: Scene) -> Play:
    cas = await scene.register("form", HERE)
    yield lambda: scene.far.clear_wait(CTX, scene.user, HERE)
    left = await scene.token("form")
    assert left in (None, cas)
    await scene.assert_waiting(here="form" if left else "")
    assert await scene.near.clear_wait(CTX, scene.user, HERE) is (left is not None)
    await scene.assert_waiting()


async def resuming(scene: Scene) -> Play:
    before = await scene.register("form", HERE)

    async def turn() -> None:
        async with scene.far.resume(CTX, scene.user, HERE, event_id="reply") as turn:
            await turn.renew()
            await turn.complete(answered(turn.session, "a turn"))

    yield turn
    await scene.assert_free("form")
    if await scene.turns("form"):
        assert await scene.token("form") == next_of(next_of(before))
        await scene.assert_waiting()
        await scene.assert_known(HERE, "reply")
    else:
        await scene.assert_waiting(here="form")
        claim = await scene.claim(HERE, scene.near, event_id="reply")
        await claim.complete(answered(claim.session, "a turn"))
    assert await scene.turns("form") == ["a turn"]


async def leaving_a_turn_open(scene: Scene) -> Play:
    await scene.register("form", HERE)

    async def turn() -> None:
        async with scene.far.resume(CTX, scene.user, HERE, event_id="reply"):
            pass

    yield turn
    await scene.assert_free("form")
    await scene.assert_waiting(here="form")


VERBS: Final[list[Callable[[Scene], Play]]] = [
    *(registering, registering_in_the_place_of_another, claiming, claiming_by_name),
    *(completing, waiting_again, finishing, saving, renewing, releasing, clearing),
    *(resuming, leaving_a_turn_open),
]


def no_more_than(tasks: set[asyncio.Task[Any]]) -> bool:
    return asyncio.all_tasks() <= tasks


class Rehearsal:
    """Plays a verb repeatedly, each time cancelled a little later."""

    def __init__(self, harness: RedisHarness, near: Store, far: Store, *, connected: bool) -> None:
        self._harness = harness
        self._near = near
        self._far = far
        self._connected = connected

    async def play(self, verb: Callable[[Scene], Play], way: Callable[..., Awaitable[bool]]) -> int:
        """Return the number of cancellations before the verb completed."""
        at = cancelled = 0
        with anyio.fail_after(30):
            while True:
                tasks = asyncio.all_tasks()
                scene = Scene(self._harness, self._near, self._far, Line(Fate.PASS, 0))
                play = verb(scene)
                call = await anext(play)
                if not self._connected:
                    kill = ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                    await self._harness.client.read(*kill)
                was_cancelled = await way(call, at)
                await until(partial(no_more_than, tasks))
                await self._nothing_is_on_its_way()
                with suppress(StopAsyncIteration):
                    await play.asend(was_cancelled)
                if not was_cancelled:
                    return cancelled
                cancelled += 1
                at += 1 + at // 50  # each of the first ones, and most of those after

    async def _nothing_is_on_its_way(self) -> None:
        """Wait until the server has finished with abandoned connections."""
        assert self._far.statistics().in_flight == 0

        async def is_so() -> bool:
            known = self._near.statistics().connections + self._far.statistics().connections
            clients = await self._harness.client.read("CLIENT", "LIST")
            return len(clients.splitlines()) <= known + self._harness.client.connections

        await until_async(is_so)


@pytest.mark.parametrize("connected", [True, False], ids=["connected", "unconnected"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
async def test_a_verb_that_is_cancelled_is_done_or_not(
    harness: RedisHarness,
    verb: Callable[[Scene], Play],
    way: Callable[[Call, int], Awaitable[bool]],
    *,
    connected: bool,
) -> None:
    url, namespace = f"unix://{harness.config.unix_path}", harness.config.namespace
    near = await harness.open()
    async with store_at(url, namespace=namespace, max_connections=2) as far:
        await asyncio.gather(near.ping(), far.ping())
        cancelled = await Rehearsal(harness, near, far, connected=connected).play(verb, way)
        assert far.statistics().connections <= 2
    print(f"cancelled {cancelled} times")  # noqa: T201 - pytest shows it with a failure
    assert cancelled >= (1 if connected else 2)
