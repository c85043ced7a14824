"""Rule 13: the sessions of a user, and logins that race a revocation.

Sources: ASVS 5.0 7.1.2 (limit of parallel sessions), 7.4.3, 7.5.1, 7.5.2.
"""

from __future__ import annotations

import anyio
import pytest

from greentic_session import (
    InvalidInputError,
    ReauthenticationRequiredError,
    SessionKey,
    SessionLimitError,
    SessionRevokedError,
    StoreUnavailableError,
)
from greentic_session.web import WebPolicy

from .driver import (
    ANN,
    BOB,
    TENANT,
    Browser,
    Call,
    Handler,
    Rig,
    change,
    gated,
    login,
    logout,
    seen_by,
)

pytestmark = pytest.mark.anyio


def login_as(label: str, user_id: str = "ann") -> Handler:
    async def handler(call: Call) -> None:
        session = await call.session()
        session.label = label
        await session.login(user_id)

    return handler


async def logged_in(rig: Rig, count: int, user_id: str = "ann") -> list[Browser]:
    """Return browsers that logged in one after the other."""
    browsers = [Browser(rig) for _ in range(count)]
    for number, browser in enumerate(browsers):
        assert (await browser.post(login_as(f"device {number}", user_id))).status == 200
        await rig.advance(1)
    return browsers


async def users_of(browsers: list[Browser]) -> list[str | None]:
    return [(await seen_by(browser)).user_id for browser in browsers]


async def test_the_sessions_of_a_user_are_listed_oldest_first(rig: Rig) -> None:
    await logged_in(rig, 3)
    await logged_in(rig, 1, "bob")
    await Browser(rig).request(change(theme="dark"))
    devices = await rig.sessions.list(ANN)
    assert [device.label for device in devices] == ["device 0", "device 1", "device 2"]
    assert [device.label for device in await rig.sessions.list(BOB)] == ["device 0"]
    for device in devices:
        assert device.created_at <= device.authenticated_at
        assert device.expires_at is not None
        assert device.seen_at < device.expires_at


async def test_a_session_that_ended_is_not_listed(rig: Rig) -> None:
    first, second = await logged_in(rig, 2)
    await first.post(logout)
    assert len(await rig.sessions.list(ANN)) == 1
    await rig.advance(2000)
    assert await rig.sessions.list(ANN) == []
    assert (await seen_by(second)).is_new


async def test_one_session_can_be_revoked(rig: Rig) -> None:
    browsers = await logged_in(rig, 3)
    key = (await rig.sessions.list(ANN))[1].key
    assert await rig.sessions.revoke(ANN, key)
    assert await users_of(browsers) == ["ann", None, "ann"]
    assert not await rig.sessions.revoke(ANN, key)


async def test_a_session_of_another_user_cannot_be_revoked(rig: Rig) -> None:
    browsers = await logged_in(rig, 1)
    (device,) = await rig.sessions.list(ANN)
    assert not await rig.sessions.revoke(BOB, device.key)
    assert await users_of(browsers) == ["ann"]


async def test_all_sessions_can_be_revoked_except_one(rig: Rig) -> None:
    browsers = await logged_in(rig, 3)
    others = await logged_in(rig, 1, "bob")

    async def change_password(call: Call) -> None:
        assert await rig.sessions.revoke_all(ANN, keep=await call.session()) == 2

    await browsers[1].post(change_password)
    assert await users_of(browsers) == [None, "ann", None]
    assert await users_of(others) == ["bob"]
    assert await rig.sessions.revoke_all(ANN) == 1
    assert await users_of(browsers) == [None, None, None]


async def test_a_user_can_log_in_again_after_a_revocation(rig: Rig) -> None:
    await logged_in(rig, 1)
    await rig.sessions.revoke_all(ANN)
    assert await users_of(await logged_in(rig, 1)) == ["ann"]


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_login_that_began_before_the_revocation_is_undone(
    rig: Rig, browser: Browser, *, is_known: bool
) -> None:
    if is_known:
        await browser.request(change(theme="dark"))

    async def handler(call: Call) -> None:
        session = await call.session()
        async with rig.sessions.signing_in(TENANT, "ann") as attempt:
            # The old password is checked here, and then another request changes it.
            await rig.sessions.revoke_all(ANN)
            with pytest.raises(SessionRevokedError):
                await attempt.login(session)
        assert session.is_new

    await browser.post(handler)
    assert (await seen_by(browser)).user_id is None
    assert await rig.records() == []
    assert await rig.sessions.list(ANN) == []


async def test_an_undone_login_that_no_handler_catches_is_a_401(rig: Rig, browser: Browser) -> None:
    async def handler(call: Call) -> None:
        async with rig.sessions.signing_in(TENANT, "ann") as attempt:
            await rig.sessions.revoke_all(ANN)
            await attempt.login(await call.session())

    reply = await browser.post(handler)
    assert reply.status == 401
    assert browser.cookie is None


async def test_a_login_inside_signing_in_succeeds(rig: Rig, browser: Browser) -> None:
    async def handler(call: Call) -> None:
        async with rig.sessions.signing_in(TENANT, "ann") as attempt:
            await attempt.login(await call.session())

    await browser.post(handler)
    assert (await seen_by(browser)).user_id == "ann"
    assert rig.sessions.statistics().logins == 1


async def test_an_attempt_of_another_tenant_is_refused(rig: Rig, browser: Browser) -> None:
    async def handler(call: Call) -> None:
        from greentic_session import TenantCtx

        async with rig.sessions.signing_in(TenantCtx(tenant_id="globex"), "ann") as attempt:
            with pytest.raises(InvalidInputError):
                await attempt.login(await call.session())

    await browser.post(handler)
    assert await rig.records() == []


async def test_a_store_that_fails_at_the_confirmation_leaves_no_usable_session(
    rig: Rig, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(*_args: object) -> bool:
        raise StoreUnavailableError("down")

    monkeypatch.setattr(type(rig.sessions.generations), "confirm", failing)
    await browser.request(change(theme="dark"))
    old = browser.twin()
    reply = await browser.post(login())
    assert reply.status == 503
    assert browser.cookie is None
    assert (await seen_by(old)).is_new


async def test_a_limit_refuses_the_next_login(rig: Rig) -> None:
    rig.configure(WebPolicy(max_sessions=2))
    browsers = await logged_in(rig, 2)
    late = Browser(rig)

    async def handler(call: Call) -> None:
        with pytest.raises(SessionLimitError) as caught:
            await (await call.session()).login("ann")
        assert caught.value.limit == 2

    await late.post(handler)
    assert (await late.post(login())).status == 429
    assert await users_of([*browsers, late]) == ["ann", "ann", None]
    await browsers[0].post(logout)
    await late.post(login())
    assert await users_of([late]) == ["ann"]


async def test_a_refused_login_changes_nothing(rig: Rig) -> None:
    rig.configure(WebPolicy(max_sessions=1))
    await logged_in(rig, 1)
    (bob,) = await logged_in(rig, 1, "bob")
    await bob.post(change(theme="dark"))

    async def handler(call: Call) -> None:
        with pytest.raises(SessionLimitError):
            await (await call.session()).login("ann")

    assert (await bob.post(handler)).cookies == []
    look = await seen_by(bob)
    assert (look.user_id, look.state.theme) == ("bob", "dark")


async def test_a_login_again_counts_once(rig: Rig) -> None:
    rig.configure(WebPolicy(max_sessions=1))
    (browser,) = await logged_in(rig, 1)
    assert (await browser.post(login())).status == 200
    assert len(await rig.sessions.list(ANN)) == 1


async def test_a_limit_may_end_the_oldest_session(rig: Rig) -> None:
    rig.configure(WebPolicy(max_sessions=2, overflow="oldest"))
    browsers = await logged_in(rig, 4)
    assert await users_of(browsers) == [None, None, "ann", "ann"]


@pytest.mark.parametrize("overflow", ["refuse", "oldest"])
async def test_parallel_logins_never_exceed_the_limit(rig: Rig, overflow: str) -> None:
    rig.configure(WebPolicy(max_sessions=3, overflow=overflow))  # type: ignore[arg-type]
    gate = anyio.Event()
    browsers = [Browser(rig) for _ in range(10)]
    async with anyio.create_task_group() as tasks:
        for browser in browsers:
            tasks.start_soon(browser.post, gated(login(), gate))
        gate.set()
    assert len(await rig.sessions.list(ANN)) <= 3
    assert (await users_of(browsers)).count("ann") <= 3


async def test_a_recent_login_can_be_required(rig: Rig, browser: Browser) -> None:
    async def handler(call: Call) -> None:
        (await call.session()).require_recent_login(300)

    assert (await browser.post(handler)).status == 401
    await browser.post(login())
    assert (await browser.post(handler)).status == 200
    await rig.advance(301)
    assert (await browser.post(handler)).status == 401

    async def caught(call: Call) -> None:
        with pytest.raises(ReauthenticationRequiredError):
            (await call.session()).require_recent_login(300)

    assert (await browser.post(caught)).status == 200
    await browser.post(login())
    assert (await browser.post(handler)).status == 200


async def test_a_label_is_saved_with_the_state(rig: Rig, browser: Browser) -> None:
    await browser.post(login_as("phone"))

    async def rename(call: Call) -> None:
        session = await call.session()
        assert session.label == "phone"
        session.label = "tablet"

    await browser.post(rename)
    (device,) = await rig.sessions.list(ANN)
    assert device.label == "tablet"

    async def invalid(call: Call) -> None:
        session = await call.session()
        with pytest.raises(InvalidInputError):
            session.label = "a\nb"

    await browser.post(invalid)


async def test_lists_need_a_user(rig: Rig) -> None:
    for call in (
        rig.sessions.list(TENANT),
        rig.sessions.revoke(TENANT, SessionKey("web:x")),
        rig.sessions.revoke_all(TENANT),
    ):
        with pytest.raises(InvalidInputError):
            await call
