"""The same small web application on each library for web sessions."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from importlib.util import find_spec
from secrets import token_hex
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, cast

import msgspec
import redis.asyncio
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as CookieMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse

from greentic_session import TenantCtx, create_session_store

from .conditions import installed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping, Sequence

    Scope = MutableMapping[str, Any]  # Any: ASGI
    App = Callable[[Scope, Callable[..., Any], Callable[..., Any]], Awaitable[None]]

__all__ = ["HOST", "SITES", "CookieSite", "LitestarSite", "OurSite", "Site", "StarsessionsSite"]

HOST: Final = "app.example"
_LIFE_SECS: Final = 3600
_DEADLINE_SECS: Final = 0.5
"""Of a call to a store that is down."""

Step = Literal["mark", "slow", "show", "end", "regenerate", "nothing"]


class Site(ABC):
    """An application with one session per browser, in which requests set marks.

    :cvar name: name in the tables.
    :cvar version_of: its distribution.
    :cvar cookie: name of its cookie.
    :cvar regenerates: whether it can give a session a new id.
    :ivar meeting: parallel ``mark`` requests wait here, with their sessions loaded.
    :ivar entered: set while a ``slow`` request has its session loaded.
    :ivar leave: lets the ``slow`` request go on.
    """

    name: ClassVar[str]
    version_of: ClassVar[str]
    cookie: ClassVar[str] = "session"
    regenerates: ClassVar[bool] = False

    def __init__(self, url: str) -> None:
        self.url: Final = url
        self.meeting: asyncio.Barrier | None = None
        self.entered = asyncio.Event()
        self.leave = asyncio.Event()

    @abstractmethod
    def app(self) -> App:
        """Return the application, with the route ``/{step}/{mark}``."""

    async def aclose(self) -> None:
        """Close the connections."""
        return

    @abstractmethod
    async def marks(self, request: Any) -> list[str]:  # Any: a request of any framework
        """Return the marks in the session of a request."""

    @abstractmethod
    async def mark(self, request: Any, mark: str) -> None:  # Any: as above
        """Set a mark in the session of a request."""

    @abstractmethod
    async def end(self, request: Any) -> None:  # Any: as above
        """Log out."""

    async def regenerate(self, request: Any) -> None:  # Any: as above
        """Give the session a new id."""
        raise NotImplementedError

    async def serve(self, request: Any, step: Step, mark: str) -> list[str]:  # Any: as above
        """Handle a request."""
        if step == "mark":
            await self.mark(request, mark)
            if self.meeting is not None:
                await self.meeting.wait()
        elif step == "slow":
            await self.mark(request, mark)
            self.entered.set()
            await self.leave.wait()
        elif step == "show":
            return await self.marks(request)
        elif step == "end":
            await self.end(request)
        elif step == "regenerate":
            await self.regenerate(request)
        return []

    def within(self, *middleware: Middleware) -> App:
        """Return the application as a bare function inside of middleware, the outermost first."""

        async def endpoint(
            scope: Scope, receive: Callable[..., Any], send: Callable[..., Any]
        ) -> None:
            _, step, mark = scope["path"].split("/")
            marks = await self.serve(Request(scope), step, mark)
            await JSONResponse(marks)(scope, receive, send)

        app: Any = endpoint  # Any: types of an application differ
        for one in reversed(middleware):
            app = one.cls(app, *one.args, **one.kwargs)
        return cast("App", app)


class DictSite(Site):
    """A site whose session is ``request.session``, a dict."""

    async def marks(self, request: Any) -> list[str]:  # Any: as above
        """Return the marks."""
        return sorted(request.session)

    async def mark(self, request: Any, mark: str) -> None:  # Any: as above
        """Set a mark."""
        request.session[mark] = 1

    async def end(self, request: Any) -> None:  # Any: as above
        """Log out as the library documents it."""
        request.session.clear()


def _client(url: str) -> redis.asyncio.Redis:
    # A busy machine may take longer to connect 64 callers than the driver waits by default.
    return redis.asyncio.Redis.from_url(url, socket_timeout=60, socket_connect_timeout=60)


class StarsessionsSite(DictSite):
    """Starsessions with its Redis store."""

    name = "starsessions"
    version_of = "starsessions"
    regenerates = True

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._redis: Final = _client(url)

    def app(self) -> App:
        """Return the application."""
        import starsessions  # noqa: PLC0415 - see SITES
        from starsessions.stores.redis import RedisStore  # noqa: PLC0415 - see SITES

        store = RedisStore(connection=self._redis)
        return self.within(
            Middleware(starsessions.SessionMiddleware, store=store, lifetime=_LIFE_SECS),
            Middleware(starsessions.SessionAutoloadMiddleware),
        )

    async def regenerate(self, request: Any) -> None:  # Any: as above
        """Give the session a new id."""
        import starsessions  # noqa: PLC0415 - see SITES

        starsessions.regenerate_session_id(request)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


class LitestarSite(DictSite):
    """Litestar's server-side sessions with its Redis store."""

    name = "Litestar"
    version_of = "litestar"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._redis: Final = _client(url)

    def app(self) -> App:
        """Return the application."""
        from litestar import Litestar, get  # noqa: PLC0415 - see SITES
        from litestar import Request as LitestarRequest  # noqa: PLC0415 - see SITES
        from litestar.middleware.session.server_side import (  # noqa: PLC0415 - see SITES
            ServerSideSessionConfig,
        )
        from litestar.stores.redis import RedisStore  # noqa: PLC0415 - see SITES

        async def handle(request: object, step: str, mark: str) -> list[str]:
            return await self.serve(request, step, mark)  # type: ignore[arg-type]  # a text

        handle.__annotations__["request"] = LitestarRequest
        store = RedisStore(self._redis, handle_client_shutdown=False)
        app: Any = Litestar(  # Any: its own type of a scope
            [get("/{step:str}/{mark:str}")(handle)],
            middleware=[ServerSideSessionConfig(max_age=_LIFE_SECS).middleware],
            stores={"sessions": store},
            logging_config=None,
        )
        return app

    async def end(self, request: Any) -> None:  # Any: as above
        """Log out."""
        request.clear_session()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


class CookieSite(DictSite):
    """Starlette's own middleware, which keeps the session in a signed cookie."""

    name = "Starlette cookie"
    version_of = "starlette"

    def app(self) -> App:
        """Return the application."""
        key = token_hex()
        return self.within(Middleware(CookieMiddleware, secret_key=key, https_only=True))


class _Marks(msgspec.Struct):
    """The state of our site: one field for each mark."""

    base: int = 0
    x: int = 0
    y: int = 0
    user: int = 0
    slow: int = 0


class OurSite(Site):
    """Web sessions of this library."""

    name = "greentic_session"
    version_of = "greentic_session"
    cookie = "__Host-session"
    regenerates = True

    def __init__(self, url: str) -> None:
        super().__init__(url)
        from greentic_session.web import WebSessions  # noqa: PLC0415 - see SITES

        joint = "&" if "?" in url else "?"
        self._store: Final = create_session_store(
            f"{url}{joint}deadline={_DEADLINE_SECS}", context_type=_Marks
        )
        self._sessions: Final = WebSessions(
            self._store, new=_Marks, tenant={HOST: TenantCtx(tenant_id="acme")}
        )

    def app(self) -> App:
        """Return the application."""
        from greentic_session.web import SessionMiddleware  # noqa: PLC0415 - see SITES

        return self.within(Middleware(SessionMiddleware, sessions=self._sessions))

    async def marks(self, request: Any) -> list[str]:  # Any: as above
        """Return the marks."""
        state = (await self._sessions.of(request)).state
        return sorted(name for name in _Marks.__struct_fields__ if getattr(state, name))

    async def mark(self, request: Any, mark: str) -> None:  # Any: as above
        """Set a mark."""
        state = (await self._sessions.of(request)).state
        setattr(state, mark, getattr(state, mark) + 1)

    async def end(self, request: Any) -> None:  # Any: as above
        """Log out."""
        await (await self._sessions.of(request)).logout()

    async def regenerate(self, request: Any) -> None:  # Any: as above
        """Give the session a new token."""
        await (await self._sessions.of(request)).regenerate()

    async def aclose(self) -> None:
        """Close the store."""
        await self._store.aclose()


SITES: Final[Sequence[type[Site]]] = tuple(
    kind
    for kind in (StarsessionsSite, LitestarSite, CookieSite, OurSite)
    # A checkout of an earlier revision has no web sessions.
    if installed(kind.version_of) and (kind is not OurSite or find_spec("greentic_session.web"))
)
"""The installed libraries in the order of the columns."""
