"""The contract suite on affinity: inherit :class:`AffinityContract`, give it a ``harness`` fixture.

.. code-block:: python

    class TestAffinityOnMyStore(AffinityContract):
        @pytest.fixture
        async def harness(self) -> AsyncIterator[MyHarness]:
            async with MyHarness() as harness:
                yield harness

For stores that can keep affinity (:class:`greentic_session.abc.affinity.SupportsAffinity`). The
fixture and the rest are as for :class:`SessionStoreContract`. Each class can be inherited by
itself.
"""

from __future__ import annotations

from .inputs import AffinityClosingContract, AffinityInputContract
from .listing import AffinityListingContract
from .members import AffinityMemberContract
from .pins import AffinityPinContract
from .places import AffinityPlaceContract
from .scoping import AffinityScopingContract
from .stepping import AffinityClockContract

__all__ = ["AffinityContract"]


class AffinityContract(
    AffinityMemberContract,
    AffinityPlaceContract,
    AffinityPinContract,
    AffinityListingContract,
    AffinityClockContract,
    AffinityInputContract,
    AffinityScopingContract,
    AffinityClosingContract,
):
    """Requirements for affinity on every store that supports it."""
