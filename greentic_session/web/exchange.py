"""One request or WebSocket: its headers, its tenant and its session, loaded on first use."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Generic, final

import anyio

from ..errors import InvalidInputError, OutcomeUnknownError, SessionError, StoreUnavailableError
from ..model import C

if TYPE_CHECKING:
    from collections.abc import Generator

    from ..model import TenantCtx
    from .asgi import Scope
    from .session import WebSession
    from .sessions import WebSessions

__all__ = ["CURRENT", "SCOPE_KEY", "Exchange"]

SCOPE_KEY: Final = "greentic_session.web"
CURRENT: Final[ContextVar[Exchange[Any] | None]] = ContextVar(SCOPE_KEY, default=None)


@final
class Exchange(Generic[C]):
    """The state of one request or WebSocket.

    :param sessions: the sessions of the middleware.
    :param scope: the ASGI scope.
    :ivar session: the session, once it was asked for.
    :ivar ctx: the tenant.
    :ivar can_set_cookie: whether the head of the response is still to be sent.
    :ivar load_error: the error of the load, if the store could not serve it.
    :ivar failure: the last error of a verb of the session.
    """

    __slots__ = (
        "_is_loading",
        "_loaded",
        "can_set_cookie",
        "cookies",
        "ctx",
        "failure",
        "host",
        "is_socket",
        "load_error",
        "origins",
        "scope",
        "session",
        "sessions",
        "sites",
    )

    def __init__(self, sessions: WebSessions[C], scope: Scope) -> None:
        self.sessions: Final = sessions
        self.scope: Final = scope
        self.is_socket: Final = scope["type"] == "websocket"
        self.can_set_cookie = not self.is_socket
        self.session: WebSession[C] | None = None
        self.ctx: TenantCtx | None = None
        self.load_error: SessionError | None = None
        self.failure: SessionError | None = None
        self._is_loading = False
        self._loaded: anyio.Event | None = None
        self.cookies: Final[list[bytes]] = []
        self.origins: Final[list[bytes]] = []
        self.sites: Final[list[bytes]] = []
        hosts: list[bytes] = []
        for name, value in scope["headers"]:
            if name == b"cookie":
                self.cookies.append(value)
            elif name == b"host":
                hosts.append(value)
            elif name == b"origin":
                self.origins.append(value)
            elif name == b"sec-fetch-site":
                self.sites.append(value)
        self.host: Final = hosts[0] if len(hosts) == 1 else b""

    async def load(self) -> WebSession[C]:
        """Return the session. The first call reads it."""
        # A lock would cost two turns of the event loop, and rarely do two tasks load at once.
        while self._is_loading:
            if self._loaded is None:
                self._loaded = anyio.Event()
            await self._loaded.wait()
        if self.session is not None:
            return self.session
        if self.load_error is not None:
            raise self.load_error
        if self.ctx is None:
            raise InvalidInputError("scope", "the request has no tenant")
        self._is_loading = True
        try:
            self.session = await self.sessions.load(self)
        except (StoreUnavailableError, OutcomeUnknownError) as error:
            self.load_error = error
            self.sessions.counters.reject("unavailable")
            raise
        finally:
            self._is_loading = False
            if self._loaded is not None:
                self._loaded.set()
                self._loaded = None
        return self.session

    @contextmanager
    def noting(self) -> Generator[None]:
        """Remember an error of the session, so that the middleware can answer with its status."""
        try:
            yield
        except SessionError as error:
            self.failure = error
            raise
