"""Tests of notifications: waiters of the topic wake once each, and no others."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING
from uuid import uuid4

import anyio
import anyio.lowlevel
import msgspec
import pytest
from trio.testing import MockClock

from greentic_session.config import RedisConfig
from greentic_session.memory.notifications import MemoryNotifications
from greentic_session.redis.key_names import KeyNames
from greentic_session.redis.notifications import RedisNotifications
from greentic_session.redis.transport.attempts import Call
from greentic_session.redis.transport.client import RedisClient
from greentic_session.redis.transport.cluster import ClusterTopology
from greentic_session.testing.proxy import always

from ..support.redis import until
from ..support.redis_proxy import Fate, Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from greentic_session.abc.notifications import Subscription
    from greentic_session.testing.servers import LocalServer

pytestmark = pytest.mark.anyio

PATIENCE_SECS = 20
"""Limit in seconds for an expected event, generous because the machine may be busy."""
A_WHILE_SECS = 0.02
"""Time in seconds to wait for an event that must not occur."""


class Tower:
    """A store's notifications on a server, and a client that publishes and queries the server."""

    def __init__(self, url: str) -> None:
        self.config = msgspec.structs.replace(
            RedisConfig.from_url(url), namespace=f"test:{uuid4().hex}"
        )
        self.client = RedisClient(self.config)
        self.names = KeyNames(self.config.namespace)
        self.notifications = RedisNotifications(self.client, self.names, PATIENCE_SECS)

    async def publish(self, topic: str) -> None:
        await self.client.read("PUBLISH", self.names.channel(topic), "1")

    async def has_no_channels(self) -> None:
        with anyio.fail_after(PATIENCE_SECS):
            while await self.client.read("PUBSUB", "CHANNELS", self.names.channel("*")):  # noqa: ASYNC110
                await anyio.sleep(0.005)  # the server does not notify


async def until_active(*subscriptions: Subscription) -> None:
    """Wait until subscriptions are active, because each is notified then."""
    for subscription in subscriptions:
        assert await subscription.wait(PATIENCE_SECS)


@asynccontextmanager
async def tower_at(url: str) -> AsyncIterator[Tower]:
    tower = Tower(url)
    try:
        yield tower
    finally:
        await tower.notifications.aclose()
        await tower.client.aclose()


@pytest.fixture(params=["RESP2", "RESP3"])
async def tower(request: pytest.FixtureRequest, tcp_server_url: str) -> AsyncIterator[Tower]:
    async with tower_at(f"{tcp_server_url}?protocol={request.param[-1]}") as tower:
        yield tower


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_in_memory_each_notification_wakes_one_subscriber() -> None:
    notifications = MemoryNotifications()
    async with (
        notifications.subscribe("x") as one,
        notifications.subscribe("x") as two,
        notifications.subscribe("y") as other,
    ):
        await until_active(one, two, other)
        assert not await one.wait(A_WHILE_SECS)
        notifications.notify("x")
        assert await one.wait(0)
        assert not await two.wait(A_WHILE_SECS)
        for _ in range(3):
            notifications.notify("x")
        assert await one.wait(0)
        assert not await one.wait(A_WHILE_SECS)
        assert await two.wait(PATIENCE_SECS)
        assert not await two.wait(0)
        assert not await other.wait(A_WHILE_SECS)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other.wait, PATIENCE_SECS)
            await anyio.lowlevel.checkpoint()
            notifications.notify_all()
    assert len(notifications) == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_subscriber_that_leaves_passes_its_notification_on() -> None:
    notifications = MemoryNotifications()
    async with notifications.subscribe("x") as one, notifications.subscribe("x") as two:
        async with notifications.subscribe("x") as three:
            await until_active(one, two, three)
            notifications.notify("x")  # for the first waiter, which is busy
        assert await one.wait(0)
        assert await two.wait(0)  # since three has gone
        async with notifications.subscribe("x"):
            pass
        assert await one.wait(0)
        assert not await two.wait(A_WHILE_SECS)


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})])
async def test_one_of_the_subscribers_that_know_a_due_time_is_woken_then() -> None:
    notifications = MemoryNotifications()
    woken: list[tuple[str, float]] = []
    began_at = anyio.current_time()

    async def sleep(subscription: Subscription, name: str, due_secs: float) -> None:
        assert not await subscription.wait(30, due_secs)
        woken.append((name, round(anyio.current_time() - began_at, 3)))

    async with (
        notifications.subscribe("x") as late,
        notifications.subscribe("x") as soon,
        notifications.subscribe("x") as same,
    ):
        await until_active(late, soon, same)
        async with anyio.create_task_group() as tasks:
            # The first subscriber knows of an entry that is due much later.
            for subscription, name, due_secs in (
                (late, "late", 9),
                (soon, "soon", 0.3),
                (same, "same", 0.299),  # as after a second lookup
            ):
                tasks.start_soon(sleep, subscription, name, due_secs)
                await anyio.wait_all_tasks_blocked()
    assert woken == [("soon", 0.3), ("late", 9), ("same", 30)]


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_subscriber_that_is_awake_keeps_no_due_time_for_others() -> None:
    notifications = MemoryNotifications()
    async with notifications.subscribe("x") as busy, notifications.subscribe("x") as idle:
        await until_active(busy, idle)
        with anyio.fail_after(PATIENCE_SECS / 2):
            assert not await busy.wait(PATIENCE_SECS, 0.001)  # and is awake from then on
            assert not await idle.wait(PATIENCE_SECS, 0.02)


async def test_a_notification_wakes_one_subscriber_of_its_topic(tower: Tower) -> None:
    notifications = tower.notifications
    async with (
        notifications.subscribe("x") as one,
        notifications.subscribe("x") as two,
        notifications.subscribe("y") as other,
    ):
        await until_active(one, two, other)
        assert not await one.wait(A_WHILE_SECS)
        await tower.publish("x")
        assert await one.wait(PATIENCE_SECS)
        assert not await two.wait(A_WHILE_SECS)
        await tower.publish("x")
        await tower.publish("x")
        assert await two.wait(PATIENCE_SECS)
        assert await one.wait(0)
        assert not await one.wait(A_WHILE_SECS)
        assert not await other.wait(A_WHILE_SECS)
        assert notifications.connections == 1
    await tower.has_no_channels()


async def test_an_active_subscription_misses_nothing(tower: Tower) -> None:
    for number in range(50):
        async with tower.notifications.subscribe(f"topic-{number}") as subscription:
            await until_active(subscription)
            await tower.publish(f"topic-{number}")
            assert await subscription.wait(PATIENCE_SECS)
    await tower.has_no_channels()


async def test_a_topic_left_and_entered_again_is_heard(tower: Tower) -> None:
    for _ in range(50):
        async with tower.notifications.subscribe("x"):
            pass
        async with tower.notifications.subscribe("x") as subscription:
            await until_active(
                subscription
            )  # possibly notified by the one before, and then once more
            await tower.publish("x")
            assert await subscription.wait(PATIENCE_SECS)


async def test_a_lost_connection_wakes_all_subscribers_and_is_opened_again(tower: Tower) -> None:
    async with tower.notifications.subscribe("x") as one, tower.notifications.subscribe("y") as two:
        await until_active(one, two)
        for _ in range(3):
            await tower.client.read("CLIENT", "KILL", "TYPE", "pubsub")
            assert await one.wait(PATIENCE_SECS)
            assert await two.wait(PATIENCE_SECS)
        await tower.publish("y")
        assert await two.wait(PATIENCE_SECS)
        assert not await one.wait(A_WHILE_SECS)


async def test_closing_wakes_all_and_leaves_no_connection(tower: Tower) -> None:
    async with tower.notifications.subscribe("x") as subscription:
        await until_active(subscription)
        await tower.notifications.aclose()
        assert await subscription.wait(PATIENCE_SECS)
        assert tower.notifications.connections == 0
        async with tower.notifications.subscribe("y") as late:
            assert await late.wait(PATIENCE_SECS)  # to learn that the store is closed
    await tower.has_no_channels()


async def test_an_account_that_may_not_subscribe_is_logged_once(
    tower: Tower, tcp_server_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"deaf-{uuid4().hex}"
    await tower.client.read(*("ACL", "SETUSER", name, "on", ">secret", "~*", "+@all", "-subscribe"))
    protocol = tower.config.protocol
    url = tcp_server_url.replace("://", f"://{name}:secret@")
    try:
        async with tower_at(f"{url}?protocol={protocol}") as deaf:
            with anyio.fail_after(PATIENCE_SECS / 2), caplog.at_level(logging.WARNING):
                async with (
                    deaf.notifications.subscribe("x") as subscription,
                    deaf.notifications.subscribe("y"),
                ):
                    await until(lambda: bool(caplog.messages))
                    await tower.client.read("PUBLISH", deaf.names.channel("x"), "1")
                    assert not await subscription.wait(A_WHILE_SECS)
        told = [line for line in caplog.messages if "subscribe" in line]
        assert len(told) == 1
        assert "secret" not in told[0]
    finally:
        await tower.client.read("ACL", "DELUSER", name)


async def test_without_a_server_a_subscription_is_inactive_until_there_is_one(
    server: LocalServer,
) -> None:
    tower = Tower(server.tcp_url)
    tower.notifications = RedisNotifications(tower.client, tower.names, 0.05)  # retries soon
    server.pause()
    try:
        async with tower.notifications.subscribe("x") as subscription:
            assert not await subscription.wait(A_WHILE_SECS)
            server.resume()
            assert await subscription.wait(
                PATIENCE_SECS
            )  # because notifications may have been lost
            await tower.publish("x")
            assert await subscription.wait(PATIENCE_SECS)
    finally:
        server.resume()
        await tower.notifications.aclose()
        await tower.client.aclose()


async def test_connections_that_end_at_once_are_made_at_leisure(server: LocalServer) -> None:
    """As behind a proxy without channels, which breaks the connection of each subscriber."""

    def choose(request: bytes) -> Fate:
        return Fate.REFUSE if b"SUBSCRIBE" in request else Fate.PASS

    async with (
        Proxy(server.port, choose) as proxy,
        tower_at(proxy.url) as tower,
        tower.notifications.subscribe("x") as subscription,
    ):
        await until(lambda: proxy.met[Fate.REFUSE] > 1)
        # Enough time for hundreds of attempts. A slow machine makes fewer.
        assert not await subscription.wait(0.5)
        assert proxy.met[Fate.REFUSE] < 20
        proxy.schedule = always(Fate.PASS)
        await until_active(subscription)


@pytest.mark.parametrize(
    "answer", [b"_\r\n", b"*1\r\n:3\r\n", b"*2\r\n:1\r\n:2\r\n", b"HTTP/1.1 400\r\n\r\n"]
)
async def test_what_is_no_server_is_asked_again(
    answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while request := await reader.read(1000):
                asked.append(request)
                writer.write(8 * answer)
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        async with (
            tower_at(f"redis://:secret@127.0.0.1:{port}?protocol=3") as tower,
            tower.notifications.subscribe("x"),
        ):
            await until(lambda: len(asked) > 2)
    assert caplog.messages == []


async def test_a_cluster_forwards_notifications_of_every_server(cluster_url: str) -> None:
    async with tower_at(cluster_url) as tower, tower.notifications.subscribe("x") as subscription:
        await until_active(subscription)
        await tower.client.ping()  # so that the store knows all its servers
        for node in tower.client._topology.servers:
            command = "PUBLISH", tower.names.channel("x"), "1"
            call = Call(None, (command,), None, at=node)
            await tower.client._run_attempts(call, tower.client._enter_loop())
            assert await subscription.wait(PATIENCE_SECS)


async def test_a_dead_server_of_a_cluster_is_left_for_another(cluster_url: str) -> None:
    """Even if no other call uses the slots of that server."""
    async with tower_at(cluster_url) as tower:
        await tower.client.ping()  # so that the store knows all its servers
        topology = tower.client._topology
        assert isinstance(topology, ClusterTopology)
        dead = topology.server_at("127.0.0.1", 1, reported_by=topology.servers[0])
        topology._servers = {("127.0.0.1", 1): dead, **topology._servers}
        assert topology.server_of(None) is dead
        async with tower.notifications.subscribe("x") as subscription:
            await until_active(subscription)
