"""The Lua scripts beside this file, one per verb that writes."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final, final

__all__ = [
    "ANNOUNCE",
    "BARRIER",
    "CLAIM",
    "CLEAR",
    "CREATE",
    "DELETE",
    "DISPLACE",
    "PAUSE",
    "PUT",
    "REINDEX",
    "RELEASE",
    "RENEW",
    "SETTLE",
    "TOUCH",
    "UPDATE_CAS",
    "Script",
]


@final
class Script:
    """A script and the digest by which a server knows it.

    :param parts: names of the ``.lua`` files that make it up: what it shares with others, then the
        verb's own.
    """

    __slots__ = ("sha1", "source")

    def __init__(self, *parts: str) -> None:
        folder = files(__package__ or "").joinpath("lua")
        self.source: Final = "\n".join(
            folder.joinpath(f"{name}.lua").read_text("utf-8") for name in parts
        ).encode()
        # Not a secret: EVALSHA is defined by SHA-1.
        self.sha1: Final = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()


CREATE: Final = Script("record", "create")
PUT: Final = Script("record", "put")
UPDATE_CAS: Final = Script("update_cas_fast", "record", "conflict", "update_cas")
TOUCH: Final = Script("record", "touch")
DELETE: Final = Script("record", "remove", "delete")

PAUSE: Final = Script("record", "conflict", "events", "wait", "pause")
CLAIM: Final = Script("record", "events", "wait", "claim")
RENEW: Final = Script("record", "events", "wait", "renew")
SETTLE: Final = Script("record", "conflict", "remove", "events", "wait", "settle")
RELEASE: Final = Script("record", "events", "wait", "release")
DISPLACE: Final = Script("record", "events", "wait", "displace")
CLEAR: Final = Script("record", "remove", "events", "wait", "clear")

ANNOUNCE: Final = Script("index", "announce")
REINDEX: Final = Script("index", "events", "reindex")
BARRIER: Final = Script("barrier")
