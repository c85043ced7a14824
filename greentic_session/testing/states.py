"""Hypothesis strategies for the states of a context type. Extra: ``[testing]``."""

from __future__ import annotations

from datetime import UTC
from typing import Any, cast

from hypothesis import strategies as st
from msgspec import inspect

__all__ = ["states_of"]


def states_of(context_type: Any) -> st.SearchStrategy[Any]:  # Any: any type that msgspec knows
    """Return a strategy for values of a type, with all fields of its structs.

    Types that msgspec does not know come from :func:`hypothesis.strategies.from_type`.

    :param context_type: a type as for a store.
    """
    return _strategy(inspect.type_info(context_type), {})


def _strategy(node: Any, known: dict[int, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    # Any: msgspec's nodes have no common base with these fields.
    found = known.get(id(node))
    if found is not None:
        return found
    # Deferred, because a type may hold itself.
    deferred = known[id(node)] = st.deferred(lambda: _built(node, known))
    return deferred


def _built(node: Any, known: dict[int, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    if isinstance(node, inspect.Metadata):
        return _strategy(node.type, known)
    if isinstance(node, (inspect.StructType, inspect.DataclassType, inspect.NamedTupleType)):
        fields = {field.name: _strategy(field.type, known) for field in node.fields}
        return st.builds(node.cls, **fields)
    if isinstance(node, inspect.TypedDictType):
        required = {f.name: _strategy(f.type, known) for f in node.fields if f.required}
        optional = {f.name: _strategy(f.type, known) for f in node.fields if not f.required}
        return st.fixed_dictionaries(required, optional=optional)
    if isinstance(node, inspect.UnionType):
        return st.one_of([_strategy(part, known) for part in node.types])
    if isinstance(node, inspect.TupleType):
        return st.tuples(*(_strategy(part, known) for part in node.item_types))
    if isinstance(node, inspect.DictType):
        key, value = _strategy(node.key_type, known), _strategy(node.value_type, known)
        return st.dictionaries(key, value, max_size=3)
    if isinstance(node, (inspect.EnumType, inspect.CustomType)):
        examples: st.SearchStrategy[Any] = st.from_type(cast("Any", node.cls))
        return examples
    if isinstance(node, inspect.LiteralType):
        return st.sampled_from(node.values)
    if hasattr(node, "item_type"):
        return _items(node, known)
    return _scalar(node)


def _items(node: Any, known: dict[int, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    least, most = node.min_length or 0, node.max_length
    size: dict[str, Any] = {
        "min_size": least,
        "max_size": least + 3 if most is None else min(most, least + 3),
    }
    items = _strategy(node.item_type, known)
    if isinstance(node, inspect.SetType):
        return st.sets(items, **size)
    if isinstance(node, inspect.FrozenSetType):
        return st.frozensets(items, **size)
    lists = st.lists(items, **size)
    return lists.map(tuple) if isinstance(node, inspect.VarTupleType) else lists


def _scalar(node: Any) -> st.SearchStrategy[Any]:
    least: Any
    most: Any
    if isinstance(node, inspect.NoneType):
        return st.none()
    if isinstance(node, inspect.BoolType):
        return st.booleans()
    if isinstance(node, inspect.IntType):
        least = -(2**53) if node.ge is None and node.gt is None else (node.ge or 0)
        if node.gt is not None:
            least = node.gt + 1
        most = node.le if node.lt is None else node.lt - 1
        numbers = st.integers(least, 2**53 if most is None else most)
        return (
            numbers
            if node.multiple_of is None
            else numbers.map(lambda n: n * (node.multiple_of or 1))
        )
    if isinstance(node, inspect.FloatType):
        least = node.gt if node.ge is None else node.ge
        most = node.lt if node.le is None else node.le
        return st.floats(
            least,
            most,
            allow_nan=False,
            allow_infinity=False,
            exclude_min=node.gt is not None,
            exclude_max=node.lt is not None,
        )
    if isinstance(node, inspect.StrType):
        if node.pattern is not None:
            return st.from_regex(node.pattern).filter(str.isprintable)
        alphabet = st.characters(exclude_categories=["Cs"])
        least, most = node.min_length or 0, node.max_length
        return st.text(alphabet, min_size=least, max_size=most)
    if isinstance(node, inspect.AnyType):
        return st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text("abc")
    return _value_of_library(node)


def _value_of_library(node: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for a type of the standard library."""
    if isinstance(node, inspect.BytesType):
        return st.binary(min_size=node.min_length or 0, max_size=node.max_length)
    if isinstance(node, inspect.DateTimeType):
        return st.datetimes(timezones=st.just(UTC)) if node.tz is not False else st.datetimes()
    if isinstance(node, inspect.DateType):
        return st.dates()
    if isinstance(node, inspect.UUIDType):
        return st.uuids()
    if isinstance(node, inspect.DecimalType):
        return st.decimals(allow_nan=False, allow_infinity=False)
    if isinstance(node, inspect.TimeType):
        return st.times()
    if isinstance(node, inspect.TimeDeltaType):
        return st.timedeltas()
    raise TypeError(f"no examples for {type(node).__name__}: not supported")
