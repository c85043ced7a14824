"""The settings of web sessions, checked when they are made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, cast

import msgspec

from .._validation import (
    OptionalSeconds,
    Seconds,
    default_optional_secs,
    default_secs,
    duration_to_ms,
    require_bool,
    require_int,
    timedeltas_to_secs,
    wait_to_ms,
)
from ..errors import InvalidInputError
from .cookies import CookiePolicy
from .origins import parse_origin

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["WebPolicy"]

_MAX_TOUCH_EVERY_SECS: Final = 60.0
_MIN_SIGNING_KEY_BYTES: Final = 32


class WebPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of web sessions.

    The default lifetimes are those of NIST SP 800-63B for AAL2: 30 minutes without activity, 12
    hours in all. OWASP Session Management and ASVS 5.0 7.3.1 to 7.3.2 require both limits.

    Durations are in seconds or a :class:`datetime.timedelta`.

    :ivar idle: the lifetime without activity.
    :ivar absolute: the lifetime in all, from creation. A login restarts it. ``None`` sets no limit.
    :ivar rolling: whether activity restarts ``idle``. ``False`` makes ``idle`` a fixed lifetime
        from creation or login.
    :ivar renew_after: the age at which the secret of a token is replaced. ``None`` never does.
    :ivar touch_every: reading requests extend the lifetime at most this often. ``None`` is a tenth
        of ``idle``, at most 60 s. A session may end earlier by this time. 0 extends it on each
        request.
    :ivar max_sessions: limit on the sessions of one user. ``None`` sets no limit.
    :ivar overflow: what a login over that limit does. ``refuse`` raises
        :class:`.SessionLimitError`, ``oldest`` ends the user's oldest sessions.
    :ivar on_conflict: which change wins if two parallel requests changed the same plain field.
        ``reject`` answers the later one with 409.
    :ivar origins: other origins that may send unsafe requests and open WebSockets, such as
        ``https://app.example``.
    :ivar require_origin: whether an unsafe request without ``Origin`` and ``Sec-Fetch-Site`` is
        refused.
    :ivar csrf: ``origin`` checks the headers. ``token`` also requires a token in each unsafe
        request with a session.
    :ivar signing_keys: keys of at least 32 bytes that sign tokens. The first one signs, and all of
        them verify. Empty signs nothing.
    :ivar sockets_are_activity: whether an open WebSocket extends the lifetime of its session.
    :ivar cookie: the cookie.
    :raises InvalidInputError: a setting is invalid.
    """

    idle: Seconds = default_secs(1800)
    absolute: OptionalSeconds = default_optional_secs(43_200)
    rolling: bool = True
    renew_after: OptionalSeconds = default_optional_secs(900)
    touch_every: OptionalSeconds = default_optional_secs(None)
    max_sessions: int | None = None
    overflow: Literal["refuse", "oldest"] = "refuse"
    on_conflict: Literal["reject", "mine", "theirs"] = "reject"
    origins: tuple[str, ...] = ()
    require_origin: bool = False
    csrf: Literal["origin", "token"] = "origin"
    signing_keys: tuple[str | bytes, ...] = ()
    sockets_are_activity: bool = False
    cookie: CookiePolicy = CookiePolicy()

    def __post_init__(self) -> None:
        timedeltas_to_secs(self, "idle", "absolute", "renew_after", "touch_every")
        duration_to_ms(self.idle, "idle")
        if self.absolute is not None and duration_to_ms(self.absolute, "absolute") < self.idle_ms:
            raise InvalidInputError("absolute", "is less than idle")
        if self.renew_after is not None:
            duration_to_ms(self.renew_after, "renew_after")
        if self.touch_every is not None:
            wait_to_ms(self.touch_every, "touch_every")
        if self.max_sessions is not None:
            require_int(self.max_sessions, "max_sessions", 1)
        for field in ("rolling", "require_origin", "sockets_are_activity"):
            require_bool(getattr(self, field), field)
        _require_choice(self.overflow, "overflow", ("refuse", "oldest"))
        _require_choice(self.on_conflict, "on_conflict", ("reject", "mine", "theirs"))
        _require_choice(self.csrf, "csrf", ("origin", "token"))
        if type(cast("object", self.cookie)) is not CookiePolicy:
            raise InvalidInputError("cookie", "expected a CookiePolicy")
        _require_tuple(self.origins, "origins")
        for origin in self.origins:
            if parse_origin(origin) is None:
                raise InvalidInputError("origins", "expected origins such as https://app.example")
        _require_tuple(self.signing_keys, "signing_keys")
        for key in self.signing_keys:
            if not isinstance(cast("object", key), str | bytes):
                raise InvalidInputError("signing_keys", "expected str or bytes")
        if any(len(key) < _MIN_SIGNING_KEY_BYTES for key in self.signing_key_bytes):
            raise InvalidInputError(
                "signing_keys", f"a key is shorter than {_MIN_SIGNING_KEY_BYTES} bytes"
            )

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """Return the fields for pretty printers, without the keys."""
        return [
            (name, len(self.signing_keys) if name == "signing_keys" else getattr(self, name))
            for name in self.__struct_fields__
        ]

    def __repr__(self) -> str:
        """Return the fields, with the number of the keys instead of the keys."""
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"WebPolicy({fields})"

    @property
    def idle_ms(self) -> int:
        """:attr:`idle` in milliseconds."""
        return round(self.idle * 1000)

    @property
    def absolute_ms(self) -> int:
        """:attr:`absolute` in milliseconds, 0 for no limit."""
        return 0 if self.absolute is None else round(self.absolute * 1000)

    @property
    def renew_after_ms(self) -> int:
        """:attr:`renew_after` in milliseconds, 0 for never."""
        return 0 if self.renew_after is None else round(self.renew_after * 1000)

    @property
    def touch_every_ms(self) -> int:
        """The shortest time between two extensions of the lifetime by reads, in milliseconds."""
        if self.touch_every is None:
            return round(min(self.idle / 10, _MAX_TOUCH_EVERY_SECS) * 1000)
        return round(self.touch_every * 1000)

    @property
    def signing_key_bytes(self) -> tuple[bytes, ...]:
        """:attr:`signing_keys` as bytes."""
        return tuple(
            key.encode() if isinstance(key, str) else bytes(key) for key in self.signing_keys
        )


def _require_choice(value: object, field: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InvalidInputError(field, f"expected one of {', '.join(choices)}")


def _require_tuple(value: object, field: str) -> None:
    if not isinstance(value, tuple):
        raise InvalidInputError(field, f"expected a tuple, got {type(value).__name__}")
