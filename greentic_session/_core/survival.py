"""Comparison of a state with what a read of its bytes returns."""

from __future__ import annotations

import dataclasses
import sys
from decimal import FloatOperation, getcontext
from types import GenericAlias
from typing import Annotated, Any, Final, cast

import msgspec

__all__ = ["first_loss", "has_open_parts", "is_plain"]

_PLAIN_LEVELS: Final = 6
"""How deep the type below nests. Its hash takes twice the time with each level."""


def _plain_values() -> Any:
    largest = sys.float_info.max
    # NaN is within no bounds.
    number: Any = Annotated[float, msgspec.Meta(ge=-largest, le=largest)]
    scalar: Any = str | int | bool | number | None
    found = scalar
    for _ in range(_PLAIN_LEVELS - 1):
        found = scalar | GenericAlias(list, (found,)) | GenericAlias(dict, (str, found))
    return GenericAlias(dict, (str, found))


# msgspec caches the type information of a struct, and builds that of any other type at each call.
_Plain: Final = msgspec.defstruct("_Plain", [("state", _plain_values())])


def is_plain(state: object) -> bool:
    """Tell whether a dict holds nothing but what every codec of the library keeps as it is.

    Such a dict is not nested deeper than :data:`_PLAIN_LEVELS`. Runs in C. If this returns
    ``False``, :func:`first_loss` decides. A state with a tuple is one example.

    :param state: was encoded, so it has an end.
    """
    try:
        plain: Any = msgspec.convert({"state": state}, _Plain)
    except msgspec.ValidationError:
        return False
    # The conversion turns sets and tuples into lists, which are not equal to them. It turns a
    # decimal into a float, which is equal. The decimal module flags such a comparison
    # (`decimal.FloatOperation`).
    flags = getcontext().flags
    before = flags[FloatOperation]
    flags[FloatOperation] = False
    is_equal = _are_equal(plain.state, state)
    holds_decimals = flags[FloatOperation]
    flags[FloatOperation] = before
    return is_equal and not holds_decimals


def has_open_parts(context_type: Any) -> bool:
    """Tell whether a value of a type may come back as another, or nest without a limit.

    True for a type with parts of any type, an optional float (NaN becomes ``None``), or a type that
    holds itself.
    """
    try:
        root = msgspec.inspect.type_info(context_type)
    except Exception:  # noqa: BLE001 - an unknown type is compared
        return True
    return _is_open(root, ())


def _is_open(node: Any, outer: tuple[int, ...]) -> bool:
    if isinstance(node, (msgspec.inspect.AnyType, msgspec.inspect.CustomType)):
        return True
    if id(node) in outer:
        return True
    if isinstance(node, msgspec.inspect.UnionType):
        kinds = {type(part) for part in node.types}
        if {msgspec.inspect.FloatType, msgspec.inspect.NoneType} <= kinds:
            return True
    inner: list[Any] = [
        getattr(node, name)
        for name in ("type", "item_type", "key_type", "value_type")
        if isinstance(getattr(node, name, None), msgspec.inspect.Type)
    ]
    inner += getattr(node, "types", ())
    inner += getattr(node, "item_types", ())
    inner += [part.type for part in getattr(node, "fields", ())]
    return any(_is_open(part, (*outer, id(node))) for part in inner)


def first_loss(given: object, found: object, path: str) -> str | None:
    """Return where and how a value does not survive encoding and decoding, ``None`` if it does.

    * A tuple may come back as a list.
    * A value may come back as an equal one of another class: a member of an enum of texts or
      integers as its value.
    * A value of a declared type may have become one of that type.

    :param given: what is to be written. It nests no deeper than :data:`.nesting.MAX_DEPTH`.
    :param found: what a read returns.
    :param path: names the value. Only keys that are identifiers are quoted.
    """
    one: Any = given
    other: Any = found
    if _are_equal(one, other):
        return None
    if isinstance(given, dict) and isinstance(found, dict):
        return _loss_of_dict(one, other, path)
    if isinstance(given, (list, tuple)) and isinstance(found, (list, tuple)):
        if len(one) != len(other):
            return f"{path}: a list comes back with another length"
        for index, (part, read) in enumerate(zip(one, other, strict=True)):
            loss = first_loss(part, read, f"{path}[{index}]")
            if loss is not None:
                return loss
        return None
    names = _field_names(other) if type(one) is type(other) else ()
    for name in names:
        loss = first_loss(getattr(one, name, None), getattr(other, name, None), f"{path}.{name}")
        if loss is not None:
            return loss
    if names or not _is_json(other):
        return None
    if isinstance(given, float):
        return f"{path}: a number that is not finite comes back as {_kind(other)}"
    return f"{path}: a value of type {type(one).__name__} comes back as {_kind(other)}"


def _loss_of_dict(given: dict[Any, Any], found: dict[Any, Any], path: str) -> str | None:
    for key, part in given.items():
        # An enum of texts has a hash of its own.
        name = str.__str__(key) if isinstance(key, str) else key
        if name not in found:
            return f"{path}: a key of type {type(key).__name__} comes back as another"
        step = f".{name}" if isinstance(name, str) and name.isidentifier() else "[...]"
        loss = first_loss(part, found[name], f"{path}{step}")
        if loss is not None:
            return loss
    return None if len(given) == len(found) else f"{path}: some keys come back as one"


def _are_equal(one: Any, other: Any) -> bool:
    try:
        # NaN is unequal to itself.
        return bool(one == other or (one != one and other != other))  # noqa: PLR0124
    except Exception:  # noqa: BLE001 - a comparison runs code of the application's classes
        return False


def _field_names(value: object) -> tuple[str, ...]:
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    if dataclasses.is_dataclass(value):
        return tuple(part.name for part in dataclasses.fields(cast("Any", value)))
    return ()


def _is_json(found: object) -> bool:
    return found is None or type(found) in (str, int, float, bool, dict, list)


def _kind(found: Any) -> str:
    return "None" if found is None else f"another {type(found).__name__}"
