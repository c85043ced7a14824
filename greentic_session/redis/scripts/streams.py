"""The stream scripts, and a function that builds their arguments after ARGV 2.

``lua/lib/stream.lua`` describes the keys and the arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..transport.script import Script

if TYPE_CHECKING:
    from ...abc.streams import StreamLimits
    from ..transport.protocol import Arguments

__all__ = ["STREAMS_SEND", "STREAMS_SEND_ALL", "streams_send_arguments"]

STREAMS_SEND: Final = Script("streams/send")
STREAMS_SEND_ALL: Final = Script("streams/send_all")


def streams_send_arguments(mark: int, body: bytes, limits: StreamLimits, channel: str) -> Arguments:
    """Return the arguments of ``lua/streams/send.lua`` and ``lua/streams/send_all.lua``."""
    return mark, body, limits.length, limits.keep_ms, channel
