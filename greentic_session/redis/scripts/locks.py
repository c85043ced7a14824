"""The lock scripts, and functions that build their arguments after ARGV 2.

``lua/lib/lock.lua`` describes the first two arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..transport.script import Script

if TYPE_CHECKING:
    from ..transport.protocol import Arguments

__all__ = [
    "ACQUIRE_LOCK",
    "RELEASE_LOCK",
    "RENEW_LOCK",
    "acquire_lock_arguments",
    "release_lock_arguments",
    "renew_lock_arguments",
]

ACQUIRE_LOCK: Final = Script("locks/acquire")
RENEW_LOCK: Final = Script("locks/renew")
RELEASE_LOCK: Final = Script("locks/release")


def acquire_lock_arguments(
    token: str, name: str, lease_ms: int, position_ms: int, *, queues: bool, fence_floor: int
) -> Arguments:
    """Return the arguments of ``lua/locks/acquire.lua``."""
    return token, name, lease_ms, position_ms, int(queues), fence_floor


def renew_lock_arguments(token: str, lease_ms: int) -> Arguments:
    """Return the arguments of ``lua/locks/renew.lua``."""
    return token, lease_ms


def release_lock_arguments(token: str, known_lease_end: int, channel_prefix: str) -> Arguments:
    """Return the arguments of ``lua/locks/release.lua``."""
    return token, known_lease_end, channel_prefix
