"""Names of an Elm module. Contains :class:`ElmNames`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, final

from .form import Array, Choice, CodegenError, Declared, Nullable, OneOf, StringMap, Tuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .form import Form, Node

__all__ = ["ElmNames"]

_WORDS: Final = frozenset(
    [
        "alias",
        "as",
        "case",
        "else",
        "exposing",
        "if",
        "import",
        "in",
        "infix",
        "let",
        "module",
        "of",
        "port",
        "then",
        "type",
        "where",
    ]
)
_TYPES: Final = frozenset(
    [
        "Bool",
        "Char",
        "Cmd",
        "Decoder",
        "Dict",
        "EQ",
        "Err",
        "False",
        "Float",
        "GT",
        "Int",
        "Just",
        "LT",
        "List",
        "Maybe",
        "Never",
        "Nothing",
        "Ok",
        "Order",
        "Program",
        "Result",
        "String",
        "Sub",
        "True",
    ]
)
_EFFECTS: Final = frozenset(
    [
        "App",
        "BroadcastAll",
        "Context",
        "Effect",
        "Event",
        "LogEvent",
        "SSEBroadcast",
        "ScheduleEvent",
        "SendToSession",
        "SessionId",
        "UpdateSession",
    ]
)


@final
class ElmNames:
    """Elm names of the types, fields and constructors of a form.

    :ivar types: Elm name by name in the form.
    :ivar fields: for each struct, the record field by wire name.
    :ivar inline: Elm name of each union and literal, in the order of their paths.
    :ivar choices: constructor by type and constant.
    :ivar members: constructor by type and member.
    :ivar recursive: structs that contain themselves without a union between. They are custom types,
        because an Elm alias cannot contain itself.
    """

    def __init__(self, form: Form, *, has_effects: bool) -> None:
        self._form = form
        self._types = {*_TYPES, *(_EFFECTS if has_effects else ())}
        self._constructors = set(self._types)
        self._plain: dict[str, str] = {}
        self.types: dict[str, str] = {}
        self.inline: dict[Choice | OneOf, str] = {}
        self.choices: dict[tuple[str, str | int], str] = {}
        self.members: dict[tuple[str, Node], str] = {}
        self.fields = {
            each.name: _fields(each.name, [field.name for field in each.fields])
            for each in form.structs.values()
        }
        self.recursive = frozenset(
            name for name in form.structs if name in self._reached_by_alias(name)
        )
        self._name_types()
        self._name_constructors()

    def _name_types(self) -> None:
        form = self._form
        for name, node in form.roots.items():
            if node != Declared(name=name):
                self.types[name] = self._new_type(name)
                if isinstance(node, Choice | OneOf) and node not in self.inline:
                    self.inline[node] = self.types[name]
        for name, node in form.roots.items():
            self._walk(node, name)
        for struct in form.structs.values():
            for field in struct.fields:
                self._walk(field.node, f"{struct.name}_{field.name}")
        unions = [each for each in self.inline if isinstance(each, OneOf)]
        roots = [each for each in unions if each in form.roots.values()]
        for name in (*form.enums, *form.structs):
            # The constructor of a message has the struct's name, as applications write it.
            holders = [
                found
                for group in (roots, unions)
                if name in form.structs
                and len(found := [each for each in group if Declared(name=name) in each.members])
                == 1
            ]
            if holders:
                self._plain[name] = self.inline[holders[0][0]]
            self.types[name] = self._new_type(f"{name}Fields" if holders else name)

    def _name_constructors(self) -> None:
        for name, struct in self._form.structs.items():
            if struct.fields or name in self.recursive:
                self._constructors.add(self.types[name])
        for name, each in self._form.enums.items():
            self._name_choices(self.types[name], each.values)
        for node, own in self.inline.items():
            if isinstance(node, Choice):
                self._name_choices(own, node.values)
                continue
            for member in node.members:
                is_plain = isinstance(member, Declared) and self._plain.get(member.name) == own
                word = _word(member) if is_plain else f"{own}{_word(member)}"
                self.members[own, member] = self._new_constructor(word)

    def _name_choices(self, own: str, values: tuple[str | int, ...]) -> None:
        for value in values:
            text = str(value).replace("-", "Minus") if isinstance(value, int) else _pascal(value)
            self.choices[own, value] = self._new_constructor(f"{own}{text}")

    def _walk(self, node: Node, path: str) -> None:
        if isinstance(node, Choice | OneOf) and node not in self.inline:
            self.inline[node] = self._new_type(_pascal(path))
        for part in _parts(node):
            self._walk(part, path)

    def _reached_by_alias(self, start: str) -> set[str]:
        found: set[str] = set()
        queue = [start]
        while queue:
            for field in self._form.structs[queue.pop()].fields:
                for name in _declared(field.node):
                    if name in self._form.structs and name not in found:
                        found.add(name)
                        queue.append(name)
        return found

    def _new_type(self, wanted: str) -> str:
        return _new(wanted, self._types)

    def _new_constructor(self, wanted: str) -> str:
        return _new(wanted, self._constructors)


def _new(wanted: str, taken: set[str]) -> str:
    name = _pascal(wanted) if not re.fullmatch(r"[A-Z]\w*", wanted, re.ASCII) else wanted
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _pascal(text: str) -> str:
    words = re.findall(r"[A-Za-z0-9]+", text)
    name = "".join(word[0].upper() + word[1:] for word in words)
    return name if name[:1].isalpha() else f"T{name}"


def _fields(struct: str, wire: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in wire:
        name = re.sub(r"[^A-Za-z0-9_]", "_", each).lstrip("_")
        name = name[:1].lower() + name[1:] if name[:1].isalpha() else f"f{name}"
        found[each] = f"{name}_" if name in _WORDS else name
    if len(set(found.values())) < len(wire):
        raise CodegenError(struct, "two fields have one name in Elm")
    return found


def _parts(node: Node) -> tuple[Node, ...]:
    match node:
        case Array(item=item) | StringMap(value=item) | Nullable(inner=item):
            return (item,)
        case Tuple(items=items) | OneOf(members=items):
            return items
        case _:
            return ()


def _declared(node: Node) -> Iterator[str]:
    if isinstance(node, Declared):
        yield node.name
    elif not isinstance(node, OneOf):
        for part in _parts(node):
            yield from _declared(part)


def _word(node: Node) -> str:
    if isinstance(node, Declared):
        return node.name
    kind = getattr(node, "kind", "")
    return _pascal(kind) if kind else type(node).__name__
