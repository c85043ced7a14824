"""The scripts of inboxes: see ``lua/inbox/``."""

from __future__ import annotations

from typing import Final

from ..transport.script import Script

__all__ = [
    "ADMIT",
    "ASSIGN_EARLY",
    "COMMIT_TURN",
    "DELETE_EARLY",
    "DISCARD_DEAD_LETTER",
    "INDEX_ADD_PENDING",
    "INDEX_DEAD_LETTER",
    "INDEX_NEXT_DUE",
    "INDEX_REQUEUE",
    "INDEX_SET_DUE",
    "RELEASE_TURN",
    "RENEW_TURN",
    "REPLAY_DEAD_LETTER",
    "STORE_EARLY",
    "TAKE_TURN",
]

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
