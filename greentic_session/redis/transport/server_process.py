"""The interface to the process of a server that the store starts itself."""

from __future__ import annotations

from abc import ABC, abstractmethod

__all__ = ["ServerProcess"]


class ServerProcess(ABC):
    """Has the store's server run for as long as the store is open."""

    @abstractmethod
    async def start(self) -> None:
        """Have the server answer. Awaited when the store is entered.

        :raises StoreUnavailableError: it cannot be had.
        """

    @abstractmethod
    async def ensure_running(self) -> None:
        """Have the server listen. Awaited before each connection, within the limit of that.

        :raises OSError: it cannot be had: the call tries again until its deadline.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Need the server no longer. Awaited once, after the connections were closed."""
