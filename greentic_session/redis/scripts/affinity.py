"""The affinity scripts, and functions that build their arguments after ARGV 2.

``lua/lib/affinity.lua`` describes the first two arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ...abc.records import Verdict
from ..transport.script import Script

if TYPE_CHECKING:
    from ..transport.protocol import Arguments

__all__ = [
    "AFFINITY_ASSIGN",
    "AFFINITY_FORGET",
    "AFFINITY_JOIN",
    "AFFINITY_LEAVE",
    "AFFINITY_PIN",
    "AFFINITY_RENEW",
    "AFFINITY_TOUCH",
    "AFFINITY_UNPIN",
    "affinity_assign_arguments",
    "affinity_forget_arguments",
    "affinity_join_arguments",
    "affinity_leave_arguments",
    "affinity_pin_arguments",
    "affinity_renew_arguments",
    "affinity_touch_arguments",
    "affinity_unpin_arguments",
]

AFFINITY_JOIN: Final = Script("affinity/join")
AFFINITY_RENEW: Final = Script("affinity/renew")
AFFINITY_LEAVE: Final = Script("affinity/leave")
AFFINITY_ASSIGN: Final = Script("affinity/assign")
AFFINITY_PIN: Final = Script("affinity/pin")
AFFINITY_UNPIN: Final = Script("affinity/unpin", rests_on=Verdict.ABSENT)
AFFINITY_TOUCH: Final = Script("affinity/touch")
AFFINITY_FORGET: Final = Script("affinity/forget", rests_on=Verdict.ABSENT)


def affinity_join_arguments(
    grace_ms: int, worker: str, attempt: str, lease_ms: int, fence_floor: int
) -> Arguments:
    """Return the arguments of ``lua/affinity/join.lua``."""
    return grace_ms, worker, attempt, lease_ms, fence_floor


def affinity_renew_arguments(grace_ms: int, worker: str, attempt: str, lease_ms: int) -> Arguments:
    """Return the arguments of ``lua/affinity/renew.lua``."""
    return grace_ms, worker, attempt, lease_ms


def affinity_leave_arguments(grace_ms: int, worker: str, attempt: str) -> Arguments:
    """Return the arguments of ``lua/affinity/leave.lua``."""
    return grace_ms, worker, attempt


def affinity_assign_arguments(grace_ms: int, key: str, ttl_ms: int) -> Arguments:
    """Return the arguments of ``lua/affinity/assign.lua``."""
    return grace_ms, key, ttl_ms


def affinity_pin_arguments(grace_ms: int, key: str, worker: str, ttl_ms: int) -> Arguments:
    """Return the arguments of ``lua/affinity/pin.lua``."""
    return grace_ms, key, worker, ttl_ms


def affinity_unpin_arguments(grace_ms: int, key: str, ttl_ms: int) -> Arguments:
    """Return the arguments of ``lua/affinity/unpin.lua``."""
    return grace_ms, key, ttl_ms


def affinity_touch_arguments(grace_ms: int, key: str, ttl_ms: int | None) -> Arguments:
    """Return the arguments of ``lua/affinity/touch.lua``.

    :param ttl_ms: the new lifetime in milliseconds. ``None`` keeps the stored one.
    """
    return grace_ms, key, "" if ttl_ms is None else ttl_ms


def affinity_forget_arguments(grace_ms: int, key: str) -> Arguments:
    """Return the arguments of ``lua/affinity/forget.lua``."""
    return grace_ms, key
