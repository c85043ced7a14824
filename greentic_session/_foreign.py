"""The hooks that encode and decode foreign types: pydantic models, and those of the application.

Nothing here imports pydantic. A model brings its own functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

import msgspec

__all__ = ["DecHook", "EncHook", "decoding_hook", "encoding_hook", "is_model", "model_fields"]

EncHook = Callable[[Any], Any]
"""Converts a value of a foreign type to a supported one. ``Any``, because the types are the
application's."""
DecHook = Callable[[Any, Any], Any]
"""Gets a foreign type and a decoded value, and returns the value of that type. ``Any``, as in
:data:`EncHook`."""

_MODEL_PARTS: Final = ("__pydantic_validator__", "model_validate_json", "model_dump")


def is_model(cls: object) -> bool:
    """Return whether a class is a pydantic model (version 2)."""
    return isinstance(cls, type) and all(hasattr(cls, name) for name in _MODEL_PARTS)


def model_fields(model: Any) -> dict[str, object]:
    """Return the fields of a model and the extra ones, without its private attributes."""
    kind = cast("Any", type(model))
    fields: dict[str, object] = {name: getattr(model, name, None) for name in kind.model_fields}
    extra: dict[str, object] = model.model_extra or {}
    return fields | extra


def encoding_hook(hook: EncHook | None) -> EncHook:
    """Return the function that converts values of any foreign type.

    :param hook: the application's function for types other than pydantic models.
    """

    def encode(value: Any) -> Any:
        kind = cast("Any", type(value))
        is_failed = False
        try:
            if is_model(kind):
                return value.model_dump(mode="json", by_alias=True)
            if hook is not None:
                return hook(value)
        except Exception:  # noqa: BLE001 - its message may quote the value
            is_failed = True
        if is_failed:  # outside the handler, so that no payload leaks through `__context__`
            raise TypeError(f"the enc_hook of type {kind.__name__} failed")
        raise TypeError(f"Encoding objects of type {kind.__name__} is unsupported")

    return encode


def decoding_hook(hook: DecHook | None) -> DecHook:
    """Return the function that converts values back to any foreign type.

    :param hook: the application's function for types other than pydantic models.
    """

    def decode(kind: Any, value: Any) -> Any:
        try:
            if is_model(kind):
                # Also a strict model accepts a time as text if it validates JSON.
                return kind.model_validate_json(msgspec.json.encode(value))
            return value if hook is None else hook(kind, value)
        except Exception:  # noqa: BLE001, S110 - its message may quote the value
            pass
        raise ValueError("the dec_hook failed")

    return decode
