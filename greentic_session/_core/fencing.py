"""The counter that issues the fencing tokens of a store object."""

from __future__ import annotations

from typing import final

__all__ = ["FencingCounter"]


@final
class FencingCounter:
    """Issues growing fencing tokens for one kind of lease and one store object.

    Each new token is at least the store's time in microseconds, and higher than every token that
    this object has seen. So for this object, the tokens grow even if a clock was set back, or if a
    server with another clock has taken over. A server also keeps the last token of each key: see
    :mod:`greentic_session.abc.fencing`.

    :ivar last: the highest token so far. Each request for a lease sends it to the server, which
        grants a higher one.
    """

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last: int = 0

    def issue(self, now_ms: int, above: int = 0) -> int:
        """Return the fencing token of a new grant.

        :param now_ms: the store's time, in milliseconds since the epoch.
        :param above: another token that the new one must exceed.
        """
        self.last = max(now_ms * 1000, self.last + 1, above + 1)
        return self.last

    def observe(self, fence: int) -> None:
        """Remember a fencing token that a server issued."""
        self.last = max(self.last, fence)
