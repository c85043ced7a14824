"""The inbox scripts, and functions that build their arguments.

The arguments start after ARGV 2 in a script on an index or on early events, and after ARGV 3 in a
script on a mailbox. ``lua/lib/inbox_index.lua``, ``lua/lib/early_event.lua`` and
``lua/lib/mailbox.lua`` describe the earlier ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from ...abc.records import Verdict
from ..transport.script import Script

if TYPE_CHECKING:
    from ..transport.protocol import Argument, Arguments

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
    "WITHDRAW",
    "admit_arguments",
    "assign_early_arguments",
    "commit_turn_arguments",
    "delete_early_arguments",
    "discard_dead_letter_arguments",
    "index_add_pending_arguments",
    "index_dead_letter_arguments",
    "index_next_due_arguments",
    "index_requeue_arguments",
    "index_set_due_arguments",
    "release_turn_arguments",
    "renew_turn_arguments",
    "replay_dead_letter_arguments",
    "store_early_arguments",
    "take_turn_arguments",
    "withdraw_arguments",
]

ADMIT: Final = Script("inbox/admit", rests_on=Verdict.SEEN)
TAKE_TURN: Final = Script("inbox/take_turn")
RENEW_TURN: Final = Script("inbox/renew_turn")
COMMIT_TURN: Final = Script("inbox/commit_turn")
RELEASE_TURN: Final = Script("inbox/release_turn")
REPLAY_DEAD_LETTER: Final = Script("inbox/replay_dead_letter", rests_on=Verdict.ABSENT)
DISCARD_DEAD_LETTER: Final = Script("inbox/discard_dead_letter", rests_on=Verdict.ABSENT)
WITHDRAW: Final = Script("inbox/withdraw", rests_on=Verdict.ABSENT)
INDEX_ADD_PENDING: Final = Script("inbox/index_add_pending")
INDEX_NEXT_DUE: Final = Script("inbox/index_next_due")
INDEX_REQUEUE: Final = Script("inbox/index_requeue")
INDEX_SET_DUE: Final = Script("inbox/index_set_due", always_writes=False)
INDEX_DEAD_LETTER: Final = Script("inbox/index_dead_letter")
STORE_EARLY: Final = Script("inbox/store_early", rests_on=Verdict.SEEN)
ASSIGN_EARLY: Final = Script("inbox/assign_early", always_writes=False)
DELETE_EARLY: Final = Script("inbox/delete_early")

# --- mailboxes -----------------------------------------------------------------------------------


def admit_arguments(
    exact_owner: str,
    shared_owner: str,
    event_id: str,
    message: bytes,
    *,
    message_limit: int,
    event_limit: int,
    event_memory_ms: int,
    keep_ms: int,
    headers: bytes = b"",
    header_limit: int = 0,
    header_ms: int = 0,
) -> Arguments:
    """Return the arguments of ``lua/inbox/admit.lua``."""
    return (
        exact_owner,
        shared_owner,
        event_id,
        message,
        message_limit,
        event_limit,
        event_memory_ms,
        keep_ms,
        headers,
        header_limit,
        header_ms,
    )


def take_turn_arguments(
    taking_attempt: str,
    worker: str,
    lease_ms: int,
    *,
    batch_limit: int,
    attempt_limit: int,
    may_dead_letter: bool,
    retention_ms: int,
    keep_ms: int,
    fence_floor: int,
    dead_limit: int,
) -> Arguments:
    """Return the arguments of ``lua/inbox/take_turn.lua``."""
    return (
        taking_attempt,
        worker,
        lease_ms,
        batch_limit,
        attempt_limit,
        1 if may_dead_letter else "",
        retention_ms,
        keep_ms,
        fence_floor,
        dead_limit,
    )


def renew_turn_arguments(turn_fence: int, lease_ms: int, keep_ms: int) -> Arguments:
    """Return the arguments of ``lua/inbox/renew_turn.lua``."""
    return turn_fence, lease_ms, keep_ms


def commit_turn_arguments(
    new_owner: str,
    new_ttl_ms: int | None,
    new_body: bytes,
    *,
    expected_incarnation: str,
    expected_version: int,
    turn_fence: int,
    action: Literal["write", "remove", "leave"],
    handled_count: int,
    remaining_count: int,
    ends_turn: bool,
    new_incarnation: str,
    keep_ms: int,
    held_ms: int | Literal[""],
    new_labels: str,
) -> Arguments:
    """Return the arguments of ``lua/inbox/commit_turn.lua``.

    :param new_ttl_ms: lifetime in milliseconds, ``None`` unless the action is ``write``.
    """
    return (
        new_owner,
        "" if new_ttl_ms is None else new_ttl_ms,
        new_body,
        expected_incarnation,
        expected_version,
        turn_fence,
        action,
        handled_count,
        remaining_count,
        1 if ends_turn else "",
        new_incarnation,
        keep_ms,
        held_ms,
        new_labels,
    )


def release_turn_arguments(
    turn_fence: int | None, taking_attempt: str, backoff_ms: int | None, keep_ms: int
) -> Arguments:
    """Return the arguments of ``lua/inbox/release_turn.lua``.

    :param turn_fence: the fencing token, ``None`` if the caller only knows the attempt.
    :param backoff_ms: milliseconds until the next attempt, ``None`` if this was not an attempt at
        the head.
    """
    return (
        "" if turn_fence is None else turn_fence,
        taking_attempt,
        "" if backoff_ms is None else backoff_ms,
        keep_ms,
    )


def replay_dead_letter_arguments(
    entry: bytes,
    message: bytes,
    *,
    died_ms: int,
    retention_ms: int,
    message_limit: int,
    keep_ms: int,
) -> Arguments:
    """Return the arguments of ``lua/inbox/replay_dead_letter.lua``."""
    return entry, message, died_ms, retention_ms, message_limit, keep_ms


def discard_dead_letter_arguments(entry: bytes, keep_ms: int) -> Arguments:
    """Return the arguments of ``lua/inbox/discard_dead_letter.lua``."""
    return entry, keep_ms


def withdraw_arguments(
    event_id: str,
    prefix: str,
    *,
    refuses: bool,
    event_limit: int,
    event_memory_ms: int,
    keep_ms: int,
) -> Arguments:
    """Return the arguments of ``lua/inbox/withdraw.lua``."""
    return event_id, prefix, 1 if refuses else "", event_limit, event_memory_ms, keep_ms


# --- indexes -------------------------------------------------------------------------------------


def index_add_pending_arguments(entry: str, grace_ms: int) -> Arguments:
    """Return the arguments of ``lua/inbox/index_add_pending.lua``."""
    return entry, grace_ms


def index_next_due_arguments(
    defer_ms: int, longest_ms: int, prefix: str = "", position: int | None = None
) -> Arguments:
    """Return the arguments of ``lua/inbox/index_next_due.lua``."""
    return defer_ms, longest_ms, prefix, "" if position is None else position


def index_requeue_arguments(
    defer_ms: int, age_ms: int, channel: str, tenant_channel: str
) -> Arguments:
    """Return the arguments of ``lua/inbox/index_requeue.lua``."""
    return defer_ms, age_ms, channel, tenant_channel


def index_set_due_arguments(
    member: str,
    *,
    known_score: str | bytes,
    delay_ms: Argument,
    channel: str,
    pending_token: str,
    tenant_channel: str,
) -> Arguments:
    """Return the arguments of ``lua/inbox/index_set_due.lua``."""
    return member, known_score, delay_ms, channel, pending_token, tenant_channel


def index_dead_letter_arguments(member: str, retention_ms: int) -> Arguments:
    """Return the arguments of ``lua/inbox/index_dead_letter.lua``."""
    return member, retention_ms


# --- early events --------------------------------------------------------------------------------


def store_early_arguments(
    event_head: bytes, payload: bytes, *, limit: int, retention_ms: int, headers: bytes = b""
) -> Arguments:
    """Return the arguments of ``lua/inbox/store_early.lua``."""
    return event_head, payload, limit, retention_ms, headers


def assign_early_arguments(key: str, retention_ms: int, gone_key: str, position: int) -> Arguments:
    """Return the arguments of ``lua/inbox/assign_early.lua``."""
    return key, retention_ms, gone_key, position


def delete_early_arguments(key: str, event: bytes) -> Arguments:
    """Return the arguments of ``lua/inbox/delete_early.lua``."""
    return key, event
