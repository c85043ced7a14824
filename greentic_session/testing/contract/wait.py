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

from .wait_claiming import WaitClaimingContract
from .wait_ending import WaitEndingContract
from .wait_events import WaitEventContract
from .wait_fencing import WaitFencingContract
from .wait_finding import WaitFindingContract
from .wait_index import WaitClosingContract, WaitIndexContract
from .wait_inputs import WaitInputContract
from .wait_leaving import WaitLeavingContract
from .wait_life import WaitLifeContract
from .wait_losing import WaitLosingContract
from .wait_racing import WaitRaceContract
from .wait_registering import WaitRegisteringContract
from .wait_remembering import WaitRememberingContract
from .wait_resuming import WaitResumingContract
from .wait_starting import WaitStartingContract

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
    WaitResumingContract,
    WaitEventContract,
    WaitRememberingContract,
    WaitLifeContract,
    WaitLeavingContract,
    WaitIndexContract,
    WaitRaceContract,
    WaitClosingContract,
):
    """Everything that a registry of waits must do on every store that can keep them."""
