"""Rules 4 and 9: the attributes of the cookie, and which responses carry it.

Sources: RFC 6265bis 4.1.3 (prefixes), 5.7 (SameSite), CHIPS (Partitioned), OWASP Session Management
("Cookies").
"""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest

from greentic_session import InvalidInputError
from greentic_session.web import CookiePolicy, WebPolicy

from .driver import (
    Browser,
    Call,
    Look,
    Rig,
    change,
    gated,
    ignore,
    login,
    logout,
    regenerate,
    seen_by,
)

pytestmark = pytest.mark.anyio


async def test_the_cookie_has_the_safest_attributes_by_default(browser: Browser) -> None:
    reply = await browser.request(change(theme="dark"))
    (header,) = reply.cookies
    name, _, rest = header.partition("=")
    assert name == "__Host-session"
    assert rest.partition("; ")[2] == "Path=/; Secure; HttpOnly; SameSite=Lax"


@pytest.mark.parametrize(
    ("policy", "name", "attributes"),
    [
        (CookiePolicy(name="id"), "id", "Path=/; Secure; HttpOnly; SameSite=Lax"),
        (
            CookiePolicy(name="__Host-Http-id"),
            "__Host-Http-id",
            "Path=/; Secure; HttpOnly; SameSite=Lax",
        ),
        (
            CookiePolicy(same_site="none", partitioned=True),
            "__Host-session",
            "Path=/; Secure; HttpOnly; SameSite=None; Partitioned",
        ),
        (
            CookiePolicy(domain="acme.example"),
            "session",
            "Path=/; Domain=acme.example; Secure; HttpOnly; SameSite=Lax",
        ),
        (CookiePolicy(secure=False), "session", "Path=/; HttpOnly; SameSite=Lax"),
        (
            CookiePolicy(path="/app", same_site="strict"),
            "session",
            "Path=/app; Secure; HttpOnly; SameSite=Strict",
        ),
    ],
)
async def test_each_option_changes_the_cookie(
    rig: Rig, browser: Browser, policy: CookiePolicy, name: str, attributes: str
) -> None:
    rig.configure(WebPolicy(cookie=policy))
    (header,) = (await browser.request(change(theme="dark"))).cookies
    found, _, rest = header.partition("=")
    assert (found, rest.partition("; ")[2]) == (name, attributes)
    assert (await seen_by(browser)).state.theme == "dark"
    (cleared,) = (await browser.post(logout)).cookies
    assert cleared == f"{name}=; {attributes}; Max-Age=0"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"name": "a b"}, "name"),
        ({"name": "__Host-", "secure": False}, "name"),
        ({"path": "app"}, "path"),
        ({"path": "/;x"}, "path"),
        ({"domain": "a;b"}, "domain"),
        ({"secure": 1}, "secure"),
        ({"same_site": "Lax"}, "same_site"),
        ({"same_site": "none", "secure": False}, "same_site"),
        ({"partitioned": True}, "partitioned"),
    ],
)
def test_an_invalid_cookie_policy_is_refused(options: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        CookiePolicy(**options)  # type: ignore[arg-type]
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"idle": 0}, "idle"),
        ({"idle": -1}, "idle"),
        ({"idle": 100, "absolute": 99}, "absolute"),
        ({"renew_after": 0}, "renew_after"),
        ({"touch_every": -1}, "touch_every"),
        ({"max_sessions": 0}, "max_sessions"),
        ({"rolling": None}, "rolling"),
        ({"overflow": "newest"}, "overflow"),
        ({"on_conflict": "merge"}, "on_conflict"),
        ({"csrf": True}, "csrf"),
        ({"origins": "https://a.example"}, "origins"),
        ({"origins": ("a.example",)}, "origins"),
        ({"origins": ("https://a.example/path",)}, "origins"),
        ({"signing_keys": ("short",)}, "signing_keys"),
        ({"signing_keys": (5,)}, "signing_keys"),
        ({"cookie": {}}, "cookie"),
    ],
)
def test_an_invalid_policy_is_refused(options: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        WebPolicy(**options)  # type: ignore[arg-type]
    assert caught.value.field == field


def test_durations_may_be_timedeltas() -> None:
    policy = WebPolicy(idle=timedelta(minutes=5), absolute=timedelta(hours=1))
    assert (policy.idle, policy.absolute) == (300, 3600)
    assert policy.touch_every_ms == 30_000
    assert WebPolicy(idle=3600).touch_every_ms == 60_000


async def test_a_request_that_only_reads_sets_no_cookie(browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    reply = await browser.request(Look())
    assert reply.cookies == []
    assert reply.all("vary") == ["Cookie"]
    assert reply.all("cache-control") == []


async def test_a_request_that_changes_a_known_session_sets_no_cookie(browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    assert (await browser.request(change(theme="light"))).cookies == []


async def test_a_dead_cookie_is_not_cleared(rig: Rig, browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    late = browser.twin()
    await browser.post(logout)
    reply = await late.request(Look())
    assert reply.cookies == []
    assert late.cookie is not None
    assert rig.rejected == ["unknown_token"]


async def test_a_late_response_cannot_destroy_a_newer_login(browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    gate, entered = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as tasks:
        late = browser.twin()
        tasks.start_soon(late.request, gated(change(theme="late"), gate, entered))
        await entered.wait()
        await browser.post(login())
        gate.set()
    assert late.cookie != browser.cookie  # its jar kept what it had
    assert (await seen_by(browser)).user_id == "ann"


@pytest.mark.parametrize("verb", [login(), regenerate, logout], ids=["login", "new", "logout"])
async def test_a_response_with_a_cookie_is_not_cached(browser: Browser, verb: object) -> None:
    await browser.request(change(theme="dark"))
    reply = await browser.post(verb)  # type: ignore[arg-type]
    assert len(reply.cookies) == 1
    assert reply.all("cache-control") == ["no-store"]


async def test_a_cache_control_of_the_handler_stays(browser: Browser) -> None:
    async def handler(call: Call) -> None:
        (await call.session()).state.theme = "dark"
        await call.head(headers=((b"Cache-Control", b"private"),))

    reply = await browser.request(handler)
    assert [value for name, value in reply.headers if name.lower() == "cache-control"] == [
        "private"
    ]


async def test_a_response_without_the_session_has_no_header(rig: Rig, browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    rig.calls.clear()
    assert (await browser.request(ignore)).headers == []
    assert not rig.calls


async def test_a_persistent_cookie_has_the_lifetime_of_the_session(
    rig: Rig, browser: Browser
) -> None:
    rig.configure(WebPolicy(idle=1000, absolute=1500, cookie=CookiePolicy(persistent=True)))
    (header,) = (await browser.request(change(theme="dark"))).cookies
    assert header.endswith("; Max-Age=1000")


async def test_a_rolling_max_age_is_refreshed_once_per_tenth_of_the_lifetime(
    rig: Rig, browser: Browser
) -> None:
    policy = WebPolicy(
        idle=1000, absolute=None, renew_after=None, cookie=CookiePolicy(persistent=True)
    )
    rig.configure(policy)
    await browser.request(change(theme="dark"))
    before = browser.cookie
    counts: list[int] = []
    for _ in range(10):
        await rig.advance(55)
        counts.append(len((await browser.request(Look())).cookies))
    assert counts == [0, 1] * 5
    assert browser.cookie == before


async def test_a_max_age_that_does_not_roll_is_not_refreshed(rig: Rig, browser: Browser) -> None:
    cookie = CookiePolicy(persistent=True)
    rig.configure(WebPolicy(idle=1000, rolling=False, renew_after=None, cookie=cookie))
    await browser.request(change(theme="dark"))
    await rig.advance(500)
    assert (await browser.request(Look())).cookies == []
