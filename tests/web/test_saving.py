"""Rules 5 and 7: what costs a call, what is saved, and that a delete beats every save."""

from __future__ import annotations

import anyio
import pytest

from greentic_session import InvalidInputError, SessionEndedError
from greentic_session.web import WebPolicy, WebSession

from .driver import AppSession, Browser, Call, Look, Rig, change, gated, ignore, logout, seen_by

pytestmark = pytest.mark.anyio


async def test_a_request_without_the_session_costs_no_call(rig: Rig, browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    rig.calls.clear()
    await browser.post(ignore)
    assert not rig.calls


async def test_there_is_no_record_before_the_first_change(rig: Rig, browser: Browser) -> None:
    assert (await browser.request(Look())).cookies == []
    assert not rig.calls
    assert await rig.records() == []


async def test_a_read_costs_one_read(rig: Rig, browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    rig.calls.clear()
    for _ in range(5):
        await browser.request(Look())
    assert rig.calls == {"_read": 5}


async def test_a_session_is_loaded_once_per_request(rig: Rig, browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    rig.calls.clear()

    async def handler(call: Call) -> None:
        found: list[WebSession[AppSession]] = []

        async def load() -> None:
            found.append(await call.session())

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(load)
        assert len({id(session) for session in found}) == 1

    await browser.request(handler)
    assert rig.calls == {"_read": 1}


async def test_a_change_costs_a_read_and_a_write(rig: Rig, browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    rig.calls.clear()
    await browser.request(change(theme="light"))
    assert rig.calls == {"_read": 1, "_update_cas": 1}


async def test_the_same_value_is_no_change(rig: Rig, browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    rig.calls.clear()
    await browser.request(change(theme="dark"))
    assert rig.calls == {"_read": 1}


async def test_a_change_inside_a_mutable_field_is_saved(browser: Browser) -> None:
    async def handler(call: Call) -> None:
        session = await call.session()
        session.state.basket.append("book")
        session.state.seen.add("page")

    await browser.request(handler)
    await browser.request(handler)
    state = (await seen_by(browser)).state
    assert (state.basket, state.seen) == (["book", "book"], {"page"})


async def test_each_request_has_its_own_state(browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    gate, entered = anyio.Event(), anyio.Event()
    look = Look()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(browser.twin().request, gated(look, gate, entered))
        await entered.wait()
        await browser.request(change(theme="light"))
        gate.set()
    assert look.state.theme == "dark"


async def test_reading_extends_the_lifetime_at_most_every_touch_every(
    rig: Rig, browser: Browser
) -> None:
    rig.configure(WebPolicy(idle=1000, touch_every=50))
    await browser.request(change(theme="dark"))
    rig.calls.clear()
    for _ in range(10):
        await rig.advance(26)
        await browser.request(Look())
    assert rig.calls == {"_read": 10, "_touch": 5}


async def test_touch_every_zero_extends_on_each_request(rig: Rig, browser: Browser) -> None:
    rig.configure(WebPolicy(idle=1000, touch_every=0))
    await browser.request(change(theme="dark"))
    rig.calls.clear()
    for _ in range(3):
        await rig.advance(1)
        await browser.request(Look())
    assert rig.calls == {"_read": 3, "_touch": 3}


@pytest.mark.parametrize("status", [500, 503])
async def test_a_response_with_5xx_saves_nothing(rig: Rig, browser: Browser, status: int) -> None:
    async def handler(call: Call) -> int:
        (await call.session()).state.theme = "dark"
        return status

    reply = await browser.request(handler)
    assert (reply.status, reply.cookies) == (status, [])
    assert await rig.records() == []


async def test_an_exception_of_the_handler_saves_nothing(rig: Rig, browser: Browser) -> None:
    async def handler(call: Call) -> None:
        (await call.session()).state.theme = "dark"
        raise RuntimeError("handler")

    with pytest.raises(RuntimeError, match="handler"):
        await browser.request(handler)
    assert await rig.records() == []


async def test_the_state_is_saved_before_the_first_byte_leaves(rig: Rig, browser: Browser) -> None:
    themes: list[str] = []

    async def handler(call: Call) -> None:
        (await call.session()).state.theme = "dark"
        await call.head()
        themes.extend([found.session.context.theme for found in await rig.records()])

    await browser.request(handler)
    assert themes == ["dark"]


async def test_a_change_after_the_head_needs_save(browser: Browser) -> None:
    await browser.request(change(theme="dark"))

    async def forgetful(call: Call) -> None:
        session = await call.session()
        await call.head()
        session.state.theme = "light"

    with pytest.warns(RuntimeWarning, match="call save"):
        await browser.request(forgetful)
    assert (await seen_by(browser)).state.theme == "dark"

    async def careful(call: Call) -> None:
        await forgetful(call)
        await (await call.session()).save()

    await browser.request(careful)
    assert (await seen_by(browser)).state.theme == "light"


async def test_a_new_session_cannot_be_saved_after_the_head(rig: Rig, browser: Browser) -> None:
    async def handler(call: Call) -> None:
        session = await call.session()
        await call.head()
        session.state.theme = "dark"
        with pytest.raises(InvalidInputError, match="cookie"):
            await session.save()
        await session.refresh()

    await browser.request(handler)
    assert await rig.records() == []


async def test_mutate_writes_at_once(rig: Rig, browser: Browser) -> None:
    await browser.request(change(theme="dark"))

    async def handler(call: Call) -> int:
        session = await call.session()
        session.state.theme = "light"

        def add(state: AppSession) -> AppSession:
            state.basket.append("book")
            return state

        returned = await session.mutate(add)
        assert returned is session.state
        (record,) = await rig.records()
        assert record.session.context == returned
        return 500  # what is written stays written

    await browser.request(handler)
    state = (await seen_by(browser)).state
    assert (state.theme, state.basket) == ("light", ["book"])


async def test_mutate_of_a_new_session_creates_it(rig: Rig, browser: Browser) -> None:
    async def handler(call: Call) -> None:
        session = await call.session()
        await session.mutate(lambda state: AppSession(views=state.views + 1))
        assert not session.is_new

    await browser.request(handler)
    assert (await seen_by(browser)).state.views == 1
    assert len(await rig.records()) == 1


async def test_parallel_mutations_all_count(rig: Rig, browser: Browser) -> None:
    await browser.request(change(theme="dark"))

    async def handler(call: Call) -> None:
        session = await call.session()

        def append(state: AppSession) -> AppSession:
            state.basket.append("x")
            return state

        await session.mutate(append)

    async with anyio.create_task_group() as tasks:
        for _ in range(32):
            tasks.start_soon(browser.twin().request, handler)
    assert len((await seen_by(browser)).state.basket) == 32
    assert "conflict" not in rig.rejected


async def test_mutate_refuses_what_is_no_function(browser: Browser) -> None:
    async def handler(call: Call) -> None:
        with pytest.raises(InvalidInputError):
            await (await call.session()).mutate(5)  # type: ignore[arg-type]

    await browser.request(handler)


async def test_refresh_drops_changes_and_reads_again(browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    other = browser.twin()

    async def handler(call: Call) -> None:
        session = await call.session()
        session.state.theme = "light"
        await other.request(change(current_channel="news"))
        await session.refresh()
        assert (session.state.theme, session.state.current_channel) == ("dark", "news")

    await browser.request(handler)


async def test_a_frozen_state_is_replaced(browser: Browser) -> None:
    async def handler(call: Call) -> None:
        session = await call.session()
        session.state = AppSession(theme="dark")

    await browser.request(handler)
    assert (await seen_by(browser)).state.theme == "dark"


async def test_a_state_that_cannot_be_stored_is_an_error_of_the_handler(
    rig: Rig, browser: Browser
) -> None:
    with pytest.raises(InvalidInputError):
        await browser.request(change(theme=object()))
    assert await rig.records() == []


# --- rule 7 --------------------------------------------------------------------------------------


async def test_a_delete_beats_a_later_save(rig: Rig, browser: Browser) -> None:
    # expressjs/session 632 and 957: there a slow request brings the session back.
    await browser.request(change(theme="dark"))
    gate, entered = anyio.Event(), anyio.Event()
    slow = browser.twin()
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            reply = await slow.request(gated(change(theme="late"), gate, entered))
            assert (reply.status, reply.cookies) == (200, [])

        tasks.start_soon(run)
        await entered.wait()
        await browser.post(logout)
        gate.set()
    assert await rig.records() == []
    assert (await seen_by(slow)).is_new
    assert rig.rejected[0] == "ended"


async def test_a_save_of_a_deleted_session_raises(rig: Rig, browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    other = browser.twin()

    async def handler(call: Call) -> None:
        session = await call.session()
        await other.post(logout)
        session.state.theme = "late"
        with pytest.raises(SessionEndedError):
            await session.save()
        with pytest.raises(SessionEndedError):
            await session.login("ann")

    assert (await browser.request(handler)).cookies == []
    assert await rig.records() == []


async def test_an_error_of_an_ended_session_that_no_handler_catches_is_a_401(
    browser: Browser,
) -> None:
    await browser.request(change(theme="dark"))
    other = browser.twin()

    async def handler(call: Call) -> None:
        session = await call.session()
        await other.post(logout)
        await session.regenerate()

    assert (await browser.post(handler)).status == 401


async def test_a_logout_beats_a_parallel_save(rig: Rig, browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    gate, entered = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(browser.post, gated(logout, gate, entered))
        await entered.wait()
        await browser.twin().request(change(theme="light"))
        gate.set()
    assert await rig.records() == []


async def test_a_change_after_the_logout_of_the_same_request_begins_another_session(
    rig: Rig, browser: Browser
) -> None:
    await browser.request(change(theme="dark"))
    before = browser.cookie

    async def handler(call: Call) -> None:
        session = await call.session()
        assert await session.logout()
        assert session.is_new
        assert session.state == AppSession()
        session.state.current_channel = "goodbye"

    await browser.post(handler)
    assert browser.cookie not in (before, None)
    (record,) = await rig.records()
    assert record.session.context == AppSession(current_channel="goodbye")


async def test_a_logout_without_a_session_sets_no_cookie(browser: Browser) -> None:
    assert (await browser.post(logout)).cookies == []
