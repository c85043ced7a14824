"""Contains the comparison of a state with what a read of its bytes returns."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["first_loss"]

_END: Final = object()


def first_loss(given: object, found: object, path: str) -> str | None:
    """Return where and how a value does not survive encoding and decoding, ``None`` if it does.

    A tuple may come back as a list, and a value of a subclass as one of its base class.

    :param given: what is to be written. It nests no deeper than :data:`.nesting.MAX_DEPTH`.
    :param found: what a read returns.
    :param path: names the value. Only keys that are identifiers are quoted.
    """
    one: Any = given
    other: Any = found
    if isinstance(given, dict) and isinstance(found, dict):
        for key, part in one.items():
            if type(key) is not str and not (isinstance(key, str) or key in other):
                return f"{path}: a key of type {type(key).__name__} comes back as text"
            step = f".{key}" if str.isidentifier(str(key)) else "[...]"
            loss = first_loss(part, other.get(key, _END), f"{path}{step}")
            if loss is not None:
                return loss
        return None if len(one) == len(other) else f"{path}: some keys come back as one"
    if isinstance(given, (list, tuple)) and isinstance(found, list):
        for index, (part, read) in enumerate(zip(one, other, strict=True)):
            loss = first_loss(part, read, f"{path}[{index}]")
            if loss is not None:
                return loss
        return None
    if one == other or (one != one and other != other):  # noqa: PLR0124 - nan is unequal to itself
        return None
    if isinstance(given, float):
        return f"{path}: a number that is not finite comes back as {_kind(other)}"
    return f"{path}: a value of type {type(one).__name__} comes back as {_kind(other)}"


def _kind(found: Any) -> str:
    if found is _END or found is None:
        return "None"
    return f"another {type(found).__name__}"
