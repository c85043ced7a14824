"""Rule 8: idle and absolute lifetime, by the store's clock.

Sources: OWASP Session Management ("Session Expiration"), ASVS 5.0 7.3.1 and 7.3.2.
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from greentic_session.web import WebPolicy

from .conftest import in_memory
from .driver import Browser, Call, Rig, change, login, regenerate, seen_by

pytestmark = pytest.mark.anyio


async def test_a_session_ends_without_activity(rig: Rig, browser: Browser) -> None:
    rig.configure(WebPolicy(idle=1000, absolute=None))
    await browser.request(change(theme="dark"))
    await rig.advance(999)
    assert (await seen_by(browser)).state.theme == "dark"
    await rig.advance(1001)
    assert (await seen_by(browser)).is_new
    assert await rig.records() == []


async def test_activity_restarts_a_rolling_lifetime(rig: Rig, browser: Browser) -> None:
    rig.configure(WebPolicy(idle=1000, absolute=None))
    await browser.request(change(theme="dark"))
    for _ in range(5):
        await rig.advance(900)
        assert (await seen_by(browser)).state.theme == "dark"


async def test_activity_does_not_restart_a_fixed_lifetime(rig: Rig, browser: Browser) -> None:
    rig.configure(WebPolicy(idle=1000, rolling=False, absolute=None))
    await browser.request(change(theme="dark"))
    await rig.advance(600)
    assert (await seen_by(browser)).state.theme == "dark"
    await browser.request(change(theme="light"))
    await rig.advance(410)
    assert (await seen_by(browser)).is_new


async def test_the_absolute_lifetime_ends_an_active_session(rig: Rig, browser: Browser) -> None:
    rig.configure(WebPolicy(idle=1000, absolute=2500))
    await browser.request(change(theme="dark"))
    for _ in range(4):
        await rig.advance(600)
        assert (await seen_by(browser)).state.theme == "dark"
    await browser.request(change(theme="light"))
    await rig.advance(101)
    assert (await seen_by(browser)).is_new
    assert await rig.records() == []


async def test_a_login_restarts_the_absolute_lifetime(rig: Rig, browser: Browser) -> None:
    rig.configure(WebPolicy(idle=1000, absolute=1500))
    await browser.request(change(theme="dark"))
    await rig.advance(900)
    await browser.post(login())
    await rig.advance(900)
    assert (await seen_by(browser)).user_id == "ann"
    await rig.advance(601)
    assert (await seen_by(browser)).is_new


async def test_a_regeneration_does_not_restart_it(rig: Rig, browser: Browser) -> None:
    rig.configure(WebPolicy(idle=1000, absolute=1500))
    await browser.request(change(theme="dark"))
    await rig.advance(900)
    await browser.post(regenerate)
    await rig.advance(601)
    assert (await seen_by(browser)).is_new


async def test_the_times_are_told(rig: Rig, browser: Browser) -> None:
    rig.configure(WebPolicy(idle=1000, absolute=5000))
    look = await seen_by(browser)
    assert look.session is not None
    told = (look.session.created_at, look.session.authenticated_at, look.session.expires_at)
    assert told == (None, None, None)
    await browser.request(change(theme="dark"))
    await rig.advance(100)
    await browser.post(login())
    session = (await seen_by(browser)).session
    assert session is not None
    assert session.created_at is not None
    assert session.authenticated_at is not None
    assert session.expires_at is not None
    assert session.versioned is not None
    assert abs(session.authenticated_at - session.created_at - timedelta(seconds=100)) < timedelta(
        seconds=5
    )
    assert abs(session.expires_at - session.versioned.session.updated_at) == timedelta(seconds=1000)


@in_memory
async def test_a_save_after_the_head_is_no_activity(rig: Rig, browser: Browser) -> None:
    rig.configure(WebPolicy(idle=1000, absolute=None))
    await browser.request(change(theme="dark"))

    async def stream(call: Call) -> None:
        session = await call.session()
        await call.head()
        await rig.advance(600)
        session.state.theme = "light"
        await session.save()

    await browser.request(stream)
    await rig.advance(401)
    assert (await seen_by(browser)).is_new


async def test_a_shorter_policy_does_not_need_other_records(rig: Rig, browser: Browser) -> None:
    rig.configure(WebPolicy(idle=1000))
    await browser.request(change(theme="dark"))
    rig.configure(WebPolicy(idle=100))
    await browser.request(change(theme="light"))
    await rig.advance(101)
    assert (await seen_by(browser)).is_new
