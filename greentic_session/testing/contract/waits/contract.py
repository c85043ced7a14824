"""The contract suite on waits: inherit :class:`WaitContract`, give it a ``harness`` fixture.

.. code-block:: python

    class TestWaitsOnMyStore(WaitContract):
        @pytest.fixture
        async def harness(self) -> AsyncIterator[MyHarness]:
            async with MyHarness() as harness:
                yield harness

For stores that can keep waits (:class:`greentic_session.abc.waits.SupportsWaits`). The fixture and
the rest are as for :class:`SessionStoreContract`. Each class can be inherited by itself.
"""

from __future__ import annotations

from .claiming import WaitClaimingContract
from .ending import WaitEndingContract
from .events import WaitEventContract
from .fencing import WaitFencingContract
from .finding import WaitFindingContract
from .index import WaitClosingContract, WaitIndexContract
from .inputs import WaitInputContract
from .leaving import WaitLeavingContract
from .life import WaitLifeContract
from .losing import WaitLosingContract
from .racing import WaitRaceContract
from .registering import WaitRegisteringContract
from .remembering import WaitRememberingContract
from .replacing import ReplacedWaitContract
from .resuming import WaitResumingContract
from .starting import WaitStartingContract
from .stepping import WaitClockContract
from .waiting import WaitWaitingContract

__all__ = ["WaitContract"]


class WaitContract(
    WaitRegisteringContract,
    WaitStartingContract,
    WaitFindingContract,
    WaitFencingContract,
    WaitInputContract,
    WaitClaimingContract,
    WaitEndingContract,
    WaitLosingContract,
    WaitClockContract,
    WaitResumingContract,
    WaitWaitingContract,
    WaitEventContract,
    WaitRememberingContract,
    WaitLifeContract,
    WaitLeavingContract,
    WaitIndexContract,
    WaitRaceContract,
    ReplacedWaitContract,
    WaitClosingContract,
):
    """Requirements for a registry of waits on every store that supports waits."""
