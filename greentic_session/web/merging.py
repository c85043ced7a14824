"""The merge of parallel changes, and the policy for changes of the same plain field."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Generic, Literal, cast, final

import msgspec

from ..merging import MergeConflict, merge
from ..model import C

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

__all__ = ["ConflictPolicy", "StateMerger"]

ConflictPolicy = Literal["reject", "mine", "theirs"]


@final
class StateMerger(Generic[C]):
    """Merges the states of one type.

    :param context_type: the type of the states.
    :param policy: which change wins if both sides changed the same plain field.
    """

    __slots__ = ("_policy", "_type")

    def __init__(self, context_type: type[C], policy: ConflictPolicy) -> None:
        self._type: Final = context_type
        self._policy: Final = policy

    def merge(self, base: C, mine: C, theirs: C) -> C | MergeConflict:
        """Return the merged state, or the fields that both sides changed if the policy rejects."""
        merged = merge(base, mine, theirs, of=self._type)
        if not isinstance(merged, MergeConflict) or self._policy == "reject":
            return merged
        # The losing side gives up its changes of these fields. Then there is no conflict.
        for path in merged.fields:
            parts = path.split(".") if path else []
            if self._policy == "mine":
                theirs = cast("C", _with_part(theirs, base, parts))
            else:
                mine = cast("C", _with_part(mine, base, parts))
        return merge(base, mine, theirs, of=self._type)


def _with_part(target: Any, source: Any, path: Sequence[str]) -> Any:  # Any: parts of any state
    """Return a copy of ``target`` with the part at a path taken from ``source``."""
    if not path:
        return source
    name, rest = path[0], path[1:]
    if isinstance(target, dict):
        copy = dict(cast("dict[str, Any]", target))
        if name in source:
            copy[name] = _with_part(copy.get(name), source[name], rest)
        else:
            copy.pop(name, None)
        return copy
    part = _with_part(getattr(target, name), getattr(source, name), rest)
    if isinstance(target, msgspec.Struct):
        return msgspec.structs.replace(target, **{name: part})
    return dataclasses.replace(target, **{name: part})
