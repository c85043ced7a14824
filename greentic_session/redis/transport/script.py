"""Lua scripts and the digests by which a server knows them."""

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
    text = files("greentic_session.redis").joinpath("lua", f"{name}.lua").read_text("utf-8")
    return _INCLUDE.sub(lambda line: _text(line[1]), text)


@final
class Script:
    """A script and the digest by which a server knows it.

    :param name: name of the entry file under ``lua/``, without the suffix. A line
        ``--@include lib/x`` includes the text of ``lua/lib/x.lua``, which may include others.
    :param rests_on: the verdict, other than ``DONE``, that means that an earlier write fulfilled
        the request. Replicas confirm it as they confirm ``DONE``.
    :param always_writes: whether a first attempt that returns ``DONE`` always writes.
    """

    __slots__ = ("_rests_on", "always_writes", "name", "sha1", "source")

    def __init__(
        self, name: str, *, rests_on: Verdict = Verdict.DONE, always_writes: bool = True
    ) -> None:
        self.name: Final = name
        self._rests_on: Final = int(rests_on)
        self.always_writes: Final = always_writes
        self.source: Final = _text(name).encode()
        # Not a secret: EVALSHA is defined by SHA-1.
        self.sha1: Final = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()

    def is_done(self, reply: Reply) -> bool:
        """Return whether the reply says that this call fulfilled the request."""
        # The shortest reply of a script is the time of its write, which implies DONE.
        return isinstance(reply, int) or reply[0] == 1

    def rests_on_earlier(self, reply: Reply) -> bool:
        """Return whether the reply says that an earlier call fulfilled the request."""
        return self._rests_on != 1 and reply[0] == self._rests_on
