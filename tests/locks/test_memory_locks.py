"""Tests of locks in memory: a clock that is set back, and a fair share of the event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.lowlevel
import pytest

from greentic_session import (
    InMemorySessionStore,
    LeaseLostError,
    LockHeldError,
    ManualClock,
    OutcomeUnknownError,
    StoreUnavailableError,
)
from greentic_session.abc.locks import LockOutcome, LockRef, LockRequest
from greentic_session.abc.records import DONE, Verdict
from greentic_session.memory.locks import MemoryLocks
from greentic_session.ordering import SessionInbox, SessionLocks

from ..support.redis import CTX, KEY, session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.anyio

POSITION_MS: Final = 400_000


class Rig:
    """Locks in memory, with a manual clock."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store: InMemorySessionStore[dict[str, Any]] = InMemorySessionStore(clock=self.clock)
        self.locks = SessionLocks(self.store)

    async def ask(self, token: str) -> LockOutcome:
        bid = LockRequest(LockRef("", KEY, token), token, 30_000, POSITION_MS, queues=True)
        return await self.store._lock_backend().call().acquire(bid)


async def test_a_lock_that_was_given_back_is_open_though_the_clock_is_set_back() -> None:
    rig = Rig()
    async with rig.locks.hold(KEY) as lease:
        for token in ("b", "c"):
            assert (await rig.ask(token)).verdict is Verdict.CLAIMED
    rig.clock.set_ms(rig.clock.now_ms() - 5000)
    with pytest.raises(LeaseLostError):
        await rig.store.put(session(), fence=lease)
    told = await rig.ask("c")
    assert (told.lease_ms, told.left_ms) == (rig.clock.now_ms(), POSITION_MS // 4)
    taken = await rig.ask("b")
    assert taken.verdict is DONE
    assert taken.fence > lease.fence


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def try_hold(rig: Rig) -> None:
    async with rig.locks.try_hold(KEY) as lease:
        assert lease is None


async def hold(rig: Rig) -> None:
    with pytest.raises(LockHeldError):
        await rig.locks.hold(KEY, wait=0).__aenter__()


async def take(rig: Rig) -> None:
    async with SessionInbox(rig.store, CTX).take("w", wait=0) as turn:
        assert turn is None


@pytest.mark.parametrize("ask", [try_hold, hold, take], ids=lambda ask: ask.__name__)
async def test_a_caller_that_polls_lets_other_tasks_run(
    ask: Callable[[Rig], Awaitable[None]],
) -> None:
    rig = Rig()
    others = 0

    async def go_by() -> None:
        nonlocal others
        while True:
            others += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks, rig.locks.hold(KEY):
        tasks.start_soon(go_by)
        for _ in range(10):
            await ask(rig)
        assert others >= 9
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("verb", ["hold", "take"])
async def test_a_store_that_closes_meanwhile_grants_nothing(verb: str) -> None:
    rig = Rig()
    inbox = SessionInbox(rig.store, CTX)
    await inbox.admit(KEY, "event", b"")
    refused = 0

    async def ask() -> None:
        nonlocal refused
        asked = rig.locks.hold(KEY) if verb == "hold" else inbox.take("w")
        with pytest.raises(StoreUnavailableError, match="closed"):
            await asked.__aenter__()
        refused += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await anyio.lowlevel.checkpoint()
        await rig.store.aclose()
    assert refused == 1
    assert rig.store.statistics().locks == 0


async def test_a_release_that_is_called_again_after_a_lost_reply_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig()
    backend = rig.store._lock_backend().call()
    released = backend.release

    async def lose_reply(ref: LockRef, lease_ms: int) -> bool:
        await released(ref, lease_ms)
        raise OutcomeUnknownError("the reply was lost")

    async with rig.locks.hold(KEY, 30) as lease:
        with monkeypatch.context() as patched:
            patched.setattr(MemoryLocks, "release", lambda _, *given: lose_reply(*given))
            with pytest.raises(OutcomeUnknownError):
                await lease.release()
        assert await lease.release()
