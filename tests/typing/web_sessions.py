"""Uses of a typed web session. A line with an ``expect-error`` comment must be rejected.

:mod:`tests.typing.test_typing` runs mypy and pyright on this file.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import Depends, FastAPI, WebSocket

from greentic_session import TenantCtx, create_session_store
from greentic_session.web import SessionMiddleware, WebSession, WebSessions
from greentic_session.web.fastapi import session_of


class AppSession(msgspec.Struct):
    current_channel: str = "lobby"
    views: int = 0


class OtherSession(msgspec.Struct):
    pass


store = create_session_store("memory://", context_type=AppSession)
sessions = WebSessions(store, new=AppSession, tenant=TenantCtx(tenant_id="acme"))
app = FastAPI()
app.add_middleware(SessionMiddleware, sessions=sessions)
Current = Annotated[WebSession[AppSession], Depends(session_of(sessions))]


@app.post("/join")
async def join(channel: str, session: Current) -> None:
    session.state.current_channel = channel
    session.state.current_chanel = channel  # expect-error
    session.state.views = channel  # expect-error
    session.state = OtherSession()  # expect-error
    await session.login(5)  # expect-error
    await session.login("ann", OtherSession())  # expect-error


@app.post("/count")
async def count(session: Current) -> int:
    def wrong(state: AppSession) -> AppSession:
        return AppSession(vews=state.views + 1)  # expect-error

    state = await session.mutate(lambda state: AppSession(views=state.views + 1))
    await session.mutate(lambda state: AppSession(views=state.vews))  # expect-error
    await session.mutate(lambda _: OtherSession())  # expect-error
    await session.mutate(wrong)
    return state.view  # expect-error


@app.websocket("/socket")
async def socket(websocket: WebSocket, session: Current) -> None:
    await websocket.accept()
    session.state.views += 1
    session.state.vews += 1  # expect-error
    await session.save()
    await session.sve()  # expect-error


async def anywhere(scope: Any) -> str:
    session = await sessions.of(scope)
    current = await sessions.current()
    current.state.vews = 1  # expect-error
    return session.state.current_chanel  # expect-error


WebSessions(store, new=OtherSession, tenant=TenantCtx(tenant_id="acme"))  # expect-error
assert [join, count, socket, anywhere]
