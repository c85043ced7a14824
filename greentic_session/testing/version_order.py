"""Checks the versions that clients saw, for histories that are too long to search.

Tokens number the versions of an incarnation, so they give most of the order without a search. This
checker sorts the operations and looks each one up. It proves less than :mod:`.linearizability`. It
never rejects a correct history. It misses errors that show in no token, no mark and no proven
lifetime of an incarnation. It checks, for each key:

* **owners**: a version has one mark, and a mark has one version. No mark belongs to an unknown
  write, or to a write that was refused or not executed. A write over a token or a mark made the
  next version.
* **growth**: a reported write made each version up to the highest one seen. For the others, there
  are enough writes of unknown outcome. Each reported success is a version.
* **time**: an operation that begins after a version was seen sees that version or a later one. A
  write sees a later one.
* **lives**: an incarnation is alive from its first to its last sighting. In that time no client
  finds the session absent, removes it, or sees another incarnation.
* **conflicts**: no call is refused for the token that was stored. With the rules above, this shows
  that no conflict was false.

End a history with a read of each key. Otherwise the last write is not checked.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from heapq import heappop, heappush
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple, final

from .history import Ending, Operation, Verb
from .verdict import Ruling, Verdict, by_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["check_versions"]

_NEVER: Final = float("inf")
_WRITES: Final = (Verb.CREATE, Verb.PUT, Verb.UPDATE_CAS, Verb.MUTATE)


def check_versions(operations: Iterable[Operation]) -> Verdict:
    """Check a history's tokens, in time nearly proportional to its length.

    :returns: the first violation found, or that all rules hold. It is never undecided.
    """
    steps = 0
    for each in by_key(operations).values():
        steps += len(each)
        fault = _KeyCheck(each).fault()
        if fault is not None:
            return fault
    return Verdict(ruling=Ruling.HOLDS, steps=steps)


class _Fault(Exception):  # noqa: N818 - the result of a check, not an error
    def __init__(self, rule: str, *operations: Operation) -> None:
        self.rule = rule
        self.operations = operations
        super().__init__(rule)


class _Version(NamedTuple):
    incarnation: str
    value: int


class _Life(NamedTuple):
    """The span in which an incarnation certainly lived."""

    begins: float
    ends: float
    first: Operation
    last: Operation


@final
class _KeyCheck:
    """The operations of one key."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._all: Final = operations
        # Each version that was seen, with the operation that saw it.
        self._told: Final[list[tuple[_Version, Operation]]] = []
        self._owner: Final[dict[_Version, Operation]] = {}
        self._made: Final[dict[str, _Version]] = {}
        self._writes: Final = {
            one.mark: one for one in operations if one.verb in _WRITES and one.mark
        }
        self._lives: dict[str, _Life] = {}

    def fault(self) -> Verdict | None:
        """Return the first violation, or ``None``."""
        try:
            self._check_answers()
            self._check_owners()
            self._check_growth()
            self._check_time()
            self._check_lives()
        except _Fault as fault:
            key = self._all[0].key
            lines = [f"{key}: {fault.rule}:", *(f"  {one}" for one in fault.operations)]
            return Verdict(
                ruling=Ruling.VIOLATED,
                explanation="\n".join(lines),
                operations=tuple(one.number for one in fault.operations),
            )
        return None

    # --- each answer by itself ---------------------------------------------------------------

    def _check_answers(self) -> None:
        for one in self._all:
            token, expected = one.token, one.expected
            if one.ending is Ending.REFUSED and token is not None and token == expected:
                raise _Fault("refused for the token that was stored", one)
            if one.ending is Ending.DONE and one.verb is Verb.CREATE and token is not None:
                if token.value != 1:
                    raise _Fault("the first version is not 1", one)
            elif one.ending is Ending.DONE and one.verb is Verb.UPDATE_CAS:
                assert expected is not None
                if token is not None and (
                    token.incarnation != expected.incarnation or token.value != expected.value + 1
                ):
                    raise _Fault("the token is not the next after the expected one", one)
            if token is not None and token.value and one.ending in (Ending.DONE, Ending.REFUSED):
                self._told.append((_Version(token.incarnation, token.value), one))
            if one.verb is Verb.DELETE and one.ending is Ending.DONE and one.found and expected:
                self._told.append((_Version(expected.incarnation, expected.value), one))

    # --- the owner of a version --------------------------------------------------------------

    def _check_owners(self) -> None:
        for version, one in self._told:
            if one.ending is not Ending.DONE or one.verb is Verb.DELETE:
                continue
            write = self._write_of(one, one.mark)
            other = self._owner.setdefault(version, write)
            if other is not write:
                raise _Fault("one version of two writes", other, one)
            if self._made.setdefault(write.mark, version) != version:
                raise _Fault("two versions of one write", write, one)
        owned = [*self._owner.values()]
        for write in owned:
            version = self._made[write.mark]
            if write.verb is Verb.CREATE and version.value != 1:
                raise _Fault(f"a create made version {version.value}", write)
            if write.verb is Verb.MUTATE:
                # It replaced the version before its own, even if no other operation saw that one.
                before = _Version(version.incarnation, version.value - 1)
                replaced = self._write_of(write, write.before)
                if self._made.setdefault(replaced.mark, before) != before:
                    raise _Fault("changed another version than the one it had read", write)
                if self._owner.setdefault(before, replaced) is not replaced:
                    raise _Fault("one version of two writes", replaced, write)
                owned.append(replaced)
            elif write.verb is Verb.UPDATE_CAS and write.expected is not None:
                expected = write.expected
                if version != (expected.incarnation, expected.value + 1):
                    raise _Fault(f"made version {version.value}, not the next one", write)

    def _write_of(self, one: Operation, mark: str) -> Operation:
        write = self._writes.get(mark)
        if write is None:
            raise _Fault("a mark that no operation wrote under this key", one)
        if write.ending in (Ending.FAILED, Ending.REFUSED):
            raise _Fault("a write that was reported as not made was made", write, one)
        return write

    def _over(self, write: Operation) -> _Version | None:
        """Return the version that a write replaced, if that is known."""
        if write.verb is Verb.UPDATE_CAS and write.expected is not None:
            return _Version(write.expected.incarnation, write.expected.value)
        if write.verb is Verb.MUTATE:
            return self._made.get(write.before)
        return None

    # --- growth ------------------------------------------------------------------------------

    def _check_growth(self) -> None:
        """Find a write of unknown outcome for each version that no operation reported."""
        highest: dict[str, int] = {}
        known_by: dict[_Version, tuple[float, Operation]] = {}
        for version, one in self._told:
            incarnation = version.incarnation
            highest[incarnation] = max(highest.get(incarnation, 0), version.value)
            ends = _end(one)
            if version not in known_by or ends < known_by[version][0]:
                known_by[version] = ends, one
        gaps: list[tuple[float, _Version, Operation]] = []
        for incarnation, top in highest.items():
            by: tuple[float, Operation] | None = None
            for value in range(top, 0, -1):
                version = _Version(incarnation, value)
                here = known_by.get(version)
                if here is not None and (by is None or here[0] < by[0]):
                    by = here
                if version not in self._owner:
                    assert by is not None
                    gaps.append((by[0], version, by[1]))
        if not gaps:
            return
        # A version was made before it, or a later one, was first seen. A write over a token fits
        # one gap only, so it gets that gap. A put fits every gap, and the put invoked first fits
        # the most.
        over: set[_Version] = set()
        anyone: list[float] = []
        creators: list[float] = []
        for one in self._all:
            untold = one.ending is Ending.UNKNOWN or one.token is None
            if not untold or one.verb not in _WRITES or one.mark in self._made:
                continue
            if one.ending not in (Ending.UNKNOWN, Ending.DONE):
                continue
            if one.verb is Verb.PUT:
                anyone.append(one.invoked_at)
            elif one.verb is Verb.CREATE:
                creators.append(one.invoked_at)
            else:
                replaced = self._over(one)
                if replaced is not None:
                    over.add(_Version(replaced.incarnation, replaced.value + 1))
                elif one.before in self._writes:
                    anyone.append(one.invoked_at)  # over a version that no operation saw
        self._fill(gaps, over, anyone, creators)

    def _fill(
        self,
        gaps: list[tuple[float, _Version, Operation]],
        over: set[_Version],
        anyone: list[float],
        creators: list[float],
    ) -> None:
        anyone.sort(reverse=True)
        creators.sort(reverse=True)
        for by, version, teller in sorted(gaps, key=lambda gap: gap[0]):
            if version in over:
                continue
            if version.value == 1 and creators and creators[-1] < by:
                creators.pop()
            elif anyone and anyone[-1] < by:
                anyone.pop()
            else:
                raise _Fault(f"no operation can have written version {version.value}", teller)

    # --- time --------------------------------------------------------------------------------

    def _check_time(self) -> None:
        """Check by the stamps that no operation sees an older version than an earlier operation."""
        told = [(version, one, one.invoked_at, False) for version, one in self._told]
        told += [  # a write counts as a sighting of its version, by another operation
            (self._made[write.mark], write, write.invoked_at, True)
            for write in self._owner.values()
        ]
        told.sort(key=lambda each: each[2])
        returned: list[tuple[float, int, _Version, Operation]] = []
        latest: dict[str, tuple[int, Operation]] = {}
        for number, (version, one, invoked_at, is_write) in enumerate(told):
            while returned and returned[0][0] < invoked_at:
                _, _, before, teller = heappop(returned)
                if before.value > latest.get(before.incarnation, (0, teller))[0]:
                    latest[before.incarnation] = before.value, teller
            value, teller = latest.get(version.incarnation, (0, one))
            if value > version.value or (is_write and value == version.value):
                raise _Fault(f"version {version.value} came after version {value}", teller, one)
            ends = _end(one)
            if ends != _NEVER:
                heappush(returned, (ends, number, version, one))

    # --- lives -------------------------------------------------------------------------------

    def _check_lives(self) -> None:
        tellers: defaultdict[str, list[Operation]] = defaultdict(list)
        for version, one in self._told:
            tellers[version.incarnation].append(one)
        lives: list[tuple[_Life, str]] = []
        for incarnation, told in tellers.items():
            first = min(told, key=_end)
            last = max(told, key=lambda one: one.invoked_at)
            if _end(first) < last.invoked_at:
                lives.append((_Life(_end(first), last.invoked_at, first, last), incarnation))
        lives.sort(key=lambda each: each[0].begins)
        for (life, _), (following, _) in pairwise(lives):
            if following.begins < life.ends:
                raise _Fault(
                    "two incarnations at the same time",
                    *(life.first, life.last, following.first, following.last),
                )
        begins = [life.begins for life, _ in lives]
        told_of = {one.number: version.incarnation for version, one in self._told}
        for one in self._all:
            index = bisect_right(begins, one.invoked_at) - 1
            if index < 0 or _end(one) == _NEVER:
                continue
            life, incarnation = lives[index]
            # The life began before the invocation and continued after the return.
            if not life.begins < one.invoked_at or not _end(one) < life.ends:
                continue
            if _says_absent(one):
                raise _Fault("absent within a life", life.first, one, life.last)
            if one.verb is Verb.DELETE and one.ending is Ending.DONE:
                raise _Fault("removed within a life", life.first, one, life.last)
            if told_of.get(one.number, incarnation) != incarnation:
                raise _Fault("another incarnation within a life", life.first, one, life.last)
            if one.ending is Ending.DONE and one.verb is Verb.CREATE:
                raise _Fault("created within a life", life.first, one, life.last)
        self._check_beginning()

    def _check_beginning(self) -> None:
        """Check that no operation saw a session before the first write was invoked."""
        writes = [
            one.invoked_at
            for one in self._all
            if one.verb in (Verb.CREATE, Verb.PUT) and one.ending in (Ending.DONE, Ending.UNKNOWN)
        ]
        first = min(writes, default=_NEVER)
        for one in self._all:
            if _end(one) < first and not _says_absent(one) and one.ending is not Ending.FAILED:
                raise _Fault("saw a session before the first write", one)


def _end(one: Operation) -> float:
    return _NEVER if one.returned_at is None or one.ending is Ending.UNKNOWN else one.returned_at


def _says_absent(one: Operation) -> bool:
    if one.ending is Ending.DONE:
        if one.verb in (Verb.TOUCH, Verb.DELETE):
            return not one.found
        return one.token is not None and not one.token.value
    if one.ending is Ending.REFUSED:
        if one.token is not None:
            return not one.token.value
        return one.verb is Verb.MUTATE
    return False
