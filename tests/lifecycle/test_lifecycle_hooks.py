"""Tests of a session's hooks: which are called, and that each runs to completion."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextvars import ContextVar
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.lowlevel import checkpoint

from greentic_session import ManualClock, SessionKey
from greentic_session.ordering import (
    LifecycleHooks,
    LifecycleLimits,
    SessionLifecycle,
    SessionMetrics,
)
from greentic_session.ordering.lifecycle import hooks
from tests.support.dispatcher import both, until
from tests.support.lifecycle import A, B, Diary, make

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from typing import Any

    Call = Callable[[], Coroutine[Any, Any, object]]  # Any: what a coroutine yields and is sent
    Cancel = Callable[[Call, "Slow"], Awaitable[None]]

pytestmark = pytest.mark.anyio


@both
async def test_each_hook_is_called_at_its_moment() -> None:
    diary = Diary()
    lifecycle, clock = make(diary, messages=1)
    for key in ("idle", "full", "old", "stopped"):
        await lifecycle.start(SessionKey(key))
    lifecycle.record_message(SessionKey("full"))
    assert await lifecycle.stop(SessionKey("stopped"))
    assert not await lifecycle.stop(SessionKey("stopped"))
    await lifecycle.close_due()
    clock.advance(1800)
    lifecycle.touch(SessionKey("old"))
    await lifecycle.close_due()
    lifecycle.begin_work(SessionKey("old"))
    clock.advance(5400)
    lifecycle.end_work(SessionKey("old"))
    await lifecycle.close_due()
    assert diary.names()[4:] == [
        "close stopped",
        "expire full",
        "close full",
        "idle idle",
        "expire idle",
        "close idle",
        "expire old",
        "close old",
    ]
    assert {told.key: told.closed for name, told in diary.told if name == "close"} == {
        "stopped": "stopped",
        "full": "messages",
        "idle": "idle",
        "old": "duration",
    }
    assert lifecycle.metrics().closed == {"stopped": 1, "messages": 1, "idle": 1, "duration": 1}


@both
async def test_a_hook_that_fails_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_: SessionMetrics) -> None:
        raise ValueError

    clock = ManualClock()
    hooks = LifecycleHooks(on_start=fail, on_idle=fail, on_expire=fail, on_close=fail)
    lifecycle = SessionLifecycle(hooks=hooks, clock=clock)
    await lifecycle.start(A)
    await lifecycle.start(B)
    clock.advance(1800)
    assert await lifecycle.close_due() == [(A, "idle"), (B, "idle")]
    assert [record.getMessage() for record in caplog.records] == [
        f"the hook {name} failed"
        for name in ("on_start", "on_start", *(("on_idle", "on_expire", "on_close") * 2))
    ]


@both
async def test_two_that_close_at_once_close_each_session_once() -> None:
    diary = Diary()
    lifecycle, clock = make(diary)
    for number in range(20):
        await lifecycle.start(SessionKey(f"k{number}"))
    clock.advance(1800)
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(lifecycle.close_due)
    closed = Counter(told.key for name, told in diary.told if name == "close")
    assert closed == {f"k{number}": 1 for number in range(20)}


@both
async def test_what_becomes_active_while_others_are_closed_stays() -> None:
    async def touch_b(_: SessionMetrics) -> None:
        lifecycle.touch(B)

    clock = ManualClock()
    lifecycle = SessionLifecycle(hooks=LifecycleHooks(on_close=touch_b), clock=clock)
    await lifecycle.start(A)
    await lifecycle.start(B)
    clock.advance(1800)
    assert await lifecycle.close_due() == [(A, "idle")]
    assert B in lifecycle


# --- callers that are cancelled -------------------------------------------------------------------


class Slow:
    """Hooks that take time, and record their ends."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.let_go = anyio.Event()

    def hook(self, name: str) -> Callable[[SessionMetrics], Awaitable[None]]:
        async def hook(told: SessionMetrics) -> None:
            self.begun.append(f"{name} {told.key}")
            await self.let_go.wait()
            await checkpoint()
            self.ended.append(f"{name} {told.key}")

        return hook

    async def lifecycle(self) -> SessionLifecycle:
        """Return one of two sessions that are due."""
        clock = ManualClock()
        lifecycle = SessionLifecycle(
            LifecycleLimits(idle_secs=60, stalled_secs=60),
            hooks=LifecycleHooks(
                on_idle=self.hook("idle"),
                on_stalled=self.hook("stalled"),
                on_expire=self.hook("expire"),
                on_close=self.hook("close"),
            ),
            clock=clock,
        )
        await lifecycle.start(A)
        await lifecycle.start(B)
        clock.advance(60)
        return lifecycle


async def _cancel_by_scope(call: Call, slow: Slow) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await until(lambda: len(slow.begun) == 1)
        group.cancel_scope.cancel()
        await _let_go(slow)


async def _cancel_by_task(call: Call, slow: Slow) -> None:
    task = asyncio.ensure_future(call())
    await until(lambda: len(slow.begun) == 1)
    task.cancel()
    await _let_go(slow)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert slow.ended


async def _cancel_by_task_again(call: Call, slow: Slow) -> None:
    """A caller that is cancelled again no longer waits, but the hooks continue."""
    task = asyncio.ensure_future(call())
    await until(lambda: len(slow.begun) == 1)
    while not task.done():
        task.cancel()
        await checkpoint()
    await _let_go(slow)


async def _let_go(slow: Slow) -> None:
    with anyio.CancelScope(shield=True):
        for _ in range(3):
            await checkpoint()
        slow.let_go.set()


cancelled = pytest.mark.parametrize(
    ("anyio_backend", "cancel"),
    [
        ("asyncio", _cancel_by_scope),
        ("asyncio", _cancel_by_task),
        ("asyncio", _cancel_by_task_again),
        ("trio", _cancel_by_scope),
    ],
)


@cancelled
async def test_the_hooks_of_a_closed_session_end_if_their_caller_is_cancelled(
    cancel: Cancel,
) -> None:
    slow = Slow()
    lifecycle = await slow.lifecycle()
    await cancel(lifecycle.close_due, slow)
    await until(lambda: slow.ended == ["idle a", "expire a", "close a"])
    assert A not in lifecycle
    assert lifecycle.metrics().closed == {"idle": 1}
    assert lifecycle.due() == [(B, "idle")]
    assert await lifecycle.close_due() == [(B, "idle")]
    assert slow.ended[3:] == ["idle b", "expire b", "close b"]


@cancelled
async def test_the_hook_of_a_stopped_session_ends_if_its_caller_is_cancelled(
    cancel: Cancel,
) -> None:
    slow = Slow()
    lifecycle = await slow.lifecycle()
    await cancel(lambda: lifecycle.stop(A), slow)
    await until(lambda: slow.ended == ["close a"])


@cancelled
async def test_a_stall_is_told_of_if_the_caller_is_cancelled(cancel: Cancel) -> None:
    slow = Slow()
    lifecycle = await slow.lifecycle()
    lifecycle.begin_work(A)
    clock = lifecycle._clock
    assert isinstance(clock, ManualClock)
    clock.advance(60)
    await cancel(lifecycle.close_due, slow)
    await until(lambda: slow.ended == ["stalled a"])
    assert lifecycle.due() == [(B, "idle")]


@both
async def test_a_hook_that_does_not_end_is_cancelled_in_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hooks, "_CLOSE_TIMEOUT_SECS", 0.01)

    async def hang(_: SessionMetrics) -> None:
        scope.cancel()
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("hang")

    ended: list[str] = []
    clock = ManualClock()
    lifecycle = SessionLifecycle(hooks=LifecycleHooks(on_expire=hang, on_close=hang), clock=clock)
    await lifecycle.start(A)
    await lifecycle.start(B)
    clock.advance(1800)
    with anyio.CancelScope() as scope:
        await lifecycle.close_due()
    assert scope.cancelled_caught
    assert ended == ["hang"]
    assert A not in lifecycle
    assert lifecycle.due() == [(B, "idle")]
    (logged,) = caplog.records
    assert "cancelled" in logged.getMessage()


# --- errors of hooks ------------------------------------------------------------------------------


class OddError(BaseException):
    """An error that is no ``Exception``."""


@both
@pytest.mark.parametrize("kind", [OddError, asyncio.CancelledError])
async def test_whatever_a_hook_raises_stops_nothing(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    closed: list[SessionKey] = []

    async def fail(_: SessionMetrics) -> None:
        raise kind

    async def close(told: SessionMetrics) -> None:
        closed.append(told.key)

    clock = ManualClock()
    lifecycle = SessionLifecycle(
        hooks=LifecycleHooks(on_start=fail, on_expire=fail, on_close=close), clock=clock
    )
    await lifecycle.start(A)
    await lifecycle.start(B)
    clock.advance(1800)
    assert await lifecycle.close_due() == [(A, "idle"), (B, "idle")]
    assert closed == [A, B]
    assert len(caplog.records) == 4


@both
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
async def test_an_exit_in_a_hook_is_the_callers(kind: type[BaseException]) -> None:
    async def leave(_: SessionMetrics) -> None:
        raise kind

    lifecycle = SessionLifecycle(hooks=LifecycleHooks(on_close=leave))
    await lifecycle.start(A)
    with pytest.raises(kind):
        await lifecycle.stop(A)
    assert A not in lifecycle


@both
async def test_hooks_see_the_callers_context() -> None:
    whose: ContextVar[str] = ContextVar("whose", default="nobody's")
    seen: list[str] = []

    async def look(_: SessionMetrics) -> None:
        seen.append(whose.get())

    lifecycle = SessionLifecycle(hooks=LifecycleHooks(on_start=look, on_close=look))
    whose.set("the caller's")
    await lifecycle.start(A)
    await lifecycle.stop(A)
    assert seen == ["the caller's"] * 2
