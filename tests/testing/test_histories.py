"""Tests that histories of concurrent clients have an order, under all faults."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import pytest

from greentic_session import create_session_store
from greentic_session.testing.proxy import Fate, FaultProxy, at_random

from ..support.histories import CLIENTS, OPERATIONS, Clients
from ..support.redis import SEED, store_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from greentic_session.testing.servers import LocalServer

pytestmark = pytest.mark.anyio

HISTORIES: Final = 300
"""In ``--full``. The default run has a share of them."""
DEADLINE_SECS: Final = 0.5
FATES: Final = tuple(fate for fate in Fate if fate is not Fate.PASS)


def assert_orderly(clients: Clients, histories: int) -> None:
    print(  # noqa: T201 - pytest shows it with a failure
        f"GREENTIC_SESSION_TEST_SEED={SEED}:",
        ", ".join(f"{count} {what}" for what, count in sorted(clients.tally.items())),
    )
    assert not clients.verdicts, clients.verdicts[0].explanation
    assert clients.late == []
    assert clients.tally["histories"] == histories
    assert clients.tally["operations"] >= histories * OPERATIONS
    assert clients.tally["cancelled"] > histories / 2
    # They did conflict with one another, and most of their calls succeeded.
    assert clients.tally["refused"] > histories * CLIENTS
    assert clients.tally["done"] > histories * OPERATIONS / 3


async def test_histories_in_memory_with_cancelled_clients_have_an_order(
    scaled: Callable[[int], int],
) -> None:
    histories = scaled(HISTORIES)
    async with create_session_store("memory://") as store:
        clients = Clients([store], store, cancels=0.1)
        await clients.play(range(histories), SEED)
        assert_orderly(clients, histories)


@pytest.mark.timeout(180)  # seconds; about twenty are needed on an idle machine
@pytest.mark.parametrize("server", ["valkey"], indirect=True)
async def test_histories_over_a_faulty_connection_with_cancelled_clients_have_an_order(
    server: LocalServer, scaled: Callable[[int], int]
) -> None:
    histories = scaled(HISTORIES)
    namespace = f"test:{uuid4().hex}"
    schedule = at_random(SEED, 0.06, FATES)
    delay_secs = 0.7 * DEADLINE_SECS  # longer than the limit of an attempt, which is half
    async with (
        FaultProxy(server.port, schedule, delay_secs=delay_secs) as proxy,
        store_at(server.url, namespace=namespace) as reader,
        AsyncExitStack() as stack,
    ):
        # Each client of a key has a connection of its own, and shares it with those of other keys.
        stores = [
            await stack.enter_async_context(
                store_at(proxy.url, namespace=namespace, deadline=DEADLINE_SECS)
            )
            for _ in range(CLIENTS)
        ]
        clients = Clients(stores, reader, cancels=0.03, deadline_secs=DEADLINE_SECS)
        await clients.play(range(histories), SEED)
        print(", ".join(f"{count} {fate.name}" for fate, count in proxy.met.items()))  # noqa: T201
        assert_orderly(clients, histories)
        assert min(proxy.met[fate] for fate in FATES) > histories / 30
