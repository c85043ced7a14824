"""Checks whether a history is linearizable.

A linearizable history has an order of its operations. Each operation takes effect at one instant
between its invocation and its return. In that order, each answer is the answer of a single session.

The search is that of Wing and Gong ("Testing and verifying concurrent objects", 1993) with the
memory of Lowe ("Testing for linearizability", 2017). A set of operations and the state after them
is tried only once. Keys are searched one by one, because a history is linearizable if the history
of each object is (Herlihy and Wing, 1990).

In the model, a session is absent, or it has an incarnation, a value and the mark of its last
writer. A new record has an incarnation that no other record had. The history may reveal it only
later. Each write adds one to the value. An operation of unknown outcome takes effect at any time
after its invocation, or never.
"""

from __future__ import annotations

from collections import defaultdict
from enum import Enum
from typing import TYPE_CHECKING, Final, final

from .history import Ending, Operation, Verb
from .timeline import Timeline
from .verdict import Ruling, Verdict, by_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..model import Cas

__all__ = ["DEFAULT_STEPS", "check_history", "check_key"]

DEFAULT_STEPS: Final = 2_000_000
"""Placements that a search tries before it gives up. They take some seconds."""


def check_history(operations: Iterable[Operation], *, max_steps: int = DEFAULT_STEPS) -> Verdict:
    """Search for an order of each key.

    :param max_steps: placements to try per key.
    :returns: the first violation, otherwise the first undecided key, otherwise that the history
        holds.
    """
    undecided: Verdict | None = None
    steps = 0
    for each in by_key(operations).values():
        verdict = check_key(each, max_steps=max_steps)
        steps += verdict.steps
        if verdict.is_violation:
            return verdict
        if not verdict.holds and undecided is None:
            undecided = verdict
    return undecided or Verdict(ruling=Ruling.HOLDS, steps=steps)


def check_key(operations: Sequence[Operation], *, max_steps: int = DEFAULT_STEPS) -> Verdict:
    """Search for an order of one key's operations. The key is absent at first.

    :param max_steps: placements to try at most.
    """
    return _Search(operations).run(max_steps)


# --- the model ------------------------------------------------------------------------------------

_State = tuple[str, int, str] | None
"""Incarnation (``""`` while no operation has revealed it), value and mark. ``None`` is absent."""

_EVER: Final = float("inf")
_UNSEEN: Final = "?"
"""Replaces the marks that no operation saw. States that differ only in such marks are equal."""


class _Impossible(Enum):
    HERE = 0


@final
class _Move:
    """An operation with the fields that the search needs."""

    def __init__(self, operation: Operation, bit: int) -> None:
        self.operation: Final = operation
        self.bit: Final = 1 << bit
        self.verb: Final = operation.verb
        self.mark = operation.mark
        self.is_unknown: Final = operation.ending is Ending.UNKNOWN
        self.is_refused: Final = operation.ending is Ending.REFUSED
        self.token: Final = operation.token
        self.prior = 0
        """The bit of an equal operation of unknown outcome that must be placed first."""


@final
class _Search:
    """The operations of one key, and the knowledge about its tokens from all of them."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._key: Final = operations[0].key if operations else ""
        self._moves: Final = [
            _Move(operation, bit) for bit, operation in enumerate(_told_something(operations))
        ]
        self._steps = 0
        # A version has one writer, so one operation that saw the version fixes the mark for all.
        self._owner: Final[dict[tuple[str, int], str]] = {}
        self._clash: Verdict | None = None
        # The operations that saw an incarnation.
        self._tellers: Final[defaultdict[str, int]] = defaultdict(int)
        # The operations that must be placed and saw a version, and those that saw an earlier one.
        self._waiting: Final[defaultdict[str, list[tuple[int, int]]]] = defaultdict(list)
        self._before: Final[dict[tuple[str, float], int]] = {}
        seen: set[str] = set()
        for move in self._moves:
            operation = move.operation
            seen.add(operation.before)
            token, expected = operation.token, operation.expected
            if expected is not None and not move.is_refused and operation.found:
                self._tellers[expected.incarnation] |= move.bit  # a delete over it
                if not move.is_unknown:
                    self._waiting[expected.incarnation].append((expected.value, move.bit))
            if token is None or not token.value:
                continue
            self._tellers[token.incarnation] |= move.bit
            self._waiting[token.incarnation].append((token.value, move.bit))
            if operation.ending is Ending.DONE and operation.mark:
                seen.add(operation.mark)
                self._own(token, operation)
        self._prune(seen)

    def _own(self, token: Cas, operation: Operation) -> None:
        known = self._owner.setdefault((token.incarnation, token.value), operation.mark)
        if known != operation.mark and self._clash is None:
            self._clash = Verdict(
                ruling=Ruling.VIOLATED,
                explanation=f"{self._key}: token {token} belongs to mark {known}, but: {operation}",
                operations=(operation.number,),
            )

    def _prune(self, seen: set[str]) -> None:
        """Fix the order of equal writes that no operation saw: the order of their invocations."""
        last: dict[tuple[Verb, str, Cas | None], int] = {}
        for move in self._moves:
            if not move.is_unknown or move.mark in seen:
                continue
            move.mark = _UNSEEN
            operation = move.operation
            same = (operation.verb, operation.before, operation.expected)
            move.prior = last.get(same, 0)
            last[same] = move.bit

    def run(self, max_steps: int) -> Verdict:
        if self._clash is not None:
            return self._clash
        moves, size = self._moves, len(self._moves)
        line = Timeline(
            [
                (one.operation.invoked_at, None if one.is_unknown else one.operation.returned_at)
                for one in moves
            ]
        )
        placed = 0
        state: _State = None
        stack: list[tuple[int, _State]] = []
        tried: set[tuple[int, _State]] = set()
        furthest: tuple[int, list[int], _State, int] = (-1, [], None, -1)
        steps = 0
        entry = line.first()
        while line.open_ends:
            if entry < size:
                steps += 1
                if steps > max_steps:
                    return self._undecided(steps)
                move = moves[entry]
                after_it = self._apply(move, state, placed)
                if after_it is not _Impossible.HERE and not self._strands(
                    state, after_it, placed | move.bit
                ):
                    reached = (placed | move.bit, after_it)
                    if reached not in tried:
                        tried.add(reached)
                        stack.append((entry, state))
                        placed, state = reached
                        line.lift(entry)
                        entry = line.first()
                        continue
                entry = line.after[entry]
                continue
            # No placement allows this return. Take the last operation back and try another one.
            at = moves[entry - size].operation.returned_at or 0
            if at > furthest[0] or (at == furthest[0] and len(stack) > len(furthest[1])):
                furthest = (at, [one for one, _ in stack], state, entry - size)
            if not stack:
                return self._violated(*furthest[1:], steps)
            entry, state = stack.pop()
            placed &= ~moves[entry].bit
            line.put_back(entry)
            entry = line.after[entry]
        return Verdict(ruling=Ruling.HOLDS, steps=steps)

    def _apply(self, move: _Move, state: _State, placed: int) -> _State | _Impossible:
        """Return the state after the move, if the move is possible in this state."""
        if move.is_unknown:
            if move.prior and not placed & move.prior:
                return _Impossible.HERE
            return self._apply_unknown(move, state, placed)
        verb, token = move.verb, move.token
        if move.is_refused:
            return self._apply_refused(move, state, placed)
        if verb is Verb.TOUCH or verb is Verb.DELETE:
            if (state is not None) is not move.operation.found:
                return _Impossible.HERE
            if state is None or verb is Verb.TOUCH:
                return state
            is_right = self._fits(move.operation.expected, state, placed)
            return None if is_right else _Impossible.HERE
        if verb is Verb.GET:
            if state is None or token is None or not token.value:
                is_right = state is None and token is not None and not token.value
                return None if is_right else _Impossible.HERE
            bound = self._told(token, state, placed)
            return bound if bound is not None and bound[2] == move.mark else _Impossible.HERE
        return self._apply_write(move, state, placed)

    def _apply_write(self, move: _Move, state: _State, placed: int) -> _State | _Impossible:
        token, expected = move.token, move.operation.expected
        if state is None:
            if move.verb is Verb.UPDATE_CAS or move.verb is Verb.MUTATE:
                return _Impossible.HERE
            if token is None:
                return "", 1, move.mark
            is_new = token.value == 1 and not placed & self._tellers[token.incarnation]
            return (token.incarnation, 1, move.mark) if is_new else _Impossible.HERE
        if move.verb is Verb.CREATE:
            return _Impossible.HERE
        if move.verb is Verb.MUTATE and state[2] != move.operation.before:
            return _Impossible.HERE
        if not self._fits(expected, state, placed):
            return _Impossible.HERE
        incarnation, value, _ = state
        if expected is not None:
            incarnation = expected.incarnation
        if token is None:
            return incarnation, value + 1, move.mark
        bound = self._told(token, (incarnation, value + 1, move.mark), placed)
        return _Impossible.HERE if bound is None else bound

    def _apply_unknown(self, move: _Move, state: _State, placed: int) -> _State | _Impossible:
        """Return the state after a move of unknown outcome, if the move is possible.

        An operation that changes nothing need not be placed.
        """
        verb, operation = move.verb, move.operation
        if state is None:
            born = verb is Verb.CREATE or verb is Verb.PUT
            return ("", 1, move.mark) if born else _Impossible.HERE
        if verb is Verb.CREATE or not self._fits(operation.expected, state, placed):
            return _Impossible.HERE
        if verb is Verb.DELETE:
            return None
        incarnation, value, mark = state
        if verb is Verb.MUTATE and mark != operation.before:
            return _Impossible.HERE
        if operation.expected is not None:
            incarnation = operation.expected.incarnation
        if incarnation and self._owner.get((incarnation, value + 1), move.mark) != move.mark:
            return _Impossible.HERE
        return incarnation, value + 1, move.mark

    def _apply_refused(self, move: _Move, state: _State, placed: int) -> _State | _Impossible:
        token, expected = move.token, move.operation.expected
        if token is None:  # the session exists, or for `mutate` is absent
            is_right = (state is not None) is (move.verb is Verb.CREATE)
            return state if is_right else _Impossible.HERE
        if state is None or not token.value:
            # A delete of an absent session is no conflict.
            is_right = state is None and not token.value and move.verb is not Verb.DELETE
            return None if is_right else _Impossible.HERE
        bound = self._told(token, state, placed)
        return _Impossible.HERE if bound is None or token == expected else bound

    def _fits(self, expected: Cas | None, state: tuple[str, int, str], placed: int) -> bool:
        """Return whether the presented token, if there is one, can be that of this state."""
        if expected is None:
            return True
        incarnation, value, _ = state
        if incarnation:
            return incarnation == expected.incarnation and value == expected.value
        return value == expected.value and not placed & self._tellers[expected.incarnation]

    def _told(self, token: Cas, state: tuple[str, int, str], placed: int) -> _State:
        """Return the state with the token that an operation saw. ``None`` if they contradict."""
        incarnation, value, mark = state
        if value != token.value:
            return None
        if incarnation != token.incarnation and (
            incarnation or placed & self._tellers[token.incarnation]
        ):
            return None
        if self._owner.get((token.incarnation, value), mark) != mark:
            return None
        return token.incarnation, value, mark

    def _strands(self, state: _State, after: _State, placed: int) -> bool:
        """Return whether an operation that must still be placed saw a state that is now past."""
        if state is not None and after is None:
            return bool(self._told_before(state[0], _EVER) & ~placed)
        if after is None or after is state or not after[0]:
            return False
        return bool(self._told_before(after[0], after[1]) & ~placed)

    def _told_before(self, incarnation: str, value: float) -> int:
        known = self._before.get((incarnation, value))
        if known is None:
            known = 0
            for told, bit in self._waiting.get(incarnation, ()):
                known |= bit if told < value else 0
            self._before[incarnation, value] = known
        return known

    # --- reports -----------------------------------------------------------------------------

    def _undecided(self, steps: int) -> Verdict:
        explanation = f"{self._key}: no order found in {steps - 1} steps, search incomplete"
        return Verdict(ruling=Ruling.UNDECIDED, explanation=explanation, steps=steps - 1)

    def _violated(self, order: list[int], state: _State, stuck: int, steps: int) -> Verdict:
        operation = self._moves[stuck].operation
        tail = [self._moves[bit].operation for bit in order[-4:]]
        placed = sum(self._moves[bit].bit for bit in order)
        token = operation.token
        behind = 0
        if token is not None and token.value:
            behind = self._told_before(token.incarnation, token.value)
        elif state is not None:
            behind = self._told_before(state[0], _EVER)
        placed |= self._moves[stuck].bit
        older = [move.operation for move in self._moves if move.bit & behind & ~placed]
        beside = [
            one.operation
            for one in self._moves
            if not one.bit & placed
            and one.operation not in older
            and one.operation.invoked_at <= (operation.returned_at or 0)
        ]
        was = "absent"
        if state is not None:
            was = f"version {state[1]} of {state[0] or 'an unknown incarnation'}, mark {state[2]}"
        lines = [
            f"{self._key}: no order explains this operation:",
            f"  {operation}",
            f"The longest order before it has {len(order)} operations, leaves the session {was},",
            "and ends with:",
            *(f"  {one}" for one in tail),
        ]
        if older:
            lines += ["Not in it, and saw an earlier state:", *(f"  {one}" for one in older[:4])]
        if beside:
            lines += [
                "Not in it, and invoked before this one returned:",
                *(f"  {one}" for one in beside[:8]),
            ]
        return Verdict(
            ruling=Ruling.VIOLATED,
            explanation="\n".join(lines),
            operations=(operation.number, *(one.number for one in (*older[:4], *tail))),
            steps=steps,
        )


def _told_something(operations: Sequence[Operation]) -> list[Operation]:
    """Leave out operations that neither changed nor revealed anything."""
    return [
        operation
        for operation in sorted(operations, key=lambda one: (one.invoked_at, one.number))
        if operation.ending is not Ending.FAILED
        and not (
            operation.ending is Ending.UNKNOWN
            and (
                operation.verb in (Verb.GET, Verb.TOUCH)
                # It had not begun to write.
                or (operation.verb is Verb.MUTATE and not operation.mark)
            )
        )
    ]
