"""The limit on the nesting of a stored state, the same for every Python version and stack."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from itertools import accumulate
from typing import Any, Final

import msgspec

__all__ = ["MAX_DEPTH", "TOO_DEEP", "is_surely_flat", "is_too_deep", "parts_of"]

MAX_DEPTH: Final = 128
"""Maximum depth of nested containers. ``{}`` has a depth of 1."""
TOO_DEEP: Final = f"refers to itself, or is nested deeper than max_depth: {MAX_DEPTH} levels"

_JSON_TEXT: Final = re.compile(rb'"(?:[^"\\]+|\\.)*"')
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[{]}"))
_STEPS: Final = bytes(1 if byte in b"[{" else 255 for byte in range(256))
_NO_CONTAINERS: Final = bytes(set(range(256)) - {*range(0x80, 0xA0), *range(0xDC, 0xE0)})
"""The bytes that do not start a map or an array in MessagePack."""


def is_surely_flat(data: bytes, *, is_json: bool) -> bool:
    """Return whether encoded bytes prove that neither context nor labels are too deep.

    This is much faster than :func:`is_too_deep`, which decides if this returns ``False``.

    :param data: the body in JSON or MessagePack.
    :param is_json: whether the body is JSON.
    """
    if not is_json:
        return len(data.translate(None, _NO_CONTAINERS)) <= MAX_DEPTH
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return True
    brackets = _JSON_TEXT.sub(b"", data).translate(_STEPS, _NO_BRACKETS)
    # The body adds one level to the context, and `MAX_DEPTH` here is stricter by that level.
    return max(accumulate(memoryview(brackets).cast("b"))) <= MAX_DEPTH


def is_too_deep(value: object) -> bool:
    """Return whether a value nests deeper than :data:`MAX_DEPTH`, without recursion."""
    level = [value]
    for _ in range(MAX_DEPTH):
        # Distinct by identity, because a value that refers to itself twice would double each level.
        inner = {id(part): part for one in level for part in parts_of(one) or ()}
        level = [part for part in inner.values() if _is_container(part)]
        if not level:
            return False
    return True


def parts_of(value: object) -> list[Any] | None:
    """Return the values that a container holds. ``None`` if the value is not a container."""
    found: Any = value
    if isinstance(value, dict):
        return list(found.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(found)
    if isinstance(value, msgspec.Struct):
        return [getattr(value, name, None) for name in value.__struct_fields__]
    if isinstance(value, msgspec.Raw):
        return _parts_of_raw(value)
    if is_dataclass(value):  # one with slots has no `__dict__`
        names = {field.name for field in fields(value)}
        parts = [getattr(value, name, None) for name in names]
        return parts + [
            part for name, part in getattr(value, "__dict__", {}).items() if name not in names
        ]
    return list(found.__dict__.values()) if hasattr(value, "__dict__") else None


def _is_container(value: object) -> bool:
    return (
        isinstance(value, (dict, list, tuple, set, frozenset, msgspec.Struct, msgspec.Raw))
        or hasattr(value, "__dict__")
        or is_dataclass(value)
    )


def _parts_of_raw(raw: msgspec.Raw) -> list[Any]:
    for decode in (msgspec.json.decode, msgspec.msgpack.decode):
        try:
            return parts_of(decode(raw)) or []
        except RecursionError:
            return [raw]  # an endless value is too deep as well
        except (msgspec.DecodeError, UnicodeError):
            continue
    return []
