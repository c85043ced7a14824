"""The intermediate form of an application's types, from which each generator writes its language.

Contains :func:`describe`, the nodes of the form and :class:`CodegenError`.
"""

from __future__ import annotations

import enum
import hashlib
import inspect as python_inspect
import re
from typing import TYPE_CHECKING, Any, Final, final, get_args, get_origin

import msgspec
from msgspec import inspect

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Array",
    "Choice",
    "CodegenError",
    "Declared",
    "EnumForm",
    "FieldForm",
    "Form",
    "Integer",
    "Json",
    "Node",
    "Nullable",
    "Number",
    "OneOf",
    "Scalar",
    "StringMap",
    "StructForm",
    "Text",
    "Tuple",
    "describe",
]


class CodegenError(Exception):
    """A type that the generators refuse.

    :ivar path: the type's name and the field, for example ``Cart.items[]``.
    :ivar reason: what is wrong.
    """

    def __init__(self, path: str, reason: str) -> None:
        self.path: Final = path
        self.reason: Final = reason
        super().__init__(f"{path}: {reason}")


class _Node(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One type expression."""


@final
class Json(_Node, frozen=True, kw_only=True, tag=True):
    """Any JSON value."""


@final
class Scalar(_Node, frozen=True, kw_only=True, tag=True):
    """A value without parts: ``bool``, or text in a format such as ``datetime``."""

    kind: str


@final
class Text(_Node, frozen=True, kw_only=True, tag=True):
    """A string, with its limits in code points."""

    min_length: int | None = None
    max_length: int | None = None


@final
class Integer(_Node, frozen=True, kw_only=True, tag=True):
    """An integer, with inclusive bounds."""

    ge: int | None = None
    le: int | None = None


@final
class Number(_Node, frozen=True, kw_only=True, tag=True):
    """A float."""


@final
class Choice(_Node, frozen=True, kw_only=True, tag=True):
    """One of several constants."""

    values: tuple[str | int, ...]


@final
class Declared(_Node, frozen=True, kw_only=True, tag=True):
    """A reference to a struct or an enum of the form, by name."""

    name: str


@final
class Array(_Node, frozen=True, kw_only=True, tag=True):
    """A list, a set or a tuple of any length."""

    item: Node
    is_set: bool = False
    min_length: int | None = None
    max_length: int | None = None


@final
class Tuple(_Node, frozen=True, kw_only=True, tag=True):
    """A tuple of fixed length."""

    items: tuple[Node, ...]


@final
class StringMap(_Node, frozen=True, kw_only=True, tag=True):
    """A map from text."""

    value: Node


@final
class Nullable(_Node, frozen=True, kw_only=True, tag=True):
    """A value or null."""

    inner: Node


@final
class OneOf(_Node, frozen=True, kw_only=True, tag=True):
    """A union whose members JSON can tell apart."""

    members: tuple[Node, ...]


Node = (
    Json
    | Scalar
    | Text
    | Integer
    | Number
    | Choice
    | Declared
    | Array
    | Tuple
    | StringMap
    | Nullable
    | OneOf
)
"""A type expression."""


@final
class FieldForm(msgspec.Struct, frozen=True, kw_only=True):
    """One field of a struct. ``default`` is JSON text, empty if there is none."""

    name: str
    node: Node
    is_required: bool
    default: str = ""


@final
class StructForm(msgspec.Struct, frozen=True, kw_only=True):
    """One struct."""

    name: str
    doc: str
    fields: tuple[FieldForm, ...]
    tag_field: str | None
    tag: str | int | None
    is_array: bool
    forbids_unknown: bool


@final
class EnumForm(msgspec.Struct, frozen=True, kw_only=True):
    """One enum, by the values that JSON carries."""

    name: str
    doc: str
    values: tuple[str | int, ...]


@final
class Form(msgspec.Struct, frozen=True, kw_only=True):
    """All types of one generation, sorted by name. ``roots`` maps the asked names to nodes."""

    roots: dict[str, Node]
    structs: dict[str, StructForm]
    enums: dict[str, EnumForm]

    @property
    def digest(self) -> str:
        """Return the first 16 hex digits of the SHA-256 of the form."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:16]


_SCALARS: Final[dict[type, str]] = {
    inspect.BoolType: "bool",
    inspect.UUIDType: "uuid",
    inspect.DecimalType: "decimal",
    inspect.TimeDeltaType: "duration",
    inspect.DateType: "date",
}


def describe(types: Mapping[str, Any]) -> Form:  # Any: types and type expressions
    """Return the intermediate form of types.

    :param types: the root types by name. A name of a union becomes the name of its alias.
    :raises CodegenError: a type that no client language can express, by name and path.
    """
    reader = _Reader()
    for name, each in types.items():
        try:
            msgspec.json.Decoder(each)
            info = inspect.type_info(each)
        except (TypeError, NameError) as error:
            raise CodegenError(name, str(error)) from error
        reader.roots[name] = reader.node(info, name)
    taken = {*reader.structs, *reader.enums}
    for name, node in reader.roots.items():
        if name in taken and node != Declared(name=name):
            raise CodegenError(name, "name is taken by another type")
    return Form(
        roots=dict(sorted(reader.roots.items())),
        structs=dict(sorted(reader.structs.items())),
        enums=dict(sorted(reader.enums.items())),
    )


@final
class _Reader:
    """Collects the declared types while it walks."""

    def __init__(self) -> None:
        self.roots: dict[str, Node] = {}
        self.structs: dict[str, StructForm] = {}
        self.enums: dict[str, EnumForm] = {}
        self._owners: dict[str, object] = {}

    def node(self, info: inspect.Type, path: str) -> Node:
        if isinstance(info, inspect.Metadata):
            return self.node(info.type, path)
        kind = _SCALARS.get(type(info))
        if kind is not None:
            return Scalar(kind=kind)
        match info:
            case inspect.AnyType() | inspect.RawType():
                return Json()
            case inspect.StrType():
                if info.pattern is not None:
                    raise CodegenError(path, "pattern: regular expressions differ by language")
                return Text(min_length=info.min_length, max_length=info.max_length)
            case inspect.IntType():
                return _integer(info, path)
            case inspect.FloatType():
                if {info.gt, info.ge, info.lt, info.le, info.multiple_of} != {None}:
                    raise CodegenError(path, "bounds of a float are not supported")
                return Number()
            case inspect.BytesType() | inspect.ByteArrayType() | inspect.MemoryViewType():
                if info.min_length is not None or info.max_length is not None:
                    raise CodegenError(path, "length limits of bytes are not supported")
                return Scalar(kind="bytes")
            case inspect.DateTimeType():
                return Scalar(kind=_zoned("datetime", info.tz))
            case inspect.TimeType():
                return Scalar(kind=_zoned("time", info.tz))
            case inspect.LiteralType():
                return self._literal(info)
            case inspect.EnumType():
                return self._enum(info.cls, path)
            case inspect.StructType():
                return self._struct(info, path)
            case inspect.TupleType():
                items = enumerate(info.item_types)
                return Tuple(items=tuple(self.node(item, f"{path}[{n}]") for n, item in items))
            case inspect.DictType():
                key = info.key_type
                if not isinstance(key, inspect.StrType | inspect.AnyType):
                    raise CodegenError(path, "keys of a map must be text")
                if key not in (inspect.StrType(), inspect.AnyType()) or (
                    info.min_length is not None or info.max_length is not None
                ):
                    raise CodegenError(path, "limits of a map are not supported")
                return StringMap(value=self.node(info.value_type, f"{path}[...]"))
            case inspect.UnionType():
                return self._union(info, path)
            case _ if isinstance(info, inspect.CollectionType):
                return Array(
                    item=self.node(info.item_type, f"{path}[]"),
                    is_set=isinstance(info, inspect.SetType | inspect.FrozenSetType),
                    min_length=info.min_length,
                    max_length=info.max_length,
                )
            case _:
                name = type(info).__name__.removesuffix("Type")
                raise CodegenError(path, f"{name} has no counterpart in client languages")

    def _literal(self, info: inspect.LiteralType) -> Node:
        values = info.values
        choice = Choice(values=_ordered([each for each in values if each is not None]))
        return Nullable(inner=choice) if None in values else choice

    def _union(self, info: inspect.UnionType, path: str) -> Node:
        parts = [each for each in info.types if not isinstance(each, inspect.NoneType)]
        if any(isinstance(each, inspect.FloatType) for each in parts) and any(
            isinstance(each, inspect.IntType) for each in parts
        ):
            raise CodegenError(path, "int and float: JavaScript cannot tell them apart")
        members = sorted({self.node(each, path) for each in parts}, key=msgspec.json.encode)
        inner = members[0] if len(members) == 1 else OneOf(members=tuple(members))
        return Nullable(inner=inner) if len(parts) < len(info.types) else inner

    def _claim(self, name: str, owner: object, path: str) -> None:
        if self._owners.setdefault(name, owner) != owner:
            raise CodegenError(path, f"two types are named {name}")

    def _enum(self, cls: type[enum.Enum], path: str) -> Node:
        self._claim(cls.__name__, cls, path)
        values = _ordered([each.value for each in cls])
        self.enums[cls.__name__] = EnumForm(name=cls.__name__, doc=_doc(cls), values=values)
        return Declared(name=cls.__name__)

    def _struct(self, info: inspect.StructType, path: str) -> Node:
        name = _name_of(info.cls)
        self._claim(name, info.cls, path)
        if name not in self.structs:
            plain = StructForm(
                name=name,
                doc=_doc(get_origin(info.cls) or info.cls),
                fields=(),
                tag_field=info.tag_field,
                tag=info.tag,
                is_array=info.array_like,
                forbids_unknown=info.forbid_unknown_fields,
            )
            self.structs[name] = plain  # ends the recursion of a type that contains itself
            fields = tuple(self._field(each, f"{name}.{each.name}") for each in info.fields)
            self.structs[name] = msgspec.structs.replace(plain, fields=fields)
        return Declared(name=name)

    def _field(self, field: inspect.Field, path: str) -> FieldForm:
        node = self.node(field.type, path)
        default = ""
        if field.default is not msgspec.NODEFAULT:
            default = _json(field.default)
        elif field.default_factory is not msgspec.NODEFAULT:
            default = _json(field.default_factory())
            if default != _json(field.default_factory()):
                raise CodegenError(path, "default_factory returns a different value each time")
        return FieldForm(
            name=field.encode_name, node=node, is_required=field.required, default=default
        )


def _json(value: object) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()


def _integer(info: inspect.IntType, path: str) -> Node:
    if info.multiple_of is not None:
        raise CodegenError(path, "multiple_of is not supported")
    low = info.ge if info.gt is None else info.gt + 1
    high = info.le if info.lt is None else info.lt - 1
    return Integer(ge=low, le=high)


def _zoned(kind: str, tz: bool | None) -> str:
    return kind if tz is None else f"{kind}-{'aware' if tz else 'naive'}"


def _ordered(values: list[Any]) -> tuple[str | int, ...]:  # Any: str or int
    return tuple(sorted(values, key=lambda each: (isinstance(each, str), each)))


def _name_of(cls: Any) -> str:  # Any: a class or a parametrised generic
    parts = [get_origin(cls) or cls, *get_args(cls)]
    names = [getattr(each, "__name__", None) or str(each) for each in parts[:1]]
    names += [_name_of(each) if isinstance(each, type) else str(each) for each in parts[1:]]
    return re.sub(r"\W+", "_", "_".join(names)).rstrip("_")


def _doc(cls: Any) -> str:  # Any: a class
    text = cls.__dict__.get("__doc__") or ""
    if issubclass(cls, enum.Enum) and text == "An enumeration.":
        return ""
    return python_inspect.cleandoc(text)
