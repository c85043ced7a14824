"""Rule 14: sessions in WebSockets."""

from __future__ import annotations

import anyio
import pytest

from greentic_session import InvalidInputError
from greentic_session.testing.harness import RedisHarness
from greentic_session.web import WebPolicy
from greentic_session.web.ending import SessionEnd

from ..support.waits import hired
from ..support.web_tabs import Order
from .conftest import in_memory
from .driver import Browser, Call, Handler, Rig, change, login, logout, regenerate, rig_on, seen_by

pytestmark = pytest.mark.anyio


def accepted(handler: Handler) -> Handler:
    async def accepting(call: Call) -> None:
        await call.receive()
        await call.send({"type": "websocket.accept"})
        await handler(call)

    return accepting


async def run(browser: Browser, handler: Handler) -> list[str]:
    async with browser.socket(accepted(handler)) as sent:
        pass
    return [message["type"] for message in sent]


async def test_the_session_is_loaded_when_it_is_asked_for(rig: Rig, browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    rig.calls.clear()
    counts: list[int] = []

    async def handler(call: Call) -> None:
        counts.append(sum(rig.calls.values()))
        assert (await call.session()).state.theme == "dark"
        counts.append(sum(rig.calls.values()))

    await run(browser, handler)
    assert counts == [0, 1]


async def test_save_and_mutate_are_the_save_points(browser: Browser) -> None:
    await browser.request(change(theme="dark"))

    async def handler(call: Call) -> None:
        session = await call.session()
        session.state.theme = "light"
        await session.save()
        await session.mutate(lambda state: state.__class__(theme=state.theme, views=1))

    await run(browser, handler)
    state = (await seen_by(browser)).state
    assert (state.theme, state.views) == ("light", 1)


async def test_a_change_without_a_save_is_warned_about(browser: Browser) -> None:
    await browser.request(change(theme="dark"))

    async def handler(call: Call) -> None:
        (await call.session()).state.theme = "light"

    with pytest.warns(RuntimeWarning, match="call save"):
        await run(browser, handler)
    assert (await seen_by(browser)).state.theme == "dark"


async def test_a_socket_cannot_set_a_cookie(rig: Rig, browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    rig.calls.clear()

    async def handler(call: Call) -> None:
        session = await call.session()
        rig.calls.clear()
        for verb in (session.login("ann"), session.regenerate()):
            with pytest.raises(InvalidInputError):
                await verb
        assert not rig.calls

    await run(browser, handler)

    async def without(call: Call) -> None:
        session = await call.session()
        session.state.theme = "dark"
        with pytest.raises(InvalidInputError):
            await session.save()

    await run(Browser(rig), without)


async def test_a_socket_can_log_out(rig: Rig, browser: Browser) -> None:
    await browser.request(change(theme="dark"))

    async def handler(call: Call) -> None:
        assert await (await call.session()).logout()

    await run(browser, handler)
    assert await rig.records() == []


@pytest.mark.parametrize("verb", [logout, login(), regenerate], ids=["logout", "login", "new"])
async def test_the_end_of_the_session_can_be_awaited(browser: Browser, verb: Handler) -> None:
    await browser.request(change(theme="dark"))
    entered, ended = anyio.Event(), anyio.Event()

    async def handler(call: Call) -> None:
        session = await call.session()
        entered.set()
        await SessionEnd(session.bound, look_secs=0.01).wait()
        ended.set()

    async with browser.socket(accepted(handler)):
        await entered.wait()
        assert not ended.is_set()
        await browser.post(verb)
        with anyio.fail_after(10):
            await ended.wait()


async def test_ended_can_be_awaited_after_the_end(browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    other = browser.twin()

    async def handler(call: Call) -> None:
        session = await call.session()
        await other.post(logout)
        with anyio.fail_after(10):
            await session.ended

    await browser.request(handler)


@in_memory
async def test_a_save_of_a_socket_is_no_activity(rig: Rig, browser: Browser) -> None:
    rig.configure(WebPolicy(idle=1000, absolute=None))
    await browser.request(change(theme="dark"))

    async def handler(call: Call) -> None:
        session = await call.session()
        await rig.advance(600)
        session.state.theme = "light"
        await session.save()

    await run(browser, handler)
    await rig.advance(401)
    assert (await seen_by(browser)).is_new


@in_memory
async def test_a_socket_is_activity_if_the_policy_says_so(rig: Rig, browser: Browser) -> None:
    rig.configure(WebPolicy(idle=1000, absolute=None, sockets_are_activity=True))
    await browser.request(change(theme="dark"))
    touched = anyio.Event()

    async def handler(call: Call) -> None:
        session = await call.session()
        await rig.advance(600)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(SessionEnd(session.bound, look_secs=0.01).wait)
            with anyio.fail_after(10):
                while not rig.calls["_touch"]:  # noqa: ASYNC110 - there is no notification
                    await anyio.sleep(0.005)
            touched.set()
            tasks.cancel_scope.cancel()

    await run(browser, handler)
    assert touched.is_set()
    await rig.advance(600)
    assert (await seen_by(browser)).state.theme == "dark"


async def test_a_socket_of_an_old_incarnation_saves_nothing(browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    other = browser.twin()

    async def handler(call: Call) -> None:
        session = await call.session()
        await other.post(login())
        session.state.theme = "late"
        await session.save()

    async with browser.socket(accepted(handler)) as sent:
        pass
    assert sent[-1] == {"type": "websocket.close", "code": 1008}
    assert (await seen_by(other)).state.theme == "dark"


async def test_a_revocation_of_another_process_ends_an_open_socket(valkey_url: str) -> None:
    async with rig_on("valkey", valkey_url) as rig:
        assert isinstance(rig.harness, RedisHarness)
        browser = Browser(rig)
        await browser.post(login())
        entered, ended = anyio.Event(), anyio.Event()

        async def handler(call: Call) -> None:
            session = await call.session()
            entered.set()
            await session.ended
            ended.set()

        async with hired(rig.harness, program="tests.support.web_tabs") as other:
            await other.hear()
            async with browser.socket(accepted(handler)):
                await entered.wait()
                other.order(Order("revoke"))
                assert await other.hear() == {"word": "revoked", "count": 1}
                with anyio.fail_after(10):  # seconds, as the rule says
                    await ended.wait()
        assert (await seen_by(browser)).is_new
