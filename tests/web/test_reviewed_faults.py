"""Faults of web sessions that a review found."""

from __future__ import annotations

from functools import partial
from typing import Literal

import anyio
import msgspec
import pytest

from greentic_session import (
    InvalidInputError,
    Session,
    SessionKey,
    SessionLimitError,
    SessionMeta,
    create_session_store,
)
from greentic_session.merging import MergeConflict, merge
from greentic_session.web import SessionMiddleware, WebPolicy, WebSessions

from .conftest import in_memory
from .driver import (
    ANN,
    TENANT,
    TENANTS,
    AppSession,
    Browser,
    Call,
    Handler,
    Look,
    Rig,
    application,
    change,
    login,
    regenerate,
    seen_by,
)

pytestmark = pytest.mark.anyio


class NewerSession(AppSession):
    """The state of a newer release."""

    cart: list[str] = msgspec.field(default_factory=list)


# --- the fields of another release -----------------------------------------------------------


@in_memory
@pytest.mark.parametrize("entering", [login(), regenerate], ids=["login", "regenerate"])
async def test_a_new_incarnation_keeps_the_fields_of_a_newer_release(
    rig: Rig, browser: Browser, entering: Handler
) -> None:
    await browser.request(change(theme="dark"))
    (found,) = await rig.records()
    newer = await rig.harness.open(NewerSession, beside=rig.store)
    read = await newer.get(found.session.key, ctx=TENANT)
    assert read is not None
    state = NewerSession(theme="dark", cart=["tea"])
    await newer.update_cas(read.session.with_context(state), read.cas)
    assert (await browser.post(entering)).status == 200
    after = await newer.get(found.session.key, ctx=ANN)
    assert after is not None
    assert after.session.context.cart == ["tea"]


# --- devices ---------------------------------------------------------------------------------


async def test_only_web_sessions_of_the_user_can_be_revoked(rig: Rig, browser: Browser) -> None:
    shared = Session(
        key=SessionKey("cart-7"), meta=SessionMeta.of(TENANT), context=AppSession(), ttl_secs=600
    )
    await rig.store.create(shared)
    assert not await rig.sessions.revoke(ANN, shared.key)
    assert await rig.store.exists(shared.key, ctx=TENANT)
    await rig.store.delete(shared.key, ctx=TENANT)
    await browser.request(change(theme="dark"))
    (anonymous,) = await rig.records()
    assert not await rig.sessions.revoke(ANN, anonymous.session.key)
    assert not (await seen_by(browser)).is_new


@pytest.mark.parametrize("overflow", ["oldest", "refuse"])
async def test_of_logins_at_once_as_many_stay_as_the_limit_allows(
    rig: Rig, overflow: Literal["oldest", "refuse"]
) -> None:
    rig.configure(WebPolicy(max_sessions=1, overflow=overflow))
    browsers = [Browser(rig) for _ in range(4)]
    refused: list[Browser] = []

    async def log_in(browser: Browser) -> None:
        async def handler(call: Call) -> None:
            try:
                await (await call.session()).login("ann")
            except SessionLimitError:
                refused.append(browser)

        await browser.post(handler)

    async with anyio.create_task_group() as tasks:
        for browser in browsers:
            tasks.start_soon(log_in, browser)
    users = [(await seen_by(browser)).user_id for browser in browsers]
    assert users.count("ann") == 1
    assert len(refused) == (3 if overflow == "refuse" else 0)


# --- conflicts -------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "expected"), [("mine", 2), ("theirs", 3)])
def test_a_side_wins_whatever_the_names_of_the_fields(side: str, expected: int) -> None:
    base: dict[str, object] = {"a": 1, "a.b": 1, "other": {"b": 1}}
    mine, theirs = {**base, "a.b": 2}, {**base, "a.b": 3, "other": {"b": 9}}
    assert isinstance(merge(base, mine, theirs), MergeConflict)
    wins = partial(merge, base, mine, theirs)
    merged = wins(prefer="mine") if side == "mine" else wins(prefer="theirs")
    assert merged == {"a": 1, "a.b": expected, "other": {"b": 9}}


# --- lifetimes -------------------------------------------------------------------------------


@in_memory
async def test_a_late_reader_does_not_shorten_a_newer_login(rig: Rig, browser: Browser) -> None:
    rig.configure(WebPolicy(idle=10, absolute=20, touch_every=0))
    await browser.request(change(theme="dark"))
    await rig.advance(9)
    await browser.request(Look())
    await rig.advance(9)

    async def reader(call: Call) -> None:
        await call.session()
        await browser.twin().post(login())

    await browser.request(reader)
    (found,) = await rig.records()
    assert found.session.meta.user_id == "ann"
    assert found.session.ttl_secs == 10


# --- responses -------------------------------------------------------------------------------


async def test_only_an_error_that_no_handler_catches_is_replaced(
    rig: Rig, browser: Browser
) -> None:
    rig.configure(WebPolicy(max_sessions=1, overflow="refuse"))
    await Browser(rig).post(login())

    async def handler(call: Call) -> int:
        with pytest.raises(SessionLimitError):
            await (await call.session()).login("ann")
        return 502

    assert (await browser.post(handler)).status == 502


@pytest.mark.parametrize("is_new", [True, False])
async def test_a_change_that_returns_none_is_refused(
    rig: Rig, browser: Browser, *, is_new: bool
) -> None:
    if not is_new:
        await browser.request(change(theme="dark"))

    async def handler(call: Call) -> None:
        session = await call.session()
        with pytest.raises(InvalidInputError, match="change"):
            await session.mutate(lambda _state: None)  # type: ignore[arg-type, return-value]

    await browser.post(handler)
    assert len(await rig.records()) == (0 if is_new else 1)


async def test_a_host_with_a_final_dot_is_the_same_site() -> None:
    async with create_session_store("memory://", context_type=AppSession) as store:
        sessions = WebSessions(store, new=AppSession, tenant=TENANTS)
        app = SessionMiddleware(application, sessions=sessions)
        sent: list[dict[str, object]] = []

        async def handler(_call: Call) -> None:
            return

        async def receive() -> dict[str, object]:
            return {"type": "http.disconnect"}

        async def send(message: dict[str, object]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/",
            "scheme": "https",
            "headers": [(b"host", b"acme.example."), (b"origin", b"https://acme.example.")],
            "query_string": b"",
            "test.sessions": sessions,
            "test.handler": handler,
        }
        await app(scope, receive, send)  # type: ignore[arg-type]
        assert sent[0]["status"] == 200
