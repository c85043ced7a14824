"""The middleware on trio, with a store in memory."""

from __future__ import annotations

from functools import partial

import anyio
import pytest

from .driver import Browser, Call, Rig, change, gated, login, logout, rig_on, seen_by

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["trio"]),
]


async def test_a_session_lasts_from_its_first_change_to_its_logout_on_trio() -> None:
    async with rig_on("memory") as rig:
        browser = Browser(rig)
        await browser.request(change(theme="dark"))
        anonymous = browser.twin()
        await browser.post(login())
        assert (await seen_by(browser)).user_id == "ann"
        assert (await seen_by(anonymous)).is_new
        await browser.post(logout)
        assert await rig.records() == []


async def test_parallel_changes_are_merged_on_trio() -> None:
    async with rig_on("memory") as rig:
        browser = Browser(rig)
        await browser.request(change(views=1))
        both = [anyio.Event(), anyio.Event()]
        gate = anyio.Event()
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                for entered, fields in zip(
                    both, ({"theme": "light blue"}, {"current_channel": "news"}), strict=True
                ):
                    handler = gated(change(**fields), gate, entered)
                    tasks.start_soon(partial(browser.twin().request, handler))
                for entered in both:
                    await entered.wait()
                gate.set()
        state = (await seen_by(browser)).state
        assert (state.theme, state.current_channel) == ("light blue", "news")


async def test_an_exclusive_block_runs_on_trio() -> None:
    async with rig_on("memory") as rig:
        browser = Browser(rig)
        await browser.request(change(views=1))
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(browser.twin().request, _append)
        assert len((await seen_by(browser)).state.basket) == 4


async def test_a_socket_sees_the_end_of_its_session_on_trio() -> None:
    async with rig_on("memory") as rig:
        browser = await _logged_in(rig)
        entered, ended = anyio.Event(), anyio.Event()

        async def handler(call: Call) -> None:
            session = await call.session()
            entered.set()
            await session.ended
            ended.set()

        with anyio.fail_after(10):
            async with browser.socket(handler):
                await entered.wait()
                await browser.post(logout)
                await ended.wait()


async def _append(call: Call) -> None:
    session = await call.session()
    async with session.exclusive(wait=10):
        session.state.basket.append("tea")


async def _logged_in(rig: Rig) -> Browser:
    browser = Browser(rig)
    await browser.post(login())
    return browser
