"""The three-way merge of application state, :func:`merge`, and its rules, :class:`Merge`.

Two writers load the same state (*base*) and change it. One of them saves first (*theirs*). The
merge combines the other state (*mine*) with it, field by field. It has no side effects.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from typing import (
    Annotated,
    Any,
    Final,
    NamedTuple,
    NotRequired,
    Required,
    TypeVar,
    cast,
    final,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import msgspec

from .errors import InvalidInputError

__all__ = ["Merge", "MergeConflict", "MergeRule", "merge"]

_S = TypeVar("_S")


@final
class Merge(Enum):
    """How to merge a field that both sides changed. It stands in the field's ``Annotated`` type.

    .. code-block:: python

        class AppSession(msgspec.Struct):
            views: Annotated[int, Merge.SUM] = 0
            seen: Annotated[set[str], Merge.UNION] = msgspec.field(default_factory=set)

    A function of base, mine and theirs in that place returns the value instead.
    """

    SUM = "sum"
    """Apply both changes of a number to the base."""
    UNION = "union"
    """Apply the additions and removals of both sides, to a set, a list or a tuple."""
    MAX = "max"
    """Take the larger value. A value is larger than ``None``."""
    MINE = "mine"
    """Take my value."""
    THEIRS = "theirs"
    """Take their value."""


MergeRule = Merge | Callable[[Any, Any, Any], Any]  # Any: values of the field with the rule
"""A rule in the ``Annotated`` type of a field: :class:`Merge`, or a function."""


@final
class MergeConflict(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a merge when both sides changed fields that have no rule.

    :ivar fields: the paths of these fields, with dots between the names. The path of a value in a
        nested dict is that of the dict, because its keys are private state. The path of the state
        itself is empty.
    """

    fields: tuple[str, ...]


def merge(base: _S, mine: _S, theirs: _S, *, of: type[_S] | None = None) -> _S | MergeConflict:
    """Merge two states that derive from the same one.

    For each field of a struct or dataclass, and each key of a dict:

    * If one side did not change it, the other side's value counts.
    * Otherwise its rule computes the value. See :class:`Merge`.
    * Without a rule, a nested struct, dataclass or dict is merged by field.
    * Both sides may have made the same change. Any other change of both sides is a conflict.

    The merge creates a new state, but it shares nested values with the arguments. Of two values
    that a rule cannot combine, such as a number and ``None``, the merge reports a conflict. If the
    class refuses the merged fields, that is a conflict of the whole object.

    :param base: the state that both sides loaded.
    :param mine: one changed state.
    :param theirs: the other changed state.
    :param of: the type of the state. The default is the class of the values. A dict needs it for
        its rules, such as a ``TypedDict``.
    :returns: the merged state, or the conflicting fields.
    :raises InvalidInputError: the type annotations of a class cannot be resolved.
    """
    merger = _Merger()
    merged = merger.value(of, _Sides(base, mine, theirs), "", is_state=True)
    if merger.conflicts:
        return MergeConflict(fields=tuple(dict.fromkeys(merger.conflicts)))
    return cast("_S", merged)


class _Absent(Enum):
    """The value of a key that a dict does not have."""

    ABSENT = "absent"


_ABSENT: Final = _Absent.ABSENT


class _Sides(NamedTuple):
    """A value on each side."""

    base: object
    mine: object
    theirs: object


@final
class _Merger:
    """One merge: collects the paths of the conflicts."""

    def __init__(self) -> None:
        self.conflicts: list[str] = []

    def value(self, hint: object, sides: _Sides, path: str, *, is_state: bool = False) -> object:
        """Return the merged value. After a conflict, the value has no meaning."""
        base, mine, theirs = sides
        rule, hint = _unwrapped(hint)
        if rule is None and type(base) is type(mine) is type(theirs):
            if isinstance(base, dict):
                return self._dicts(hint, sides, path, is_state=is_state)
            fields = _fields_of(cast("type", type(base)))
            if fields is not None:
                return self._objects(fields, sides, path)
        if _same(mine, base):
            return theirs
        if _same(theirs, base):
            return mine
        if rule is None:
            merged = mine if _same(mine, theirs) else _CONFLICT
        else:
            merged = _by_rule(rule, sides)
        if merged is _CONFLICT:
            self.conflicts.append(path)
        return merged

    def _objects(self, fields: Mapping[str, object], sides: _Sides, path: str) -> object:
        before = len(self.conflicts)
        start = f"{path}." if path else ""
        changes: dict[str, Any] = {  # Any: fields of a class that is not known here
            name: self.value(hint, _Sides(*(getattr(one, name) for one in sides)), start + name)
            for name, hint in fields.items()
        }
        if len(self.conflicts) > before:
            return sides.mine
        theirs: Any = sides.theirs  # Any: as above
        try:
            if isinstance(theirs, msgspec.Struct):
                return msgspec.structs.replace(theirs, **changes)
            return dataclasses.replace(theirs, **changes)
        except (TypeError, ValueError):
            self.conflicts.append(path)
            return sides.mine

    def _dicts(self, hint: object, sides: _Sides, path: str, *, is_state: bool) -> object:
        tables = [cast("dict[object, object]", one) for one in sides]
        hints = _hints_of_dict(hint)
        merged: dict[object, object] = {}
        for key in dict.fromkeys((*tables[2], *tables[1])):
            value = self.value(
                hints(key),
                _Sides(*(table.get(key, _ABSENT) for table in tables)),
                str(key) if is_state and isinstance(key, str) else path,
            )
            if value is not _ABSENT:
                merged[key] = value
        return merged


_CONFLICT: Final = object()


def _by_rule(rule: MergeRule, sides: _Sides) -> object:
    _, mine, theirs = sides
    if not isinstance(rule, Merge):
        return cast("object", rule(*(None if one is _ABSENT else one for one in sides)))
    if rule is Merge.MINE:
        return mine
    if rule is Merge.THEIRS:
        return theirs
    if mine is _ABSENT or theirs is _ABSENT:
        return _CONFLICT if mine is not theirs else _ABSENT
    old, my, their = cast("tuple[Any, Any, Any]", sides)  # Any: checked by use
    try:
        if rule is Merge.SUM:
            return _sum(old, my, their)
        if rule is Merge.MAX:
            return their if my is None else my if their is None else max(my, their)
        return _union(old, my, their)
    except TypeError:
        return _CONFLICT


def _sum(base: Any, mine: Any, theirs: Any) -> object:  # Any: the operators check the values
    if bool in (type(base), type(mine), type(theirs)):
        return _CONFLICT
    return mine + theirs if base is _ABSENT else theirs + (mine - base)


def _union(base: Any, mine: Any, theirs: Any) -> object:  # Any: checked here
    kind = cast("type[object]", type(mine))
    if base is _ABSENT or base is None:
        base = kind()
    if not (type(base) is kind is type(theirs)) or not issubclass(
        kind, (set, frozenset, list, tuple)
    ):
        return _CONFLICT
    # Lists and tuples keep their order. Their items may have no hash, and equal ones count once.
    stay = [one for one in theirs if one in mine or one not in base]
    stay += [one for one in mine if one not in base and one not in theirs]
    return cast("Callable[[list[object]], object]", kind)(stay)


def _same(one: object, other: object) -> bool:
    # 1, True and 1.0 are equal, but a change from one to another is a change.
    return one is other or (type(one) is type(other) and one == other)


def _unwrapped(hint: object) -> tuple[MergeRule | None, object]:
    """Return the rule in a type annotation, and the annotated type."""
    while True:
        hint = getattr(hint, "__value__", hint)  # a type alias
        origin = get_origin(hint)
        if origin is Required or origin is NotRequired:
            (hint,) = get_args(hint)
            continue
        if origin is not Annotated:
            return None, hint
        hint, *metadata = get_args(hint)
        for one in metadata:
            # A class is a marker of another library.
            if isinstance(one, Merge) or (callable(one) and not isinstance(one, type)):
                return cast("MergeRule", one), hint


def _hints_of_dict(hint: object) -> Callable[[object], object]:
    """Return a function from the keys of a dict to the annotations of their values."""
    for one in (hint, *get_args(hint)):  # `hint` may be an optional dict
        if is_typeddict(one):
            hints = _annotations(cast("type", one))
            return lambda key: hints.get(cast("str", key))
        if get_origin(one) in (dict, Mapping) and len(get_args(one)) == 2:
            of_values: object = get_args(one)[1]
            return lambda _key: of_values
    return lambda _key: None


@cache
def _fields_of(cls: type[Any]) -> Mapping[str, object] | None:
    """Return the fields of a struct or dataclass with their annotations, ``None`` for others."""
    if issubclass(cls, msgspec.Struct):
        names = cls.__struct_fields__
    elif dataclasses.is_dataclass(cls):
        names = tuple(field.name for field in dataclasses.fields(cls) if field.init)
    else:
        return None
    hints = _annotations(cls)
    return {name: hints.get(name) for name in names}


@cache
def _annotations(cls: type[Any]) -> Mapping[str, object]:
    try:
        return get_type_hints(cls, include_extras=True)
    except (NameError, TypeError) as error:
        raise InvalidInputError("of", f"{cls.__name__}: {error}") from error
