"""Tests of the master that a store follows when sentinels disagree, are behind, or are silent."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest

from greentic_session import (
    RedisConfig,
    SentinelConfig,
    SessionKey,
    StoreUnavailableError,
    create_session_store,
)
from greentic_session.redis.transport.driver import ask_once
from greentic_session.redis.transport.sentinel import (
    UNKNOWN_EPOCH,
    MasterReport,
    SentinelTopology,
    choose_master,
)
from greentic_session.testing.proxy import Fate, FaultProxy, always
from greentic_session.testing.servers import ServerNotFoundError, redis_binary, valkey_binary
from greentic_session.testing.topologies import SentinelRig
from greentic_session.testing.topologies.node import Node

from ..support.redis import until, until_async
from ..support.sentinels import FakeSentinel
from ..support.writers import CTX, numbered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(150)]

OLD: Final = ("127.0.0.1", 1001)
NEW: Final = ("127.0.0.1", 1002)
LONG_SECS: Final = 60.0
"""Deadline in seconds. Its quarter, the limit of one query, is longer than the tests wait."""
PATIENCE_SECS: Final = 10.0
STORES: Final = 40


def old(epoch: int) -> MasterReport:
    return MasterReport(epoch, OLD)


def new(epoch: int) -> MasterReport:
    return MasterReport(epoch, NEW)


@pytest.mark.parametrize(
    ("known", "reports", "chosen"),
    [
        pytest.param(None, [old(4), new(5), old(4)], new(5), id="highest epoch"),
        pytest.param(None, [old(4)], old(4), id="a minority where nothing is known"),
        pytest.param(new(5), [old(4), old(4), old(4)], None, id="all are behind"),
        pytest.param(new(5), [old(4)], None, id="a minority is behind"),
        pytest.param(new(5), [new(5)], new(5), id="a minority that is not behind"),
        pytest.param(old(4), [new(5)], new(5), id="a minority that is ahead"),
        pytest.param(old(4), [old(4), new(5), old(4)], new(5), id="one is ahead"),
        pytest.param(old(4), [new(4), new(4), old(4)], new(4), id="renamed by a majority"),
        pytest.param(old(4), [new(4), old(4)], old(4), id="renamed by one of two"),
        pytest.param(old(4), [new(4)], None, id="renamed by a minority"),
        pytest.param(
            None,
            [old(UNKNOWN_EPOCH), new(UNKNOWN_EPOCH), new(UNKNOWN_EPOCH)],
            new(UNKNOWN_EPOCH),
            id="no right to see epochs",
        ),
        pytest.param(new(5), [], None, id="no answer"),
    ],
)
async def test_the_report_to_follow_has_the_highest_epoch_or_a_majority(
    known: MasterReport | None, reports: list[MasterReport], chosen: MasterReport | None
) -> None:
    assert choose_master(reports, configured=3, known=known) == chosen


class Trial:
    """A topology with fake sentinels, queried without a server that they name."""

    def __init__(self, topology: SentinelTopology, fakes: list[FakeSentinel]) -> None:
        self.fakes: Final = fakes
        self._topology: Final = topology

    async def master(self) -> Any:
        """Query the sentinels, and return the address of the master."""
        loop = asyncio.get_running_loop()
        await self._topology.refresh(loop.time() + PATIENCE_SECS)
        server = await self._topology.locate(None, loop.time() + PATIENCE_SECS)
        return server.address


@asynccontextmanager
async def trial(
    *states: tuple[int | None, Any], protocol: int = 3, deadline_secs: float = LONG_SECS
) -> AsyncIterator[Trial]:
    async with AsyncExitStack() as stack:
        fakes = [await stack.enter_async_context(FakeSentinel(*state)) for state in states]
        sentinel = SentinelConfig(
            addresses=tuple(fake.address for fake in fakes), master_name="mymaster"
        )
        config = RedisConfig(sentinel=sentinel, deadline_secs=deadline_secs, protocol=protocol)
        topology = SentinelTopology(config, sentinel)
        try:
            yield Trial(topology, fakes)
        finally:
            if ends := topology.close():
                await asyncio.wait(ends)


@pytest.mark.parametrize("protocol", [2, 3])
async def test_the_first_answer_does_not_win(protocol: int) -> None:
    async with trial((4, OLD), (5, NEW), (5, NEW), protocol=protocol) as those:
        for fake in those.fakes[1:]:
            fake.delay_secs = 0.02
        assert await those.master() == NEW


@pytest.mark.parametrize("behind", [0, 1, 2])
async def test_a_sentinel_that_hangs_does_not_hold_up_a_majority(behind: int) -> None:
    states: list[tuple[int | None, Any]] = [(5, NEW), (5, NEW), (5, NEW)]
    states[behind] = (4, OLD)
    async with trial(*states) as those:
        those.fakes[0].is_silent = True
        assert await those.master() == NEW


async def test_a_sentinel_that_is_slower_than_a_majority_is_heard() -> None:
    async with trial((4, OLD), (4, OLD), (5, NEW)) as those:
        those.fakes[2].delay_secs = 0.01
        assert await those.master() == NEW


async def test_an_older_epoch_is_refused_from_less_than_all_sentinels() -> None:
    async with trial((5, NEW), (5, NEW), (5, NEW)) as those:
        assert await those.master() == NEW
        for fake in those.fakes[1:]:
            fake.epoch, fake.master = 4, OLD
        those.fakes[0].stop()
        assert await those.master() == NEW
        those.fakes[1].stop()
        assert await those.master() == NEW
        those.fakes[2].epoch = 6  # the old master has won an election since
        assert await those.master() == OLD


async def test_an_older_epoch_is_refused_from_sentinels_that_disagree() -> None:
    async with trial((5, NEW), (5, NEW), (5, NEW)) as those:
        assert await those.master() == NEW
        for fake in those.fakes:
            fake.epoch, fake.master = 4, OLD
        those.fakes[2].master = NEW
        assert await those.master() == NEW


@pytest.mark.parametrize("end", ["replica", "unreachable"])
async def test_an_epoch_that_restarts_is_accepted_once_the_known_master_is_none(end: str) -> None:
    """SENTINEL REMOVE and MONITOR on all sentinels set the epoch to 0."""
    async with FakeSentinel(None, None) as known, trial(*[(5, known.address)] * 3) as those:
        assert await those.master() == known.address
        for fake in those.fakes:
            fake.epoch, fake.master = 0, NEW
        those.fakes[2].delay_secs = 0.2  # longer than a majority waits for the others
        assert await those.master() == known.address
        if end == "replica":
            known.role = "slave"
        else:
            known.stop()
        assert await those.master() == NEW
        those.fakes[0].epoch, those.fakes[0].master = 1, OLD  # the next failover
        assert await those.master() == OLD


async def test_an_epoch_that_restarts_with_the_same_master_is_accepted() -> None:
    async with FakeSentinel(None, None) as known, trial(*[(5, known.address)] * 3) as those:
        assert await those.master() == known.address
        for fake in those.fakes:
            fake.epoch = 0
        assert await those.master() == known.address
        those.fakes[0].epoch, those.fakes[0].master = 1, NEW  # the next failover
        assert await those.master() == NEW


async def test_the_error_names_an_older_epoch() -> None:
    async with AsyncExitStack() as stack:
        known = await stack.enter_async_context(FakeSentinel(None, None))
        known.role = "slave"
        fakes = [await stack.enter_async_context(FakeSentinel(5, known.address)) for _ in range(3)]
        hosts = ",".join(f"127.0.0.1:{fake.address[1]}" for fake in fakes)
        url = f"redis+sentinel://{hosts}/mymaster?deadline=1"
        store = await stack.enter_async_context(create_session_store(url))
        with pytest.raises(StoreUnavailableError, match="is not a master yet"):
            await store.get(SessionKey("k"), ctx=CTX)
        for fake in fakes:
            fake.epoch, fake.master = 4, OLD
        fakes[0].master = NEW
        message = r"config epoch 4 is lower than 5, which was seen before: not all sentinels answer"
        with pytest.raises(StoreUnavailableError, match=message):
            await store.get(SessionKey("k"), ctx=CTX)


async def test_the_epoch_of_a_failover_that_ends_belongs_to_the_new_master() -> None:
    """Until its end, SENTINEL MASTER gives the new epoch with the old master's address."""
    async with trial((4, OLD), (5, NEW), (4, OLD)) as those:
        those.fakes[1].before = OLD
        assert await those.master() == NEW


async def test_an_account_without_sentinel_master_follows_a_majority() -> None:
    async with trial((None, OLD), (None, OLD), (None, NEW)) as those:
        assert await those.master() == OLD
        those.fakes[1].master = NEW
        assert await those.master() == NEW
        those.fakes[1].stop()
        assert await those.master() == NEW  # two disagree
        those.fakes[2].stop()
        assert await those.master() == NEW


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("engine", ["valkey", "redis"])
async def test_each_engine_gives_the_epoch_of_a_master(engine: str, protocol: int) -> None:
    try:
        binary = valkey_binary() if engine == "valkey" else redis_binary()
    except ServerNotFoundError:
        pytest.skip("backend redis-server: none on PATH")
    sentinel = Node(binary, ("--sentinel",), config="")
    await sentinel.start()
    try:
        await sentinel.ask("SENTINEL", "MONITOR", "mymaster", *map(str, NEW), 1)
        asked = SentinelConfig(addresses=(("127.0.0.1", sentinel.port),), master_name="mymaster")
        config = RedisConfig(sentinel=asked, protocol=protocol, deadline_secs=LONG_SECS)
        topology = SentinelTopology(config, asked)
        report = await topology._ask(asked.addresses[0])
        assert report == MasterReport(0, NEW)
    finally:
        sentinel.stop()


# --- a real failover ------------------------------------------------------------------------------


ADDRESS: Final = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SentinelRig.NAME)


@asynccontextmanager
async def rig_with_accounts() -> AsyncIterator[SentinelRig]:
    """Yield servers on which stores have an account of their own."""
    async with SentinelRig(valkey_binary()) as rig:
        for node in rig.nodes:
            await node.ask("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all")
        yield rig


async def ask_deposed(node: Node, *command: str) -> Any:
    """Send a command to a deposed master, by the account of the stores."""
    config = RedisConfig(port=node.port, host="127.0.0.1", username="app", password="pw")
    return await ask_once(config, None, *command, secs=PATIENCE_SECS)


async def depose(rig: SentinelRig) -> Node:
    """Cut the master off from sentinels and replicas, and wait until there is another.

    It still serves the account of the stores, as behind a partition.
    """
    before = await rig.master()
    await before.ask("ACL", "SETUSER", "default", "off")
    await ask_deposed(before, "CLIENT", "KILL", "USER", "default", "SKIPME", "yes")

    async def is_over() -> bool:
        named = [await sentinel.ask(*ADDRESS) for sentinel in rig.sentinels]
        return all(int(port) != before.port for _, port in named)

    await until_async(is_over, secs=40)
    return before


@asynccontextmanager
async def deposed() -> AsyncIterator[tuple[SentinelRig, Node, FakeSentinel]]:
    """Yield a rig after a failover, the deposed master, and a sentinel that still names it."""
    async with rig_with_accounts() as rig:
        before = await depose(rig)
        async with FakeSentinel(0, ("127.0.0.1", before.port)) as behind:
            yield rig, before, behind


def url_of(rig: SentinelRig, ports: list[int], **options: object) -> str:
    """Return the URL of a rig, with sentinels at these ports."""
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return f"redis+sentinel://app:pw@{hosts}/{rig.NAME}?{query}"


async def test_stores_that_open_after_a_failover_do_not_write_to_the_deposed_master() -> None:
    async with AsyncExitStack() as stack:
        rig, before, behind = await stack.enter_async_context(deposed())
        slow = [
            await stack.enter_async_context(
                FaultProxy(sentinel.port, always(Fate.HOLD), delay_secs=0.01)
            )
            for sentinel in rig.sentinels[1:]
        ]
        ports = [behind.address[1], *(proxy.port for proxy in slow)]
        namespace = f"test:{uuid4().hex}"

        async def write(number: int) -> None:
            url = url_of(rig, ports, namespace=namespace, deadline=20)
            async with create_session_store(url) as store:
                await store.create(numbered(SessionKey(f"store-{number}"), 1))

        for number in range(0, STORES, 8):
            await asyncio.gather(*(write(number + more) for more in range(8)))
        assert await ask_deposed(before, "KEYS", f"{namespace}:*") == []
        master = await rig.master()
        assert len(await master.ask("KEYS", f"{namespace}:*")) >= STORES
        assert behind.asked >= STORES  # its reply was read but not followed


async def test_a_pause_of_the_new_master_does_not_lead_a_store_back_to_the_deposed_one() -> None:
    async with deposed() as (rig, _, behind):
        ports = [behind.address[1], *(sentinel.port for sentinel in rig.sentinels[1:])]
        url = url_of(rig, ports, namespace=f"test:{uuid4().hex}", deadline=8)
        async with create_session_store(url) as store:
            cas = await store.create(numbered(SessionKey("kept"), 1))
            # The partition grows, and only the sentinel that is behind it answers.
            paused = [await rig.master(), *rig.sentinels]
            for node in paused:
                rig.pause(node)
            try:
                asked = behind.asked
                read = asyncio.create_task(store.get(SessionKey("kept"), ctx=CTX))
                await until(lambda: behind.asked > asked or read.done())
            finally:
                for node in paused:
                    rig.resume(node)
            found = await read
            assert found is not None
            assert found.cas == cas
            assert (await store.update_cas(numbered(SessionKey("kept"), 2), cas)).value == 2


@pytest.mark.parametrize(("acks", "least"), [(0, 1), (1, 0)])
async def test_a_master_that_has_lost_its_replicas_is_left_for_its_successor(
    acks: int, least: int
) -> None:
    """With ``acks`` or ``min-replicas-to-write``, a store notices that its master was deposed."""
    async with rig_with_accounts() as rig:
        for node in rig.nodes:
            await node.ask("CONFIG", "SET", "min-replicas-to-write", least)
        ports = [sentinel.port for sentinel in rig.sentinels]
        url = url_of(rig, ports, namespace=f"test:{uuid4().hex}", deadline=8, acks=acks)
        async with create_session_store(url) as store:
            await store.create(numbered(SessionKey("before"), 1))
            before = await depose(rig)
            await store.create(numbered(SessionKey("after"), 1))
            assert await ask_deposed(before, "ROLE")  # it is up and would answer reads
            assert await store.get(SessionKey("after"), ctx=CTX) is not None
