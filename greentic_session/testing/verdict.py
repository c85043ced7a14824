"""The result of a history checker."""

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
    """The finding of a checker."""

    HOLDS = "holds"
    VIOLATED = "violated"
    UNDECIDED = "undecided"
    """The search reached its limit."""


@final
class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a check.

    :ivar ruling: the finding.
    :ivar explanation: the reason. It names operations by number, verb and token, and has no
        payload.
    :ivar operations: numbers of the operations at fault, if known.
    :ivar steps: amount of work.
    """

    ruling: Ruling
    explanation: str = ""
    operations: tuple[int, ...] = ()
    steps: int = 0

    @property
    def holds(self) -> bool:
        """Whether the history is correct. Not true for an undecided one."""
        return self.ruling is Ruling.HOLDS

    @property
    def is_violation(self) -> bool:
        """Whether no correct store can have produced the history."""
        return self.ruling is Ruling.VIOLATED


def by_key(operations: Iterable[Operation]) -> dict[str, list[Operation]]:
    """Return each key's operations, in order of invocation."""
    keys: defaultdict[str, list[Operation]] = defaultdict(list)
    for operation in sorted(operations, key=lambda one: (one.invoked_at, one.number)):
        keys[operation.key].append(operation)
    return dict(keys)
