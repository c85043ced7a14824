"""The contract suite: inherit :class:`SessionStoreContract`, give it a ``harness`` fixture.

.. code-block:: python

    class TestMyStore(SessionStoreContract):
        @pytest.fixture
        async def harness(self) -> AsyncIterator[MyHarness]:
            async with MyHarness() as harness:
                yield harness

The tests are coroutines and run under anyio's pytest plugin.
"""

from __future__ import annotations

from .reading import ReadingContract

__all__ = ["ReadingContract", "SessionStoreContract"]


class SessionStoreContract(ReadingContract):
    """Everything that every store must do."""
