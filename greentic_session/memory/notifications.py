"""Notifications within one process."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, final

from .._compat import override
from .._core.subscribers import Subscribers
from ..abc.notifications import Subscription, SupportsNotifications

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ["MemoryNotifications"]


@final
class MemoryNotifications(SupportsNotifications):
    """The notifications of one store."""

    def __init__(self) -> None:
        self._topics: Final[dict[str, Subscribers]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._topics.values()))

    @override
    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncGenerator[Subscription]:
        """As :meth:`SupportsNotifications.subscribe`."""
        listeners = self._topics.setdefault(topic, Subscribers())
        try:
            # The subscription starts notified, because work may have arrived before.
            with listeners.subscribed(is_notified=True) as subscription:
                yield subscription
        finally:
            if not listeners:
                del self._topics[topic]

    def notify(self, topic: str) -> None:
        """Wake one subscriber of a topic."""
        if topic in self._topics:
            self._topics[topic].notify()

    def notify_all(self) -> None:
        """Wake all subscribers of all topics when the store closes."""
        for listeners in self._topics.values():
            listeners.notify_all()
