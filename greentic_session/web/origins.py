"""Checks that a request comes from the site's own pages.

A browser says where a request comes from, in ``Sec-Fetch-Site`` and ``Origin``. Pages cannot forge
these headers (Fetch Metadata, 2. "The Sec-Fetch-* headers"; OWASP CSRF Prevention, "Fetch
Metadata").
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, final

__all__ = ["Origin", "OriginCheck", "parse_origin"]

_ORIGIN: Final = re.compile(
    r"([a-z][a-z0-9+.-]*)://([^/\s?#@:\[\]]+|\[[0-9a-f:.]+\])(?::(\d{1,5}))?"
)
_HOST: Final = re.compile(r"([^/\s?#@:\[\]]+|\[[0-9a-f:.]+\])(?::(\d{1,5}))?")
_PORTS: Final = {"http": 80, "https": 443}
_SCHEMES: Final = {"ws": "http", "wss": "https"}
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""RFC 9110, 9.2.1."""


class Origin(NamedTuple):
    """A parsed origin (RFC 6454).

    :ivar scheme: ``http`` or ``https``, or another scheme as it is.
    :ivar host: the host in lower case.
    :ivar port: the port, the default of the scheme if it was absent.
    """

    scheme: str
    host: str
    port: int


def parse_origin(text: object) -> Origin | None:
    """Return the origin in a header or a setting, ``None`` if the text is not one."""
    match = _ORIGIN.fullmatch(text.lower()) if isinstance(text, str) else None
    if match is None:
        return None
    scheme = _SCHEMES.get(match[1], match[1])
    return Origin(scheme, match[2], int(match[3] or _PORTS.get(scheme, 0)))


def parse_host(text: str, scheme: str) -> Origin | None:
    """Return the origin of a ``Host`` header, ``None`` if the text is not a host."""
    match = _HOST.fullmatch(text.lower())
    if match is None:
        return None
    scheme = _SCHEMES.get(scheme, scheme)
    return Origin(scheme, match[1].rstrip("."), int(match[2] or _PORTS.get(scheme, 0)))


@final
class OriginCheck:
    """Decides whether a request comes from the site or from an origin of the allow-list.

    :param allowed: the allow-list.
    :param require_origin: whether a request without both headers is foreign.
    """

    __slots__ = ("_allowed", "_require_origin")

    def __init__(self, allowed: tuple[str, ...], *, require_origin: bool) -> None:
        self._allowed: Final = frozenset(parse_origin(text) for text in allowed) - {None}
        self._require_origin: Final = require_origin

    def allows_request(
        self, origins: list[bytes], sites: list[bytes], host: bytes, scheme: str
    ) -> bool:
        """Return whether an unsafe request is from the site.

        :param origins: values of the ``Origin`` headers.
        :param sites: values of the ``Sec-Fetch-Site`` headers.
        :param host: the ``Host`` header.
        :param scheme: scheme of the request, as the server saw it.
        """
        if len(sites) == 1 and sites[0] in (b"same-origin", b"none"):
            return True
        if not origins and not sites:
            return not self._require_origin
        return self.allows_handshake(origins, host, scheme)

    def allows_handshake(self, origins: list[bytes], host: bytes, scheme: str) -> bool:
        """Return whether a request has one ``Origin``, of the site or of the allow-list.

        Each browser sends ``Origin`` with a WebSocket handshake (RFC 6455, 10.2).
        """
        if len(origins) != 1:
            return False
        given = parse_origin(origins[0].decode("latin-1"))
        if given is None:
            return False
        if given in self._allowed:
            return True
        own = parse_host(host.decode("latin-1"), scheme)
        if own is None:
            return False
        # A proxy may have ended TLS, so the server may see http where the browser sees https.
        return given == own or given == parse_host(host.decode("latin-1"), "https")
