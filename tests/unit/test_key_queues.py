"""Tests of the queues of one session whose callers are gone: a closed loop, or a fork."""

from __future__ import annotations

import asyncio
import os
import warnings

import pytest

from greentic_session._core.key_queues import KeyQueues

NAME = ("default/acme", "k")


async def _attempt(queues: KeyQueues, blocker: asyncio.Event | None = None) -> str:
    async def attempt() -> str:
        if blocker is not None:
            await blocker.wait()
        return "done"

    return await queues.attempt_in_turn(*NAME, attempt, 1, lambda: 0.5)


async def _leave_behind(queues: KeyQueues) -> list[asyncio.Task[str]]:
    blocker = asyncio.Event()
    tasks = [asyncio.create_task(_attempt(queues, blocker)) for _ in range(3)]
    await asyncio.sleep(0.001)
    assert queues
    assert NAME in queues
    return tasks


def test_callers_of_a_closed_loop_do_not_block_later_ones() -> None:
    queues = KeyQueues()
    loop = asyncio.new_event_loop()
    tasks = loop.run_until_complete(_leave_behind(queues))
    loop.close()

    async def later() -> None:
        assert not queues
        assert NAME not in queues
        assert await _attempt(queues) == "done"

    asyncio.run(later())
    for task in tasks:  # Python may destroy them while a later caller has the turn
        task.get_coro().close()
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    assert not queues


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_callers_of_the_parent_process_do_not_block_those_of_a_child() -> None:
    queues = KeyQueues()

    async def main() -> int:
        tasks = await _leave_behind(queues)
        with warnings.catch_warnings(action="ignore"):
            pid = os.fork()
        if not pid:
            asyncio.events._set_running_loop(None)
            served = not queues and asyncio.new_event_loop().run_until_complete(_attempt(queues))
            os._exit(0 if served == "done" else 1)
        status = os.waitpid(pid, 0)[1]  # noqa: ASYNC222 - the child ends at once
        assert queues  # those of the parent are still there
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not queues
        return os.waitstatus_to_exitcode(status)

    assert asyncio.run(main()) == 0
