"""Web sessions in six situations that end badly elsewhere, and the cost of a request."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import httpx
import redis.asyncio

from greentic_session.testing.servers import LocalServer, valkey_binary

from .conditions import Recorder, progress
from .findings import Finding, Goal, Table
from .measuring import Spread, race, ratios, short
from .web_sites import HOST, SITES, CookieSite, OurSite, StarsessionsSite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from .measuring import Operation, Plan, Preparation, Round
    from .web_sites import App, Site

__all__ = ["measure"]

_CALLERS: Final = 64
_PAIRS: Final = 50
_LOGOUTS: Final = 20
_OURS: Final = 10_000
"""Pairs and logouts of this library at the default number of operations."""
_DEFAULT_OPERATIONS: Final = 8192
_CHOSEN: Final = "chosen-by-an-attacker"
_NOWHERE: Final = "redis://127.0.0.1:1/0"
"""A port on which nothing listens."""
_IGNORED: Final = {"config", "info", "hello", "client", "script", "auth", "select", "time", "ping"}

_SITUATIONS: Final = (
    "an id that an attacker chose opens the session of a user",
    "the cookie's text is in a key's name",
    "parallel requests that set different fields: pairs that lost one",
    "a logout while a slow request saves: cookies that open the session again",
    "the old id opens the session after `regenerate`",
    "a request that only reads",
    "the store is down",
)
_NOTES: Final = (
    "Each library as its documentation sets it up, with the session in the same server.",
    "Starlette's middleware keeps the session in a signed cookie.",
    "Of a pair, both requests have loaded the session before either saves.",
    "The logout ends before the slow request saves.",
)


def measure(plan: Plan) -> Finding:
    """Play the situations on each library, then race requests."""
    recorder = Recorder()
    goals: list[Goal] = []
    columns: list[list[str]] = []
    with LocalServer(valkey_binary(), tcp=True) as server:
        recorder.engine(server)
        for kind in SITES:
            told, bad = asyncio.run(_situations(kind, server.tcp_url, plan))
            columns.append(told)
            progress(f"{kind.name}: {', '.join(told)}")
            if kind is OurSite:
                goals += [
                    Goal(what=what, measured=Spread.of([count]), bound=0, at_least=False, unit="")
                    for what, count in bad.items()
                ]
        costs, ratios_of = _raced(server.tcp_url, plan)
    goals += [Goal(what=what, measured=spread, bound=bound) for what, spread, bound in ratios_of]
    recorder.packages(kind.version_of for kind in SITES if kind is not OurSite)
    recorder.packages(["httpx"])
    situations = Table(
        title="Situations",
        columns=("", *(kind.name for kind in SITES)),
        rows=tuple(
            (what, *cells)
            for what, cells in zip(_SITUATIONS, zip(*columns, strict=True), strict=True)
        ),
        notes=_NOTES,
    )
    return Finding(
        subject="web",
        title="Web sessions",
        text="The same small application on each library: what happens in situations that users of "
        "web sessions report, and what a request costs.",
        conditions=recorder.conditions(plan),
        busy=recorder.is_busy(),
        goals=tuple(goals),
        tables=(situations, costs),
    )


# --- situations -----------------------------------------------------------------------------------


async def _situations(kind: type[Site], url: str, plan: Plan) -> tuple[list[str], dict[str, float]]:
    """Return the cells of a library's column, and the counts of the pairs and logouts."""
    share = plan.operations / _DEFAULT_OPERATIONS
    pairs, logouts = (
        max(1, round(share * _OURS)) if kind is OurSite else max(1, min(most, plan.operations))
        for most in (_PAIRS, _LOGOUTS)
    )
    async with AsyncExitStack() as stack:
        client = redis.asyncio.Redis.from_url(url)
        stack.push_async_callback(client.aclose)
        await client.flushall()
        site = kind(url)
        stack.push_async_callback(site.aclose)
        app = site.app()
        lost = await _lost_pairs(site, app, pairs)
        undone = await _undone_logouts(site, app, logouts)
        told = [
            _yes(await _is_adopted(site, app)),
            "in the cookie" if kind is CookieSite else _yes(await _is_readable(site, app, client)),
            f"{lost} of {pairs}",
            f"{undone} of {logouts}",
            _yes(await _outlives_regenerate(site, app)) if kind.regenerates else "has none",
            await _reading(app, client),
            await _without_store(kind, app),
        ]
    return told, {
        f"pairs of parallel requests that lost a change, of {pairs}": lost,
        f"logouts that a slow request undid, of {logouts}": undone,
    }


def _yes(answer: bool) -> str:
    return "yes" if answer else "no"


@asynccontextmanager
async def _browser(app: App, cookies: Mapping[str, str] | None = None) -> AsyncIterator[Any]:
    """Yield a browser with a cookie jar."""
    transport: Any = httpx.ASGITransport(app)  # type: ignore[arg-type]  # its own type of an app
    async with httpx.AsyncClient(
        transport=transport, base_url=f"https://{HOST}", cookies=dict(cookies or {})
    ) as browser:
        yield browser


async def _shown(browser: Any) -> list[str]:
    response = await browser.get("/show/-")
    marks: list[str] = response.json()
    return marks


async def _is_adopted(site: Site, app: App) -> bool:
    planted = {site.cookie: _CHOSEN}
    async with _browser(app, planted) as victim, _browser(app, planted) as attacker:
        await victim.get("/mark/user")
        return "user" in await _shown(attacker)


async def _is_readable(site: Site, app: App, client: redis.asyncio.Redis) -> bool:
    async with _browser(app) as browser:
        await browser.get("/mark/user")
        text = str(browser.cookies[site.cookie]).encode()
        parts = [part for part in text.split(b".") if part]
        names: list[bytes] = await client.keys("*")
        return any(part in name for part in parts for name in names)


async def _lost_pairs(site: Site, app: App, count: int) -> int:
    lost = 0
    for _ in range(count):
        async with _browser(app) as browser:
            await browser.get("/mark/base")
            site.meeting = asyncio.Barrier(2)
            await asyncio.gather(browser.get("/mark/x"), browser.get("/mark/y"))
            site.meeting = None
            lost += not {"x", "y"}.issubset(await _shown(browser))
    return lost


async def _undone_logouts(site: Site, app: App, count: int) -> int:
    undone = 0
    for _ in range(count):
        async with _browser(app) as browser:
            await browser.get("/mark/user")
            async with _browser(app, browser.cookies) as stale:
                site.entered, site.leave = asyncio.Event(), asyncio.Event()
                slow = asyncio.create_task(browser.get("/slow/slow"))
                await site.entered.wait()
                await browser.get("/end/-")
                site.leave.set()
                await slow
                undone += "user" in await _shown(browser) or "user" in await _shown(stale)
    return undone


async def _outlives_regenerate(site: Site, app: App) -> bool:
    async with _browser(app) as browser:
        await browser.get("/mark/user")
        async with _browser(app, browser.cookies) as stale:
            await browser.get("/regenerate/-")
            if "user" not in await _shown(browser):
                raise RuntimeError(f"{site.name} lost the session")
            return "user" in await _shown(stale)


async def _reading(app: App, client: redis.asyncio.Redis) -> str:
    async with _browser(app) as browser:
        await browser.get("/mark/user")
        await client.config_resetstat()
        response = await browser.get("/show/-")
        stats = await client.info("commandstats")
        counts = {
            name.removeprefix("cmdstat_"): entry["calls"]
            for name, entry in stats.items()
            if name.removeprefix("cmdstat_").partition("|")[0] not in _IGNORED
        }
        told = " + ".join(f"{count} {name.upper()}" for name, count in sorted(counts.items()))
        sets = ", Set-Cookie" if response.headers.get_list("set-cookie") else ""
        return f"{told or 'no command'}{sets}"


async def _without_store(kind: type[Site], app: App) -> str:
    if kind is CookieSite:
        return "no store"
    async with _browser(app) as browser:
        await browser.get("/mark/user")
        cookies = dict(browser.cookies)
    site = kind(_NOWHERE)
    try:
        async with _browser(site.app(), cookies) as browser:
            response = await browser.get("/show/-")
            return str(response.status_code)
    except redis.exceptions.RedisError as error:
        return f"raises {type(error).__name__}"
    finally:
        await site.aclose()


# --- cost -----------------------------------------------------------------------------------------


def _raced(url: str, plan: Plan) -> tuple[Table, list[tuple[str, Spread, float]]]:
    """Race requests that read and requests that change a field."""
    rows: list[tuple[str, ...]] = []
    compared: list[tuple[str, Spread, float]] = []
    each = plan.each(_CALLERS)
    kinds = [kind for kind in SITES if kind is not CookieSite]
    for what, path, bound in (
        ("reads", "/show/-", 4.0),
        ("changes a field", "/mark/x", 1.25),
    ):
        with ExitStack() as stack:
            entries: dict[str, tuple[asyncio.Runner, Preparation]] = {}
            for kind in kinds:
                runner = stack.enter_context(asyncio.Runner())
                site = runner.run(_made(kind, url))
                stack.callback(lambda one, each_site: one.run(each_site.aclose()), runner, site)
                entries[kind.name] = runner, partial(_requests, site, path)
            taken = race(entries, plan.rounds, each)
        rows.append((what, *(_cell(taken[kind.name]) for kind in kinds)))
        progress(f"{what}: {' | '.join(rows[-1][1:])}")
        if OurSite in kinds and StarsessionsSite in kinds:
            against = ratios(taken[OurSite.name], taken[StarsessionsSite.name])
            title = f"a request that {what}, {_CALLERS} callers, against starsessions"
            compared.append((title, against, bound))
    table = Table(
        title=f"Time per request, {_CALLERS} callers, in µs (CPU)",
        columns=("a request that", *(kind.name for kind in kinds)),
        rows=tuple(rows),
        notes=(
            "The application is called as an ASGI server calls it.",
            "It is a bare function inside of the middleware. Litestar's has its router as well.",
            "Of requests that change a field, each caller has a session of its own.",
        ),
    )
    return table, compared


async def _made(kind: type[Site], url: str) -> Site:
    return kind(url)


def _cell(rounds: Sequence[Round]) -> str:
    wall = Spread.of([one.secs / one.count * 1e6 for one in rounds])
    cpu = Spread.of([one.cpu_us for one in rounds])
    return f"{short(wall.median)} ({short(cpu.median)})"


async def _requests(site: Site, path: str) -> Sequence[Operation]:
    """Return one request per caller, each with the cookie of a session of its own."""
    app = site.app()
    found: list[Operation] = []
    for _ in range(_CALLERS):
        async with _browser(app) as browser:
            await browser.get("/mark/base")
            cookie = f"{site.cookie}={browser.cookies[site.cookie]}".encode()
        found.append(partial(_request, app, path, cookie))
    return found


async def _request(app: App, path: str, cookie: bytes) -> None:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "https",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", HOST.encode()), (b"cookie", cookie)],
        "server": (HOST, 443),
        "client": ("127.0.0.1", 1),
        "state": {},
    }
    status = 0

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:  # Any: ASGI
        nonlocal status
        status = message.get("status", status)

    await app(scope, receive, send)
    if status != 200:
        raise RuntimeError(f"{path}: status {status}")
