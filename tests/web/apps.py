"""The same small application on Starlette, FastAPI and Litestar, behind one address.

A server imports :data:`app`, which reads the URL of the store from the environment.
"""

# Frameworks read annotations, so the names in them are needed at run time.
# ruff: noqa: TC002
from __future__ import annotations

import asyncio
import os
from typing import Any, Final

from fastapi import Depends, FastAPI, WebSocket
from litestar import Litestar, get, post, websocket
from litestar.connection import WebSocket as LitestarWebSocket
from litestar.di import NamedDependency
from litestar.params import FromQuery
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket as StarletteWebSocket

from greentic_session import create_session_store
from greentic_session.web import CookiePolicy, WebPolicy, WebSession, WebSessions
from greentic_session.web import fastapi as web_fastapi
from greentic_session.web import litestar as web_litestar
from greentic_session.web import starlette as web_starlette

from .driver import TENANT, AppSession

URL: Final = "WEB_STORE_URL"
FRAMEWORKS: Final = ("starlette", "fastapi", "litestar")
POLICY: Final = WebPolicy(cookie=CookiePolicy(secure=False))
_ARE_THERE: Final[dict[str, asyncio.Event]] = {}

Session = NamedDependency[WebSession[AppSession]]


async def told(session: WebSession[AppSession]) -> dict[str, Any]:
    state = session.state
    return {"user": session.user_id, "theme": state.theme, "views": state.views}


async def changed(session: WebSession[AppSession], theme: str, wait: str) -> dict[str, Any]:
    """Change the theme. With ``wait``, two requests of that name load before either saves."""
    if wait:
        if wait in _ARE_THERE:
            _ARE_THERE.pop(wait).set()
        else:
            there = _ARE_THERE[wait] = asyncio.Event()
            await asyncio.wait_for(there.wait(), 10)
    if theme:
        session.state.theme = theme
    else:
        session.state.views += 1
    return await told(session)


def on_starlette(sessions: WebSessions[AppSession]) -> Starlette:
    session_of = web_starlette.session_of(sessions)

    async def me(request: Request) -> JSONResponse:
        return JSONResponse(await told(await session_of(request)))

    async def change(request: Request) -> JSONResponse:
        session = await session_of(request)
        query = request.query_params
        return JSONResponse(await changed(session, query.get("theme", ""), query.get("wait", "")))

    async def login(request: Request) -> JSONResponse:
        session = await session_of(request)
        await session.login("ann")
        return JSONResponse(await told(session))

    async def logout(request: Request) -> JSONResponse:
        await (await session_of(request)).logout()
        return JSONResponse({})

    async def recent(request: Request) -> JSONResponse:
        (await session_of(request)).require_recent_login(300)
        return JSONResponse({})

    async def ping(_request: Request) -> JSONResponse:
        return JSONResponse({})

    async def socket(websocket: StarletteWebSocket) -> None:
        session = await session_of(websocket)
        await websocket.accept()
        await websocket.send_json(await told(session))
        session.state.theme = await websocket.receive_text()
        await session.save()
        await websocket.send_json(await told(session))
        await websocket.close()

    return Starlette(
        routes=[
            Route("/me", me),
            Route("/change", change, methods=["POST"]),
            Route("/login", login, methods=["POST"]),
            Route("/logout", logout, methods=["POST"]),
            Route("/recent", recent, methods=["POST"]),
            Route("/ping", ping),
            WebSocketRoute("/socket", socket),
        ],
        middleware=[Middleware(web_starlette.SessionMiddleware, sessions=sessions)],
    )


def on_fastapi(sessions: WebSessions[AppSession]) -> FastAPI:
    app = FastAPI()
    app.add_middleware(web_fastapi.SessionMiddleware, sessions=sessions)
    dependency = Depends(web_fastapi.session_of(sessions))

    async def me(session: Any = dependency) -> Any:
        return await told(session)

    async def change(theme: str = "", wait: str = "", session: Any = dependency) -> Any:
        return await changed(session, theme, wait)

    async def login(session: Any = dependency) -> Any:
        await session.login("ann")
        return await told(session)

    async def logout(session: Any = dependency) -> Any:
        await session.logout()

    async def recent(session: Any = dependency) -> Any:
        session.require_recent_login(300)

    async def ping() -> None:
        return

    async def socket(websocket: WebSocket, session: Any = dependency) -> Any:
        await websocket.accept()
        await websocket.send_json(await told(session))
        session.state.theme = await websocket.receive_text()
        await session.save()
        await websocket.send_json(await told(session))
        await websocket.close()

    app.get("/me")(me)
    app.post("/change")(change)
    app.post("/login")(login)
    app.post("/logout")(logout)
    app.post("/recent")(recent)
    app.get("/ping")(ping)
    app.websocket("/socket")(socket)
    return app


@get("/me")
async def lite_me(session: Session) -> dict[str, Any]:
    return await told(session)


@post("/change", status_code=200)
async def lite_change(
    session: Session, theme: FromQuery[str] = "", wait: FromQuery[str] = ""
) -> dict[str, Any]:
    return await changed(session, theme, wait)


@post("/login", status_code=200)
async def lite_login(session: Session) -> dict[str, Any]:
    await session.login("ann")
    return await told(session)


@post("/logout", status_code=200)
async def lite_logout(session: Session) -> dict[str, Any]:
    await session.logout()
    return {}


@post("/recent", status_code=200)
async def lite_recent(session: Session) -> dict[str, Any]:
    session.require_recent_login(300)
    return {}


@get("/ping")
async def lite_ping() -> dict[str, Any]:
    return {}


@websocket("/socket")
async def lite_socket(socket: LitestarWebSocket[Any, Any, Any], session: Session) -> None:
    await socket.accept()
    await socket.send_json(await told(session))
    session.state.theme = await socket.receive_text()
    await session.save()
    await socket.send_json(await told(session))
    await socket.close()


def on_litestar(sessions: WebSessions[AppSession]) -> Litestar:
    return Litestar(
        [lite_me, lite_change, lite_login, lite_logout, lite_recent, lite_ping, lite_socket],
        middleware=[web_litestar.session_middleware(sessions)],
        dependencies={"session": web_litestar.session_of(sessions)},
    )


def apps_on(sessions: WebSessions[AppSession]) -> dict[str, Any]:
    return {
        "starlette": on_starlette(sessions),
        "fastapi": on_fastapi(sessions),
        "litestar": on_litestar(sessions),
    }


class Frameworks:
    """Serves each framework below a path of its name. Opens the store when the server starts."""

    def __init__(self) -> None:
        self._apps: dict[str, Any] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        _, name, *rest = scope["path"].split("/")
        path = "/" + "/".join(rest)
        await self._apps[name]({**scope, "path": path, "raw_path": path.encode()}, receive, send)

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        async with create_session_store(os.environ[URL], context_type=AppSession) as store:
            sessions = WebSessions(store, new=AppSession, tenant=TENANT, policy=POLICY)
            self._apps = apps_on(sessions)
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})


app = Frameworks()
