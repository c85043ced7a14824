"""The interface of a server process that the store starts itself."""

from __future__ import annotations

from abc import ABC, abstractmethod

__all__ = ["ServerProcess"]


class ServerProcess(ABC):
    """Runs the store's server while the store is open."""

    @abstractmethod
    async def start(self) -> None:
        """Start the server and wait until it replies. Awaited when the store is entered.

        :raises StoreUnavailableError: the server cannot be started.
        """

    @abstractmethod
    async def ensure_running(self) -> None:
        """Make sure that the server listens. Awaited before each connection, within its timeout.

        :raises OSError: the server cannot be started. The call retries until its deadline.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Release the server. Awaited once, after the connections were closed."""
