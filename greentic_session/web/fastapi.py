"""Web sessions in FastAPI, as a dependency."""

from __future__ import annotations

from typing import TYPE_CHECKING

# FastAPI reads the annotations of the dependency, so their names are needed at run time.
from fastapi.requests import HTTPConnection  # noqa: TC002 - see above

from ..model import C  # noqa: TC001 - see above
from .middleware import SessionMiddleware
from .session import WebSession  # noqa: TC001 - see above

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .sessions import WebSessions

__all__ = ["SessionMiddleware", "session_of"]


def session_of(sessions: WebSessions[C]) -> Callable[[HTTPConnection], Awaitable[WebSession[C]]]:
    """Return a dependency: ``Annotated[WebSession[AppSession], Depends(session_of(sessions))]``.

    It serves HTTP routes and WebSockets.

    :param sessions: the sessions of the middleware.
    """

    async def session_of_connection(connection: HTTPConnection) -> WebSession[C]:
        return await sessions.of(connection)

    return session_of_connection
