"""The interface of notifications, which wake a waiter that sleeps until there is work.

A notification announces one piece of work, so it wakes one of the waiters of a topic in a process.
Waking all of them would make every idle worker poll for the same message (a thundering herd).

A notification may carry a message. Every listener of the topic receives it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

__all__ = ["Subscription", "SupportsNotifications"]


class Subscription(ABC):
    """Wakes one waiter of a topic.

    A notification may be lost with its connection, and it may be spurious. So a waiter that wakes
    up polls, and every wait has a timeout. A subscription is notified when it becomes active, and
    after each reconnect, because notifications may have been lost before.

    Each notification wakes one waiter of the process that still sleeps. A waiter that unsubscribes
    passes its notification on to the next one.
    """

    @abstractmethod
    async def wait(self, timeout_secs: float, due_secs: float = math.inf) -> bool:
        """Wait for a notification since the last call, or since the subscription was made.

        :param timeout_secs: timeout of the wait, in seconds.
        :param due_secs: seconds until the next known work is due without a notification. The caller
            wakes up then, unless another waiter of the topic wakes up before.
        :returns: ``False`` on timeout.
        """


class SupportsNotifications(ABC):
    """A backend whose waiters need not poll."""

    @abstractmethod
    def subscribe(self, topic: str) -> AbstractAsyncContextManager[Subscription]:
        """Subscribe to a topic while the block runs.

        Entering does not wait for the backend, and does not raise if it is unavailable.
        Notifications are lost until the subscription is active.
        """

    @abstractmethod
    def listen(
        self, topic: str, receive: Callable[[bytes | None], None]
    ) -> AbstractAsyncContextManager[None]:
        """Call a function with the message of each notification while the block runs.

        Entering behaves as with :meth:`subscribe`.

        :param receive: called with the message. It is called with ``None`` when messages may have
            been lost: when the subscription becomes active, and after each reconnect. It must not
            raise.
        """
