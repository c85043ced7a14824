"""Tests of lock calls that are cancelled at any step: nothing is held, queued or left running."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from greentic_session import LockHeldError
from greentic_session.abc.locks import SupportsLocks
from greentic_session.ordering import SessionLocks
from greentic_session.testing.harness import MemoryHarness, RedisHarness

from ..support.redis import KEY, session, store_at, until, until_async
from ..waits.test_wait_cancellation import WAYS, no_more_than

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from greentic_session import AsyncSessionStore
    from greentic_session.testing.harness import StoreHarness

    Store = AsyncSessionStore[Any]
    Call = Callable[[], Awaitable[object]]
    Play = AsyncGenerator[Call, bool]
    """Yields a call, gets whether it was cancelled, and checks its effects."""

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "valkey"])
async def harness(request: pytest.FixtureRequest, valkey_url: str) -> AsyncIterator[StoreHarness]:
    if request.param == "memory":
        async with MemoryHarness() as memory:
            yield memory
    else:
        async with RedisHarness(valkey_url) as server:
            yield server


class Scene:
    """A lock, its remote client with faults, and a local observer."""

    def __init__(self, near: Store, far: Store) -> None:
        self.far_store = far
        self.near, self.far = SessionLocks(near), SessionLocks(far)


async def holding(scene: Scene) -> Play:
    async def turn() -> None:
        async with scene.far.hold(KEY):
            await asyncio.sleep(0)

    yield turn


async def trying(scene: Scene) -> Play:
    async def turn() -> None:
        async with scene.far.try_hold(KEY) as lease:
            assert lease is not None

    yield turn


async def working(scene: Scene) -> Play:
    async def turn() -> None:
        async with scene.far.hold(KEY) as lease:
            cas = await scene.far_store.put(session(), fence=lease)
            await lease.renew()
            await scene.far_store.update_cas(session(), cas, fence=lease)

    yield turn


async def releasing(scene: Scene) -> Play:
    async with scene.far.hold(KEY) as lease:
        yield lease.release
        # A caller that missed the reply gets it on a retry.
        assert lease.ended or await lease.release() is True


async def finding_it_held(scene: Scene) -> Play:
    async with scene.near.hold(KEY):

        async def turn() -> None:
            with suppress(LockHeldError):
                async with scene.far.hold(KEY, wait=0):
                    raise AssertionError("two hold the lock")

        yield turn


async def waiting_in_vain(scene: Scene) -> Play:
    async with scene.near.hold(KEY) as lease:

        async def turn() -> None:
            with suppress(LockHeldError):
                async with scene.far.hold(KEY, wait=0.002):
                    raise AssertionError("two hold the lock")

        yield turn
        assert await lease.release()  # and no waiter is left to get it


async def waiting_with_success(scene: Scene) -> Play:
    holder = scene.near.hold(KEY)
    lease = await holder.__aenter__()

    async def turn() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(lease.release())
            async with scene.far.hold(KEY):
                pass

    yield turn
    await holder.__aexit__(None, None, None)


async def looking(scene: Scene) -> Play:
    async with scene.near.hold(KEY):
        yield partial(scene.far.holder, KEY)
    assert await scene.far.holder(KEY) is None


PLAYS: Final[list[Callable[[Scene], Play]]] = [
    *(holding, trying, working, releasing),
    *(finding_it_held, waiting_in_vain, waiting_with_success, looking),
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("verb", PLAYS, ids=lambda verb: verb.__name__)
async def test_a_caller_that_is_cancelled_leaves_nothing(
    harness: StoreHarness,
    verb: Callable[[Scene], Play],
    way: Callable[[Call, int], Awaitable[bool]],
) -> None:
    near = await harness.open()
    if isinstance(harness, RedisHarness):
        url, namespace = f"unix://{harness.config.unix_path}", harness.config.namespace
        async with store_at(url, namespace=namespace) as far:
            # The connection for notifications stays for a while without subscribers.
            async with _bell(far):
                pass
            await play_until_it_ends(harness, Scene(near, far), verb, way)
    else:
        await play_until_it_ends(harness, Scene(near, near), verb, way)


async def play_until_it_ends(
    harness: StoreHarness,
    scene: Scene,
    verb: Callable[[Scene], Play],
    way: Callable[[Call, int], Awaitable[bool]],
) -> None:
    at = cancelled = 0
    with anyio.fail_after(30):
        while True:
            tasks = asyncio.all_tasks()
            play = verb(scene)
            call = await anext(play)
            was_cancelled = await way(call, at)
            with suppress(StopAsyncIteration):
                await play.asend(was_cancelled)
            # The work of a cancelled caller continues for a moment in the background.
            await until(partial(no_more_than, tasks))
            assert scene.near.held() == scene.far.held() == ()
            await until_async(partial(_is_free, harness))
            async with scene.near.try_hold(KEY) as lease:
                assert lease is not None
            if not was_cancelled:
                break
            cancelled += 1
            at += 1 + at // 50  # each of the first ones, and most of those after
    print(f"cancelled {cancelled} times")  # noqa: T201 - pytest shows it with a failure


async def _is_free(harness: StoreHarness) -> bool:
    return not [name for name in await harness.residue() if "lock" in name]


def _bell(store: Store) -> Any:
    assert isinstance(store, SupportsLocks)
    return store._lock_backend().subscribe("no lock")
