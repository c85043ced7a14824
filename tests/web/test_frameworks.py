"""The same scenarios on three frameworks, in this process and under three servers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from greentic_session import StoreUnavailableError
from greentic_session.testing.ports import PortClaim
from greentic_session.web import WebSessions

from ..support.markdown import ROOT
from .apps import FRAMEWORKS, POLICY, URL, apps_on
from .driver import TENANT, AppSession, rig_on

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

COMMANDS = {
    "uvicorn": ["uvicorn", "tests.web.apps:app", "--log-level", "warning", "--port"],
    "granian": [
        *("granian", "tests.web.apps:app", "--interface", "asgi", "--no-log"),
        *("--loop", "asyncio", "--workers", "1", "--port"),
    ],
    "hypercorn": ["hypercorn", "tests.web.apps:app", "--bind"],
}


@pytest.fixture(scope="module", params=COMMANDS)
def server(request: pytest.FixtureRequest, valkey_url: str) -> Iterator[str]:
    """Start one of the servers, and return its address."""
    claim = PortClaim()
    port = claim.port
    command = [sys.executable, "-m", *COMMANDS[request.param]]
    command.append(f"127.0.0.1:{port}" if request.param == "hypercorn" else str(port))
    environment = {**os.environ, URL: f"{valkey_url}?namespace=web-{port}&deadline=20"}
    running = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    address = f"127.0.0.1:{port}"
    try:
        asyncio.run(_until_served(address, running))
        yield address
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.communicate()
        claim.release()


async def _until_served(address: str, running: subprocess.Popen[bytes]) -> None:
    async with httpx.AsyncClient(base_url=f"http://{address}") as client, asyncio.timeout(60):
        while True:
            assert running.poll() is None, running.communicate()[0].decode()
            try:
                if (await client.get("/starlette/ping")).status_code == 200:
                    return
            except httpx.TransportError:
                await asyncio.sleep(0.05)


def client_of(base_url: str, app: Any = None, cookies: Any = None) -> httpx.AsyncClient:
    transport = None if app is None else httpx.ASGITransport(app)
    origin = httpx.URL(base_url).copy_with(path="/")
    return httpx.AsyncClient(
        base_url=base_url,
        transport=transport,
        cookies=cookies,
        headers={"origin": str(origin).rstrip("/")},
        timeout=20,
    )


async def whole_life(client: httpx.AsyncClient) -> None:
    """Read, change, log in, log out."""
    assert (await client.get("ping")).headers.get("vary") is None
    reply = await client.get("me")
    assert reply.json() == {"user": None, "theme": "light", "views": 0}
    assert "set-cookie" not in reply.headers
    assert reply.headers["vary"] == "Cookie"
    reply = await client.post("change", params={"theme": "dark"})
    assert reply.status_code == 200, reply.text
    assert reply.headers["set-cookie"].endswith("; Path=/; HttpOnly; SameSite=Lax")
    before = dict(client.cookies)
    assert (await client.post("recent")).status_code == 401
    assert (await client.post("login")).json()["user"] == "ann"
    assert dict(client.cookies) != before
    assert (await client.post("recent")).status_code == 200
    assert (await client.get("me")).json() == {"user": "ann", "theme": "dark", "views": 0}
    await client.post("logout")
    assert not client.cookies
    assert (await client.get("me")).json()["user"] is None


async def foreign(client: httpx.AsyncClient) -> None:
    """Send a form from another site."""
    for more in ({}, {"sec-fetch-site": "cross-site"}):
        headers = {"origin": "https://evil.example", **more}
        reply = await client.post("login", headers=headers)
        assert reply.status_code == 403
        assert "set-cookie" not in reply.headers


async def conflict(client: httpx.AsyncClient, other: httpx.AsyncClient, name: str) -> None:
    """Change the same field twice at once, and then a counter."""
    await client.post("change", params={"theme": "base"})
    other.cookies.update(client.cookies)
    replies = await asyncio.gather(
        client.post("change", params={"theme": "x", "wait": name}),
        other.post("change", params={"theme": "y", "wait": name}),
    )
    assert sorted(reply.status_code for reply in replies) == [200, 409]
    replies = await asyncio.gather(
        client.post("change", params={"wait": name}), other.post("change", params={"wait": name})
    )
    assert [reply.status_code for reply in replies] == [200, 200]
    assert (await client.get("me")).json()["views"] == 2


@pytest.fixture
async def in_process(anyio_backend: str) -> AsyncIterator[tuple[WebSessions[AppSession], Any]]:  # noqa: ARG001
    async with rig_on("memory") as rig:
        sessions = WebSessions(rig.store, new=AppSession, tenant=TENANT, policy=POLICY)
        yield sessions, apps_on(sessions)


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_a_framework_passes_the_scenarios(in_process: Any, framework: str) -> None:
    app = in_process[1][framework]
    for scenario in (whole_life, foreign):
        async with client_of("http://site.example", app) as client:
            await scenario(client)
    async with (
        client_of("http://site.example", app) as client,
        client_of("http://site.example", app) as other,
    ):
        await conflict(client, other, framework)


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_a_framework_answers_503_if_the_store_is_down(
    in_process: Any, framework: str
) -> None:
    sessions, apps = in_process
    async with client_of("http://site.example", apps[framework]) as client:
        await client.post("change", params={"theme": "dark"})

        def failing(*_args: Any) -> None:
            raise StoreUnavailableError("down")

        sessions.store._read = failing
        reply = await client.get("me")
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
        assert (await client.get("ping")).status_code == 200


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_a_framework_passes_the_scenarios_under_a_server(server: str, framework: str) -> None:
    base = f"http://{server}/{framework}"
    for scenario in (whole_life, foreign):
        async with client_of(base) as client:
            await scenario(client)
    async with client_of(base) as client, client_of(base) as other:
        await conflict(client, other, framework)


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_a_websocket_has_the_session_under_a_server(server: str, framework: str) -> None:
    async with client_of(f"http://{server}/{framework}") as client:
        await client.post("change", params={"theme": "dark"})
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        url = f"ws://{server}/{framework}/socket"
        async with connect(
            url,
            origin=Origin(f"http://{server}"),
            additional_headers={"cookie": cookie},
        ) as socket:
            assert json.loads(await socket.recv())["theme"] == "dark"
            await socket.send("light")
            assert json.loads(await socket.recv())["theme"] == "light"
        assert (await client.get("me")).json()["theme"] == "light"
        for origin in ("https://evil.example", None):
            with pytest.raises((InvalidStatus, ConnectionClosed)) as caught:
                async with connect(
                    url,
                    origin=origin,  # type: ignore[arg-type]
                    additional_headers={"cookie": cookie},
                ) as socket:
                    await socket.recv()
            if isinstance(caught.value, InvalidStatus):
                assert caught.value.response.status_code == 403
