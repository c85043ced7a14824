"""Parsers of replies of the wait scripts, fields of waits, and index entries."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, cast

from ..abc.records import Verdict
from ..abc.waits import IndexEntry, SeenEvent, WaitOutcome, WaitStatus
from ..model import SessionKey
from .replies import parsing_read_reply, parsing_write_reply, scored, undecodable_record

if TYPE_CHECKING:
    from .transport.protocol import Reply

__all__ = [
    "claim_outcome",
    "index_entries",
    "seen_events",
    "status_of",
    "written_outcome",
]

_ENTRY: Final = re.compile(r"([0-9]+):[0-9,]+:([0-9]+):(.*)", re.ASCII)
_DEFAULTS: Final = (b"0", b"", b"0", b"0", b"")
"""Defaults for a shorter reply: version, incarnation, at, since, scope that the session left."""


def written_outcome(
    key: str, reply: Reply, shortfall: tuple[int, int] | None = None
) -> WaitOutcome:
    """Return the outcome in the reply of a script that writes a record.

    :param shortfall: as :attr:`Outcome.shortfall`.
    :raises DecodeError: a field of the record is not of its type.
    :raises OutcomeUnknownError: no script of this library sends such a reply.
    """
    with parsing_write_reply():
        verdict = Verdict(reply[0])
        if len(reply) == 1:
            return WaitOutcome(verdict, shortfall=shortfall)
        parts = cast("list[bytes]", reply[1:])
        value, incarnation, at, since, left = (*parts, *_DEFAULTS[len(parts) :])
    try:
        return WaitOutcome(
            verdict,
            int(value),
            incarnation.decode(),
            int(at),
            shortfall=shortfall,
            since_us=int(since),
            moved_from=left.decode(),
        )
    except (TypeError, ValueError, AttributeError):
        raise undecodable_record(key) from None


def claim_outcome(key: str, reply: Reply) -> WaitOutcome:
    """Return the outcome in a reply of ``lua/waits/claim.lua``.

    :raises DecodeError: as :func:`written_outcome`.
    :raises OutcomeUnknownError: as :func:`written_outcome`.
    """
    with parsing_write_reply():
        verdict = Verdict(reply[0])
        if verdict is Verdict.CLAIMED:
            return WaitOutcome(verdict, lease_ms=int(reply[1]), left_ms=int(reply[2]))
        if verdict is not Verdict.DONE:
            return WaitOutcome(verdict)
        value, incarnation, at, ttl_ms, body, fence, lease, left, since, *_ = cast(
            "list[bytes]", reply[1:]
        )
    try:
        return WaitOutcome(
            verdict,
            int(value),
            incarnation.decode(),
            int(at),
            since_us=int(since),
            ttl_ms=int(ttl_ms),
            body=body,
            fence=int(fence),
            lease_ms=int(lease),
            left_ms=int(left),
        )
    except (TypeError, ValueError, AttributeError):
        raise undecodable_record(key) from None


def status_of(key: str, reply: Reply) -> WaitStatus | None:
    """Return the wait of a record from its fields, ``None`` if the record is absent.

    :raises DecodeError: a field is not of its type.
    """
    with parsing_read_reply():
        owner, ttl, at, lease, scope_hash, since = cast("list[bytes | None]", reply)
    if owner is None or ttl is None or at is None:
        return None
    try:
        ttl_ms = int(ttl)
        expires_ms = max(int(at), int(lease or 0)) + ttl_ms if ttl_ms else 0
        waits_on = (scope_hash or b"").decode()
        return WaitStatus(owner.decode(), waits_on, int(since or 0), expires_ms)
    except (TypeError, ValueError, AttributeError):
        raise undecodable_record(key) from None


def seen_events(reply: Reply) -> list[SeenEvent]:
    """Return the completed events of a record, the oldest first."""
    return [SeenEvent(digest.decode(), at_ms) for digest, at_ms in scored(reply)]


def index_entries(lines: bytes) -> list[IndexEntry]:
    """Return the valid entries of one reply scope.

    ``lua/lib/wait_index.lua`` describes their form.
    """
    return [
        IndexEntry(SessionKey(found[3]), int(found[1]), int(found[2]))
        for line in lines.decode(errors="replace").split("\n")
        if (found := _ENTRY.fullmatch(line)) is not None
    ]
