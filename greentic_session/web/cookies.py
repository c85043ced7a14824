"""The session cookie: its attributes, and how it is read and written."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, cast, final

import msgspec

from .._validation import require_bool, require_host
from ..errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["CookieJar", "CookiePolicy"]

# RFC 9110, 5.6.2: a token.
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_PATH: Final = re.compile(r"/[!-:<-~]{0,255}")
_HOST_PREFIXES: Final = ("__Host-Http-", "__Host-")
_SAME_SITE: Final = {"lax": "Lax", "strict": "Strict", "none": "None"}


class CookiePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The name and the attributes of the session cookie.

    The default is ``__Host-session; Path=/; Secure; HttpOnly; SameSite=Lax`` (RFC 6265bis, 4.1.3).
    The cookie is always ``HttpOnly``.

    :ivar name: the name. A ``__Host-`` or ``__Host-Http-`` prefix is dropped if the other
        attributes do not permit it.
    :ivar domain: the domain of the cookie. ``None`` limits it to the host. A domain drops the
        prefix.
    :ivar path: the path of the cookie. A path other than ``/`` drops the prefix.
    :ivar secure: whether browsers send it over HTTPS only. ``False`` is for development over plain
        HTTP. It drops the prefix.
    :ivar same_site: ``lax``, ``strict`` or ``none``.
    :ivar partitioned: whether a cookie of an embedded site is kept per top-level site (CHIPS). It
        needs ``secure`` and ``same_site="none"``.
    :ivar persistent: whether the cookie has a ``Max-Age``. ``False`` ends it with the browser.
    :raises InvalidInputError: an attribute is invalid, or two of them exclude each other.
    """

    name: str = "__Host-session"
    domain: str | None = None
    path: str = "/"
    secure: bool = True
    same_site: Literal["lax", "strict", "none"] = "lax"
    partitioned: bool = False
    persistent: bool = False

    def __post_init__(self) -> None:
        name, path = cast("object", self.name), cast("object", self.path)
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidInputError("name", "expected a token of 1 to 64 characters (RFC 9110)")
        if not isinstance(path, str) or not _PATH.fullmatch(path):
            raise InvalidInputError("path", "expected a path from / without a semicolon")
        if self.domain is not None and ";" in require_host(self.domain, "domain"):
            raise InvalidInputError("domain", "contains a semicolon")
        for field in ("secure", "partitioned", "persistent"):
            require_bool(getattr(self, field), field)
        if self.same_site not in _SAME_SITE:
            raise InvalidInputError("same_site", "expected lax, strict or none")
        if self.same_site == "none" and not self.secure:
            raise InvalidInputError("same_site", "none needs secure (RFC 6265bis, 5.7)")
        if self.partitioned and self.same_site != "none":
            raise InvalidInputError("partitioned", "needs same_site none")
        if not self.sent_name:
            raise InvalidInputError("name", "is only a prefix")

    @property
    def sent_name(self) -> str:
        """The name that browsers see: without the prefix if the attributes do not permit it."""
        if self.secure and self.domain is None and self.path == "/":
            return self.name
        for prefix in _HOST_PREFIXES:
            if self.name.startswith(prefix):
                return self.name[len(prefix) :]
        return self.name


@final
class CookieJar:
    """Reads and writes the cookie of one policy.

    :param policy: the policy.
    """

    __slots__ = ("_attributes", "_find", "_name", "_persistent")

    def __init__(self, policy: CookiePolicy) -> None:
        self._name: Final = policy.sent_name
        self._persistent: Final = policy.persistent
        parts = [f"; Path={policy.path}"]
        if policy.domain is not None:
            parts.append(f"; Domain={policy.domain}")
        if policy.secure:
            parts.append("; Secure")
        parts.append(f"; HttpOnly; SameSite={_SAME_SITE[policy.same_site]}")
        if policy.partitioned:
            parts.append("; Partitioned")
        self._attributes: Final = "".join(parts)
        name = re.escape(self._name.encode())
        self._find: Final = re.compile(rb"(?:^|;)[ \t]*" + name + rb"[ \t]*=[ \t]*([^;]*)").findall

    def read(self, headers: Iterable[bytes]) -> bytes | None:
        """Return the value of the cookie in the ``Cookie`` headers of a request.

        If two cookies have the name, neither counts: one of them may be planted by a sibling domain
        (RFC 6265bis, 8.6, "Weak Integrity").

        :returns: ``None`` if there is no such cookie, or more than one.
        """
        found: list[bytes] = []
        for header in headers:
            found += self._find(header)
        return found[0].rstrip(b" \t") if len(found) == 1 else None

    def write(self, value: str, max_age_secs: int) -> bytes:
        """Return a ``Set-Cookie`` header.

        :param value: the value.
        :param max_age_secs: lifetime of a persistent cookie. Others have none.
        """
        lasts = f"; Max-Age={max_age_secs}" if self._persistent else ""
        return f"{self._name}={value}{self._attributes}{lasts}".encode()

    def clear(self) -> bytes:
        """Return the ``Set-Cookie`` header that removes the cookie."""
        return f"{self._name}={self._attributes}; Max-Age=0".encode()
