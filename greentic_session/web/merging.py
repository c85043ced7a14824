"""The merge of parallel changes, and the policy for changes of the same plain field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Literal, final

from ..merging import merge
from ..model import C

if TYPE_CHECKING:
    from typing import Final

    from ..merging import MergeConflict

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
        prefer = None if self._policy == "reject" else self._policy
        return merge(base, mine, theirs, of=self._type, prefer=prefer)
