"""The clock of a backend, an optional capability of a store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable

__all__ = ["SupportsClock"]


class SupportsClock(ABC):
    """A store whose services may read the clock that decides when its sessions expire."""

    @abstractmethod
    def backend_clock_ms(self) -> int | Awaitable[int]:
        """Return milliseconds since the epoch, by that clock.

        In a backend without I/O, this may be a plain function, as a primitive may.

        :raises StoreUnavailableError: the backend cannot be asked.
        """
