"""Tests of the rigs themselves: their topology, their faults, and their removal."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

import pytest

from greentic_session.testing.ports import BUS_OFFSET, PortClaim
from greentic_session.testing.servers import (
    LocalServer,
    ServerNotFoundError,
    redis_binary,
    valkey_binary,
)
from greentic_session.testing.topologies import (
    SLOTS,
    ClusterRig,
    RefusedError,
    SentinelRig,
    StandaloneRig,
    slot_of,
)

from ..support.redis import until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from greentic_session.testing.topologies import Node
    from greentic_session.testing.topologies.node import Rig

pytestmark = [
    pytest.mark.anyio,
    # A rig waits up to 40 s for its servers, and a test waits several times.
    pytest.mark.timeout(180),
]


@pytest.fixture(params=["valkey", "redis"])
def binary(request: pytest.FixtureRequest) -> Path:
    if request.param == "valkey":
        return valkey_binary()
    try:
        return redis_binary()
    except ServerNotFoundError as error:
        # A second engine is optional. Valkey is never skipped.
        pytest.skip(f"backend redis-server: {error}")  # because it is not installed here


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def refuses(node: Node) -> bool:
    try:
        await node.ask("PING")
    except OSError:
        return True
    return False


async def test_a_durable_server_keeps_its_port_and_its_writes(binary: Path) -> None:
    async with StandaloneRig(binary, durable=True) as rig:
        port = rig.node.port
        assert rig.url == f"redis://127.0.0.1:{port}"
        await rig.node.ask("SET", "name", "value")
        await rig.kill(rig.node)
        assert await refuses(rig.node)
        await rig.restart(rig.node)
        assert rig.node.port == port
        assert await rig.node.ask("GET", "name") == b"value"


async def test_a_server_without_persistence_starts_empty(binary: Path) -> None:
    async with StandaloneRig(binary) as rig:
        await rig.node.ask("SET", "name", "value")
        await rig.restart(rig.node)
        assert await rig.node.ask("GET", "name") is None


async def test_a_paused_server_answers_when_it_is_resumed(binary: Path) -> None:
    async with StandaloneRig(binary) as rig:
        rig.pause(rig.node)
        assert not rig.live
        with pytest.raises(TimeoutError):
            await rig.node.ask("PING", secs=0.05)
        rig.resume(rig.node)
        assert rig.live == (rig.node,)
        assert await rig.node.ask("PING") == b"PONG"


async def test_an_error_of_the_server_is_an_exception() -> None:
    async with StandaloneRig(valkey_binary()) as rig:
        await rig.node.ask("RPUSH", "list", "one")
        with pytest.raises(RefusedError, match="WRONGTYPE"):
            await rig.node.ask("GET", "list")
        assert await rig.node.ask("LRANGE", "list", 0, -1) == [b"one"]


def test_a_durable_local_server_restarts_at_the_same_place(binary: Path) -> None:
    def said(server: LocalServer, line: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", server.port), 5) as client:
            client.sendall(line)
            return client.recv(64)

    with LocalServer(binary, tcp=True, durable=True) as server:
        port, pid = server.port, server.pid
        assert said(server, b"SET name value\r\n") == b"+OK\r\n"
        server.restart()
        assert server.port == port
        assert server.pid != pid
        assert not exists(pid)
        assert said(server, b"GET name\r\n") == b"$5\r\nvalue\r\n"


# --- sentinel ------------------------------------------------------------------------------------


@pytest.fixture
async def sentinels(binary: Path) -> AsyncIterator[SentinelRig]:
    async with SentinelRig(binary) as rig:
        yield rig


async def test_a_master_fails_over_twice_and_comes_back_as_a_replica(
    sentinels: SentinelRig,
) -> None:
    first = await sentinels.master()
    assert first is sentinels.nodes[0]
    assert set(await sentinels.replicas()) == set(sentinels.nodes[1:])
    ports = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels.sentinels)
    assert sentinels.url == f"redis+sentinel://{ports}/mymaster/0"
    await first.ask("SET", "name", "value")
    await first.ask("WAIT", 2, 5000)

    second = await sentinels.failover()
    assert second is not first
    assert first.is_live
    assert (await first.ask("ROLE"))[0] == b"slave"
    # A replica that started late has no data until its first synchronization.
    await second.ask("SET", "name", "again")

    async def have_it() -> bool:
        others = [node for node in sentinels.nodes if node is not second]
        with suppress(RefusedError, OSError):
            return [await node.ask("GET", "name") for node in others] == [b"again"] * 2
        return False

    await until_async(have_it, secs=20)

    assert await sentinels.kill_master() is second
    assert not second.is_live
    third = await sentinels.until_stable(other_than=second)
    assert third is not second
    assert await third.ask("GET", "name") == b"again"

    await sentinels.restart(second)
    assert await sentinels.until_stable() is third
    assert (await second.ask("ROLE"))[0] == b"slave"
    assert await second.ask("GET", "name") == b"again"


async def test_a_paused_master_is_replaced(sentinels: SentinelRig) -> None:
    old = await sentinels.master()
    sentinels.pause(old)
    new = await sentinels.until_stable(other_than=old)
    assert new is not old
    sentinels.resume(old)
    assert await sentinels.until_stable() is new
    assert (await old.ask("ROLE"))[0] == b"slave"


# --- cluster -------------------------------------------------------------------------------------


@pytest.fixture
async def cluster(binary: Path) -> AsyncIterator[ClusterRig]:
    async with ClusterRig(binary) as rig:
        yield rig


async def owners(rig: ClusterRig, slot: int) -> set[int]:
    """Return the ports to which the live nodes redirect requests for a slot."""
    found: set[int] = set()
    for node in rig.live:
        for first, last, master, *_ in await node.ask("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                found.add(master[1])
    return found


async def test_a_cluster_forms_and_survives_its_masters(cluster: ClusterRig) -> None:
    assert cluster.url == "redis+cluster://" + ",".join(
        f"127.0.0.1:{node.port}" for node in cluster.nodes
    )
    assert len(await cluster.masters()) == 3
    slot = cluster.slot_of("name")
    first = await cluster.master_of(slot)
    (second,) = await cluster.replicas_of(first)
    await first.ask("SET", "name", "value")
    await first.ask("WAIT", 1, 5000)

    await cluster.failover(second)
    await cluster.until_ok()
    assert await cluster.master_of(slot) is second
    assert await cluster.replicas_of(second) == (first,)

    await cluster.kill(second)
    await cluster.until_ok()
    assert await cluster.master_of(slot) is first
    assert await first.ask("GET", "name") == b"value"

    await cluster.restart(second)
    await cluster.until_ok()
    assert await owners(cluster, slot) == {first.port}
    assert await cluster.replicas_of(first) == (second,)


async def test_a_paused_master_of_a_cluster_is_replaced(cluster: ClusterRig) -> None:
    slot = cluster.slot_of("name")
    old = await cluster.master_of(slot)
    (replica,) = await cluster.replicas_of(old)
    cluster.pause(old)
    await cluster.until_ok()
    assert await cluster.master_of(slot) is replica
    cluster.resume(old)
    await cluster.until_ok()
    assert await cluster.replicas_of(replica) == (old,)


@pytest.mark.parametrize("how", ["FORCE", "TAKEOVER"])
async def test_a_replica_takes_over_without_its_master(
    cluster: ClusterRig, how: Literal["FORCE", "TAKEOVER"]
) -> None:
    slot = cluster.slot_of("name")
    old = await cluster.master_of(slot)
    (replica,) = await cluster.replicas_of(old)
    await cluster.kill(old)
    await cluster.failover(replica, how)
    await cluster.until_ok()
    assert await cluster.master_of(slot) is replica
    with pytest.raises(RefusedError, match="replica"):
        await cluster.failover(replica)


async def test_a_slot_moves_under_the_eyes_of_its_callers(cluster: ClusterRig) -> None:
    names = [f"{{tag}}:{number}" for number in range(3)]
    slot = cluster.slot_of(names[0])
    old = await cluster.master_of(slot)
    new = next(node for node in await cluster.masters() if node is not old)
    for name in names:
        await old.ask("SET", name, name)
    steps: list[str] = []
    answers: dict[str, str] = {}

    async def between(step: str) -> None:
        steps.append(step)
        for command in (("GET", "{tag}:absent"), ("MGET", *names)):
            try:
                await old.ask(*command)
            except RefusedError as error:
                answers.setdefault(f"{step} {command[0]}", str(error).split()[0])

    assert await cluster.move_slot(slot, new, between) == 3
    moved = ["key moved"] * 3
    assert steps == ["importing", "migrating", *moved, "emptied", "taken", "given"]
    assert answers["migrating GET"] == "ASK"
    assert answers["key moved MGET"] == "TRYAGAIN"
    assert answers["given GET"] == answers["given MGET"] == "MOVED"
    assert not [answer for answer in answers if answer.startswith("importing")]
    await cluster.until_ok()
    assert await owners(cluster, slot) == {new.port}
    assert await new.ask("MGET", *names) == [name.encode() for name in names]
    assert await cluster.move_slot(slot, new) == 0


async def test_a_slot_moves_in_one_step_where_the_server_can() -> None:
    async with ClusterRig(valkey_binary()) as cluster:
        slot = cluster.slot_of("name")
        old = await cluster.master_of(slot)
        new = next(node for node in await cluster.masters() if node is not old)
        await old.ask("SET", "name", "value")
        await cluster.move_slot_atomically(slot, new)
        await cluster.until_ok()
        assert await owners(cluster, slot) == {new.port}
        assert await new.ask("GET", "name") == b"value"
        await cluster.move_slot_atomically(slot, new)


async def test_slots_are_the_servers() -> None:
    names = ["", "a", "{", "}{", "{}a", "a{b}c", "{a}{b}", "{{a}}", "é", "x" * 1000]
    async with StandaloneRig(valkey_binary(), options=("--cluster-enabled", "yes")) as rig:
        for name in names:
            assert slot_of(name) == await rig.node.ask("CLUSTER", "KEYSLOT", name), name
            assert slot_of(name.encode()) == slot_of(name) < SLOTS


# --- ports, and removal --------------------------------------------------------------------------


def test_a_port_is_claimed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = PortClaim()
    draws = iter([first.port, first.port, first.port + 1, first.port + 2])
    with socket.socket() as bus:
        # Another process's server is at the bus port of the second choice.
        bus.bind(("127.0.0.1", first.port + 1 + BUS_OFFSET))
        monkeypatch.setattr(f"{PortClaim.__module__}._RANDOM.randint", lambda *_: next(draws))
        second = PortClaim()
    assert second.port == first.port + 2
    draws = iter([first.port] * 200)
    with pytest.raises(RuntimeError, match="no free port"):
        PortClaim()
    first.release()
    draws = iter([first.port])
    third = PortClaim()
    assert third.port == first.port
    for claim in (first, second, third):
        claim.release()


async def test_a_server_that_is_first_on_a_port_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    free = PortClaim()
    with socket.socket() as foreign:
        claimed = PortClaim()
        # As the claim does, because a lingering connection does not take the port.
        foreign.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        foreign.bind(("127.0.0.1", claimed.port))
        foreign.listen()
        claims = iter([claimed, free])
        monkeypatch.setattr(
            "greentic_session.testing.topologies.node.PortClaim", lambda: next(claims)
        )
        async with StandaloneRig(valkey_binary()) as rig:
            assert rig.node.port == free.port
            assert await rig.node.ask("PING") == b"PONG"


@pytest.mark.parametrize("rig", [StandaloneRig, SentinelRig, ClusterRig])
async def test_nothing_of_a_rig_stays(rig: type[Rig]) -> None:
    async with rig(valkey_binary()) as held:  # type: ignore[call-arg] # each takes a binary
        everything = [*held._everything()]
        pids = [node.pid for node in everything]
        folders = [node.server.folder for node in everything]
        ports = [node.port for node in everything]
        assert len({*pids}) == len({*ports}) == len(pids)
        assert all(exists(pid) for pid in pids)
        everything[0].pause()  # such a process would not get SIGTERM
    assert not [pid for pid in pids if exists(pid)]
    assert not [folder for folder in folders if folder.exists()]
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))


async def test_a_rig_that_does_not_form_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pids: list[int] = []
    launch = LocalServer.launch

    def launched(server: LocalServer) -> None:
        launch(server)
        pids.append(server.pid)

    monkeypatch.setattr(LocalServer, "launch", launched)
    rig = SentinelRig(valkey_binary(), options=("--no-such-option", "1"))
    with pytest.raises(RuntimeError, match="did not start"):
        async with rig:
            raise AssertionError("it has not started")
    assert pids
    assert not [pid for pid in pids if exists(pid)]
