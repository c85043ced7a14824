"""Comparisons of a state with the state that a read of its bytes returns."""

from __future__ import annotations

import dataclasses
import sys
from decimal import FloatOperation, getcontext
from types import GenericAlias
from typing import Annotated, Any, Final, cast

import msgspec

from .._foreign import is_model, model_fields

__all__ = ["first_loss", "has_open_parts", "is_plain"]

_PLAIN_LEVELS: Final = 6
"""Depth of the type below. Each level doubles the time of its hash."""


def _plain_values() -> Any:
    largest = sys.float_info.max
    # The bounds exclude NaN and the infinities.
    number: Any = Annotated[float, msgspec.Meta(ge=-largest, le=largest)]
    scalar: Any = str | int | bool | number | None
    found = scalar
    for _ in range(_PLAIN_LEVELS - 1):
        found = scalar | GenericAlias(list, (found,)) | GenericAlias(dict, (str, found))
    return GenericAlias(dict, (str, found))


# A struct, because msgspec caches the type information of structs only.
_Plain: Final = msgspec.defstruct("_Plain", [("state", _plain_values())])


def is_plain(state: object) -> bool:
    """Return whether a dict only holds values that every codec of the library returns unchanged.

    Such a dict is not nested deeper than :data:`_PLAIN_LEVELS`. The check runs in C. If it returns
    ``False``, for example for a tuple, :func:`first_loss` decides.

    :param state: the dict. It was encoded, so it is not recursive.
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
    """Return whether a value of a type may come back as another value, or nest without limit.

    That is so for a type with parts of any type, an optional float (NaN becomes ``None``), or a
    recursive type.
    """
    try:
        root = msgspec.inspect.type_info(context_type)
    except Exception:  # noqa: BLE001 - values of an unknown type are compared
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
    """Return how encoding and decoding change a value, ``None`` if they do not.

    These changes are allowed:

    * A tuple comes back as a list.
    * A value comes back as an equal one of another class, such as an enum member as its text or
      integer.
    * A value is converted to its declared type.

    :param given: the value to write. It does not nest deeper than :data:`.nesting.MAX_DEPTH`.
    :param found: the value that a read returns.
    :param path: the path of the value, for the error. It only quotes keys that are identifiers.
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
    if is_model(cast("type[object]", type(other))):
        if type(one) is not type(other):
            return f"{path}: a value of type {type(one).__name__} comes back as {_kind(other)}"
        # Private attributes are not stored, so they do not count.
        return _loss_of_dict(model_fields(one), model_fields(other), path)
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
        # A member of an enum of texts has another hash than its text.
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
