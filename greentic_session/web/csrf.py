"""Masked CSRF tokens, for forms of browsers that send neither ``Origin`` nor ``Sec-Fetch-Site``.

A token is ``mask + (mask xor key)``, in URL-safe base64. Each rendering has another mask, so
compression does not reveal the key (BREACH; Django masks its tokens for the same reason). The key
is derived from the session's locator and from a nonce of the incarnation.
"""

from __future__ import annotations

import binascii
import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from ..errors import InvalidInputError

if TYPE_CHECKING:
    from .asgi import Message, Receive, Scope

__all__ = ["FIELD", "HEADER", "field_of_form", "masked", "unmasks_to"]

FIELD: Final = "csrf_token"
HEADER: Final = b"x-csrf-token"
_FORM: Final = b"application/x-www-form-urlencoded"
_MAX_FORM_BYTES: Final = 1 << 20


def masked(key: bytes) -> str:
    """Return a token for a key."""
    mask = secrets.token_bytes(len(key))
    return urlsafe_b64encode(mask + _xor(mask, key)).rstrip(b"=").decode()


def unmasks_to(text: str, key: bytes) -> bool:
    """Return whether a token is one of the key, in constant time."""
    try:
        data = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return False
    size = len(key)
    return len(data) == 2 * size and hmac.compare_digest(_xor(data[:size], data[size:]), key)


async def token_of(scope: Scope, receive: Receive) -> tuple[str, Receive]:
    """Return the token in a request, empty if there is none, and the ``receive`` to go on with.

    The token is in the header ``X-CSRF-Token``, or in the field ``csrf_token`` of a form of type
    ``application/x-www-form-urlencoded``. Only then the body is read, up to 1 MiB.
    """
    kind = b""
    for name, value in scope["headers"]:
        if name == HEADER:
            return value.decode("latin-1"), receive
        if name == b"content-type":
            kind = value.partition(b";")[0].strip().lower()
    if kind != _FORM:
        return "", receive
    messages: list[Message] = []
    body = b""
    while len(body) <= _MAX_FORM_BYTES:
        message = await receive()
        messages.append(message)
        body += message.get("body", b"")
        if message["type"] != "http.request" or not message.get("more_body"):
            break
    messages.reverse()

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return field_of_form(body), replay


def field_of_form(body: bytes) -> str:
    """Return the token in the body of a form, empty if it is absent or there twice."""
    fields = parse_qsl(body.decode("latin-1"), keep_blank_values=True)
    found = [value for name, value in fields if name == FIELD]
    return found[0] if len(found) == 1 else ""


def require_tokens(policy_csrf: str) -> None:
    """Check that the policy has CSRF tokens.

    :raises InvalidInputError: it has none.
    """
    if policy_csrf != "token":
        raise InvalidInputError("csrf", 'expected a policy with csrf="token"')


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))
