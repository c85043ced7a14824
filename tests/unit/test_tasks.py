"""Tests of background tasks: their start, their cancellation, and waiting for them."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from greentic_session._core.tasks import run_to_completion, start_background

pytestmark = pytest.mark.anyio
PATIENCE_SECS = 20

both = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])


@both
async def test_a_background_task_begins_at_its_time() -> None:
    began = anyio.Event()
    began_at: list[float] = []

    async def run() -> None:
        began_at.append(anyio.current_time())
        began.set()
        await anyio.sleep_forever()

    at = anyio.current_time() + 0.02
    task = start_background(run, "test", at=at)
    with anyio.fail_after(PATIENCE_SECS):
        await began.wait()
    assert began_at[0] >= at - 0.001  # the loop's clock has a resolution
    await task.stop()


@both
async def test_what_is_stopped_before_its_time_never_begins() -> None:
    async def run() -> None:
        raise AssertionError("begun")

    at = anyio.current_time() + 0.005
    task = start_background(run, "test", at=at)
    await task.stop()
    await anyio.sleep_until(at + 0.01)
    await task.stop()


async def test_until_its_time_it_is_no_task_of_asyncio() -> None:
    before = asyncio.all_tasks()
    background = start_background(anyio.sleep_forever, "test", at=anyio.current_time() + 1000)
    assert asyncio.all_tasks() == before
    await background.stop()


@both
async def test_a_cancelled_caller_waits_for_work_that_runs_to_completion() -> None:
    ended: list[str] = []

    async def run() -> None:
        await anyio.sleep(0.01)
        ended.append("run")

    with anyio.CancelScope() as scope:
        scope.cancel()
        await run_to_completion(run, "test", PATIENCE_SECS)
        ended.append("caller")
    assert ended == ["run", "caller"]


async def test_a_task_of_asyncio_that_is_cancelled_leaves_it_running() -> None:
    ended, goes_on = asyncio.Event(), asyncio.Event()

    async def run() -> None:
        await goes_on.wait()
        ended.set()

    caller = asyncio.create_task(run_to_completion(run, "test", PATIENCE_SECS))
    await anyio.wait_all_tasks_blocked()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    goes_on.set()
    async with asyncio.timeout(PATIENCE_SECS):
        await ended.wait()


@both
async def test_it_is_cancelled_at_its_limit(caplog: pytest.LogCaptureFixture) -> None:
    cancelled: list[bool] = []

    async def run() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.append(True)

    with anyio.fail_after(PATIENCE_SECS):
        await run_to_completion(run, "test", 0.01)
    assert cancelled == [True]
    assert caplog.messages == []


@both
async def test_an_error_is_logged_and_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        raise ZeroDivisionError

    with anyio.fail_after(PATIENCE_SECS):
        await run_to_completion(run, "test of errors", PATIENCE_SECS)
    assert caplog.messages == ["test of errors failed"]
