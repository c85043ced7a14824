"""Types and messages of ASGI (https://asgi.readthedocs.io)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

__all__ = ["ASGIApp", "Message", "Receive", "Scope", "Send", "deny_socket", "respond"]

# Any: ASGI's own dicts of many types.
Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_DENIAL: Final = "websocket.http.response"
_REASONS: Final = {
    401: b"The session has ended, or the login is not recent enough.",
    403: b"The request does not come from this site.",
    409: b"A parallel request changed the same part of the session.",
    421: b"This host is not served here.",
    429: b"The user has too many sessions.",
    503: b"The session store is unavailable.",
}
_RETRY_AFTER_SECS: Final = b"5"


async def respond(send: Send, status: int, prefix: str = "http.response") -> None:
    """Send a short response in plain text."""
    body = _REASONS[status]
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if status == 503:
        headers.append((b"retry-after", _RETRY_AFTER_SECS))
    await send({"type": f"{prefix}.start", "status": status, "headers": headers})
    await send({"type": f"{prefix}.body", "body": body})


async def deny_socket(scope: Scope, send: Send, status: int) -> None:
    """Refuse a WebSocket before it is accepted.

    With the extension ``websocket.http.response``, the client gets the HTTP status. Without it, the
    server turns the close into 403. The close code is 1013 if the store is down, and 1008 otherwise
    (RFC 6455, 7.4.1).
    """
    if _DENIAL in (scope.get("extensions") or {}):
        await respond(send, status, _DENIAL)
    else:
        await send({"type": "websocket.close", "code": 1013 if status == 503 else 1008})
