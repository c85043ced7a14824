"""The transition table of waits: the result and the next state for each state, verb and caller.

:data:`TRANSITIONS` is the behaviour of :class:`WaitRegistry` and :class:`Claim`, row by row. The
tests run each row on every backend. :func:`transition_table` is the table in the guide of waits.

The rows use these names:

* *mine*: a session of a user, first registered under the reply scope *here*.
* *own*: a claim on mine, taken by the attempt ``a``.
* *another*: a session of the same user. In some rows it was registered here after mine.

In some rows another worker claimed mine after the lease of own had ended. In all rows an event was
completed here before.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["CALLERS", "STATES", "TRANSITIONS", "VERBS", "Transition", "transition_table"]

STATES: Final = {
    "absent": "absent",
    "waiting": "waiting",
    "claimed (own)": "claimed",
    "claimed (other)": "held by another",
    "lease run out": "run out",
    "displaced": "resting",
    "displaced, claimed": "claimed only",
    "expired": "absent",
    "completed": "resting",
}
"""The states that a row begins in, and the state of the record in each:

* *absent*: there is no session, or an expired one.
* *waiting*: waits here, without a claim.
* *elsewhere*: waits under another reply scope.
* *claimed*: waits here, and own is held. *run out*: the same, but its lease has ended.
* *held by another*: waits here, and another worker has claimed it.
* *resting*: stored, without wait and claim.
* *claimed only*: does not wait, but own or the claim of another worker is held.
"""

_LOST: Final = "LeaseLostError"
_NONE: Final = "WaitNotFoundError"
_HELD: Final = "WaitClaimedError"
_STALE: Final = "CasConflictError"
_AGAIN: Final = "DuplicateEventError"
_OTHERS: Final = "claim on another"
_FENCED: Final = "TenantMismatchError"

# One cell per state, in the order of STATES: the result of the call, and after an arrow the next
# state of the record, if that changes.
_CELLS: Final[dict[str, tuple[str, ...]]] = {
    "register here": ("token → waiting",) * 9,
    "register elsewhere": ("token → elsewhere",) * 9,
    "register another here": (
        *("token", "token → resting", "token → claimed only", "token → claimed only"),
        *("token → claimed only", "token", "token", "token", "token"),
    ),
    "register over an old token": (_STALE,) * 9,
    "register, seen event": (_AGAIN,) * 9,
    "find here": ("None", "mine", "mine", "mine", "mine", "another", "another", "None", "None"),
    "list": ("[]", "[mine]", "[mine]", "[mine]", "[mine]", "[another]", "[another]", "[]", "[]"),
    "claim, same attempt": (
        *(_NONE, "claim → held by another", "same claim", _HELD, "claim → held by another"),
        *(_OTHERS, _OTHERS, _NONE, _NONE),
    ),
    "claim, other attempt": (
        *(_NONE, "claim → held by another", _HELD, _HELD, "claim → held by another"),
        *(_OTHERS, _OTHERS, _NONE, _NONE),
    ),
    "claim, seen event": (_AGAIN,) * 9,
    "renew": (_LOST, _LOST, "time", _LOST, "time → claimed", _LOST, "time", _LOST, _LOST),
    "complete": (
        *(_LOST, _LOST, "token → resting", _LOST, "token → resting"),
        *(_LOST, "token → resting", _LOST, _LOST),
    ),
    "wait again elsewhere": (
        *(_LOST, _LOST, "token → elsewhere", _LOST, "token → elsewhere"),
        *(_LOST, "token → elsewhere", _LOST, _LOST),
    ),
    "finish": (
        *(_LOST, _LOST, "None → absent", _LOST, "None → absent"),
        *(_LOST, "None → absent", _LOST, _LOST),
    ),
    "save": (_LOST, _LOST, "token", _LOST, "token", _LOST, "token", _LOST, _LOST),
    "release": (
        *("False", "False", "True → waiting", "False", "True → waiting"),
        *("False", "True → resting", "False", "False"),
    ),
    "clear here": ("False", *("True → absent",) * 4, "True", "True", "False", "False"),
    "delete mine": ("False", *("True → absent",) * 6, "False", "True → absent"),
    "touch mine": ("False", *("True",) * 6, "False", "True"),
}

VERBS: Final = tuple(_CELLS)
"""The verbs. The endings are calls on own."""

CALLERS: Final = ("the owner", "another tenant", "another team", "another user")
"""The callers. Endings have no caller, because the worker with the claim may end it."""

# The result for a stranger in any state. Some differ where mine exists.
_STRANGERS: Final = {
    "register here": _FENCED,
    "register elsewhere": _FENCED,
    "register another here": _FENCED,
    "register over an old token": _FENCED,
    "register, seen event": _FENCED,
    "find here": "None",
    "list": "[]",
    "claim, same attempt": _NONE,
    "claim, other attempt": _NONE,
    "claim, seen event": _NONE,
    "clear here": "False",
    "delete mine": "False",
    "touch mine": "False",
}
_WRITING: Final = frozenset(
    ("register here", "register elsewhere", "complete", "wait again elsewhere", "save")
)


class Transition(NamedTuple):
    """A row of the table.

    :ivar state: the state before, a key of :data:`STATES`.
    :ivar verb: the call, one of :data:`VERBS`.
    :ivar caller: one of :data:`CALLERS`.
    :ivar result: a value, or the name of an error.
    :ivar record: the state of mine afterwards, in the words of :data:`STATES`.
    :ivar written: whether the call wrote its own state into mine. Otherwise mine, if it still
        exists, keeps its state.
    """

    state: str
    verb: str
    caller: str
    result: str
    record: str
    written: bool


def _rows() -> list[Transition]:
    rows: list[Transition] = []
    for verb, cells in _CELLS.items():
        for (state, record), cell in zip(STATES.items(), cells, strict=True):
            result, _, after = cell.partition(" → ")
            written = verb in _WRITING and result == "token"
            rows.append(Transition(state, verb, CALLERS[0], result, after or record, written))
            if verb not in _STRANGERS:
                continue
            for caller in CALLERS[1:]:
                result = _STRANGERS[verb]
                known = caller != "another tenant" and record != "absent"
                if verb.endswith(" mine") and known:
                    result = _FENCED
                rows.append(Transition(state, verb, caller, result, record, written=False))
    return rows


TRANSITIONS: Final = tuple(_rows())
"""All rows of the table."""


def transition_table() -> str:
    """Return the owner's results in Markdown, with a row per verb and a column per state."""
    lines = [
        "| | " + " | ".join(STATES) + " |",
        "|---" * (len(STATES) + 1) + "|",
    ]
    lines += ["| " + " | ".join([f"**{verb}**", *cells]) + " |" for verb, cells in _CELLS.items()]
    return "\n".join(line.replace("Error", "") for line in lines)
