"""The scripts of affinity: see ``lua/affinity/``."""

from __future__ import annotations

from typing import Final

from ..transport.script import Script

__all__ = [
    "AFFINITY_ASSIGN",
    "AFFINITY_FORGET",
    "AFFINITY_JOIN",
    "AFFINITY_LEAVE",
    "AFFINITY_PIN",
    "AFFINITY_RENEW",
    "AFFINITY_TOUCH",
    "AFFINITY_UNPIN",
]

AFFINITY_JOIN: Final = Script("affinity/join")
AFFINITY_RENEW: Final = Script("affinity/renew")
AFFINITY_LEAVE: Final = Script("affinity/leave")
AFFINITY_ASSIGN: Final = Script("affinity/assign")
AFFINITY_PIN: Final = Script("affinity/pin")
AFFINITY_UNPIN: Final = Script("affinity/unpin")
AFFINITY_TOUCH: Final = Script("affinity/touch")
AFFINITY_FORGET: Final = Script("affinity/forget")
