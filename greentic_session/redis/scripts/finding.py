"""The scripts on indexes of sessions, and functions that build their arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from ..transport.script import Script

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..transport.protocol import Arguments

__all__ = [
    "ADD",
    "END_WRITE",
    "INDEX_SESSION",
    "MARK_COMPLETE",
    "REPAIR",
    "add_arguments",
    "end_write_arguments",
    "index_session_arguments",
    "mark_complete_arguments",
    "repair_arguments",
]

ADD: Final = Script("finding/add")


def add_arguments(session_key: str, token: str, hold_ms: int, guard_ms: int) -> Arguments:
    """Return the arguments from ARGV 3 on."""
    return session_key, token, hold_ms, guard_ms


END_WRITE: Final = Script("finding/end_write")


def end_write_arguments(session_key: str, token: str, guard_ms: int) -> Arguments:
    """Return the arguments from ARGV 3 on."""
    return session_key, token, guard_ms


REPAIR: Final = Script("finding/repair")


def repair_arguments(
    kind: str, value: str, guard_ms: int, read_at: int, session_keys: Sequence[str]
) -> Arguments:
    """Return the arguments from ARGV 3 on."""
    return kind, value, guard_ms, read_at, *session_keys


INDEX_SESSION: Final = Script("finding/index_session")


def index_session_arguments(
    expected_incarnation: str,
    expected_version: int | Literal[""],
    held_ms: int | Literal[""],
    new_labels: str,
) -> Arguments:
    """Return the arguments from ARGV 4 on."""
    return expected_incarnation, expected_version, held_ms, new_labels


MARK_COMPLETE: Final = Script("finding/mark_complete")


def mark_complete_arguments(marks: Sequence[str]) -> Arguments:
    """Return the arguments from ARGV 3 on."""
    return tuple(marks)
