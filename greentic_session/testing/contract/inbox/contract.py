"""The contract suite on inboxes: inherit :class:`InboxContract`, give it a ``harness`` fixture.

.. code-block:: python

    class TestInboxesOnMyStore(InboxContract):
        @pytest.fixture
        async def harness(self) -> AsyncIterator[MyHarness]:
            async with MyHarness() as harness:
                yield harness

For stores that can keep inboxes (:class:`greentic_session.abc.inbox.SupportsInbox`), and waits. The
fixture and the rest are as for :class:`SessionStoreContract`. Each class can be inherited by
itself.
"""

from __future__ import annotations

from .admitting import InboxAdmittingContract
from .bounds import InboxBoundsContract
from .early import InboxEarlyContract
from .ending import InboxEndingContract
from .failing import InboxFailingContract
from .headers import InboxHeaderContract
from .inputs import InboxInputContract
from .leaving import InboxLeavingContract
from .stepping import InboxClockContract
from .taking import InboxTakingContract
from .tenants import InboxTenantContract
from .waking import InboxWakingContract
from .withdrawing import InboxWithdrawingContract

__all__ = ["InboxContract"]


class InboxContract(
    InboxAdmittingContract,
    InboxTakingContract,
    InboxTenantContract,
    InboxHeaderContract,
    InboxWakingContract,
    InboxEndingContract,
    InboxFailingContract,
    InboxBoundsContract,
    InboxClockContract,
    InboxEarlyContract,
    InboxInputContract,
    InboxWithdrawingContract,
    InboxLeavingContract,
):
    """Requirements for an inbox on every store that supports inboxes."""
