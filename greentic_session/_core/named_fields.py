"""The named fields of a type, a digest of them, and the unknown fields of a stored value.

A *part* describes a type as far as its stored form has names: structs, dataclasses and TypedDicts
are objects, and everything that holds them leads to them.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final, Literal, cast, final
from uuid import uuid4

import msgspec
from msgspec import inspect

from .._foreign import is_model

__all__ = ["ABSENT", "Part", "UnknownSearch", "digest_of", "merge_unknown", "part_of"]

ABSENT: Final = object()
"""Replaces a re-encoded value that is not there to compare with."""
_DIGEST_BYTES: Final = 8
_decode_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_any: Final = msgspec.json.Decoder().decode

_Kind = Literal["leaf", "object", "array", "items", "tuple", "values", "union", "foreign"]


@final
class Part:
    """A part of a type.

    :ivar kind: ``object`` has named fields, ``array`` is a struct that is stored as an array,
        ``items`` and ``tuple`` are lists, ``values`` is a dict, ``foreign`` has another converter.
    :ivar names: the fields of an ``object`` or ``array`` by their stored names, in order.
    :ivar inner: the parts of any other kind.
    :ivar tag: the tag of a struct, with the name of its field.
    :ivar label: distinguishes foreign types in the digest.
    """

    __slots__ = ("inner", "kind", "label", "names", "tag")

    def __init__(self) -> None:
        self.kind: _Kind = "leaf"
        self.names: dict[str, Part] = {}
        self.inner: tuple[Part, ...] = ()
        self.tag: tuple[str, object] | None = None
        self.label = ""

    def nested(self) -> Part | None:
        """Return the object that a JSON object in this place is, if it can only be that one."""
        if self.kind == "object":
            return self
        if self.kind != "union":
            return None
        members = [part for part in self.inner if part.kind in ("object", "values", "foreign")]
        return members[0] if len(members) == 1 and members[0].kind == "object" else None


def part_of(stored_type: Any) -> Part:
    """Return the description of a type.

    :raises Exception: msgspec does not know the type.
    """
    return _part_of(inspect.type_info(stored_type), {})


def _part_of(node: Any, known: dict[int, Part]) -> Part:  # Any: msgspec's nodes have no base
    found = known.get(id(node))
    if found is not None:  # a recursive type
        return found
    part = known[id(node)] = Part()
    if isinstance(node, (inspect.StructType, inspect.DataclassType, inspect.TypedDictType)):
        is_array = isinstance(node, inspect.StructType) and node.array_like
        part.kind = "array" if is_array else "object"
        if isinstance(node, inspect.StructType) and node.tag_field is not None:
            part.tag = node.tag_field, node.tag
            part.names[node.tag_field] = Part()
        for field in node.fields:
            part.names[field.encode_name] = _part_of(field.type, known)
    elif isinstance(node, inspect.NamedTupleType):
        part.kind = "tuple"
        part.inner = tuple(_part_of(field.type, known) for field in node.fields)
    elif isinstance(node, inspect.TupleType):
        part.kind, part.inner = "tuple", tuple(_part_of(one, known) for one in node.item_types)
    elif isinstance(node, inspect.UnionType):
        part.kind, part.inner = "union", tuple(_part_of(one, known) for one in node.types)
    elif isinstance(node, inspect.CustomType):
        part.kind, part.label = "foreign", _label_of(node.cls)
    elif hasattr(node, "value_type"):
        part.kind, part.inner = "values", (_part_of(node.value_type, known),)
    elif hasattr(node, "item_type"):
        part.kind, part.inner = "items", (_part_of(node.item_type, known),)
    return part


def _label_of(cls: Any) -> str:
    if not is_model(cls):
        return f"{cls.__module__}.{cls.__qualname__}"
    try:
        schema = cls.model_json_schema()
    except Exception:  # noqa: BLE001 - a model may refuse to have a schema
        return uuid4().hex  # so its digest never equals a stored one
    return msgspec.json.encode(schema, order="sorted").decode()


def digest_of(part: Part, schema_version: int) -> str:
    """Return a digest of a type's names, which is the same in every process.

    :returns: 16 hex digits.
    """
    text = f"{schema_version}{_text_of(part, {})}"
    return hashlib.sha256(text.encode()).hexdigest()[: 2 * _DIGEST_BYTES]


def _text_of(part: Part, seen: dict[int, int]) -> str:
    if part.kind == "leaf":
        return "."
    number = seen.get(id(part))
    if number is not None:
        return f"#{number}"
    seen[id(part)] = len(seen)
    names = part.names.items()
    fields = names if part.kind == "array" else sorted(names)
    inner = [f"{name!r}:{_text_of(each, seen)}" for name, each in fields]
    inner += [_text_of(each, seen) for each in part.inner]
    return f"{part.kind}{part.tag or ''}{part.label}({','.join(inner)})"


@final
class UnknownSearch:
    """Finds the fields of stored JSON that a type does not know.

    :ivar unkept: path of the first part whose unknown fields cannot be kept, empty for none.
    """

    def __init__(self) -> None:
        self.unkept = ""

    def fields_of(
        self, part: Part, raw: bytes | msgspec.Raw, again: object, path: str
    ) -> dict[str, Any]:
        """Return the unknown fields of an object, and those of the objects in its fields.

        :param part: the type of the object.
        :param raw: the stored object.
        :param again: what encoding the decoded object returns.
        :param path: the path of the object. Paths never quote a stored name.
        """
        found: dict[str, Any] = {}  # Any: raw values, and dicts of them
        for name, value in _decode_object(raw).items():
            child = part.names.get(name)
            if child is None:
                found[name] = value.copy()  # otherwise it would keep the whole body in memory
                continue
            nested, read = child.nested(), _part_at(again, name)
            if nested is not None and _is_object(value):
                inner = self.fields_of(nested, value, read, _step(path, name))
                if inner:
                    found[name] = inner
            elif child.kind != "leaf":
                self.check(child, _decode_any(value), read, _step(path, name))
        return found

    def check(self, part: Part, value: Any, again: object, path: str) -> None:
        """Look for unknown fields in a value whose fields cannot be kept.

        :param value: the stored value, decoded without a type.
        """
        if self.unkept or part.kind == "leaf":
            return
        if part.kind == "foreign":
            if _loses_names(value, again):
                self.unkept = path
        elif part.kind == "union":
            member = _member_of(part, value)
            if member is not None:
                self.check(member, value, again, path)
        elif isinstance(value, dict):
            fields = cast("dict[str, object]", value)
            if part.kind == "object" and any(name not in part.names for name in fields):
                self.unkept = path
                return
            for name, one in fields.items():
                child = part.names[name] if part.kind == "object" else part.inner[0]
                step = _step(path, name) if part.kind == "object" else f"{path}[...]"
                self.check(child, one, _part_at(again, name), step)
        elif isinstance(value, list):
            self._check_list(part, cast("list[object]", value), again, path)

    def _check_list(self, part: Part, value: list[object], again: object, path: str) -> None:
        parts = tuple(part.names.values()) if part.kind == "array" else part.inner
        if part.kind == "array" and len(value) > len(parts):
            self.unkept = path
            return
        others = cast("list[object]", again) if isinstance(again, list) else []
        for index, one in enumerate(value):
            child = parts[0] if part.kind == "items" else parts[min(index, len(parts) - 1)]
            other = others[index] if len(others) == len(value) else ABSENT
            self.check(child, one, other, f"{path}[...]")


def merge_unknown(part: Part, data: bytes | msgspec.Raw, unknown: bytes | msgspec.Raw) -> bytes:
    """Return a JSON object with the unknown fields at their places.

    The unknown fields of an object that is no longer there are dropped with it.

    :raises msgspec.DecodeError: ``unknown`` is not an object of objects.
    """
    fields = _decode_object(data)
    for name, value in _decode_object(unknown).items():
        child = part.names.get(name)
        if child is None:
            fields.setdefault(name, value)
            continue
        nested, present = child.nested(), fields.get(name)
        if nested is not None and present is not None and _is_object(present):
            fields[name] = msgspec.Raw(merge_unknown(nested, present, value))
    return msgspec.json.encode(fields)


def _member_of(part: Part, value: object) -> Part | None:
    """Return the member of a union that a stored value is of."""
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        for member in part.inner:
            if member.kind in ("object", "values", "foreign") and (
                member.tag is None or fields.get(member.tag[0]) == member.tag[1]
            ):
                return member
        return None
    if isinstance(value, list):
        for member in part.inner:
            if member.kind in ("array", "items", "tuple", "foreign") and (
                member.tag is None or (value and value[0] == member.tag[1])
            ):
                return member
    return None


def _loses_names(value: object, again: object) -> bool:
    if isinstance(value, dict) and isinstance(again, dict):
        one, other = cast("dict[str, object]", value), cast("dict[str, object]", again)
        return any(
            name not in other or _loses_names(each, other[name]) for name, each in one.items()
        )
    if isinstance(value, list) and isinstance(again, list):
        pairs = zip(cast("list[object]", value), cast("list[object]", again), strict=False)
        return any(_loses_names(each, other) for each, other in pairs)
    return False


def _part_at(value: object, name: str) -> object:
    return cast("dict[str, object]", value).get(name, ABSENT) if isinstance(value, dict) else ABSENT


def _is_object(raw: msgspec.Raw) -> bool:
    return bytes(raw).lstrip()[:1] == b"{"


def _step(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
