"""Tests of inboxes on faulty connections and restarted servers: in order, each message once."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, Final

import pytest

from greentic_session.testing.harness import RedisHarness
from greentic_session.testing.proxy import always
from greentic_session.testing.servers import LocalServer, valkey_binary

from ..faults.test_versions import SERVERS, binary_of
from ..support.inbox import CTX, handled, inbox_on, key_of
from ..support.redis import SEED, store_at, until
from ..support.redis_proxy import BREAKS, Fate, Proxy, at_random

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ..support.inbox import Inbox, Store

pytestmark = pytest.mark.anyio

KEYS: Final = 12
MESSAGES: Final = 15
TAKERS: Final = 4


@pytest.fixture
async def harness(tcp_server_url: str) -> AsyncIterator[RedisHarness]:
    async with RedisHarness(tcp_server_url) as harness:
        yield harness


class Office:
    """The only client that admits and takes, so it knows the result that each call must have.

    Any other result or error fails the test. Examples are a known message that was never admitted,
    a conflict, or a lost lease.
    """

    def __init__(self, store: Store, keys: int = KEYS, messages: int = MESSAGES) -> None:
        self._store = store
        self._inbox: Inbox = inbox_on(store, lease=60)
        self._keys = keys
        self._messages = messages
        self._dice = random.Random(SEED)
        self.versions: dict[str, list[int]] = {}
        self.taken = 0

    @property
    def is_done(self) -> bool:
        return self.taken >= self._keys * self._messages

    async def work(self) -> None:
        async with asyncio.timeout(40), asyncio.TaskGroup() as tasks:
            for number in range(self._keys):
                tasks.create_task(self._admit(number))
            for number in range(TAKERS):
                tasks.create_task(self._take(f"taker {number}"))

    async def _admit(self, key: int) -> None:
        for number in range(self._messages):
            told = await self._inbox.admit(key_of(key), f"event {number}", b"%d" % number)
            assert told.is_new
            if number % 5 == 4:
                again = await self._inbox.admit(key_of(key), f"event {number}", b"")
                assert not again.is_new

    async def _take(self, name: str) -> None:
        while not self.is_done:
            async with self._inbox.take(name, most=3, wait=0.5) as turn:
                if turn is None:
                    continue
                assert {mail.attempt for mail in turn.mail} == {1}
                if self._dice.random() < 0.1:
                    assert await turn.release()
                    continue
                if self._dice.random() < 0.2:
                    await turn.renew()
                count = len(turn.mail)
                cas = await turn.finish(handled(turn))
                self.versions.setdefault(turn.key, []).append(cas.value)
                self.taken += count

    async def check(self, store: Store) -> None:
        for number in range(self._keys):
            found = await store.get(key_of(number), ctx=CTX)
            assert found is not None
            context: dict[str, Any] = found.session.context
            assert (context["next"], context["strays"]) == (self._messages, [])
            assert context["commits"] == found.cas.value
            # A later turn may get a reply after that.
            assert sorted(self.versions[key_of(number)]) == [*range(1, found.cas.value + 1)]
        async with self._inbox.take("auditor", wait=0) as turn:
            assert turn is None


@pytest.mark.timeout(90)  # seconds; about three are needed on an idle machine
async def test_reported_is_actual_over_a_bad_line(
    harness: RedisHarness, tcp_server_url: str
) -> None:
    port = int(tcp_server_url.rpartition(":")[2])
    namespace = harness.config.namespace
    # Breaks only, because a dropped request costs a caller its whole timeout.
    async with Proxy(port, at_random(0.1)) as proxy:
        async with store_at(proxy.url, namespace=namespace) as store:
            office = Office(store)
            await office.work()
            assert store.statistics().retries > 5
        assert sum(proxy.met[fate] for fate in BREAKS) > 5
    async with store_at(harness_url(harness), namespace=namespace) as store:
        await office_on(store, office).check(store)


def harness_url(harness: RedisHarness) -> str:
    return f"redis://{harness.config.host}:{harness.config.port}"


def office_on(store: Store, before: Office) -> Office:
    after = Office(store, before._keys, before._messages)
    after.versions = before.versions
    return after


async def test_a_slow_line_is_no_bar_to_a_turn_behind_many_hints_that_lead_to_nothing(
    harness: RedisHarness, tcp_server_url: str
) -> None:
    index = f"{harness.config.namespace}:inbox:{{inbox}}"
    for number in range(34):
        await harness.client.read("ZADD", index, 1, f"default/acme/gone {number}", key=index)
    await inbox_on(await harness.open()).admit(key_of(0), "event 0", b"0")
    port = int(tcp_server_url.rpartition(":")[2])
    # All lookups together take longer than a call may. Each alone takes a small part of that.
    async with (
        Proxy(port, always(Fate.HOLD), delay_secs=0.015) as proxy,
        store_at(proxy.url, namespace=harness.config.namespace, deadline=1) as store,
        inbox_on(store).take("worker", wait=0) as turn,
    ):
        assert turn is not None
        assert turn.key == key_of(0)


async def test_scripts_flushed_again_and_again_cause_no_error(server: LocalServer) -> None:
    async with RedisHarness(server.url) as harness:
        store = await harness.open()
        office = Office(store)
        forgotten = 0

        async def forget() -> None:
            nonlocal forgotten
            while not office.is_done:
                await harness.client.read("SCRIPT", "FLUSH")
                forgotten += 1

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(forget())
            tasks.create_task(office.work())
        assert forgotten > 20
        await office.check(store)


@pytest.mark.parametrize("name", SERVERS)
async def test_mail_is_handled_alike_on_every_server(name: str) -> None:
    with LocalServer(binary_of(name)) as server:
        async with RedisHarness(server.url) as harness:
            store = await harness.open()
            office = Office(store, messages=5)
            await office.work()
            await office.check(store)


async def test_a_server_that_is_killed_and_restarted_with_its_file_loses_nothing() -> None:
    with LocalServer(valkey_binary(), durable=True) as server:
        async with RedisHarness(server.url) as harness:
            store = await harness.open()
            office = Office(store)
            async with asyncio.TaskGroup() as tasks:
                work = tasks.create_task(office.work())
                for share in (0.2, 0.5):
                    await until(
                        lambda share=share: work.done() or office.taken > share * KEYS * MESSAGES  # type: ignore[misc]
                    )
                    server.kill()
                    await asyncio.to_thread(server.start)
            await office.check(store)


async def test_takers_that_wait_leave_the_server_alone() -> None:
    # A server of its own, because all its commands are counted.
    with LocalServer(valkey_binary()) as server:
        async with RedisHarness(server.url) as harness:
            stores = [await harness.open() for _ in range(2)]
            woken: list[str] = []

            async def wait(number: int) -> None:
                inbox = inbox_on(stores[number % 2], lease=60)
                async with inbox.take(f"taker {number}") as turn:
                    woken.append(turn.key)
                    await turn.finish(handled(turn))

            async def commands() -> int:
                told = await harness.client.read("INFO", "stats")
                (line,) = (one for one in told.split(b"\r\n") if b"total_commands_processed" in one)
                return int(line.partition(b":")[2])

            async def settled() -> int:
                before = -1
                while (now := await commands()) > before + 2:
                    before = now
                    await asyncio.sleep(0.2)  # the test waits for the absence of calls
                return now

            async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
                for number in range(20):
                    tasks.create_task(wait(number))
                before = await settled()
                assert before > 20
                await asyncio.sleep(2)  # in which no call is made
                # The two queries, and a heartbeat on each store's connection for notifications.
                assert await commands() - before <= 8
                inbox = inbox_on(stores[0])
                for number in range(20):
                    assert (await inbox.admit(key_of(number), "event 0", b"0")).is_new
            assert sorted(woken) == sorted(key_of(number) for number in range(20))
