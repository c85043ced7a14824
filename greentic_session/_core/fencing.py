"""The counter that issues the fencing tokens of a store object."""

from __future__ import annotations

from typing import final

__all__ = ["FencingCounter"]


@final
class FencingCounter:
    """Keeps the fencing tokens of one kind of lease growing, for one store object.

    Each new token is at least the store's time in microseconds, and higher than every token that
    this object has seen. So for this object the tokens grow even if a clock was set back, or if
    another server with another clock has taken over. A server keeps the last token of each key as
    well: see :mod:`greentic_session.abc.fencing`.

    :ivar last: the highest token so far. A server gets it with each claim and grants a higher one.
    """

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last: int = 0

    def issue(self, now_ms: int, above: int = 0) -> int:
        """Return the fencing token of a new grant.

        :param now_ms: the store's time, in milliseconds since the epoch.
        :param above: a token that the new one exceeds as well.
        """
        self.last = max(now_ms * 1000, self.last + 1, above + 1)
        return self.last

    def observe(self, fence: int) -> None:
        """Remember a fencing token that a server issued."""
        self.last = max(self.last, fence)
