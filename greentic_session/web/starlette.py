"""Web sessions in Starlette."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .middleware import SessionMiddleware

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import HTTPConnection

    from ..model import C
    from .session import WebSession
    from .sessions import WebSessions

__all__ = ["SessionMiddleware", "session_of"]


def session_of(sessions: WebSessions[C]) -> Callable[[HTTPConnection], Awaitable[WebSession[C]]]:
    """Return a function that returns the session of a request or WebSocket.

    :param sessions: the sessions of the middleware.
    """

    async def session_of_connection(connection: HTTPConnection) -> WebSession[C]:
        return await sessions.of(connection)

    return session_of_connection
