"""The Lua scripts beside this file, one per verb that writes."""

from __future__ import annotations

from typing import Final

from .transport.script import Script

__all__ = [
    "AFFINITY_ASSIGN",
    "AFFINITY_FORGET",
    "AFFINITY_JOIN",
    "AFFINITY_LEAVE",
    "AFFINITY_PIN",
    "AFFINITY_RENEW",
    "AFFINITY_TOUCH",
    "AFFINITY_UNPIN",
    "ANNOUNCE",
    "ASSIGN",
    "CLAIM",
    "CLEAR",
    "COMMIT",
    "CREATE",
    "DELETE",
    "DISCARD",
    "DISPLACE",
    "DROP",
    "DUE",
    "EXPECT",
    "FORGO",
    "GIVE_BACK",
    "HINT",
    "KEEP",
    "LEAVE_LOCK",
    "LOCK",
    "MOURN",
    "PAUSE",
    "POST",
    "PROLONG",
    "PUT",
    "PUT_FENCED",
    "REINDEX",
    "RELEASE",
    "RENEW",
    "RENEW_LOCK",
    "REPLAY",
    "SETTLE",
    "TAKE",
    "TOUCH",
    "UPDATE_CAS",
    "UPDATE_CAS_FENCED",
]


_START: Final = ("ring", "record", "rules")
_WRITE: Final = ("fold", "write", "lookup")
_REMOVE: Final = ("fold", "remove", "lookup")
_WAIT: Final = (*_START, "events", "wait")

CREATE: Final = Script(*_START, "create", *_WRITE, "answer")
PUT: Final = Script(*_START, "put", *_WRITE, "answer")
# Nearly every call of it ends at `updated_at`, before functions are made.
UPDATE_CAS: Final = Script(
    *("slot", "record", "update_cas", "write", "lookup", "updated_at"),
    *("rules", "conflict", "updated"),
)
PUT_FENCED: Final = Script(*_START, "guard", "guard_put", "put", *_WRITE, "answer")
UPDATE_CAS_FENCED: Final = Script(
    *("slot", "record", "rules", "conflict", "guard", "guard_update"),
    *("update_cas", "write", "lookup", "updated_at", "updated"),
)
TOUCH: Final = Script(*_START, "refuse", "touch", "lookup", "reply")
DELETE: Final = Script(*_START, "refuse", "delete", *_REMOVE, "reply")

PAUSE: Final = Script(*_WAIT, "conflict", "pause", *_WRITE, "paused")
CLAIM: Final = Script(*_WAIT, "claim", "lookup", "reply")
RENEW: Final = Script(*_WAIT, "renew", "lookup", "reply")
SETTLE: Final = Script(
    *(*_WAIT, "conflict", "settle", "fold", "remove", "write", "lookup", "settled")
)
RELEASE: Final = Script(*_WAIT, "release", "lookup", "reply")
DISPLACE: Final = Script(*_WAIT, "displace")
CLEAR: Final = Script(*_WAIT, "clear", *_REMOVE, "reply")

LOCK: Final = Script("lock", "lock_take")
RENEW_LOCK: Final = Script("lock", "lock_renew")
LEAVE_LOCK: Final = Script("lock", "lock_leave")
_MAIL: Final = (*_START, "mailbox")

POST: Final = Script(*_MAIL, "events", "post")
TAKE: Final = Script(*_MAIL, "take")
PROLONG: Final = Script(*_MAIL, "prolong")
COMMIT: Final = Script(*_MAIL, "commit", "fold", "remove", "write", "lookup", "committed")
GIVE_BACK: Final = Script(*_MAIL, "give_back")
REPLAY: Final = Script(*_MAIL, "replay")
DISCARD: Final = Script(*_MAIL, "discard")

EXPECT: Final = Script("agenda", "expect")
DUE: Final = Script("agenda", "due")
FORGO: Final = Script("agenda", "forgo")
HINT: Final = Script("agenda", "hint")
MOURN: Final = Script("mourn")
KEEP: Final = Script("early", "keep")
ASSIGN: Final = Script("early", "assign")
DROP: Final = Script("early", "drop")

ANNOUNCE: Final = Script("index", "announce")
REINDEX: Final = Script("index", "events", "reindex")
_SEATS: Final = ("affinity", "seats")
_PLACES: Final = ("affinity", "places")

AFFINITY_JOIN: Final = Script(*_SEATS, "affinity_join")
AFFINITY_RENEW: Final = Script(*_SEATS, "affinity_renew")
AFFINITY_LEAVE: Final = Script(*_SEATS, "affinity_leave")
AFFINITY_ASSIGN: Final = Script(*_PLACES, "affinity_assign")
AFFINITY_PIN: Final = Script(*_PLACES, "affinity_pin")
AFFINITY_UNPIN: Final = Script(*_PLACES, "affinity_unpin")
AFFINITY_TOUCH: Final = Script(*_PLACES, "affinity_touch")
AFFINITY_FORGET: Final = Script(*_PLACES, "affinity_forget")
