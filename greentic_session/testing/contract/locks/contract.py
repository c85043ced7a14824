"""The contract suite on locks: inherit :class:`LockContract`, give it a ``harness`` fixture.

.. code-block:: python

    class TestLocksOnMyStore(LockContract):
        @pytest.fixture
        async def harness(self) -> AsyncIterator[MyHarness]:
            async with MyHarness() as harness:
                yield harness

For stores that can keep locks (:class:`greentic_session.abc.locks.SupportsLocks`) and fence writes
by them (:class:`greentic_session.abc.fencing.SupportsFencing`). The fixture and the rest are as for
:class:`SessionStoreContract`. Each class can be inherited by itself.
"""

from __future__ import annotations

from .holding import LockHoldingContract
from .inputs import LockInputContract
from .losing import LockLosingContract
from .scoping import LockScopingContract
from .stepping import LockClockContract
from .waiting import LockWaitingContract

__all__ = [
    "LockClockContract",
    "LockContract",
    "LockHoldingContract",
    "LockInputContract",
    "LockLosingContract",
    "LockScopingContract",
    "LockWaitingContract",
]


class LockContract(
    LockHoldingContract,
    LockWaitingContract,
    LockLosingContract,
    LockInputContract,
    LockClockContract,
    LockScopingContract,
):
    """Requirements for every backend of locks."""
