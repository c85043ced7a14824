"""Rule 10: requests and WebSockets of other sites are refused.

Sources: OWASP CSRF Prevention ("Fetch Metadata", "Verifying Origin With Standard Headers"), RFC
6455 10.2.
"""

from __future__ import annotations

from urllib.parse import urlencode

import pytest

from greentic_session import InvalidInputError
from greentic_session.web import WebPolicy

from .driver import HOST, Browser, Call, Look, Rig, change, ignore, login, regenerate, seen_by

pytestmark = pytest.mark.anyio

Headers = tuple[tuple[str, str], ...]
OWN = f"https://{HOST}"
FOREIGN: list[Headers] = [
    (("origin", "https://evil.example"),),
    (("origin", "null"),),
    (("origin", ""),),
    (("origin", f"http://{HOST}"),),  # a page that an attacker in the network made up
    (("origin", f"{OWN}:8443"),),
    (("origin", f"{OWN}.evil.example"),),
    (("origin", OWN), ("origin", "https://evil.example")),
    (("sec-fetch-site", "cross-site"),),
    (("sec-fetch-site", "same-site"),),
    (("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")),
    (("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")),
]
OWN_PAGES: list[Headers] = [
    (("sec-fetch-site", "same-origin"),),
    (("sec-fetch-site", "none"),),
    (("sec-fetch-site", "same-origin"), ("origin", OWN)),
    (("origin", OWN),),
    (("origin", OWN.upper().replace("HTTPS", "https")),),
    (("origin", f"{OWN}:443"),),
    (),  # no current browser: ``curl``, a webhook
]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "PROPFIND"])
async def test_an_unsafe_request_of_another_site_gets_403(
    rig: Rig, browser: Browser, headers: Headers, method: str
) -> None:
    await browser.request(change(theme="dark"))
    rig.calls.clear()
    assert (await browser.request(login(), method, headers=headers)).status == 403
    assert not rig.calls
    assert rig.rejected == ["foreign_origin"]


@pytest.mark.parametrize("headers", FOREIGN)
async def test_a_cross_site_login_form_carries_no_cookie_and_is_refused_too(
    rig: Rig, headers: Headers
) -> None:
    assert (await Browser(rig).post(login("mallory"), headers=headers)).status == 403
    assert await rig.records() == []


@pytest.mark.parametrize("headers", OWN_PAGES)
async def test_an_unsafe_request_of_the_own_pages_passes(
    browser: Browser, headers: Headers
) -> None:
    assert (await browser.post(login(), headers=headers)).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_a_safe_request_of_another_site_passes(browser: Browser, method: str) -> None:
    for headers in FOREIGN:
        assert (await browser.request(ignore, method, headers=headers)).status == 200


async def test_a_request_without_both_headers_is_refused_if_the_policy_says_so(
    rig: Rig, browser: Browser
) -> None:
    rig.configure(WebPolicy(require_origin=True))
    assert (await browser.post(login(), headers=())).status == 403
    assert (await browser.post(login(), headers=(("origin", OWN),))).status == 200


async def test_origins_is_the_allow_list(rig: Rig, browser: Browser) -> None:
    rig.configure(WebPolicy(origins=("https://app.example", "https://dev.example:8443")))
    for origin, status in [
        ("https://app.example", 200),
        ("https://dev.example:8443", 200),
        ("https://dev.example", 403),
        ("http://app.example", 403),
    ]:
        headers = (("sec-fetch-site", "cross-site"), ("origin", origin))
        assert (await browser.post(login(), headers=headers)).status == status


# --- WebSockets ----------------------------------------------------------------------------------


async def accept(call: Call) -> None:
    await call.receive()
    await call.send({"type": "websocket.accept"})
    await call.send({"type": "websocket.close", "code": 1000})


@pytest.mark.parametrize("headers", [*FOREIGN, ()])
@pytest.mark.parametrize("has_denial", [True, False])
async def test_a_handshake_without_a_matching_origin_is_denied_before_accept(
    rig: Rig, browser: Browser, headers: Headers, *, has_denial: bool
) -> None:
    async with browser.socket(accept, headers=headers, has_denial=has_denial) as sent:
        pass
    first = sent[0]
    if has_denial:
        assert (first["type"], first["status"]) == ("websocket.http.response.start", 403)
        assert sent[1]["type"] == "websocket.http.response.body"
    else:
        assert first == {"type": "websocket.close", "code": 1008}
    assert not rig.calls


async def test_a_handshake_of_the_own_pages_passes(rig: Rig, browser: Browser) -> None:
    rig.configure(WebPolicy(origins=("https://app.example",)))
    for origin in (OWN, "https://app.example"):
        async with browser.socket(accept, headers=(("origin", origin),)) as sent:
            pass
        assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]


# --- masked tokens -------------------------------------------------------------------------------


class Form:
    """A handler that renders a form with a token."""

    token = ""

    async def __call__(self, call: Call) -> None:
        self.token = (await call.session()).csrf_token()


FORM = (("content-type", "application/x-www-form-urlencoded; charset=utf-8"),)


def filled(token: str) -> bytes:
    return urlencode({"name": "Ann", "csrf_token": token}).encode()


async def test_with_tokens_an_unsafe_request_with_a_session_needs_one(
    rig: Rig, browser: Browser
) -> None:
    rig.configure(WebPolicy(csrf="token"))
    form = Form()
    await browser.request(form)
    assert browser.cookie is not None  # the token belongs to a session
    bodies: list[bytes] = []

    async def handler(call: Call) -> None:
        bodies.append((await call.receive())["body"])

    async def status(token: str, headers: Headers = FORM) -> int:
        return (await browser.post(handler, headers=headers, body=filled(token))).status

    assert await status(form.token) == 200
    assert bodies == [filled(form.token)]
    assert await status("", (("x-csrf-token", form.token),)) == 200
    for wrong in ("", "x", "é", form.token[:-4] + "AAAA", form.token + "A" * 4):
        assert await status(wrong) == 403
    assert await status(form.token, ()) == 403
    doubled = filled(form.token) + b"&csrf_token=x"
    assert (await browser.post(handler, headers=FORM, body=doubled)).status == 403
    assert rig.rejected == ["csrf_token"] * 7


async def test_each_token_has_another_mask(rig: Rig, browser: Browser) -> None:
    rig.configure(WebPolicy(csrf="token"))
    form = Form()
    tokens = set()
    for _ in range(5):
        await browser.request(form)
        tokens.add(form.token)
    assert len(tokens) == 5


async def test_a_token_ends_with_its_incarnation(rig: Rig, browser: Browser) -> None:
    rig.configure(WebPolicy(csrf="token"))
    form = Form()
    await browser.request(form)
    planted = form.token
    headers = (("x-csrf-token", form.token),)
    assert (await browser.post(regenerate, headers=headers)).status == 200
    assert (await browser.post(ignore, headers=(("x-csrf-token", planted),))).status == 403
    await browser.request(form)
    assert (await browser.post(ignore, headers=(("x-csrf-token", form.token),))).status == 200


async def test_a_token_survives_a_renewal(rig: Rig, browser: Browser) -> None:
    rig.configure(WebPolicy(csrf="token", renew_after=60))
    form = Form()
    await browser.request(form)
    await rig.advance(61)
    before = browser.cookie
    await browser.request(Look())
    assert browser.cookie != before
    assert (await browser.post(ignore, headers=(("x-csrf-token", form.token),))).status == 200


async def test_a_request_without_a_session_needs_no_token(rig: Rig, browser: Browser) -> None:
    rig.configure(WebPolicy(csrf="token"))
    assert (await browser.post(login())).status == 200
    assert (await seen_by(browser)).user_id == "ann"


async def test_without_tokens_in_the_policy_there_are_none(browser: Browser) -> None:
    with pytest.raises(InvalidInputError):
        await browser.request(Form())
