"""Rule 15 and the objects themselves: counters, reports, ``of`` and ``current``."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from greentic_session import InvalidInputError
from greentic_session.web import SessionMiddleware, WebPolicy, WebSessions, current

from .driver import TENANT, AppSession, Browser, Call, Look, Rig, application, change, logout

pytestmark = pytest.mark.anyio


async def test_each_rejection_is_counted_and_reported(rig: Rig, browser: Browser) -> None:
    await browser.request(change(theme="dark"))
    dead = browser.twin()
    await browser.post(logout)
    await dead.request(Look())
    await dead.post(Look(), headers=(("origin", "https://evil.example"),))
    await Browser(rig, cookie="__Host-session=x").request(Look())
    await Browser(rig, "unknown.example").request(Look())
    assert rig.rejected == ["unknown_token", "foreign_origin", "malformed_token", "unknown_host"]
    found = rig.sessions.statistics()
    assert (found.creates, found.loads, found.writes) == (1, 2, 0)
    assert (found.unknown_token, found.foreign_origin, found.malformed_token) == (1, 1, 1)


async def test_an_error_of_the_report_is_logged_without_ids(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(_reason: str) -> None:
        raise RuntimeError("report")

    rig.sessions.counters.__init__(failing)
    with caplog.at_level(logging.ERROR):
        assert (await Browser(rig, "unknown.example").request(Look())).status == 421
    assert "on_rejected raised" in caplog.text
    assert "unknown.example" not in caplog.text


async def test_current_returns_the_session_of_the_request(rig: Rig, browser: Browser) -> None:
    await browser.request(change(theme="dark"))

    async def handler(call: Call) -> None:
        session = await call.session()
        assert await current() is session
        assert await rig.sessions.current() is session

    await browser.request(handler)
    for outside in (current(), rig.sessions.current()):
        with pytest.raises(InvalidInputError):
            await outside


async def test_of_takes_a_scope_or_a_connection(rig: Rig, browser: Browser) -> None:
    class Connection:
        def __init__(self, scope: Any) -> None:
            self.scope = scope

    async def handler(call: Call) -> None:
        session = await call.session()
        assert await rig.sessions.of(Connection(call.scope)) is session
        other = WebSessions(rig.store, new=AppSession, tenant=TENANT)
        for wrong in (call.scope, {}, None, 5):
            with pytest.raises(InvalidInputError):
                await other.of(wrong)

    await browser.request(handler)


@pytest.mark.parametrize(
    "options",
    [
        {"store": None},
        {"new": 5},
        {"policy": {}},
        {"on_rejected": 5},
    ],
)
async def test_invalid_arguments_are_refused(rig: Rig, options: dict[str, Any]) -> None:
    given: dict[str, Any] = {"store": rig.store, "new": AppSession, "tenant": TENANT, **options}
    with pytest.raises(InvalidInputError) as caught:
        WebSessions(given.pop("store"), **given)
    assert caught.value.field == next(iter(options))


def test_the_middleware_needs_sessions() -> None:
    with pytest.raises(InvalidInputError):
        SessionMiddleware(application, sessions=5)  # type: ignore[arg-type]


async def test_a_lifespan_passes_through(rig: Rig) -> None:
    seen: list[str] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope["type"])

    middleware = SessionMiddleware(app, sessions=rig.sessions)
    await middleware({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert seen == ["lifespan"]


def test_the_default_policy_is_that_of_the_norms() -> None:
    policy = WebPolicy()
    assert (policy.idle, policy.absolute) == (1800, 43_200)
    assert policy.rolling
    assert policy.on_conflict == "reject"
