"""Rule 6: parallel changes are merged per field, and a real conflict is not silent."""

from __future__ import annotations

from typing import Literal

import anyio
import pytest

from greentic_session import LockHeldError, SessionConflictError
from greentic_session.web import WebPolicy

from .conftest import in_memory
from .driver import AppSession, Browser, Call, Handler, Reply, Rig, change, gated, seen_by

pytestmark = pytest.mark.anyio


async def parallel(browser: Browser, first: Handler, second: Handler) -> tuple[Reply, Reply]:
    """Run two requests so that both load before either saves. The first one saves first."""
    gate, entered = anyio.Event(), anyio.Event()
    replies: list[Reply] = []

    async def late() -> None:
        replies.append(await browser.twin().request(gated(second, gate, entered)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(late)
        await entered.wait()
        earlier = await browser.twin().request(first)
        gate.set()
    return earlier, replies[0]


async def test_changes_of_different_fields_are_both_kept(rig: Rig, browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    replies = await parallel(browser, change(theme="light"), change(current_channel="news"))
    assert [reply.status for reply in replies] == [200, 200]
    state = (await seen_by(browser)).state
    assert (state.theme, state.current_channel) == ("light", "news")
    assert rig.sessions.statistics().merges == 1


async def test_a_sum_adds_both_and_a_union_has_both(browser: Browser) -> None:
    await browser.request(change(theme="dark", views=10, seen={"a", "b"}))

    def counting(page: str) -> Handler:
        async def handler(call: Call) -> None:
            state = (await call.session()).state
            state.views += 1
            state.seen.add(page)

        return handler

    await parallel(browser, counting("c"), counting("d"))
    state = (await seen_by(browser)).state
    assert state.views == 12
    assert state.seen == {"a", "b", "c", "d"}


async def test_64_requests_that_add_to_a_sum_all_count(browser: Browser) -> None:
    await browser.request(change(theme="dark"))

    async def add(call: Call) -> None:
        (await call.session()).state.views += 1

    gate = anyio.Event()
    statuses: list[int] = []

    async def run() -> None:
        statuses.append((await browser.twin().request(gated(add, gate))).status)

    async with anyio.create_task_group() as tasks:
        for _ in range(64):
            tasks.start_soon(run)
        gate.set()
    assert statuses == [200] * 64
    assert (await seen_by(browser)).state.views == 64


async def test_the_same_plain_field_is_answered_with_409(rig: Rig, browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    first, second = await parallel(browser, change(theme="first"), change(theme="second"))
    assert (first.status, second.status) == (200, 409)
    assert second.body != b"ok"
    assert second.cookies == []
    assert (await seen_by(browser)).state.theme == "first"
    assert rig.rejected == ["conflict"]


@pytest.mark.parametrize(("on_conflict", "kept"), [("mine", "second"), ("theirs", "first")])
async def test_a_policy_may_let_one_change_win(
    rig: Rig, browser: Browser, on_conflict: Literal["mine", "theirs"], kept: str
) -> None:
    rig.configure(WebPolicy(on_conflict=on_conflict))
    await browser.request(change(theme="dark"))
    second = change(theme="second", current_channel="news")
    replies = await parallel(browser, change(theme="first"), second)
    assert [reply.status for reply in replies] == [200, 200]
    state = (await seen_by(browser)).state
    assert (state.theme, state.current_channel) == (kept, "news")


async def test_the_same_value_twice_is_no_conflict(browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    replies = await parallel(browser, change(theme="light"), change(theme="light"))
    assert [reply.status for reply in replies] == [200, 200]


async def test_save_raises_the_conflict_with_the_names_of_the_fields(browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    seen: list[tuple[str, ...]] = []

    async def handler(call: Call) -> None:
        session = await call.session()
        session.state.theme = "second"
        with pytest.raises(SessionConflictError) as caught:
            await session.save()
        seen.append(caught.value.fields)
        await session.refresh()
        session.state.theme += "+second"

    replies = await parallel(browser, change(theme="first"), handler)
    assert [reply.status for reply in replies] == [200, 200]
    assert seen == [("theme",)]
    assert (await seen_by(browser)).state.theme == "first+second"


async def test_an_exclusive_block_runs_one_request_at_a_time(browser: Browser) -> None:
    await browser.request(change(theme="0"))

    async def count(call: Call) -> None:
        session = await call.session()
        async with session.exclusive(wait=10):
            seen = int(session.state.theme)
            await anyio.lowlevel.checkpoint()
            session.state.theme = str(seen + 1)

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(browser.twin().request, count)
    assert (await seen_by(browser)).state.theme == "8"


async def test_an_exclusive_block_is_refused_while_another_one_runs(browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    other = browser.twin()

    async def refused(call: Call) -> None:
        session = await call.session()
        with pytest.raises(LockHeldError):
            async with session.exclusive(wait=0):
                raise AssertionError

    async def handler(call: Call) -> None:
        session = await call.session()
        async with session.exclusive():
            await other.request(refused)

    await browser.request(handler)


async def test_a_change_before_an_exclusive_block_is_merged_into_it(browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    other = browser.twin()

    async def handler(call: Call) -> None:
        session = await call.session()
        session.state.current_channel = "news"
        await other.request(change(theme="light"))
        async with session.exclusive():
            assert session.state.theme == "light"
            assert session.state.current_channel == "news"

    await browser.request(handler)
    state = (await seen_by(browser)).state
    assert (state.theme, state.current_channel) == ("light", "news")


async def test_an_exclusive_block_merges_a_save_of_a_request_without_the_lock(
    browser: Browser,
) -> None:
    await browser.request(change(theme="dark"))
    other = browser.twin()

    async def handler(call: Call) -> None:
        session = await call.session()
        async with session.exclusive():
            session.state.current_channel = "news"
            await other.request(change(theme="light"))

    await browser.request(handler)
    assert (await seen_by(browser)).state == AppSession(theme="light", current_channel="news")


async def test_an_exclusive_block_of_a_new_session_needs_no_lock(browser: Browser) -> None:
    async def handler(call: Call) -> None:
        session = await call.session()
        async with session.exclusive() as same:
            assert same is session
            session.state.theme = "dark"
        assert not session.is_new

    await browser.request(handler)
    assert (await seen_by(browser)).state.theme == "dark"


@in_memory
async def test_an_exclusive_block_whose_lease_has_ended_saves_nothing(
    rig: Rig, browser: Browser
) -> None:
    await browser.request(change(theme="dark"))

    async def handler(call: Call) -> None:
        session = await call.session()
        async with session.exclusive(wait=0):
            session.state.theme = "late"
            await rig.advance(600)

    assert (await browser.post(handler)).status == 409
    assert (await seen_by(browser)).state.theme == "dark"
