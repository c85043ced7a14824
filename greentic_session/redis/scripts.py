"""The Lua scripts under ``lua/``, one entry file per script."""

from __future__ import annotations

from typing import Final

from .transport.script import Script

__all__ = [
    "ACQUIRE_LOCK",
    "ADMIT",
    "AFFINITY_ASSIGN",
    "AFFINITY_FORGET",
    "AFFINITY_JOIN",
    "AFFINITY_LEAVE",
    "AFFINITY_PIN",
    "AFFINITY_RENEW",
    "AFFINITY_TOUCH",
    "AFFINITY_UNPIN",
    "ASSIGN_EARLY",
    "CLAIM",
    "CLEAR",
    "COMMIT_TURN",
    "CREATE",
    "DELETE",
    "DELETE_EARLY",
    "DISCARD_DEAD_LETTER",
    "END_CLAIM",
    "INDEX_ADD_PENDING",
    "INDEX_DEAD_LETTER",
    "INDEX_INTENT",
    "INDEX_NEXT_DUE",
    "INDEX_REQUEUE",
    "INDEX_SET_DUE",
    "PUT",
    "PUT_FENCED",
    "REGISTER",
    "RELEASE_CLAIM",
    "RELEASE_LOCK",
    "RELEASE_TURN",
    "RENEW_CLAIM",
    "RENEW_LOCK",
    "RENEW_TURN",
    "REPLAY_DEAD_LETTER",
    "STORE_EARLY",
    "SUPERSEDE",
    "TAKE_TURN",
    "TOUCH",
    "UPDATE_CAS",
    "UPDATE_CAS_FENCED",
    "UPDATE_INDEX",
]

CREATE: Final = Script("sessions/create")
PUT: Final = Script("sessions/put")
UPDATE_CAS: Final = Script("sessions/update_cas")
PUT_FENCED: Final = Script("sessions/put_fenced")
UPDATE_CAS_FENCED: Final = Script("sessions/update_cas_fenced")
TOUCH: Final = Script("sessions/touch")
DELETE: Final = Script("sessions/delete")

REGISTER: Final = Script("waits/register")
CLAIM: Final = Script("waits/claim")
RENEW_CLAIM: Final = Script("waits/renew_claim")
END_CLAIM: Final = Script("waits/end_claim")
RELEASE_CLAIM: Final = Script("waits/release_claim")
SUPERSEDE: Final = Script("waits/supersede")
CLEAR: Final = Script("waits/clear")

ACQUIRE_LOCK: Final = Script("locks/acquire")
RENEW_LOCK: Final = Script("locks/renew")
RELEASE_LOCK: Final = Script("locks/release")

ADMIT: Final = Script("inbox/admit")
TAKE_TURN: Final = Script("inbox/take_turn")
RENEW_TURN: Final = Script("inbox/renew_turn")
COMMIT_TURN: Final = Script("inbox/commit_turn")
RELEASE_TURN: Final = Script("inbox/release_turn")
REPLAY_DEAD_LETTER: Final = Script("inbox/replay_dead_letter")
DISCARD_DEAD_LETTER: Final = Script("inbox/discard_dead_letter")
INDEX_ADD_PENDING: Final = Script("inbox/index_add_pending")
INDEX_NEXT_DUE: Final = Script("inbox/index_next_due")
INDEX_REQUEUE: Final = Script("inbox/index_requeue")
INDEX_SET_DUE: Final = Script("inbox/index_set_due")
INDEX_DEAD_LETTER: Final = Script("inbox/index_dead_letter")
STORE_EARLY: Final = Script("inbox/store_early")
ASSIGN_EARLY: Final = Script("inbox/assign_early")
DELETE_EARLY: Final = Script("inbox/delete_early")

INDEX_INTENT: Final = Script("waits/index_intent")
UPDATE_INDEX: Final = Script("waits/update_index")

AFFINITY_JOIN: Final = Script("affinity/join")
AFFINITY_RENEW: Final = Script("affinity/renew")
AFFINITY_LEAVE: Final = Script("affinity/leave")
AFFINITY_ASSIGN: Final = Script("affinity/assign")
AFFINITY_PIN: Final = Script("affinity/pin")
AFFINITY_UNPIN: Final = Script("affinity/unpin")
AFFINITY_TOUCH: Final = Script("affinity/touch")
AFFINITY_FORGET: Final = Script("affinity/forget")
