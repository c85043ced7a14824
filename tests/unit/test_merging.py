"""Tests of the three-way merge: its rules, its conflicts and its laws."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greentic_session import InvalidInputError
from greentic_session.merging import Merge, MergeConflict, merge


class Cat(msgspec.Struct, tag=True):
    lives: int = 9
    name: str = ""


class Dog(msgspec.Struct, tag=True):
    name: str = ""


class Owner(msgspec.Struct):
    pet: Cat | Dog


class Loose(msgspec.Struct):
    flag: Any = 0


def _longest(base: str, mine: str, theirs: str) -> str:
    return max(base, mine, theirs, key=len)


class Inner(msgspec.Struct):
    page: int = 0
    hits: Annotated[int, Merge.SUM] = 0


class State(msgspec.Struct):
    name: str = ""
    views: Annotated[int, Merge.SUM] = 0
    seen: Annotated[set[int], Merge.UNION] = msgspec.field(default_factory=set)
    trail: Annotated[list[int], Merge.UNION] = msgspec.field(default_factory=list)
    best: Annotated[int | None, Merge.MAX] = None
    draft: Annotated[str, Merge.MINE] = ""
    news: Annotated[str, Merge.THEIRS] = ""
    note: Annotated[str, _longest] = ""
    inner: Inner = msgspec.field(default_factory=Inner)
    table: dict[str, int] = msgspec.field(default_factory=dict)


states = st.builds(
    State,
    name=st.sampled_from("abc"),
    views=st.integers(-5, 5),
    seen=st.sets(st.integers(0, 3)),
    trail=st.lists(st.integers(0, 3), unique=True),
    best=st.none() | st.integers(0, 3),
    draft=st.sampled_from("abc"),
    news=st.sampled_from("abc"),
    note=st.sampled_from(["", "x", "yy"]),
    inner=st.builds(Inner, page=st.integers(0, 2), hits=st.integers(0, 2)),
    table=st.dictionaries(st.sampled_from("pq"), st.integers(0, 2)),
)


@given(base=states, changed=states)
def test_a_side_without_changes_gives_the_other_side(base: State, changed: State) -> None:
    assert merge(base, base, changed) == changed
    assert merge(base, changed, base) == changed
    assert merge(base, base, base) == base


@given(base=states, mine=states, theirs=states, data=st.data())
def test_changes_of_different_fields_are_both_kept_in_either_order(
    base: State, mine: State, theirs: State, data: st.DataObject
) -> None:
    ours = data.draw(st.sets(st.sampled_from(State.__struct_fields__)))
    one = msgspec.structs.replace(base, **{name: getattr(mine, name) for name in ours})
    rest = set(State.__struct_fields__) - ours
    other = msgspec.structs.replace(base, **{name: getattr(theirs, name) for name in rest})
    merged = merge(base, one, other)
    assert merged == merge(base, other, one)
    assert isinstance(merged, State)
    for name in State.__struct_fields__:
        assert getattr(merged, name) == getattr(one if name in ours else other, name)


@given(base=states, mine=states, theirs=states)
def test_a_merge_never_invents_a_value(base: State, mine: State, theirs: State) -> None:
    before = [msgspec.json.encode(one) for one in (base, mine, theirs)]
    merged = merge(base, mine, theirs)
    assert [msgspec.json.encode(one) for one in (base, mine, theirs)] == before
    if isinstance(merged, MergeConflict):
        assert merged.fields
        for path in merged.fields:
            sides = [_at(one, path) for one in (base, mine, theirs)]
            assert sides[1] != sides[0] != sides[2]
            assert sides[1] != sides[2]
        return
    for name in ("name", "best", "draft", "news", "note"):
        assert getattr(merged, name) in (getattr(mine, name), getattr(theirs, name), base.note)
    assert merged.views == mine.views + theirs.views - base.views
    assert merged.inner.page in (mine.inner.page, theirs.inner.page)
    assert merged.inner.hits == mine.inner.hits + theirs.inner.hits - base.inner.hits
    for name in ("seen", "trail"):
        old, my, their, new = (set(getattr(one, name)) for one in (base, mine, theirs, merged))
        assert new == (my | their) - (old - my) - (old - their)
    assert len(set(merged.trail)) == len(merged.trail)
    for key, value in merged.table.items():
        assert value in (mine.table.get(key), theirs.table.get(key))


def _at(state: State, path: str) -> object:
    found: Any = state
    for name in path.split("."):
        found = getattr(found, name)
    return found


@given(base=states, mine=states, theirs=states)
def test_both_orders_report_the_same_conflicts(base: State, mine: State, theirs: State) -> None:
    one, other = merge(base, mine, theirs), merge(base, theirs, mine)
    assert isinstance(one, MergeConflict) is isinstance(other, MergeConflict)
    if isinstance(one, MergeConflict):
        assert one == other


def test_equal_additions_to_a_sum_both_count() -> None:
    assert merge(State(), State(views=1), State(views=1)) == State(views=2)
    nested = State(inner=Inner(hits=1))
    assert merge(State(), nested, State(inner=Inner(hits=1))) == State(inner=Inner(hits=2))


def test_a_field_that_both_sides_changed_alike_is_no_conflict() -> None:
    assert merge(State(), State(name="x"), State(name="x")) == State(name="x")


def test_conflicts_are_named_by_their_paths() -> None:
    mine = State(name="x", inner=Inner(page=1), table={"secret": 1})
    theirs = State(name="y", inner=Inner(page=2), table={"secret": 2}, views=9)
    found = merge(State(), mine, theirs)
    assert found == MergeConflict(fields=("name", "inner.page", "table"))


def test_a_value_that_changes_its_type_is_a_change() -> None:
    assert merge(Loose(flag=1), Loose(flag=True), Loose(flag=1)) == Loose(flag=True)
    found = merge(Loose(flag=1), Loose(flag=True), Loose(flag=1.0))
    assert found == MergeConflict(fields=("flag",))


@pytest.mark.parametrize(
    ("rule", "base", "mine", "theirs"),
    [
        (Merge.SUM, None, 1, 2),
        (Merge.SUM, "", "a", "b"),
        (Merge.SUM, False, True, 2),
        (Merge.UNION, {1}, {2}, [3]),
        (Merge.UNION, {}, {"a": 1}, {"b": 1}),
        (Merge.MAX, 1, "a", 2),
    ],
)
def test_values_that_a_rule_cannot_combine_are_a_conflict(
    rule: Merge, base: object, mine: object, theirs: object
) -> None:
    values = msgspec.defstruct("Values", [("one", Annotated[Any, rule])])
    assert merge(values(base), values(mine), values(theirs)) == MergeConflict(fields=("one",))


def test_an_optional_set_is_merged_from_nothing() -> None:
    class Tags(msgspec.Struct):
        tags: Annotated[frozenset[str] | None, Merge.UNION] = None

    merged = merge(Tags(), Tags(tags=frozenset("a")), Tags(tags=frozenset("b")))
    assert merged == Tags(tags=frozenset("ab"))


def test_the_state_of_a_dict_is_merged_by_key() -> None:
    base: dict[str, object] = {"a": 1, "b": 1, "c": 1}
    assert merge(base, {"a": 2, "b": 1, "c": 1}, {"a": 1, "c": 1, "d": 4}) == {
        "a": 2,
        "c": 1,
        "d": 4,
    }
    assert merge(base, {"b": 1, "c": 1}, {"a": 5, "b": 2, "c": 1}) == MergeConflict(fields=("a",))
    assert merge(base, {}, {}) == {}


def test_the_rules_of_a_typed_dict_count() -> None:
    class Table(TypedDict):
        views: NotRequired[Annotated[int, Merge.SUM]]
        best: Annotated[dict[str, Annotated[int, Merge.SUM]], "a note of another library"]

    base: Table = {"best": {"a": 1}}
    mine: Table = {"views": 2, "best": {"a": 2}}
    theirs: Table = {"views": 3, "best": {"a": 4, "b": 1}}
    assert merge(base, mine, theirs, of=Table) == {"views": 5, "best": {"a": 5, "b": 1}}


def test_the_rules_of_a_dataclass_count() -> None:
    @dataclasses.dataclass(frozen=True)
    class Counted:
        views: Annotated[int, Merge.SUM] = 0
        name: str = ""
        length: int = dataclasses.field(init=False, default=0)

        def __post_init__(self) -> None:
            object.__setattr__(self, "length", len(self.name))

    merged = merge(Counted(), Counted(1, "abc"), Counted(2))
    assert merged == Counted(3, "abc")
    assert merge(Counted(), Counted(name="x"), Counted(name="y")) == MergeConflict(fields=("name",))


def test_fields_that_the_class_refuses_together_are_a_conflict_of_the_object() -> None:
    class Span(msgspec.Struct):
        start: int = 0
        end: int = 10

        def __post_init__(self) -> None:
            if self.start > self.end:
                raise ValueError("the start is after the end")

    assert merge(Span(), Span(start=9), Span(end=5)) == MergeConflict(fields=("",))


def test_members_of_a_union_of_structs_are_merged_only_within_one_class() -> None:
    base = Owner(Cat())
    assert merge(base, Owner(Cat(lives=8)), Owner(Cat(name="Tom"))) == Owner(Cat(8, "Tom"))
    assert merge(base, Owner(Dog()), Owner(Cat(lives=8))) == MergeConflict(fields=("pet",))


def test_a_class_whose_annotations_cannot_be_resolved_is_refused() -> None:
    @dataclasses.dataclass
    class Broken:
        one: Missing = 0  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(InvalidInputError) as caught:
        merge(Broken(0), Broken(1), Broken(2))
    assert caught.value.field == "of"
