"""Rule 3: renewal logs no one out, neither parallel requests nor after a lost response.

Source: OWASP Session Management ("Renewal Timeout"). Known failures elsewhere: next-auth 8897,
convex-auth 76.
"""

from __future__ import annotations

import anyio
import pytest

from greentic_session.web import WebPolicy

from .driver import Browser, Look, Rig, change, login, seen_by

pytestmark = pytest.mark.anyio


@pytest.fixture
async def aged(rig: Rig, browser: Browser) -> Browser:
    """A browser whose token is due for renewal."""
    rig.configure(WebPolicy(renew_after=900, idle=1800))
    await browser.request(change(theme="dark"))
    await browser.post(login())
    await rig.advance(901)
    return browser


async def test_a_secret_is_renewed_when_it_is_old(rig: Rig, aged: Browser) -> None:
    old = aged.twin()
    reply = await aged.request(Look())
    assert len(reply.cookies) == 1
    assert aged.cookie != old.cookie
    look = await seen_by(aged)
    assert (look.user_id, look.state.theme) == ("ann", "dark")
    assert rig.sessions.statistics().renewals == 1


async def test_a_renewal_keeps_the_incarnation_and_the_rights(rig: Rig, aged: Browser) -> None:
    (before,) = await rig.records()
    await aged.request(Look())
    (after,) = await rig.records()
    assert after.cas.incarnation == before.cas.incarnation
    assert after.session.meta.labels["web"]["a"] == before.session.meta.labels["web"]["a"]
    assert after.session.meta.labels["web"]["x"] == before.session.meta.labels["web"]["x"]


async def test_a_young_secret_is_not_renewed(rig: Rig, browser: Browser) -> None:
    rig.configure(WebPolicy(renew_after=900))
    await browser.request(change(theme="dark"))
    await rig.advance(890)
    assert (await browser.request(Look())).cookies == []


async def test_of_parallel_requests_one_renews_and_each_is_served(aged: Browser) -> None:
    gate, replies, looks = anyio.Event(), [], [Look() for _ in range(32)]
    browsers = [aged.twin() for _ in looks]

    async def run(browser: Browser, look: Look) -> None:
        await gate.wait()
        replies.append(await browser.request(look))

    async with anyio.create_task_group() as tasks:
        for browser, look in zip(browsers, looks, strict=True):
            tasks.start_soon(run, browser, look)
        gate.set()
    assert sum(len(reply.cookies) for reply in replies) == 1
    assert {look.user_id for look in looks} == {"ann"}
    assert {(await seen_by(browser)).user_id for browser in browsers} == {"ann"}


async def test_the_previous_secret_works_for_ten_seconds_after_its_successor_was_seen(
    rig: Rig, aged: Browser
) -> None:
    old = aged.twin()
    await aged.request(Look())
    await rig.advance(60)
    assert (await seen_by(old.twin())).user_id == "ann"  # the successor was not presented yet
    assert (await seen_by(aged)).user_id == "ann"
    await rig.advance(9.5)
    assert (await seen_by(old)).user_id == "ann"
    await rig.advance(0.6)
    assert (await seen_by(old)).is_new
    assert rig.rejected[-1] == "replaced"
    assert (await seen_by(aged)).user_id == "ann"


async def test_the_previous_secret_works_for_five_minutes_at_most(rig: Rig, aged: Browser) -> None:
    old = aged.twin()
    await aged.request(Look(), is_lost=True)
    await rig.advance(299)
    assert (await seen_by(old.twin())).user_id == "ann"
    await rig.advance(2)
    assert (await seen_by(old)).is_new


async def test_after_a_lost_response_the_same_successor_is_sent_again(
    rig: Rig, aged: Browser
) -> None:
    lost = aged.twin()
    reply = await lost.request(Look(), is_lost=True)
    lost.store(reply)
    assert (await aged.request(Look())).cookies == []  # the response may still be under way
    await rig.advance(11)
    again = await aged.request(Look())
    assert again.cookies == reply.cookies
    assert aged.cookie == lost.cookie
    assert (await seen_by(aged)).user_id == "ann"


async def test_a_successor_is_not_sent_again_once_it_was_presented(rig: Rig, aged: Browser) -> None:
    old = aged.twin()
    await aged.request(Look())
    await seen_by(aged)
    await rig.advance(9.9)
    assert (await old.request(Look())).cookies == []


async def test_a_change_with_a_renewal_is_saved(aged: Browser) -> None:
    reply = await aged.request(change(theme="light"))
    assert len(reply.cookies) == 1
    assert (await seen_by(aged)).state.theme == "light"


async def test_a_change_with_the_previous_secret_is_saved(rig: Rig, aged: Browser) -> None:
    old = aged.twin()
    await aged.request(Look())
    await old.request(change(theme="light"))
    assert (await seen_by(aged)).state.theme == "light"
    assert rig.sessions.statistics().ended == 0


async def test_renewed_again_and_again_a_browser_stays_logged_in(
    rig: Rig, browser: Browser
) -> None:
    rig.configure(WebPolicy(renew_after=60, idle=1800, absolute=None))
    await browser.post(login())
    cookies = set()
    for number in range(30):
        await rig.advance(61)
        await browser.request(Look(), is_lost=number % 10 == 9)
        cookies.add(browser.cookie)
        assert (await seen_by(browser)).user_id == "ann"
    assert len(cookies) >= 25


async def test_without_renewal_the_secret_stays(rig: Rig, browser: Browser) -> None:
    rig.configure(WebPolicy(renew_after=None, idle=100_000, absolute=None))
    await browser.request(change(theme="dark"))
    await rig.advance(50_000)
    assert (await browser.request(Look())).cookies == []
