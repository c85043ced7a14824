"""A Lua script and the digest by which a server knows it."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Final, final

__all__ = ["Script"]


@cache
def _text(name: str) -> str:
    # Most are part of several scripts, and all of them are read at import.
    return files("greentic_session.redis").joinpath("lua", f"{name}.lua").read_text("utf-8")


@final
class Script:
    """A script and the digest by which a server knows it.

    :param parts: names of the ``.lua`` files that make it up: what it shares with others, then the
        verb's own.
    """

    __slots__ = ("sha1", "source")

    def __init__(self, *parts: str) -> None:
        self.source: Final = "\n".join(map(_text, parts)).encode()
        # Not a secret: EVALSHA is defined by SHA-1.
        self.sha1: Final = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()
