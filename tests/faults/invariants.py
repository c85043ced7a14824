"""What holds whatever goes wrong, and who sees to it: writers, and workers with waits to resume.

* **I1** the history of each key is linearizable, by the search and by the order of versions.
* **I2** successes reported are versions grown (one of the rules of the latter).
* **I3** no acknowledged write is lost at the durability that was promised.
* **I4** a wait has one turn.
* **I5** fences never decrease.
* **I6** no connection, task or lease is left.
* **I7** every call ends by its deadline and a tenth more.
* **I8** nobody meets an exception that is not documented. It fails the test as it is.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from greentic_session import SessionKey, create_session_store
from greentic_session.testing.history import History
from greentic_session.testing.linearizability import check_history
from greentic_session.testing.version_order import check_versions

from ..support.histories import Clients
from ..support.redis import SEED, store_at, until, until_async
from ..support.writers import DEADLINE_SECS, Fleet
from .waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from greentic_session import AsyncSessionStore
    from greentic_session.testing.history import Operation
    from greentic_session.testing.topologies import Node

    Store = AsyncSessionStore[Any]

WRITERS: Final = 8
KEYS: Final = tuple(SessionKey(f"writer-{number}") for number in range(WRITERS))
PAUSE_SECS: Final = 0.003


class Company:
    """Eight clients of each of two sessions, who meet one another, and workers with waits.

    :ivar clients: the former. Their stores are those at the lines that go bad.
    :ivar waits: the latter.
    """

    def __init__(self, stores: Sequence[Store], calm: Store, **how: Any) -> None:
        self.stores: Final = stores
        self.clients: Final = Clients(stores, calm, pause_secs=PAUSE_SECS, **how)
        self.waits: Final = Waiting(stores, calm, self.clients.stopwatch)

    @property
    def retries(self) -> int:
        return sum(store.statistics().retries for store in self.stores)

    def assert_unseen(self) -> None:
        """Nobody was told anything but what rivals tell one another."""
        met = self.clients.met
        assert not met["StoreUnavailableError"], met
        assert not met["OutcomeUnknownError"], met
        assert not self.waits.told["failed"], self.waits.told


@asynccontextmanager
async def at_work(
    url: str,
    calm_url: str = "",
    *,
    nodes: Sequence[Node] = (),
    deadline_secs: float = 8.0,
    waits: bool = True,
    namespace: str = "",
    protocol: int = 3,
    **how: Any,
) -> AsyncIterator[Company]:
    """Let a company work from before the block until after it, and check the invariants.

    :param url: what goes bad.
    :param calm_url: the same server, by a way that nothing befalls; by default ``url``.
    :param nodes: the servers, which are to have no connection left when all is over.
    :param waits: whether there are workers with waits besides.
    :param how: the clients work, as :class:`Clients` knows it.
    """
    print(f"GREENTIC_SESSION_TEST_SEED={SEED}")  # noqa: T201 - pytest shows it with a failure
    namespace = namespace or f"test:{uuid4().hex}"
    async with nothing_left(nodes), AsyncExitStack() as stack:
        calm = await stack.enter_async_context(store_at(calm_url or url, namespace=namespace))
        stores = [
            await stack.enter_async_context(
                store_at(url, namespace=namespace, deadline=deadline_secs, protocol=protocol)
            )
            for _ in range(WRITERS)
        ]
        company = Company(stores, calm, deadline_secs=deadline_secs, **how)
        async with company.clients.at_work(SEED), AsyncExitStack() as beside:
            if waits:
                await beside.enter_async_context(company.waits.at_work())
            yield company
        await assert_connected(nodes)
        print(dict(company.clients.met), dict(company.waits.told))  # noqa: T201 - as above
        verdicts = company.clients.verdicts
        assert not verdicts, verdicts[0].explanation  # I1, I2, I3
        await company.waits.assert_each_once()  # I4, I5
        assert company.clients.late == []  # I7
        await until(lambda: all(store.statistics().in_flight == 0 for store in stores))  # I6


@asynccontextmanager
async def fleet_at_work(
    url: str, nodes: Sequence[Node] = (), *, waits: bool = True, **options: object
) -> AsyncIterator[tuple[Fleet, Waiting]]:
    """As :func:`at_work`, of eight writers that are alone with their session each.

    What is read from a master and has no confirmation yet may be gone with it, so that others who
    read it have no linearizable history over a failover, be it or not that no write was lost:
    https://redis.io/docs/latest/commands/wait/. Who reads what was acknowledged to itself has.

    :param waits: whether there are workers with waits besides.
    :param options: of the store.
    :returns: the writers and the waits. Which writer may have lost something, the test has to say:
        the histories of the others are checked.
    """
    namespace = f"test:{uuid4().hex}"
    history = History()
    given = "".join(f"&{name}={value}" for name, value in options.items())
    full = f"{url}?namespace={namespace}&deadline={DEADLINE_SECS}{given}"
    async with nothing_left(nodes), create_session_store(full) as store:
        fleet = Fleet(store, KEYS, history)
        waiting = Waiting([store], store, fleet.stopwatch)
        async with fleet.at_work(), AsyncExitStack() as stack:
            if waits:
                await stack.enter_async_context(waiting.at_work())
            yield fleet, waiting
        await assert_connected(nodes)
        lossy = {f"default/acme/{writer.key}" for writer in fleet.writers if writer.lost}
        assert_orderly([one for one in history.operations() if one.key not in lossy])
        await waiting.assert_each_once()
        assert fleet.stopwatch.late == []
        await until(lambda: store.statistics().in_flight == 0)


def assert_orderly(operations: Sequence[Operation]) -> None:
    """I1 to I3."""
    for check in (check_versions, check_history):
        verdict = check(operations)
        assert verdict.holds, verdict.explanation


@asynccontextmanager
async def nothing_left(nodes: Iterable[Node]) -> AsyncIterator[None]:
    """I6: whoever works within the block leaves no task here, and no connection at the servers."""
    before = asyncio.all_tasks()
    yield
    await until(lambda: asyncio.all_tasks() <= before)

    for node in nodes:
        if node.is_live:
            await until_async(lambda node=node: is_left_alone(node))  # type: ignore[misc]


async def is_left_alone(node: Node) -> bool:
    """Tell whether no store is connected: sentinels, other servers and who asks do not count."""
    told: bytes = await node.ask("CLIENT", "LIST")
    return b"lib-name=redis-py" not in told


async def assert_connected(nodes: Iterable[Node]) -> None:
    """Else it would say nothing that no connection is left."""
    told = [await is_left_alone(node) for node in nodes if node.is_live]
    assert not told or not all(told)
