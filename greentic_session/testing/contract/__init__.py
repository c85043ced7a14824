"""The contract suite: inherit :class:`SessionStoreContract`, give it a ``harness`` fixture.

.. code-block:: python

    class TestMyStore(SessionStoreContract):
        @pytest.fixture
        async def harness(self) -> AsyncIterator[MyHarness]:
            async with MyHarness() as harness:
                yield harness

The tests are coroutines and run under anyio's pytest plugin. So that failed assertions show their
values, a ``conftest.py`` says, before the suite is imported::

    pytest.register_assert_rewrite("greentic_session.testing.contract")

Each class states one subject, and can be inherited by itself. The harness moves time, so no test
sleeps, and none relies on being within seconds of an expiry: a server's clock runs on meanwhile.
"""

from __future__ import annotations

from .absence import AbsenceContract
from .affinity import AffinityContract
from .arguments import ArgumentContract
from .bodies import BodyContract, DecodingContract
from .closing import ClosingContract
from .fencing import FencingContract, IsolationContract
from .inbox import InboxContract
from .inputs import InputContract
from .leaving import LeavingContract
from .life import LifeContract, TouchContract
from .lock import LockContract
from .lookup import LookupContract, LookupLifeContract
from .mutating import MutatingContract
from .naming import NamingContract
from .outbox import OutboxContract
from .payloads import PayloadContract
from .races import RaceContract
from .reading import ReadingContract
from .scanning import ScanningContract
from .scoping import ScopingContract
from .verifying import VerifyingContract
from .wait import WaitContract
from .writing import StampingContract, WritingContract

__all__ = [
    "AbsenceContract",
    "AffinityContract",
    "ArgumentContract",
    "BodyContract",
    "ClosingContract",
    "DecodingContract",
    "FencingContract",
    "InboxContract",
    "InputContract",
    "IsolationContract",
    "LeavingContract",
    "LifeContract",
    "LockContract",
    "LookupContract",
    "LookupLifeContract",
    "MutatingContract",
    "NamingContract",
    "OutboxContract",
    "PayloadContract",
    "RaceContract",
    "ReadingContract",
    "ScanningContract",
    "ScopingContract",
    "SessionStoreContract",
    "StampingContract",
    "TouchContract",
    "VerifyingContract",
    "WaitContract",
    "WritingContract",
]


class SessionStoreContract(
    ReadingContract,
    LookupContract,
    LookupLifeContract,
    ScanningContract,
    ScopingContract,
    AbsenceContract,
    WritingContract,
    StampingContract,
    MutatingContract,
    LifeContract,
    TouchContract,
    LeavingContract,
    IsolationContract,
    FencingContract,
    NamingContract,
    InputContract,
    PayloadContract,
    ArgumentContract,
    BodyContract,
    DecodingContract,
    VerifyingContract,
    OutboxContract,
    RaceContract,
    ClosingContract,
):
    """Everything that every store must do."""
