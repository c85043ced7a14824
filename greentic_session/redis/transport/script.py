"""A Lua script and the digest by which a server knows it."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import Final, final

__all__ = ["Script"]

_INCLUDE: Final = re.compile(r"^--@include ([a-z_/]+)$", re.MULTILINE)


@cache
def _text(name: str) -> str:
    # All scripts are read at import, and most library texts are part of several.
    return files("greentic_session.redis").joinpath("lua", f"{name}.lua").read_text("utf-8")


@final
class Script:
    """A script and the digest by which a server knows it.

    :param name: of its entry file under ``lua/``, without the suffix. A line ``--@include lib/x``
        includes the text of ``lua/lib/x.lua``.
    """

    __slots__ = ("name", "sha1", "source")

    def __init__(self, name: str) -> None:
        self.name: Final = name
        self.source: Final = _INCLUDE.sub(lambda line: _text(line[1]), _text(name)).encode()
        # Not a secret: EVALSHA is defined by SHA-1.
        self.sha1: Final = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()
