"""A Lua script and the digest by which a server knows it."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final, final

from ...abc.records import Verdict

if TYPE_CHECKING:
    from .protocol import Reply

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
    :param rests_on: the verdict, next to ``DONE``, that rests on an earlier write: the request was
        fulfilled before. Replicas confirm it as they confirm ``DONE``.
    :param always_writes: whether the first attempt that returns ``DONE`` has written something.
    """

    __slots__ = ("_rests_on", "always_writes", "name", "sha1", "source")

    def __init__(
        self, name: str, *, rests_on: Verdict = Verdict.DONE, always_writes: bool = True
    ) -> None:
        self.name: Final = name
        self._rests_on: Final = int(rests_on)
        self.always_writes: Final = always_writes
        self.source: Final = _INCLUDE.sub(lambda line: _text(line[1]), _text(name)).encode()
        # Not a secret: EVALSHA is defined by SHA-1.
        self.sha1: Final = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()

    def is_done(self, reply: Reply) -> bool:
        """Tell whether the reply says that the request was fulfilled by this call."""
        # A script's shortest answer is a number: that it is done, and when.
        return isinstance(reply, int) or reply[0] == 1

    def rests_on_earlier(self, reply: Reply) -> bool:
        """Tell whether the reply says that the request was fulfilled before this call."""
        return self._rests_on != 1 and reply[0] == self._rests_on
