"""Tests of waiting for a lock while the store is unreachable: as long as the queue position lasts.

The tests run on trio with a clock that jumps to the next event, so times are exact.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest
from trio.testing import MockClock

from greentic_session import (
    InMemorySessionStore,
    LockHeldError,
    OutcomeUnknownError,
    SessionError,
    StoreFullError,
    StoreUnavailableError,
)
from greentic_session.abc.locks import LockOutcome, LockRef, LockRequest
from greentic_session.abc.records import DONE, Verdict
from greentic_session.memory.locks import MemoryLocks
from greentic_session.ordering import SessionLocks

from ..support.redis import KEY

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio

PLACE_SECS: Final = 10.0
CALL_SECS: Final = 2.0
"""Time in seconds after which an unreachable store fails a call."""
FOREVER_MS: Final = 10**9
PASSING: Final[dict[str, Callable[[], SessionError]]] = {
    "away": lambda: StoreUnavailableError("away"),
    "silent": lambda: StoreUnavailableError("silent", code="timeout"),
    "unknown": lambda: OutcomeUnknownError("silent"),
}
LASTING: Final[dict[str, Callable[[], SessionError]]] = {
    "denied": lambda: StoreUnavailableError("no", code="permission_denied"),
    "stranger": lambda: StoreUnavailableError("who?", code="unauthenticated"),
    "garbled": lambda: StoreUnavailableError("what?", code="internal"),
    "full": StoreFullError,
}


@pytest.fixture
def anyio_backend() -> object:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class LoopClock:
    """The loop's time as the store's clock."""

    def now_ms(self) -> int:
        return round(anyio.current_time() * 1000)


class Rig:
    """A held lock, on a store that may be unreachable."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store: InMemorySessionStore[dict[str, Any]] = InMemorySessionStore(clock=LoopClock())
        self.locks = SessionLocks(self.store, place=PLACE_SECS)
        self.began_at = anyio.current_time()
        self.failing: Callable[[], SessionError] | None = None
        self.failed: list[float] = []
        step = MemoryLocks.acquire

        async def lock(steps: MemoryLocks, bid: LockRequest) -> LockOutcome:
            failing = self.failing
            if failing is not None and bid.name != "bare":
                await anyio.sleep(CALL_SECS)
                self.failed.append(self.secs)
                raise failing()
            return await step(steps, bid)

        monkeypatch.setattr(MemoryLocks, "acquire", lock)

    @property
    def secs(self) -> float:
        """Return the time since its start, in seconds."""
        return anyio.current_time() - self.began_at

    async def ask(self, token: str) -> LockOutcome:
        position_ms = round(PLACE_SECS * 1000)
        bid = LockRequest(LockRef("", KEY, token), "bare", FOREVER_MS, position_ms, queues=True)
        return await self.store._lock_backend().call().acquire(bid)

    async def leave(self, token: str) -> None:
        await self.store._lock_backend().call().release(LockRef("", KEY, token), 0)

    async def fail_from(self, secs: float, error: Callable[[], SessionError]) -> None:
        await anyio.sleep_until(self.began_at + secs)
        self.failing = error


@pytest.mark.parametrize("error", PASSING)
async def test_a_waiting_caller_keeps_its_place_while_the_server_is_away(
    monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    rig = Rig(monkeypatch)
    assert (await rig.ask("holder")).verdict is DONE
    served: list[str] = []

    async def wait() -> None:
        async with rig.locks.hold(KEY):
            served.append("first")
            assert (await rig.ask("later")).verdict is Verdict.CLAIMED

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await rig.fail_from(1, PASSING[error])
        assert (await rig.ask("later")).verdict is Verdict.CLAIMED
        await anyio.sleep_until(rig.began_at + 7)
        assert rig.failed == pytest.approx([4])
        rig.failing = None
        await rig.leave("holder")
    assert served == ["first"]


@pytest.mark.parametrize("error", PASSING)
async def test_it_gives_up_when_its_place_may_have_lapsed(
    monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    rig = Rig(monkeypatch)
    await rig.ask("holder")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rig.fail_from, 3, PASSING[error])
        with pytest.raises(type(PASSING[error]())):
            await rig.locks.hold(KEY).__aenter__()
    # It had a reply after a fifth of its position's lifetime.
    assert rig.failed == pytest.approx([6, 10, 14])


async def test_it_waits_no_longer_than_it_will(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch)
    await rig.ask("holder")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rig.fail_from, 1, PASSING["away"])
        with pytest.raises(StoreUnavailableError):
            await rig.locks.hold(KEY, wait=5).__aenter__()
    assert rig.secs == pytest.approx(5 + CALL_SECS)


async def test_what_passes_in_time_is_not_felt(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch)
    await rig.ask("holder")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rig.fail_from, 1, PASSING["away"])

        async def recover() -> None:
            await anyio.sleep(3)
            rig.failing = None

        tasks.start_soon(recover)
        with pytest.raises(LockHeldError):
            await rig.locks.hold(KEY, wait=5).__aenter__()
    assert rig.failed == pytest.approx([4])
    assert rig.secs == pytest.approx(5)


@pytest.mark.parametrize("error", LASTING)
async def test_what_does_not_pass_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    rig = Rig(monkeypatch)
    await rig.ask("holder")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rig.fail_from, 1, LASTING[error])
        with pytest.raises(type(LASTING[error]())):
            await rig.locks.hold(KEY).__aenter__()
    assert rig.failed == pytest.approx([4])


@pytest.mark.parametrize("error", PASSING)
async def test_a_store_that_closes_does_not_pass(
    monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    rig = Rig(monkeypatch)
    await rig.ask("holder")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rig.fail_from, 1, PASSING[error])

        async def close() -> None:
            await anyio.sleep(3)  # a call is in progress
            await rig.store.aclose()

        tasks.start_soon(close)
        with pytest.raises(StoreUnavailableError, match="the store is closed"):
            await rig.locks.hold(KEY).__aenter__()
    assert rig.failed == pytest.approx([4])


@pytest.mark.parametrize("error", PASSING)
async def test_a_caller_that_does_not_wait_yet_gets_the_error_at_once(
    monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    rig = Rig(monkeypatch)
    rig.failing = PASSING[error]
    with suppress(SessionError):
        await rig.locks.hold(KEY).__aenter__()
    assert rig.failed == pytest.approx([CALL_SECS])
