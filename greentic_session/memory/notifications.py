"""Notifications within one process."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, final

from .._compat import override
from .._core.subscribers import Subscribers
from ..abc.notifications import Subscription, SupportsNotifications

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

__all__ = ["MemoryNotifications"]


@final
class MemoryNotifications(SupportsNotifications):
    """The notifications of one store."""

    def __init__(self) -> None:
        self._topics: Final[dict[str, Subscribers]] = {}
        self._listeners: Final[dict[str, list[Callable[[bytes | None], None]]]] = {}

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

    @override
    @asynccontextmanager
    async def listen(
        self, topic: str, receive: Callable[[bytes | None], None]
    ) -> AsyncGenerator[None]:
        """As :meth:`SupportsNotifications.listen`."""
        listeners = self._listeners.setdefault(topic, [])
        listeners.append(receive)
        try:
            receive(None)
            yield
        finally:
            listeners.remove(receive)
            if not listeners:
                del self._listeners[topic]

    def publish(self, topic: str, message: bytes) -> None:
        """Pass a message to all listeners of a topic."""
        for receive in tuple(self._listeners.get(topic, ())):
            receive(message)

    def notify(self, topic: str) -> None:
        """Wake one subscriber of a topic."""
        if topic in self._topics:
            self._topics[topic].notify()

    def notify_all(self) -> None:
        """Wake all subscribers of all topics when the store closes."""
        for listeners in self._topics.values():
            listeners.notify_all()
