"""The rules that settings obey: each check names the field at fault and never repeats the value."""

from __future__ import annotations

import math
import re
from typing import Final

from .errors import InvalidInputError

__all__ = ["require_bool", "require_host", "require_int", "require_secs", "require_str"]

_MAX_SECS: Final = 86_400


def require_str(value: object, field: str) -> str:
    """Return the value if it is text that a server and a file system take.

    :raises InvalidInputError: otherwise.
    """
    if not isinstance(value, str) or not value:
        raise InvalidInputError(field, "expected text that is not empty")
    if re.search("[\x00\ud800-\udfff]", value):
        raise InvalidInputError(field, "holds NUL or a lone surrogate")
    return value


def require_host(value: object, field: str) -> str:
    """Return the value if it may be a host's name or address.

    :raises InvalidInputError: otherwise.
    """
    host = require_str(value, field)
    if re.search(r"[\s\x00-\x1f\x7f-\x9f]", host):
        raise InvalidInputError(field, "holds white space or a control character")
    return host


def require_bool(value: object, field: str) -> None:
    """Do nothing if the value is a bool.

    :raises InvalidInputError: otherwise.
    """
    if not isinstance(value, bool):
        raise InvalidInputError(field, "expected a bool")


def require_int(value: object, field: str, least: int, most: int | None = None) -> None:
    """Do nothing if the value is a whole number in a range.

    :param most: ``None`` has no upper end.
    :raises InvalidInputError: otherwise.
    """
    if type(value) is not int or value < least or (most is not None and value > most):
        bound = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InvalidInputError(field, f"expected a whole number {bound}")


def require_secs(value: object, field: str) -> None:
    """Do nothing if the value is a time in seconds above 0, of a day at most.

    :raises InvalidInputError: otherwise.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or not 0 < value <= _MAX_SECS
    ):
        raise InvalidInputError(field, f"expected seconds above 0, at most {_MAX_SECS}")
