"""Rule 1: what a token is, and what opens a session.

Sources: OWASP Session Management Cheat Sheet ("Session ID Length", "Session ID Content"), ASVS 5.0
7.2.3, RFC 6265bis 8.6.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from greentic_session import SessionKey
from greentic_session.web import WebPolicy
from greentic_session.web.tokens import Token, TokenFormat, digest_of, is_digest_of

from .driver import COOKIE, TENANT, Browser, Look, Rig, change, regenerate, seen_by

pytestmark = pytest.mark.anyio

KEY_A = "a" * 32
KEY_B = "b" * 32


def halves(browser: Browser) -> tuple[str, str]:
    assert browser.cookie is not None
    locator, _, secret = browser.cookie.partition("=")[2].partition(".")
    return locator, secret


async def test_a_token_has_128_and_192_random_bits(browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    locator, secret = halves(browser)
    assert len(base64.urlsafe_b64decode(locator + "==")) * 8 == 128
    assert len(base64.urlsafe_b64decode(secret)) * 8 == 192
    assert len({Token.mint() for _ in range(100)}) == 100


async def test_the_store_holds_digests_only(rig: Rig, browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    locator, secret = halves(browser)
    (found,) = await rig.records()
    session = found.session
    digest = base64.urlsafe_b64encode(hashlib.sha256(locator.encode()).digest()).rstrip(b"=")
    assert session.key == SessionKey("web:" + digest.decode())
    assert session.meta.labels["web"]["h"] == digest_of(secret)
    everything = repr(session) + repr(session.context)
    assert locator not in everything
    assert secret not in everything


async def test_a_dump_of_the_store_opens_nothing(rig: Rig, browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    (found,) = await rig.records()
    stolen = found.session.key.removeprefix("web:")
    digest = found.session.meta.labels["web"]["h"]
    for locator in (stolen[:22], halves(browser)[0]):
        thief = Browser(rig, cookie=f"{COOKIE}={locator}.{digest[:32]}")
        assert (await seen_by(thief)).is_new


def test_digests_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []

    def compare(left: str, right: str) -> bool:
        compared.append((left, right))
        return left == right

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert is_digest_of(digest_of("secret"), "secret")
    assert not is_digest_of(digest_of("secret"), "another")
    assert len(compared) == 2


async def test_an_unknown_token_is_never_adopted(rig: Rig) -> None:
    invented = f"{COOKIE}={'A' * 22}.{'B' * 32}"
    victim = Browser(rig, cookie=invented)
    reply = await victim.request(change(theme="dark"))
    assert victim.cookie is not None
    assert victim.cookie != invented
    assert "A" * 22 not in victim.cookie
    assert len(reply.cookies) == 1
    assert rig.rejected == ["unknown_token"]
    assert (await seen_by(Browser(rig, cookie=invented))).is_new
    (record,) = await rig.records()
    assert record.session.key == SessionKey("web:" + digest_of(halves(victim)[0]))


@pytest.mark.parametrize(
    "value",
    ["", "x", "A" * 22, f"{'A' * 22}.", f"{'A' * 22}.{'B' * 31}", f"{'A' * 22}.{'B' * 33}", "é.é"],
)
async def test_a_malformed_token_costs_no_call(rig: Rig, value: str) -> None:
    assert (await seen_by(Browser(rig, cookie=f"{COOKIE}={value}"))).is_new
    assert not rig.calls
    assert rig.rejected == ["malformed_token"]


async def test_of_two_cookies_with_the_name_neither_counts(rig: Rig, browser: Browser) -> None:
    # RFC 6265bis 8.6: a sibling domain can plant a cookie of the same name.
    await browser.request(change(theme="dark"))
    assert browser.cookie is not None
    planted = f"{COOKIE}={'A' * 22}.{'B' * 32}"
    rig.calls.clear()
    for both in (f"{browser.cookie}; {planted}", f"{planted};{browser.cookie}"):
        assert (await seen_by(Browser(rig, cookie=both))).is_new
    look = Look()
    await browser.request(look, headers=(("cookie", planted),))
    assert look.is_new
    assert not rig.calls


async def test_other_cookies_are_ignored(rig: Rig, browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    for text in (f"a=1; {browser.cookie}; b=2", f"x{COOKIE}=1;{browser.cookie} ;{COOKIE}2=3"):
        assert (await seen_by(Browser(rig, cookie=text))).state.theme == "dark"


async def test_an_invented_cookie_is_refused_without_a_call_if_tokens_are_signed(
    rig: Rig, browser: Browser
) -> None:
    rig.configure(WebPolicy(signing_keys=(KEY_A,)))
    await browser.request(change(theme="dark"))
    assert (await seen_by(browser)).state.theme == "dark"
    rig.calls.clear()
    plain = f"{'A' * 22}.{'B' * 32}"
    for value in (plain, f"{'C' * 11}.{plain}", TokenFormat([KEY_B.encode()]).write(Token.mint())):
        assert (await seen_by(Browser(rig, cookie=f"{COOKIE}={value}"))).is_new
    assert not rig.calls
    assert rig.rejected == ["malformed_token"] * 3


async def test_signing_keys_can_be_rotated(rig: Rig, browser: Browser) -> None:
    rig.configure(WebPolicy(signing_keys=(KEY_A,)))
    await browser.request(change(theme="dark"))
    rig.configure(WebPolicy(signing_keys=(KEY_B, KEY_A)))
    assert (await seen_by(browser)).state.theme == "dark"
    before = browser.cookie
    await browser.post(regenerate)  # sends a token that the new key signs
    assert browser.cookie != before
    rig.configure(WebPolicy(signing_keys=(KEY_B,)))
    assert (await seen_by(browser)).state.theme == "dark"


async def test_an_id_of_a_session_that_is_not_of_the_web_opens_nothing(
    rig: Rig, browser: Browser
) -> None:
    await browser.request(change(theme="dark"))
    (found,) = await rig.records()
    labels = {"web": {"h": 5}, "other": 1}
    broken = found.session.meta.labels | labels
    from msgspec.structs import replace

    await rig.store.put(replace(found.session, meta=replace(found.session.meta, labels=broken)))
    assert (await seen_by(browser)).is_new


async def test_no_token_is_in_a_repr_and_in_a_log(
    rig: Rig, browser: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    rig.configure(WebPolicy(signing_keys=(KEY_A,)))
    await browser.request(change(theme="dark"))
    look = await seen_by(browser)
    assert look.session is not None
    told = f"{look.session!r} {look.session.bound.token!r} {rig.sessions.policy!r} {caplog.text}"
    assert browser.cookie is not None
    for secret in (*browser.cookie.partition("=")[2].split("."), KEY_A, TENANT.tenant_id + "/"):
        assert secret not in told
