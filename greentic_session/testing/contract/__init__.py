"""The contract suite: inherit :class:`SessionStoreContract`, give it a ``harness`` fixture.

.. code-block:: python

    class TestMyStore(SessionStoreContract):
        @pytest.fixture
        async def harness(self) -> AsyncIterator[MyHarness]:
            async with MyHarness() as harness:
                yield harness

The tests are coroutines and run under anyio's pytest plugin. For readable assertion failures, call
this in a ``conftest.py`` before the suite is imported::

    pytest.register_assert_rewrite("greentic_session.testing.contract")

Each class covers one subject and can be inherited by itself. The harness moves time, so no test
sleeps. A server's clock runs meanwhile, so tests keep seconds of distance from an expiry.
"""

from __future__ import annotations

from .affinity.contract import AffinityContract
from .events import EventContract
from .flows.contract import FlowContract
from .generations.contract import GenerationContract
from .inbox.contract import InboxContract
from .locks.contract import LockContract
from .store.absence import AbsenceContract
from .store.arguments import ArgumentContract
from .store.batches import BatchContract
from .store.beginning import BeginningContract, EndingByMutateContract
from .store.bodies import BodyContract, DecodingContract
from .store.callers import CallerContract
from .store.closing import ClosingContract
from .store.evolution import EvolutionContract, VersionContract
from .store.expiry import LifeContract, TouchContract
from .store.fencing import FencingContract, IsolationContract
from .store.finding import FindingContract
from .store.given_lives import GivenLifeContract
from .store.inputs import InputContract
from .store.leaks import LeavingContract
from .store.lookup import LookupContract, LookupLifeContract
from .store.mutating import MutatingContract
from .store.naming import NamingContract
from .store.outbox import OutboxContract
from .store.payloads import PayloadContract
from .store.races import RaceContract
from .store.reading import ReadingContract
from .store.replacing import ReplacingContract
from .store.scanning import ScanningContract
from .store.scoping import ScopingContract
from .store.tenants import TenantContract
from .store.verifying import VerifyingContract
from .store.writing import StampingContract, WritingContract
from .streams.contract import StreamContract
from .timers.contract import TimerContract
from .waits.contract import WaitContract

__all__ = [
    "AbsenceContract",
    "AffinityContract",
    "ArgumentContract",
    "BatchContract",
    "BeginningContract",
    "BodyContract",
    "CallerContract",
    "ClosingContract",
    "DecodingContract",
    "EndingByMutateContract",
    "EventContract",
    "EvolutionContract",
    "FencingContract",
    "FindingContract",
    "FlowContract",
    "GenerationContract",
    "GivenLifeContract",
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
    "ReplacingContract",
    "ScanningContract",
    "ScopingContract",
    "SessionStoreContract",
    "StampingContract",
    "StreamContract",
    "TenantContract",
    "TimerContract",
    "TouchContract",
    "VerifyingContract",
    "VersionContract",
    "WaitContract",
    "WritingContract",
]


class SessionStoreContract(
    ReadingContract,
    LookupContract,
    LookupLifeContract,
    ScanningContract,
    ScopingContract,
    TenantContract,
    AbsenceContract,
    WritingContract,
    StampingContract,
    MutatingContract,
    ReplacingContract,
    BeginningContract,
    EndingByMutateContract,
    BatchContract,
    CallerContract,
    LifeContract,
    TouchContract,
    GivenLifeContract,
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
    """Requirements for every store."""
