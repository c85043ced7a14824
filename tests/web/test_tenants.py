"""Rule 11: the tenant of a request, by its host."""

from __future__ import annotations

import pytest

from greentic_session import InvalidInputError, TenantCtx
from greentic_session.web import WebSessions

from .driver import (
    HOST,
    OTHER_HOST,
    TENANT,
    TENANTS,
    AppSession,
    Browser,
    Call,
    Look,
    Rig,
    change,
    ignore,
    login,
    seen_by,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("host", ["unknown.example", "", "a b", "acme.example/x", "x@acme.example"])
async def test_an_unknown_host_gets_421_before_any_call(rig: Rig, host: str) -> None:
    for handler in (ignore, Look()):
        assert (await Browser(rig, host).request(handler)).status == 421
    assert not rig.calls
    assert rig.rejected == ["unknown_host"] * 2


async def test_a_request_with_two_hosts_gets_421(browser: Browser) -> None:
    assert (await browser.request(ignore, headers=(("host", HOST),))).status == 421


async def test_a_websocket_to_an_unknown_host_is_denied(rig: Rig) -> None:
    async def accept(_call: Call) -> None:
        raise AssertionError

    async with Browser(rig, "unknown.example").socket(accept) as sent:
        pass
    assert sent[0]["status"] == 421
    async with Browser(rig, "unknown.example").socket(accept, has_denial=False) as sent:
        pass
    assert sent == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize("host", [HOST, f"{HOST}:8443", HOST.upper(), f"{HOST}."])
async def test_a_host_is_known_in_each_of_its_forms(rig: Rig, host: str) -> None:
    assert (await Browser(rig, host).request(Look())).status == 200


async def test_the_cookie_of_another_tenant_finds_nothing(rig: Rig, browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    other = Browser(rig, OTHER_HOST, browser.cookie)
    assert (await seen_by(other)).is_new
    assert rig.rejected == ["unknown_token"]
    await other.post(login())
    assert (await seen_by(browser)).state.theme == "dark"
    assert {found.session.meta.tenant_id for found in await rig.records()} == {"acme", "globex"}


async def test_the_tenant_of_a_session_is_that_of_the_host(rig: Rig) -> None:
    await Browser(rig, OTHER_HOST).request(change(theme="dark"))
    (found,) = await rig.records()
    assert found.session.meta.tenant_id == "globex"


async def test_the_tenant_may_come_from_a_function(rig: Rig) -> None:
    async def find(host: str) -> TenantCtx | None:
        return TENANTS.get(host)

    for tenant in (TENANTS.get, find):
        rig.configure(tenant=tenant)
        assert (await Browser(rig).request(Look())).status == 200
        assert (await Browser(rig, "unknown.example").request(Look())).status == 421


async def test_one_tenant_may_serve_all_hosts(rig: Rig) -> None:
    rig.configure(tenant=TENANT)
    browser = Browser(rig, "anything.example")
    await browser.request(change(theme="dark"))
    assert (await seen_by(browser)).state.theme == "dark"


async def test_a_tenant_may_have_a_team(rig: Rig, browser: Browser) -> None:
    rig.configure(tenant=TenantCtx(tenant_id="acme", team_id="red"))
    await browser.request(change(theme="dark"))
    assert (await seen_by(browser)).state.theme == "dark"
    await browser.post(login())
    assert (await seen_by(browser)).user_id == "ann"
    rig.configure(tenant=TenantCtx(tenant_id="acme", team_id="blue"))
    assert (await seen_by(browser)).is_new


@pytest.mark.parametrize(
    "tenant",
    [
        5,
        {"acme.example": 5},
        {"acme.example:80": TENANT},
        {5: TENANT},
        TenantCtx(tenant_id="a b"),
        TenantCtx(tenant_id="acme", user_id="ann"),
    ],
)
async def test_an_invalid_tenant_is_refused(rig: Rig, tenant: object) -> None:
    with pytest.raises(InvalidInputError):
        WebSessions(rig.store, new=AppSession, tenant=tenant)  # type: ignore[arg-type]
