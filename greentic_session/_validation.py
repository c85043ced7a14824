"""Checks of names, lifetimes and sizes, made before any I/O.

Each check raises :class:`InvalidInputError` with the field and the reason. The error does not
contain the value, because the value may be secret or belong to another tenant.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeVar, cast, overload

from msgspec.structs import force_setattr

from .errors import InvalidInputError

if TYPE_CHECKING:
    import msgspec

    # For type checkers: the constructor accepts both types, and reading the field returns seconds.
    class Seconds:
        """The type of a struct's field in seconds. A :class:`timedelta` is accepted too."""

        @overload
        def __get__(self, instance: None, owner: type, /) -> float: ...
        @overload
        def __get__(self, instance: object, owner: type, /) -> float: ...
        def __get__(self, instance: object, owner: type, /) -> float: ...
        def __set__(self, instance: object, value: timedelta | float, /) -> None: ...

    class OptionalSeconds:
        """As :class:`Seconds`, or ``None``."""

        @overload
        def __get__(self, instance: None, owner: type, /) -> float | None: ...
        @overload
        def __get__(self, instance: object, owner: type, /) -> float | None: ...
        def __get__(self, instance: object, owner: type, /) -> float | None: ...
        def __set__(self, instance: object, value: timedelta | float | None, /) -> None: ...
else:
    Seconds = float
    OptionalSeconds = float | None

_K = TypeVar("_K", bound=str)

MAX_KEY_CHARS: Final = 512
MAX_IDENTIFIER_CHARS: Final = 128
MAX_USER_CHARS: Final = 256
_MAX_LABELS: Final = 16
_MAX_SETTING_SECS: Final = 86_400
MAX_TTL_SECS: Final = 100 * 366 * 86_400
"""About a century. Every date type can represent such a time from now."""

_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
# C0, DEL and C1 (Unicode category Cc), and lone surrogates, which have no UTF-8 form.
_UNFIT_FOR_KEYS: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def require_text(value: object, field: str, max_chars: int) -> str:
    """Return ``value`` as a plain ``str`` if it is text of 1 to ``max_chars`` characters.

    :raises InvalidInputError: naming ``field``.
    """
    if not isinstance(value, str):
        raise InvalidInputError(field, f"expected str, got {type(value).__name__}")
    # A text enum compares as its value but formats as its name. So use the plain value from here.
    value = str.__str__(value)
    if not value:
        raise InvalidInputError(field, "is empty")
    if len(value) > max_chars:
        raise InvalidInputError(field, f"{len(value)} characters, over the limit of {max_chars}")
    return value


def require_clean_text(value: object, field: str, max_chars: int) -> str:
    """Return ``value`` if it is text without control characters and lone surrogates.

    :raises InvalidInputError: naming ``field``.
    """
    text = require_text(value, field, max_chars)
    # Printable text has neither. This check avoids the scan in nearly every call.
    if not text.isprintable() and _UNFIT_FOR_KEYS.search(text):
        raise InvalidInputError(field, "contains a control character or a lone surrogate")
    return text


def check_key(key: _K) -> _K:
    """Return a session key as a plain ``str``, after a check.

    A key has 1 to 512 characters, and no control characters or lone surrogates.

    :raises InvalidInputError: naming ``key``.
    """
    # Fast path: keys from `keys` and `new_session_key()` need no other check.
    if type(key) is str and 0 < len(key) <= MAX_KEY_CHARS and key.isprintable():
        return key
    return cast("_K", require_clean_text(key, "key", MAX_KEY_CHARS))


def check_identifier(value: object, field: str) -> str:
    """Return an env, tenant or team as a plain ``str`` if it matches ``[A-Za-z0-9._-]{1,128}``.

    :raises InvalidInputError: naming ``field``.
    """
    text = require_text(value, field, MAX_IDENTIFIER_CHARS)
    if not _IDENTIFIER.fullmatch(text):
        raise InvalidInputError(field, "may contain only A-Z a-z 0-9 . _ -")
    return text


def check_user(value: object) -> str:
    """Return a user id as a plain ``str``, after a check.

    A user id has 1 to 256 characters, all of them printable in the sense of
    :meth:`str.isprintable`.

    :raises InvalidInputError: naming ``user_id``.
    """
    text = require_text(value, "user_id", MAX_USER_CHARS)
    if not text.isprintable():
        raise InvalidInputError("user_id", "contains a character that is not printable")
    return text


def ttl_to_ms(ttl_secs: object, field: str = "ttl_secs") -> int:
    """Return a lifetime in whole milliseconds. 0 stays 0, which never expires.

    :param ttl_secs: seconds, int or float, or a :class:`datetime.timedelta`. At least 1 ms and at
        most about a century, or 0.
    :param field: name of the argument.
    :raises InvalidInputError: naming ``field``.
    """
    # Fast paths: a read returns a float, and most callers pass an int.
    if type(ttl_secs) is float and 0.001 <= ttl_secs <= MAX_TTL_SECS:
        return round(ttl_secs * 1000)
    if type(ttl_secs) is int and 0 <= ttl_secs <= MAX_TTL_SECS:
        return ttl_secs * 1000
    if isinstance(ttl_secs, timedelta):
        ttl_secs = ttl_secs.total_seconds()
    if type(ttl_secs) is float and ttl_secs == 0:
        return 0
    # A value that rounds to 0 is refused. The session should expire at once, and 0 means never.
    return _ms(ttl_secs, field, zero=" (0 is never)")


def duration_to_ms(duration: object, field: str) -> int:
    """Return a duration in whole milliseconds, at least 1 and at most about a century.

    :param duration: seconds, int or float, or a :class:`datetime.timedelta`.
    :param field: name of the argument.
    :raises InvalidInputError: naming ``field``.
    """
    if isinstance(duration, timedelta):
        duration = duration.total_seconds()
    # The type first, because comparing an array does not return a bool.
    if type(duration) in (int, float) and duration == 0:
        raise InvalidInputError(field, "is zero")
    return _ms(duration, field, zero="")


def wait_to_ms(wait: object, field: str) -> int:
    """Return the longest time to wait, in whole milliseconds, at most about a century.

    Less than 1 ms becomes 0, which does not wait. The time left until a deadline may be that short,
    and then must not raise an error.

    :param wait: seconds, int or float, or a :class:`datetime.timedelta`. Not negative.
    :param field: name of the argument.
    :raises InvalidInputError: naming ``field``.
    """
    if isinstance(wait, timedelta):
        wait = wait.total_seconds()
    if isinstance(wait, (int, float)) and not isinstance(wait, bool) and 0 <= wait < 0.001:
        return 0
    return _ms(wait, field, zero="")


def default_secs(secs: float) -> Seconds:
    """Return the default of a field of :class:`Seconds`."""
    return cast("Seconds", secs)


def default_optional_secs(secs: float | None) -> OptionalSeconds:
    """Return the default of a field of :class:`OptionalSeconds`."""
    return cast("OptionalSeconds", secs)


def timedeltas_to_secs(struct: msgspec.Struct, *fields: str) -> None:
    """Replace each :class:`datetime.timedelta` in the given fields of a new struct by seconds."""
    for field in fields:
        value = getattr(struct, field)
        if isinstance(value, timedelta):
            force_setattr(struct, field, value.total_seconds())


def _ms(secs: object, field: str, *, zero: str) -> int:
    if isinstance(secs, bool) or not isinstance(secs, (int, float)):
        raise InvalidInputError(field, f"expected seconds, got {type(secs).__name__}")
    if isinstance(secs, float) and not math.isfinite(secs):
        raise InvalidInputError(field, "is not a finite number")
    if secs < 0:
        raise InvalidInputError(field, "is negative")
    if secs > MAX_TTL_SECS:
        raise InvalidInputError(field, f"is over the limit of {MAX_TTL_SECS} s{zero}")
    ms = round(secs * 1000)
    if ms == 0:
        raise InvalidInputError(field, f"is below the resolution of 1 ms{zero}")
    return ms


def require_str(value: object, field: str) -> str:
    """Return the value if it is text without NUL and lone surrogates, and not empty.

    Servers and file systems accept such text.

    :raises InvalidInputError: naming ``field``.
    """
    if not isinstance(value, str) or not value:
        raise InvalidInputError(field, "expected text that is not empty")
    if re.search("[\x00\ud800-\udfff]", value):
        raise InvalidInputError(field, "contains NUL or a lone surrogate")
    return value


def require_host(value: object, field: str) -> str:
    """Return the value if it may be the name or address of a host.

    :raises InvalidInputError: naming ``field``.
    """
    host = require_str(value, field)
    if re.search(r"[\s\x00-\x1f\x7f-\x9f]", host):
        raise InvalidInputError(field, "contains white space or a control character")
    return host


def require_bool(value: object, field: str) -> None:
    """Check that the value is a bool.

    :raises InvalidInputError: naming ``field``.
    """
    if not isinstance(value, bool):
        raise InvalidInputError(field, "expected a bool")


def require_sequence(value: object, field: str) -> None:
    """Check that the value is a sequence, and not a text.

    :raises InvalidInputError: naming ``field``.
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise InvalidInputError(field, f"expected a sequence, got {type(value).__name__}")


def require_int(value: object, field: str, least: int, most: int | None = None) -> None:
    """Check that the value is an integer in a range.

    :param least: the smallest valid value.
    :param most: the largest valid value. ``None`` sets no limit.
    :raises InvalidInputError: naming ``field``.
    """
    if type(value) is not int or value < least or (most is not None and value > most):
        bound = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InvalidInputError(field, f"expected a whole number {bound}")


def require_secs(value: object, field: str, *, allow_zero: bool = False) -> None:
    """Check that the value is a duration in seconds, above 0 and at most a day.

    :param allow_zero: whether 0 is valid too.
    :raises InvalidInputError: naming ``field``.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or not 0 <= value <= _MAX_SETTING_SECS
        or (value == 0 and not allow_zero)
    ):
        least = "from" if allow_zero else "above"
        raise InvalidInputError(field, f"expected seconds {least} 0, at most {_MAX_SETTING_SECS}")


def require_label_names(names: object) -> tuple[str, ...]:
    """Return the names of indexed labels as a tuple, after a check.

    :raises InvalidInputError: ``names`` is not a sequence of up to 16 different texts of 1 to 128
        characters without control characters and lone surrogates.
    """
    if isinstance(names, (str, bytes)) or not isinstance(names, Sequence):
        raise InvalidInputError("indexed_labels", f"expected a tuple, got {type(names).__name__}")
    found = tuple(
        require_clean_text(name, "indexed_labels", 128) for name in cast("Sequence[object]", names)
    )
    if len(set(found)) != len(found) or len(found) > _MAX_LABELS:
        raise InvalidInputError("indexed_labels", f"expected up to {_MAX_LABELS} different names")
    return found
