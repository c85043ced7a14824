"""Rule 12: a store that is down is never "no session"."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from greentic_session import InvalidInputError, OutcomeUnknownError, StoreUnavailableError
from greentic_session.web import SessionMiddleware

from .driver import Browser, Call, Look, Rig, application, change, gated, ignore, seen_by

pytestmark = pytest.mark.anyio


def fail(rig: Rig, *names: str, error: Exception | None = None) -> None:
    def failing(*_args: Any, **_options: Any) -> Any:
        raise error or StoreUnavailableError("the server is down")

    for name in names:
        setattr(rig.store, name, failing)


@pytest.fixture
async def known(rig: Rig, browser: Browser) -> Browser:
    await browser.request(change(theme="dark"))
    rig.calls.clear()
    return browser


async def test_a_request_that_asks_gets_503_with_retry_after(rig: Rig, known: Browser) -> None:
    fail(rig, "_read")
    reply = await known.request(Look())
    assert reply.status == 503
    assert reply.all("retry-after") == ["5"]
    assert reply.cookies == []
    assert rig.rejected == ["unavailable"]


async def test_a_handler_that_catches_the_error_cannot_turn_it_into_no_session(
    rig: Rig, known: Browser
) -> None:
    fail(rig, "_read")

    async def handler(call: Call) -> int:
        for _ in range(2):
            with pytest.raises(StoreUnavailableError):
                await call.session()
        return 200

    assert (await known.request(handler)).status == 503


async def test_a_request_that_does_not_ask_is_served(rig: Rig, known: Browser) -> None:
    fail(rig, "_read")
    assert (await known.request(ignore)).status == 200


async def test_a_request_without_a_cookie_is_served(rig: Rig) -> None:
    fail(rig, "_read")
    assert (await Browser(rig).request(Look())).status == 200


@pytest.mark.parametrize(
    "error", [StoreUnavailableError("down"), OutcomeUnknownError("no reply")], ids=["down", "lost"]
)
async def test_a_change_that_cannot_be_saved_gets_503(
    rig: Rig, known: Browser, error: Exception
) -> None:
    fail(rig, "_update_cas", error=error)
    assert (await known.request(change(theme="light"))).status == 503
    fail(rig, "_create", error=error)
    reply = await Browser(rig).request(change(theme="dark"))
    assert (reply.status, reply.cookies) == (503, [])


async def test_an_error_of_save_that_no_handler_catches_gets_503(rig: Rig, known: Browser) -> None:
    fail(rig, "_update_cas")

    async def handler(call: Call) -> None:
        session = await call.session()
        session.state.theme = "light"
        await session.save()

    assert (await known.request(handler)).status == 503


async def test_a_read_succeeds_if_only_its_touch_fails(rig: Rig, known: Browser) -> None:
    fail(rig, "_touch")
    await rig.advance(600)
    assert (await seen_by(known)).state.theme == "dark"
    assert rig.rejected == ["unavailable"]


async def test_a_read_succeeds_if_only_its_renewal_fails(rig: Rig, known: Browser) -> None:
    fail(rig, "_update_cas")
    await rig.advance(1000)
    reply = await known.request(Look())
    assert (reply.status, reply.cookies) == (200, [])


async def ask_first(call: Call) -> None:
    await call.receive()
    await call.session()
    await call.send({"type": "websocket.accept"})


async def test_a_websocket_is_denied_with_503_or_1013(rig: Rig, known: Browser) -> None:
    fail(rig, "_read")
    async with known.socket(ask_first) as sent:
        pass
    assert (sent[0]["type"], sent[0]["status"]) == ("websocket.http.response.start", 503)
    async with known.socket(ask_first, has_denial=False) as sent:
        pass
    assert sent == [{"type": "websocket.close", "code": 1013}]


async def test_an_accepted_websocket_is_closed_with_1013(rig: Rig, known: Browser) -> None:
    fail(rig, "_read")

    async def accept_first(call: Call) -> None:
        await call.receive()
        await call.send({"type": "websocket.accept"})
        await call.session()

    async with known.socket(accept_first) as sent:
        pass
    assert sent == [{"type": "websocket.accept"}, {"type": "websocket.close", "code": 1013}]


async def test_another_error_of_the_handler_passes_through(known: Browser) -> None:
    async def handler(_call: Call) -> None:
        raise StoreUnavailableError("of another store")

    with pytest.raises(StoreUnavailableError):
        await known.request(handler)


async def test_excluded_paths_have_no_session(rig: Rig, known: Browser) -> None:
    rig.configure(exclude=("/static", "/health/"))
    foreign = (("origin", "https://evil.example"),)
    for path in ("/static", "/static/app.css", "/health", "/health/live"):
        assert (await known.post(ignore, path=path, headers=foreign)).status == 200
        with pytest.raises(InvalidInputError):
            await known.request(Look(), path=path)
    assert (await known.post(ignore, path="/statics", headers=foreign)).status == 403


@pytest.mark.parametrize("exclude", ["/static", ("static",)])
async def test_invalid_excluded_paths_are_refused(rig: Rig, exclude: Any) -> None:
    with pytest.raises(InvalidInputError):
        SessionMiddleware(application, sessions=rig.sessions, exclude=exclude)


async def test_a_store_that_returns_serves_the_same_session(rig: Rig, known: Browser) -> None:
    read = rig.store._read
    fail(rig, "_read")
    assert (await known.request(Look())).status == 503
    rig.store._read = read  # type: ignore[method-assign]
    assert (await seen_by(known)).state.theme == "dark"


async def test_a_store_that_fails_between_load_and_save_loses_no_cookie(
    rig: Rig, known: Browser
) -> None:
    gate, entered = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            reply = await known.request(gated(change(theme="light"), gate, entered))
            assert (reply.status, reply.cookies) == (503, [])

        tasks.start_soon(run)
        await entered.wait()
        fail(rig, "_update_cas")
        gate.set()
    assert (await seen_by(known)).state.theme == "dark"
