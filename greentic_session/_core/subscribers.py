"""The subscribers of a notification topic in this process."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, final

import anyio

from .._compat import override
from ..abc.notifications import Subscription

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["Subscribers"]

_SLACK_SECS: Final = 0.05


@final
class Subscribers:
    """Holds the subscribers of one topic in this process, in the order of their arrival."""

    def __init__(self) -> None:
        self._subscribers: Final[list[_Subscriber]] = []

    def __len__(self) -> int:
        return len(self._subscribers)

    @contextmanager
    def subscribed(self, *, is_notified: bool) -> Generator[Subscription]:
        """Subscribe while the block runs.

        :param is_notified: whether the subscription starts notified.
        """
        subscription = _Subscriber(self._subscribers)
        if is_notified:
            subscription.notify()
        self._subscribers.append(subscription)
        try:
            yield subscription
        finally:
            self._subscribers.remove(subscription)
            self.notify()

    def notify(self) -> None:
        """Wake the first subscriber that is still asleep."""
        for subscription in self._subscribers:
            if not subscription.is_notified:
                subscription.notify()
                return

    def notify_all(self) -> None:
        """Wake every subscriber, after a reconnect or on close."""
        for subscription in self._subscribers:
            subscription.notify()


@final
class _Subscriber(Subscription):
    def __init__(self, subscribers: list[_Subscriber]) -> None:
        self._subscribers: Final = subscribers
        self._event = anyio.Event()
        self.wakes_at = math.inf  # end of the wait without a notification, inf while it is awake

    @property
    def is_notified(self) -> bool:
        return self._event.is_set()

    def notify(self) -> None:
        self._event.set()

    @override
    async def wait(self, timeout_secs: float, due_secs: float = math.inf) -> bool:
        now = anyio.current_time()
        # The due times of two subscribers for the same work differ by microseconds.
        about_then = now + due_secs + min(due_secs / 10, _SLACK_SECS)
        if due_secs < timeout_secs and not any(
            subscription.wakes_at <= about_then
            for subscription in self._subscribers
            if subscription is not self
        ):
            timeout_secs = due_secs
        self.wakes_at = now + timeout_secs
        with anyio.move_on_after(timeout_secs):
            await self._event.wait()
        self.wakes_at = math.inf
        if not self._event.is_set():
            return False
        self._event = anyio.Event()
        return True
