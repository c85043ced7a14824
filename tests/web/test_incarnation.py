"""Rule 2: login and regeneration are one step, and the old token opens nothing.

Sources: OWASP Session Management ("Renew the Session ID After Any Privilege Level Change"), ASVS
5.0 7.2.4.
"""

from __future__ import annotations

import anyio
import pytest

from greentic_session import InvalidInputError, SessionEndedError

from .driver import (
    AppSession,
    Browser,
    Call,
    Handler,
    Rig,
    change,
    gated,
    login,
    logout,
    regenerate,
    seen_by,
)

pytestmark = pytest.mark.anyio
VERBS = pytest.mark.parametrize("verb", [login(), regenerate], ids=["login", "regenerate"])


@VERBS
async def test_the_key_stays_and_the_incarnation_changes(
    rig: Rig, browser: Browser, verb: Handler
) -> None:
    await browser.request(change(theme="dark"))
    (before,) = await rig.records()
    await browser.post(verb)
    (after,) = await rig.records()
    assert after.session.key == before.session.key
    assert after.cas.incarnation != before.cas.incarnation
    assert after.session.context.theme == "dark"
    assert after.session.meta.labels["web"]["c"] == before.session.meta.labels["web"]["c"]


@VERBS
async def test_the_old_token_opens_neither_state(rig: Rig, browser: Browser, verb: Handler) -> None:
    await browser.request(change(theme="dark"))
    old = browser.twin()
    await browser.post(verb)
    assert old.cookie != browser.cookie
    assert (await seen_by(old)).is_new
    assert rig.rejected == ["replaced"]
    assert (await seen_by(browser)).state.theme == "dark"


@VERBS
async def test_a_running_request_keeps_what_it_loaded_and_saves_nothing(
    rig: Rig, browser: Browser, verb: Handler
) -> None:
    await browser.request(change(theme="dark"))
    gate, entered = anyio.Event(), anyio.Event()
    seen: list[str] = []

    async def late(call: Call) -> None:
        session = await call.session()
        seen.append(session.state.theme)
        session.state.theme = "late"
        with pytest.raises(SessionEndedError):
            await session.save()
        with pytest.raises(SessionEndedError):
            await session.mutate(lambda state: state)
        with pytest.raises(SessionEndedError):
            await session.refresh()
        seen.append(session.state.theme)

    other = browser.twin()
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            reply = await other.request(gated(late, gate, entered))
            assert (reply.status, reply.cookies) == (200, [])

        tasks.start_soon(run)
        await entered.wait()
        await browser.post(verb)
        gate.set()
    assert seen == ["dark", "late"]
    assert (await seen_by(browser)).state.theme == "dark"
    assert "ended" in rig.rejected


async def test_a_login_keeps_the_state_of_an_anonymous_session(browser: Browser) -> None:
    await browser.request(change(basket=["book"]))
    await browser.post(login())
    assert (await seen_by(browser)).state.basket == ["book"]


async def test_a_login_takes_unsaved_changes_along(browser: Browser) -> None:
    async def handler(call: Call) -> None:
        session = await call.session()
        session.state.theme = "dark"
        await session.login("ann")

    await browser.post(handler)
    look = await seen_by(browser)
    assert (look.user_id, look.state.theme) == ("ann", "dark")


async def test_a_login_from_one_user_to_another_starts_from_new(browser: Browser) -> None:
    await browser.post(login("ann"))
    await browser.post(change(basket=["book"]))
    await browser.post(login("bob"))
    look = await seen_by(browser)
    assert (look.user_id, look.state) == ("bob", AppSession())


async def test_a_login_of_the_same_user_keeps_the_state(browser: Browser) -> None:
    await browser.post(login("ann"))
    await browser.post(change(basket=["book"]))
    await browser.post(login("ann"))
    assert (await seen_by(browser)).state.basket == ["book"]


async def test_a_login_with_a_state_starts_with_it(browser: Browser) -> None:
    async def handler(call: Call) -> None:
        await (await call.session()).login("ann", AppSession(theme="given"))

    await browser.request(change(basket=["book"]))
    await browser.post(handler)
    assert (await seen_by(browser)).state == AppSession(theme="given")


@VERBS
async def test_a_save_that_came_between_is_merged(browser: Browser, verb: Handler) -> None:
    await browser.request(change(theme="dark"))
    gate, entered = anyio.Event(), anyio.Event()
    other = browser.twin()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(browser.post, gated(verb, gate, entered))
        await entered.wait()
        await other.request(change(current_channel="news"))
        gate.set()
    state = (await seen_by(browser)).state
    assert (state.theme, state.current_channel) == ("dark", "news")


async def test_regeneration_keeps_user_and_times(browser: Browser) -> None:
    await browser.post(login())
    before = (await seen_by(browser)).session
    await browser.post(regenerate)
    after = (await seen_by(browser)).session
    assert before is not None
    assert after is not None
    assert after.user_id == "ann"
    assert after.created_at == before.created_at
    assert after.authenticated_at == before.authenticated_at


async def test_regeneration_of_a_new_session_does_nothing(rig: Rig, browser: Browser) -> None:
    reply = await browser.post(regenerate)
    assert reply.cookies == []
    assert await rig.records() == []


async def test_two_logins_at_once_leave_one_incarnation(rig: Rig, browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    gate = anyio.Event()
    browsers = [browser.twin(), browser.twin()]
    replies = []

    async def run(one: Browser, user: str) -> None:
        replies.append(await one.post(gated(login(user), gate)))

    async with anyio.create_task_group() as tasks:
        for one, user in zip(browsers, ("ann", "bob"), strict=True):
            tasks.start_soon(run, one, user)
        gate.set()
    assert sorted(reply.status for reply in replies) == [200, 401]
    (record,) = await rig.records()
    users = [(await seen_by(one)).user_id for one in browsers]
    assert sorted(users, key=str) == sorted([record.session.meta.user_id, None], key=str)


async def test_a_login_after_the_head_is_refused_before_any_call(
    rig: Rig, browser: Browser
) -> None:
    await browser.request(change(theme="dark"))

    async def handler(call: Call) -> None:
        session = await call.session()
        await call.head()
        rig.calls.clear()
        for verb in (session.login("ann"), session.regenerate()):
            with pytest.raises(InvalidInputError):
                await verb
        assert not rig.calls

    await browser.post(handler)
    assert (await seen_by(browser)).user_id is None


async def test_a_logout_with_an_old_token_does_not_end_the_new_incarnation(
    rig: Rig, browser: Browser
) -> None:
    await browser.request(change(theme="dark"))
    gate, entered = anyio.Event(), anyio.Event()
    other = browser.twin()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other.post, gated(logout, gate, entered))
        await entered.wait()
        await browser.post(login())
        gate.set()
    assert (await seen_by(browser)).user_id == "ann"
    assert len(await rig.records()) == 1


async def test_labels_of_the_application_stay(rig: Rig, browser: Browser) -> None:
    from msgspec.structs import replace

    await browser.request(change(theme="dark"))
    (found,) = await rig.records()
    labels = {**found.session.meta.labels, "campaign": "spring"}
    await rig.store.put(replace(found.session, meta=replace(found.session.meta, labels=labels)))
    await browser.request(change(theme="light"))
    await browser.post(login())
    (found,) = await rig.records()
    assert found.session.meta.labels["campaign"] == "spring"
