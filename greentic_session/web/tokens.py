"""Tokens of web sessions: what a cookie holds, and what a store holds of it.

A token is ``locator.secret``. The session key is a digest of the locator, and the record holds a
digest of the secret. So a dump of the store opens no session (OWASP Session Management, "Session ID
Content"). The locator stays the same for the life of a session key. The secret changes at each
login, regeneration and renewal.

With signing keys, a token is ``signature.locator.secret``. An invented token is then refused
without a call to the store.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from base64 import urlsafe_b64decode
from binascii import b2a_base64
from typing import TYPE_CHECKING, Final, NamedTuple, final

from ..model import SessionKey

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Token", "TokenFormat", "digest_of", "is_digest_of"]

KEY_PREFIX: Final = "web:"
_LOCATOR_BYTES: Final = 16
_SECRET_BYTES: Final = 24
"""128 and 192 random bits. ASVS 5.0 7.2.3 requires at least 128 in all."""
_SIGNATURE_BYTES: Final = 8
_CSRF_BYTES: Final = 16
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_PLAIN: Final = re.compile(rb"([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{32})")
_SIGNED: Final = re.compile(rb"([A-Za-z0-9_-]{11})\.([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{32})")


class Token(NamedTuple):
    """The two halves of a token, as text of URL-safe base64.

    :ivar locator: selects the record.
    :ivar secret: proves the right to it.
    """

    locator: str
    secret: str

    def __repr__(self) -> str:
        """Return a text without the token."""
        return "Token(...)"

    @property
    def key(self) -> SessionKey:
        """The session key: a digest of the locator."""
        return SessionKey(KEY_PREFIX + digest_of(self.locator))

    @classmethod
    def mint(cls, locator: str | None = None) -> Token:
        """Return a random token.

        :param locator: the locator of an existing session, which gets a new secret.
        """
        if locator is None:
            locator = _text(secrets.token_bytes(_LOCATOR_BYTES))
        return cls(locator, _text(secrets.token_bytes(_SECRET_BYTES)))

    def successor(self, nonce: str) -> Token:
        """Return the token that renews this one.

        It is derived from the secret and a nonce that the record holds. So the server can send it
        again if the response with it was lost, although it stores only digests.

        :param nonce: random text of the record.
        """
        derived = hmac.digest(self.secret.encode(), b"renew:" + nonce.encode(), "sha256")
        return Token(self.locator, _text(derived[:_SECRET_BYTES]))

    def csrf_key(self, nonce: str) -> bytes:
        """Return the bytes that the CSRF tokens of this session mask.

        :param nonce: random text of the record. It changes at login and regeneration.
        """
        return hmac.digest(self.locator.encode(), b"csrf:" + nonce.encode(), "sha256")[:_CSRF_BYTES]


@final
class TokenFormat:
    """Reads and writes tokens in cookies.

    :param signing_keys: keys of the signature. The first one signs, and all of them verify.
    """

    __slots__ = ("_keys",)

    def __init__(self, signing_keys: Sequence[bytes]) -> None:
        self._keys: Final = tuple(signing_keys)

    def write(self, token: Token) -> str:
        """Return the value of the cookie."""
        plain = f"{token.locator}.{token.secret}"
        if not self._keys:
            return plain
        return f"{_text(_signature(self._keys[0], token.locator))}.{plain}"

    def read(self, value: bytes) -> Token | None:
        """Return the token in a cookie's value, or ``None`` if it is malformed or not signed."""
        if not self._keys:
            match = _PLAIN.fullmatch(value)
            return None if match is None else Token(match[1].decode(), match[2].decode())
        match = _SIGNED.fullmatch(value)
        if match is None:
            return None
        given = urlsafe_b64decode(match[1] + b"=")
        locator = match[2].decode()
        # Each key is tried, so that the time does not tell which of them fits.
        fits = [hmac.compare_digest(given, _signature(key, locator)) for key in self._keys]
        return Token(locator, match[3].decode()) if any(fits) else None


def digest_of(text: str) -> str:
    """Return the SHA-256 of one half of a token, as 43 characters of URL-safe base64."""
    return _text(hashlib.sha256(text.encode()).digest())


def is_digest_of(digest: str, text: str) -> bool:
    """Return whether ``digest`` is the digest of ``text``, in constant time."""
    return hmac.compare_digest(digest, digest_of(text))


def new_nonce() -> str:
    """Return 96 random bits as text."""
    return _text(secrets.token_bytes(12))


def _signature(key: bytes, locator: str) -> bytes:
    return hmac.digest(key, b"locator:" + locator.encode(), "sha256")[:_SIGNATURE_BYTES]


def _text(data: bytes) -> str:
    return b2a_base64(data, newline=False).translate(_URL_SAFE, b"=").decode()
