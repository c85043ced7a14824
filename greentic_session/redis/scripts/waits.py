"""The scripts of waits: see ``lua/waits/``."""

from __future__ import annotations

from typing import Final

from ..transport.script import Script

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
]

REGISTER: Final = Script("waits/register")
CLAIM: Final = Script("waits/claim")
RENEW_CLAIM: Final = Script("waits/renew_claim")
END_CLAIM: Final = Script("waits/end_claim")
RELEASE_CLAIM: Final = Script("waits/release_claim")
SUPERSEDE: Final = Script("waits/supersede")
CLEAR: Final = Script("waits/clear")
INDEX_INTENT: Final = Script("waits/index_intent")
UPDATE_INDEX: Final = Script("waits/update_index")
