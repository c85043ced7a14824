"""What a checker of histories says."""

from __future__ import annotations

from collections import defaultdict
from enum import Enum
from typing import TYPE_CHECKING, final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .history import Operation

__all__ = ["Ruling", "Verdict", "by_key"]


class Ruling(Enum):
    """What a checker found."""

    HOLDS = "holds"
    VIOLATED = "violated"
    UNDECIDED = "undecided"
    """The search was longer than allowed."""


@final
class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a checker says.

    :ivar ruling: what it found.
    :ivar explanation: why, naming operations by number, verb and token; never a payload.
    :ivar operations: numbers of the operations at fault, as far as it can tell.
    :ivar steps: how much work it was.
    """

    ruling: Ruling
    explanation: str = ""
    operations: tuple[int, ...] = ()
    steps: int = 0

    @property
    def holds(self) -> bool:
        """Whether the history is as it must be. An undecided one does not hold."""
        return self.ruling is Ruling.HOLDS

    @property
    def is_violation(self) -> bool:
        """Whether the history cannot have come about in a store that keeps its promises."""
        return self.ruling is Ruling.VIOLATED


def by_key(operations: Iterable[Operation]) -> dict[str, list[Operation]]:
    """Return each key's operations, in order of invocation."""
    keys: defaultdict[str, list[Operation]] = defaultdict(list)
    for operation in sorted(operations, key=lambda one: (one.invoked_at, one.number)):
        keys[operation.key].append(operation)
    return dict(keys)
