"""Web sessions in Litestar, as a dependency."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from litestar.di import Provide
from litestar.middleware import DefineMiddleware
from litestar.types import Scope  # noqa: TC002 - Litestar reads the annotation

from .middleware import SessionMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..model import C
    from .sessions import WebSessions

__all__ = ["SessionMiddleware", "session_middleware", "session_of"]


def session_middleware(
    sessions: WebSessions[Any],
    *,
    exclude: Iterable[str] = (),  # Any: the state is not used
) -> DefineMiddleware:
    """Return the middleware for ``Litestar(middleware=[…])``.

    :param sessions: the sessions.
    :param exclude: as in :class:`SessionMiddleware`.
    """
    middleware = cast("Any", SessionMiddleware)  # Any: Litestar names each message of ASGI
    return DefineMiddleware(middleware, sessions=sessions, exclude=tuple(exclude))


def session_of(sessions: WebSessions[C]) -> Provide:
    """Return a dependency for ``Litestar(dependencies={"session": …})``.

    It serves HTTP routes and WebSockets.

    :param sessions: the sessions of the middleware.
    """

    async def session_of_connection(scope: Scope) -> Any:  # Any: Litestar would check the type
        return await sessions.of(scope)

    return Provide(session_of_connection)
