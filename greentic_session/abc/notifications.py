"""Bells: who waits for what others do sleeps until it is rung for.

A ring says that there is something to do, once: so of those in a process who listen to a topic it
wakes one. Were it to wake all of them, each ring would have as many look in vain as there are idle
workers (a thundering herd).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

__all__ = ["Bell", "SupportsBells"]


class Bell(ABC):
    """Wakes one who waits for something that others do.

    A ring is a hint: it may be lost with a connection, or come for nothing. So whoever is woken
    looks, and nobody sleeps for longer than it can bear to miss a ring. A bell rings by itself when
    it begins to be heard, and whenever it is heard again, for what was missed until then.

    Of those in a process who listen to the same topic, each ring wakes one that is not awake yet.
    It may go away with what it found, or without having looked: so whoever goes has another woken.
    """

    @abstractmethod
    async def rung(self, timeout_secs: float, due_secs: float = math.inf) -> bool:
        """Wait until the bell has rung since this returned last, or since it was made.

        :param timeout_secs: how long to wait at most.
        :param due_secs: in how many seconds there will be something to do without a ring, as far as
            the caller knows. It is woken then, but if another who listens here wakes by then
            anyway: one is enough.
        :returns: ``False`` if it has not rung.
        """


class SupportsBells(ABC):
    """A backend at which its users can wait without asking again and again."""

    @abstractmethod
    def listen(self, topic: str) -> AbstractAsyncContextManager[Bell]:
        """Have a bell that rings for a topic while the block runs.

        Entering waits for nothing, and never raises for want of the backend: a bell that cannot be
        heard yet is as one whose rings are lost.
        """
