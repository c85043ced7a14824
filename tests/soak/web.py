"""Web sessions under parallel requests, races and lost responses, through the middleware."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio

from greentic_session import OutcomeUnknownError, SessionRevokedError, StoreUnavailableError
from greentic_session.testing.harness import RedisHarness
from greentic_session.testing.servers import LocalServer, valkey_binary
from greentic_session.web import WebPolicy

from ..support.waits import hired
from ..support.web_tabs import Order
from ..web.driver import (
    ANN,
    COOKIE,
    TENANT,
    Browser,
    Call,
    Handler,
    Look,
    Rig,
    change,
    login,
    rig_on,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from typing import Any

    from .report import Report

READERS: Final = 32
ADDERS: Final = 64
WINDOW_SECS: Final = 0.01
"""The time in which racing logins begin."""
REVOKE_WITHIN_SECS: Final = 0.1
"""The time in which the revocation and the kill come: before, in or after the logins."""
SIGNING_KEY: Final = "k" * 32


@asynccontextmanager
async def _rig() -> AsyncIterator[Rig]:
    with LocalServer(valkey_binary()) as server:
        async with rig_on("valkey", server.url) as rig:
            yield rig


async def _at_once(*calls: Callable[[], Coroutine[Any, Any, object]]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for call in calls:
            tasks.create_task(call())


async def pairs(report: Report) -> None:
    """Let two requests change different fields of one session at once. Both changes are kept."""
    async with _rig() as rig:
        while not report.is_over:
            browser = Browser(rig)
            await browser.request(change(views=1))
            # Both load before either saves.
            gate = _Barrier(2)
            one = gate.before(change(theme="dark"))
            other = gate.before(change(current_channel="news"))
            await _at_once(
                partial(browser.twin().request, one),
                partial(browser.twin().request, other),
            )
            look = Look()
            await browser.request(look)
            kept = (look.state.theme, look.state.current_channel)
            report.expect(kept == ("dark", "news"), f"pair {report.count}: kept {kept}")
            report.count += 1
        report.faults = rig.sessions.statistics().merges


async def sums(report: Report) -> None:
    """Let 64 requests add to one field at once."""
    async with _rig() as rig:
        while not report.is_over:
            browser = Browser(rig)
            await browser.request(change(theme="dark"))
            gate = _Barrier(ADDERS)

            async def add(call: Call) -> None:
                (await call.session()).state.views += 1

            handler = gate.before(add)
            await _at_once(*(partial(browser.twin().request, handler) for _ in range(ADDERS)))
            look = Look()
            await browser.request(look)
            report.expect(look.state.views == ADDERS, f"of {ADDERS}, {look.state.views} counted")
            report.count += 1
        report.faults = rig.sessions.statistics().merges


async def logouts(report: Report) -> None:
    """Log out in one process against a slow save in another."""
    program = "tests.support.web_tabs"
    async with _rig() as rig:
        harness = rig.harness
        assert isinstance(harness, RedisHarness)
        async with hired(harness, program=program) as saver, hired(harness, program=program) as one:
            await asyncio.gather(saver.hear(), one.hear())
            while not report.is_over:
                browser = Browser(rig)
                await browser.request(change(theme="dark"))
                name = f"logout {report.count}"
                saver.order(Order("save", browser.cookie))
                report.expect((await saver.hear())["word"] == "entered", f"{name}: no slow save")
                replies: list[dict[str, Any]] = []
                is_racing = report.dice(report.count).random() < 0.5
                if is_racing:
                    saver.order(Order("go"))
                one.order(Order("logout", browser.cookie))
                if is_racing:
                    replies += await asyncio.gather(one.hear(), saver.hear())
                else:
                    replies.append(await one.hear())
                    saver.order(Order("go"))
                    replies.append(await saver.hear())
                statuses = [reply.get("status") for reply in replies]
                report.expect(statuses == [200, 200], f"{name}: statuses {statuses}")
                report.expect(not replies[1].get("cookies"), f"{name}: a late cookie")
                look = Look()
                await browser.request(look)
                report.expect(look.is_new, f"{name}: the cookie opens a session")
                report.tally["racing" if is_racing else "late"] += 1
                report.count += 1
        report.expect(not await rig.records(), "records are left")
    report.faults = report.count


async def logins(report: Report) -> None:
    """Log in while 32 requests of the same cookie read."""
    async with _rig() as rig:
        while not report.is_over:
            browser = Browser(rig)
            await browser.request(change(theme="dark"))
            old = browser.twin()
            looks = [Look() for _ in range(READERS)]
            statuses: list[int] = []

            async def read(
                look: Look, browser: Browser = old, statuses: list[int] = statuses
            ) -> None:
                statuses.append((await browser.twin().request(look)).status)

            readers = [partial(read, look) for look in looks]
            await _at_once(*readers[:16], partial(browser.post, login()), *readers[16:])
            name = f"login {report.count}"
            report.expect(set(statuses) == {200}, f"{name}: statuses {set(statuses)}")
            report.expect(
                all(look.user_id is None for look in looks), f"{name}: a reader saw another user"
            )
            after, now = Look(), Look()
            await old.request(after)
            await browser.request(now)
            report.expect(after.is_new, f"{name}: the old token opens a session")
            report.expect(now.user_id == "ann", f"{name}: the new token opens nothing")
            report.count += 1
        report.faults = rig.sessions.statistics().replaced


async def renewals(report: Report) -> None:
    """Renew under 32 parallel requests, and lose each tenth response with a cookie."""
    async with _rig() as rig:
        rig.configure(WebPolicy(renew_after=0.001, idle=1800, absolute=None))
        browser = Browser(rig)
        await browser.post(login())
        while not report.is_over:
            looks = [Look() for _ in range(READERS)]
            is_lost = report.count % 10 == 9
            dice = report.dice(report.count)
            sent = browser.cookie

            async def read(look: Look, *, is_lost: bool = is_lost, sent: str | None = sent) -> None:
                tab = Browser(rig, cookie=sent)
                await tab.request(look, is_lost=is_lost)
                if tab.cookie != sent:
                    browser.cookie = tab.cookie  # the tabs share one jar

            calls = [partial(read, look) for look in looks]
            dice.shuffle(calls)
            await _at_once(*calls)
            report.expect(
                all(look.user_id == "ann" for look in looks),
                f"round {report.count}: a request was logged out",
            )
            report.faults += is_lost
            report.count += 1
            if is_lost:
                await rig.advance(11)  # then the response counts as lost
        report.tally["renewals"] = rig.sessions.statistics().renewals


async def revocations(report: Report) -> None:
    """Revoke a user's sessions against racing logins. In every second round, the server is killed.

    It comes back with what it acknowledged. No login of an old password survives.
    """
    with LocalServer(valkey_binary(), durable=True) as server:
        async with rig_on("valkey", server.url) as rig:
            await _revoked(rig, server, report)


async def _revoked(rig: Rig, server: LocalServer, report: Report) -> None:
    passwords = {"current": 0}

    def sign_in(password: int, outcomes: list[str]) -> Handler:
        async def handler(call: Call) -> None:
            session = await call.session()
            async with rig.sessions.signing_in(TENANT, "ann") as attempt:
                if passwords["current"] != password:
                    outcomes.append("wrong password")
                    return
                await anyio.lowlevel.checkpoint()
                try:
                    await attempt.login(session)
                except SessionRevokedError:
                    outcomes.append("revoked")
                except (StoreUnavailableError, OutcomeUnknownError):
                    outcomes.append("cut off")
                else:
                    outcomes.append("in")

        return handler

    while not report.is_over:
        old, outcomes = passwords["current"], list[str]()
        browsers = [Browser(rig) for _ in range(4)]
        dice = report.dice(report.count)

        async def attempt(
            browser: Browser, pause: float, old: int = old, outcomes: list[str] = outcomes
        ) -> None:
            await anyio.sleep(pause)
            await browser.post(sign_in(old, outcomes))

        async def revoke(pause: float) -> None:
            await anyio.sleep(pause)
            passwords["current"] += 1
            while True:  # as its documentation says
                try:
                    await rig.sessions.revoke_all(ANN)
                except (StoreUnavailableError, OutcomeUnknownError):
                    report.tally["revocations again"] += 1
                else:
                    return

        async def kill(pause: float) -> None:
            if report.count % 2:
                await anyio.sleep(pause)  # while they race
                await asyncio.to_thread(server.restart)
                report.faults += 1

        await _at_once(
            partial(kill, dice.uniform(0, REVOKE_WITHIN_SECS)),
            *(partial(attempt, browser, dice.uniform(0, WINDOW_SECS)) for browser in browsers),
            partial(revoke, dice.uniform(0, REVOKE_WITHIN_SECS)),
        )
        for browser in browsers:
            look = Look()
            await browser.request(look)
            report.expect(look.user_id is None, f"round {report.count}: a login survived")
        report.tally.update(outcomes)
        report.count += 1
    # A login that a kill cut off may leave a record, whose secret no client has.
    report.tally["records that open nothing"] = await rig.sessions.revoke_all(ANN)
    report.expect(not await rig.records(), "records are left")


async def inventions(report: Report) -> None:
    """Send invented cookies, without and with signing keys."""
    async with rig_on("memory") as rig:
        while not report.is_over:
            if report.count == report.wanted // 2:
                rig.configure(WebPolicy(signing_keys=(SIGNING_KEY,)))
                rig.calls.clear()
            token = f"{secrets.token_urlsafe(16)}.{secrets.token_urlsafe(24)}"
            sign = f"{secrets.token_urlsafe(8)}." if report.count >= report.wanted // 2 else ""
            look = Look()
            reply = await Browser(rig, cookie=f"{COOKIE}={sign}{token}").request(look)
            report.expect(look.is_new and not reply.cookies, "an invented cookie opened a session")
            report.count += 1
        report.expect(not await rig.records(), "an invented cookie made a record")
        report.expect(not rig.calls["_read"], f"{rig.calls} calls with signing keys")
        report.faults = len(rig.rejected)


class _Barrier:
    """Lets a number of handlers run when all of them have loaded their session."""

    def __init__(self, count: int) -> None:
        self._missing = count
        self._open = anyio.Event()

    def before(self, handler: Handler) -> Handler:
        async def waiting(call: Call) -> int | None:
            await call.session()
            self._missing -= 1
            if not self._missing:
                self._open.set()
            await self._open.wait()
            return await handler(call)

        return waiting
