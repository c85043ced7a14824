"""The scripts of locks: see ``lua/locks/``."""

from __future__ import annotations

from typing import Final

from ..transport.script import Script

__all__ = [
    "ACQUIRE_LOCK",
    "RELEASE_LOCK",
    "RENEW_LOCK",
]

ACQUIRE_LOCK: Final = Script("locks/acquire")
RENEW_LOCK: Final = Script("locks/renew")
RELEASE_LOCK: Final = Script("locks/release")
