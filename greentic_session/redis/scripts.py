"""The Lua scripts beside this file, one per verb that writes."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final, final

__all__ = ["CREATE", "DELETE", "PUT", "TOUCH", "UPDATE_CAS", "Script"]


@final
class Script:
    """A script and the digest by which a server knows it.

    :param verb: name of the ``.lua`` file; ``record.lua`` is put before its text.
    """

    __slots__ = ("sha1", "source")

    def __init__(self, verb: str) -> None:
        folder = files(__package__ or "").joinpath("lua")
        self.source: Final = "\n".join(
            folder.joinpath(f"{name}.lua").read_text("utf-8") for name in ("record", verb)
        ).encode()
        # Not a secret: EVALSHA is defined by SHA-1.
        self.sha1: Final = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()


CREATE: Final = Script("create")
PUT: Final = Script("put")
UPDATE_CAS: Final = Script("update_cas")
TOUCH: Final = Script("touch")
DELETE: Final = Script("delete")
