"""Tests of ``release_on_sigterm``: a signal's effect, and the state that it leaves."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.lowlevel import checkpoint

from greentic_session import InvalidInputError
from greentic_session.ordering import release_on_sigterm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyio.abc import TaskStatus

both = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def earlier() -> Iterator[list[int]]:
    """Yield the numbers of signals that the earlier handlers saw. The handlers are restored."""
    seen: list[int] = []

    def see(number: int, _: object) -> None:
        seen.append(number)

    before = {number: signal.signal(number, see) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield seen
        assert signal.getsignal(signal.SIGTERM) is see
        assert signal.getsignal(signal.SIGINT) is see
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@both
async def test_a_signal_ends_the_block_and_what_it_holds(earlier: list[int]) -> None:
    released: list[str] = []
    with anyio.fail_after(10):
        async with release_on_sigterm() as termination:
            assert termination.signal is None
            try:
                signal.raise_signal(signal.SIGTERM)
                await anyio.sleep_forever()
            finally:
                signal.raise_signal(signal.SIGTERM)  # interrupts nothing
                released.append("lease")
                with pytest.raises(anyio.get_cancelled_exc_class()):
                    await anyio.sleep_forever()
        await checkpoint()  # the code after the block is not cancelled
    assert termination.signal is signal.SIGTERM
    assert released == ["lease"]
    assert earlier == [signal.SIGTERM] * 2


@both
async def test_sigint_ends_the_block_only_if_it_was_asked_for(earlier: list[int]) -> None:
    async with release_on_sigterm() as termination:
        signal.raise_signal(signal.SIGINT)
        await anyio.sleep(0.001)
    assert termination.signal is None
    with anyio.fail_after(10):
        async with release_on_sigterm(sigint=True) as termination:
            signal.raise_signal(signal.SIGINT)
            await anyio.sleep_forever()
    assert termination.signal is signal.SIGINT
    assert earlier == [signal.SIGINT] * 2


@both
async def test_an_inner_and_an_outer_block_end_together() -> None:
    with anyio.fail_after(10):
        async with release_on_sigterm() as outer:
            async with release_on_sigterm() as inner:
                signal.raise_signal(signal.SIGTERM)
                await anyio.sleep_forever()
            await anyio.sleep_forever()
    assert outer.signal is inner.signal is signal.SIGTERM


@both
async def test_blocks_may_be_left_in_the_order_in_which_they_were_entered(
    earlier: list[int],
) -> None:
    first, second = release_on_sigterm(), release_on_sigterm()
    left = anyio.Event()
    entered = anyio.Event()

    async def enter_first() -> None:
        async with first:
            await entered.wait()
        left.set()

    async def enter_second(*, task_status: TaskStatus[None]) -> None:
        async with second as termination:
            entered.set()
            await left.wait()
            signal.raise_signal(signal.SIGTERM)
            await anyio.sleep_forever()
        assert termination.signal is signal.SIGTERM
        task_status.started()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(enter_first)
            await checkpoint()
            await group.start(enter_second)
    signal.raise_signal(signal.SIGTERM)
    assert earlier == [signal.SIGTERM] * 2  # the fixture checks the handler


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_runners_own_handler_of_sigint_does_not_interrupt_the_release(backend: str) -> None:
    async def main() -> list[str]:
        steps: list[str] = []
        runners = signal.getsignal(signal.SIGINT)
        async with release_on_sigterm(sigint=True):
            try:
                signal.raise_signal(signal.SIGINT)
                await anyio.sleep(10)
            finally:
                signal.raise_signal(signal.SIGINT)
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0.001)
                steps.append("released")
        await anyio.sleep(0.001)
        assert signal.getsignal(signal.SIGINT) is runners
        return [*steps, "after"]

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert anyio.run(main, backend=backend) == ["released", "after"]
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("enters", [False, True], ids=["plain", "with a block of its own"])
def test_a_signal_ends_a_child_that_was_forked_in_the_block(enters: bool) -> None:
    program = f"""
import anyio, os, signal, time
from greentic_session.ordering import release_on_sigterm

async def child():
    async with release_on_sigterm() as termination:
        os.kill(os.getpid(), signal.SIGTERM)
        await anyio.sleep(10)
    os._exit(7 if termination.signal else 8)

async def main():
    async with release_on_sigterm() as termination:
        pid = os.fork()
        if not pid:
            if {enters}:
                import asyncio
                asyncio.events._set_running_loop(None)
                loop = asyncio.new_event_loop()
                loop.run_until_complete(child())
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
            os._exit(9)
        status = os.waitpid(pid, 0)[1]
        assert termination.signal is None
    print(os.waitstatus_to_exitcode(status))

anyio.run(main)
"""
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, timeout=60
    )
    assert told.stdout.decode().strip() == ("7" if enters else str(-signal.SIGTERM)), told.stderr


async def test_a_handler_of_the_event_loop_runs_too_and_stays() -> None:
    loop = asyncio.get_running_loop()
    calls: list[str] = []
    before = signal.getsignal(signal.SIGTERM)
    loop.add_signal_handler(signal.SIGTERM, calls.append, "loop")
    try:
        with anyio.fail_after(10):
            async with release_on_sigterm() as termination:
                signal.raise_signal(signal.SIGTERM)
                await anyio.sleep_forever()
            assert termination.signal is signal.SIGTERM
            signal.raise_signal(signal.SIGTERM)
            while len(calls) < 2:  # noqa: ASYNC110 - the handler does not notify
                await anyio.sleep(0.001)
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)
    assert calls == ["loop", "loop"]


async def test_a_handler_that_was_installed_within_the_block_stays() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        async with release_on_sigterm() as termination:
            ours = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        assert callable(ours)
        ours(signal.SIGTERM, None)  # as a handler does that calls the earlier one
        assert termination.signal is None
    finally:
        signal.signal(signal.SIGTERM, before)


def test_another_thread_than_the_main_one_is_refused() -> None:
    errors: list[InvalidInputError] = []

    async def enter() -> None:
        with pytest.raises(InvalidInputError, match="main thread") as caught:
            await release_on_sigterm().__aenter__()
        errors.append(caught.value)

    thread = threading.Thread(target=asyncio.run, args=(enter(),))
    thread.start()
    thread.join()
    assert [error.field for error in errors] == ["thread"]
