"""The ASGI middleware of web sessions, for HTTP and WebSockets."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final, cast, final

from ..errors import (
    InvalidInputError,
    LeaseLostError,
    OutcomeUnknownError,
    ReauthenticationRequiredError,
    SessionConflictError,
    SessionEndedError,
    SessionError,
    SessionLimitError,
    SessionRevokedError,
    StoreUnavailableError,
)
from . import csrf
from .asgi import deny_socket, respond
from .exchange import CURRENT, SCOPE_KEY, Exchange
from .origins import SAFE_METHODS
from .saving import commit
from .sessions import WebSessions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .asgi import ASGIApp, Message, Receive, Scope, Send
    from .bound import BoundSession

__all__ = ["SessionMiddleware"]

_STATUS: Final[dict[type[SessionError], int]] = {
    SessionConflictError: 409,
    LeaseLostError: 409,
    SessionEndedError: 401,
    SessionRevokedError: 401,
    ReauthenticationRequiredError: 401,
    SessionLimitError: 429,
    StoreUnavailableError: 503,
    OutcomeUnknownError: 503,
}
_UNSAVED: Final = (
    "the state of a web session changed after its last save point: call save() for such changes"
)


@final
class SessionMiddleware:
    """Gives each request and WebSocket its session, when it asks for it.

    Pure ASGI. A request that never asks costs no call and gets no header.

    * An unsafe request from another site gets 403, a WebSocket from another site is denied.
    * An unknown host gets 421.
    * If the store is down, a request that asks for its session gets 503 with ``Retry-After``.
    * If parallel requests changed the same plain field, the later one gets 409.
    * An error of a session's verb that no handler catches gets its status: 401, 409, 429 or 503.

    Add it inside of a compressing middleware, because it may replace the response.

    :param app: the application.
    :param sessions: the sessions.
    :param exclude: paths without sessions. A path includes those below it.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        sessions: WebSessions[Any],  # Any: the middleware does not use the state
        exclude: Iterable[str] = (),
    ) -> None:
        if not isinstance(cast("object", sessions), WebSessions):
            raise InvalidInputError("sessions", "expected WebSessions")
        paths = tuple(exclude) if not isinstance(exclude, str) else ()
        if isinstance(exclude, str) or any(not path.startswith("/") for path in paths):
            raise InvalidInputError("exclude", "expected paths that begin with /")
        self._app: Final = app
        self._sessions: Final = sessions
        self._exclude: Final = frozenset(path.rstrip("/") for path in paths)
        self._exclude_below: Final = tuple(f"{path}/" for path in self._exclude)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        kind = scope["type"]
        if kind not in ("http", "websocket") or self._is_excluded(scope["path"]):
            await self._app(scope, receive, send)
            return
        exchange = Exchange(self._sessions, scope)
        status = self._refusal(exchange)
        if status == 0:
            exchange.ctx = await self._sessions.tenants.of(exchange.host)
            if exchange.ctx is None:
                self._sessions.counters.reject("unknown_host")
                status = 421
        if status == 0 and self._sessions.policy.csrf == "token" and not exchange.is_socket:
            status, receive = await self._check_csrf(exchange, receive)
        if status:
            if exchange.is_socket:
                await receive()
                await deny_socket(scope, send, status)
            else:
                await respond(send, status)
            return
        scope[SCOPE_KEY] = exchange
        token = CURRENT.set(exchange)
        try:
            if exchange.is_socket:
                await _SocketResponse(self._app, exchange, send).run(receive)
            else:
                await _Response(self._app, exchange, send).run(receive)
        finally:
            CURRENT.reset(token)

    def _is_excluded(self, path: str) -> bool:
        if not self._exclude:
            return False
        return path.rstrip("/") in self._exclude or path.startswith(self._exclude_below)

    def _refusal(self, exchange: Exchange[Any]) -> int:  # Any: as in `__init__`
        check, scope = self._sessions.origins, exchange.scope
        if exchange.is_socket:
            allowed = check.allows_handshake(
                exchange.origins, exchange.host, scope.get("scheme", "ws")
            )
        elif scope["method"] in SAFE_METHODS:
            return 0
        else:
            allowed = check.allows_request(
                exchange.origins, exchange.sites, exchange.host, scope.get("scheme", "http")
            )
        if allowed:
            return 0
        self._sessions.counters.reject("foreign_origin")
        return 403

    async def _check_csrf(
        self,
        exchange: Exchange[Any],
        receive: Receive,  # Any: as in `__init__`
    ) -> tuple[int, Receive]:
        """Check the CSRF token of an unsafe request that has a session."""
        if exchange.scope["method"] in SAFE_METHODS or not exchange.cookies:
            return 0, receive
        try:
            bound = (await exchange.load()).bound
        except (StoreUnavailableError, OutcomeUnknownError):
            return 503, receive
        if bound.token is None or bound.stamp is None:
            return 0, receive
        text, receive = await csrf.token_of(exchange.scope, receive)
        if bound.stamp.k and csrf.unmasks_to(text, bound.token.csrf_key(bound.stamp.k)):
            return 0, receive
        self._sessions.counters.reject("csrf_token")
        return 403, receive


@final
class _Response:
    """The response of one request: saves the session before the head is sent."""

    __slots__ = ("_app", "_exchange", "_is_replaced", "_is_sent", "_send")

    def __init__(self, app: ASGIApp, exchange: Exchange[Any], send: Send) -> None:
        self._app: Final = app
        self._exchange: Final = exchange
        self._send: Final = send
        self._is_replaced = False
        self._is_sent = False

    async def run(self, receive: Receive) -> None:
        exchange = self._exchange
        try:
            await self._app(exchange.scope, receive, self._on_message)
        except Exception as error:
            if self._is_sent:
                raise
            if isinstance(error, SessionError) and error in (exchange.failure, exchange.load_error):
                await self._replace(_status_of(error, 500))
            elif exchange.load_error is not None:  # such as a group of errors that holds it
                await self._replace(503)
                raise
            if not self._is_replaced:
                raise
        if exchange.session is not None:
            bound = exchange.session.bound
            if self._is_sent and not self._is_replaced and not bound.is_over and bound.is_changed:
                warnings.warn(_UNSAVED, RuntimeWarning, stacklevel=1)

    async def _on_message(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif not self._is_replaced:
            await self._send(message)

    async def _begin(self, message: Message) -> None:
        exchange = self._exchange
        if exchange.load_error is not None:
            await self._replace(503)
            return
        if exchange.session is None:
            self._is_sent = True
            exchange.can_set_cookie = False
            await self._send(message)
            return
        bound = exchange.session.bound
        status = message["status"]
        if status < 500:
            try:
                await commit(bound)
            except (SessionConflictError, LeaseLostError):
                await self._replace(409)
                return
            except (StoreUnavailableError, OutcomeUnknownError):
                exchange.sessions.counters.reject("unavailable")
                await self._replace(503)
                return
        elif exchange.failure is not None and (found := _status_of(exchange.failure, 0)):
            await self._replace(found)
            return
        else:
            bound.base, bound.is_wanted = bound.encoded(), False  # a 5xx saves nothing
        self._is_sent = True
        exchange.can_set_cookie = False
        await self._send({**message, "headers": _headers(message, bound)})

    async def _replace(self, status: int) -> None:
        """Send another response instead of the application's."""
        if status >= 500 and status != 503:
            return
        exchange = self._exchange
        self._is_replaced = self._is_sent = True
        exchange.can_set_cookie = False
        bound = None if exchange.session is None else exchange.session.bound

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start" and bound is not None:
                message = {**message, "headers": _headers(message, bound)}
            await self._send(message)

        await respond(send, status)


def _headers(message: Message, bound: BoundSession[Any]) -> list[tuple[bytes, bytes]]:
    headers = [*message.get("headers", ()), (b"vary", b"Cookie")]
    sessions = bound.sessions
    if bound.sent is not None and bound.stamp is not None and not bound.is_over:
        last_ms = bound.stamp.m or bound.stamp.c
        secs = max(1, (bound.stamp.end_ms(sessions.policy, last_ms) - last_ms) // 1000)
        cookie = sessions.jar.write(sessions.tokens.write(bound.sent), secs)
    elif bound.clears:
        cookie = sessions.jar.clear()
    else:
        return headers
    headers.append((b"set-cookie", cookie))
    if not any(name.lower() == b"cache-control" for name, _ in headers):
        headers.append((b"cache-control", b"no-store"))
    return headers


@final
class _SocketResponse:
    """A WebSocket. If the store is down, it is denied before it is accepted."""

    __slots__ = ("_app", "_exchange", "_is_accepted", "_is_closed", "_send")

    def __init__(self, app: ASGIApp, exchange: Exchange[Any], send: Send) -> None:
        self._app: Final = app
        self._exchange: Final = exchange
        self._send: Final = send
        self._is_accepted = False
        self._is_closed = False

    async def run(self, receive: Receive) -> None:
        exchange = self._exchange
        try:
            await self._app(exchange.scope, receive, self._on_message)
        except SessionError as error:
            if error is not exchange.failure and error is not exchange.load_error:
                raise
            status = _status_of(error, 0)
            if not status:
                raise
            await self._close(status)
        if exchange.session is not None:
            bound = exchange.session.bound
            if not bound.is_over and bound.record is not None and bound.is_changed:
                warnings.warn(_UNSAVED, RuntimeWarning, stacklevel=1)

    async def _on_message(self, message: Message) -> None:
        kind = message["type"]
        if self._is_closed:
            return
        if self._exchange.load_error is not None and not self._is_accepted:
            await self._close(503)
            return
        if kind == "websocket.accept":
            self._is_accepted = True
        elif kind == "websocket.close":
            self._is_closed = True
            if self._exchange.load_error is not None:
                message = {**message, "code": 1013}
        await self._send(message)

    async def _close(self, status: int) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._is_accepted:
            code = 1013 if status == 503 else 1008
            await self._send({"type": "websocket.close", "code": code})
        else:
            await deny_socket(self._exchange.scope, self._send, status)


def _status_of(error: SessionError, otherwise: int) -> int:
    for kind, status in _STATUS.items():
        if isinstance(error, kind):
            return status
    return otherwise
