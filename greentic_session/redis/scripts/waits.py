"""The wait scripts of ``lua/waits/``, and functions that build their arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from ...abc.records import Verdict
from ..transport.script import Script

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...abc.waits import IndexRemoval, SeenEvent
    from ..transport.protocol import Arguments

__all__ = [
    "CLAIM",
    "CLEAR",
    "END_CLAIM",
    "INDEX_INTENT",
    "REGISTER",
    "RELEASE_CLAIM",
    "RENEW_CLAIM",
    "SUPERSEDE",
    "UPDATE_INDEX",
    "claim_arguments",
    "clear_arguments",
    "end_claim_arguments",
    "index_intent_arguments",
    "register_arguments",
    "release_claim_arguments",
    "renew_claim_arguments",
    "supersede_arguments",
    "update_index_arguments",
]

REGISTER: Final = Script("waits/register", rests_on=Verdict.SEEN)


def register_arguments(
    *,
    new_owner: str,
    new_ttl_ms: int,
    new_body: bytes,
    expected_incarnation: str,
    expected_version: int | Literal[""],
    new_incarnation: str,
    scope_hash: str,
    since_floor: int,
    event: str,
    event_limit: int,
    event_ttl_ms: int,
    held_ms: int | Literal[""],
    new_labels: str,
) -> Arguments:
    """Return the arguments from ARGV 4 on."""
    return (
        new_owner,
        new_ttl_ms,
        new_body,
        expected_incarnation,
        expected_version,
        new_incarnation,
        scope_hash,
        since_floor,
        event,
        event_limit,
        event_ttl_ms,
        held_ms,
        new_labels,
    )


CLAIM: Final = Script("waits/claim", rests_on=Verdict.SEEN)


def claim_arguments(
    *,
    expected_owner: str,
    scope_hash: str,
    claim_attempt: str,
    event: str,
    lease_ms: int,
    event_ttl_ms: int,
    fencing_floor: int,
) -> Arguments:
    """Return the arguments from ARGV 4 on."""
    return (
        expected_owner,
        scope_hash,
        claim_attempt,
        event,
        lease_ms,
        event_ttl_ms,
        fencing_floor,
    )


RENEW_CLAIM: Final = Script("waits/renew_claim")


def renew_claim_arguments(fencing_token: int, lease_ms: int) -> Arguments:
    """Return the arguments from ARGV 4 on."""
    return fencing_token, lease_ms


END_CLAIM: Final = Script("waits/end_claim")


def end_claim_arguments(
    *,
    new_owner: str,
    new_ttl_ms: int | Literal[""],
    new_body: bytes,
    expected_incarnation: str,
    expected_version: int,
    fencing_token: int,
    mode: str,
    scope_hash: str,
    since_floor: int,
    event: str,
    event_limit: int,
    event_ttl_ms: int,
    tombstone_ms: int,
    channel: str,
    held_ms: int | Literal[""],
    new_labels: str,
) -> Arguments:
    """Return the arguments from ARGV 4 on."""
    return (
        new_owner,
        new_ttl_ms,
        new_body,
        expected_incarnation,
        expected_version,
        fencing_token,
        mode,
        scope_hash,
        since_floor,
        event,
        event_limit,
        event_ttl_ms,
        tombstone_ms,
        channel,
        held_ms,
        new_labels,
    )


RELEASE_CLAIM: Final = Script("waits/release_claim")


def release_claim_arguments(fencing_token: int, claim_attempt: str, channel: str) -> Arguments:
    """Return the arguments from ARGV 4 on."""
    return fencing_token, claim_attempt, channel


SUPERSEDE: Final = Script("waits/supersede")


def supersede_arguments(scope_hash: str, expected_since: int) -> Arguments:
    """Return the arguments from ARGV 4 on."""
    return scope_hash, expected_since


CLEAR: Final = Script("waits/clear", rests_on=Verdict.ABSENT)


def clear_arguments(expected_owner: str, scope_hash: str, tombstone_ms: int) -> Arguments:
    """Return the arguments from ARGV 4 on."""
    return expected_owner, scope_hash, tombstone_ms


INDEX_INTENT: Final = Script("waits/index_intent")


def index_intent_arguments(scope_hash: str, key: str, ttl_ms: int) -> Arguments:
    """Return the arguments from ARGV 4 on."""
    return scope_hash, key, ttl_ms


UPDATE_INDEX: Final = Script("waits/update_index")


def update_index_arguments(
    *,
    event_limit: int,
    event_ttl_ms: int,
    scope_hash: str,
    key: str,
    since_us: int,
    expires_ms: int,
    intent: str,
    removals: Sequence[IndexRemoval],
    events: Sequence[SeenEvent],
) -> Arguments:
    """Return the arguments from ARGV 4 on."""
    return (
        event_limit,
        event_ttl_ms,
        scope_hash,
        key,
        since_us,
        expires_ms,
        intent,
        len(removals),
        *(part for removal in removals for part in removal),
        *(part for event in events for part in event),
    )
