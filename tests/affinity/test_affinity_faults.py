"""Tests of affinity on a faulty connection and on a full server: reports are true."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any, Final

import pytest

from greentic_session import (
    DurabilityError,
    InMemorySessionStore,
    ManualClock,
    SessionError,
    SessionKey,
    StoreFullError,
)
from greentic_session.ordering import SessionAffinity
from greentic_session.redis import scripts
from greentic_session.redis.key_names import KeyNames
from greentic_session.redis.transport.script import Script
from greentic_session.testing.harness import RedisHarness
from greentic_session.testing.servers import LocalServer, valkey_binary

from ..support.affinity import LEASE_MS, VERBS, WORKERS, Caller, steps
from ..support.redis import SEED, snapshot, store_at, until_async
from ..support.redis_proxy import BREAKS, Fate, Proxy, at_random
from ..support.scripts import and_what_is_left

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from greentic_session.abc.affinity import AffinityBackend

pytestmark = pytest.mark.anyio

GRACE_MS: Final = 60_000
RUNS: Final = 8


# --- the scripts by themselves --------------------------------------------------------------------


class ScriptRunner:
    """Runs the scripts by hand. The test chooses the operation's id."""

    def __init__(self, harness: RedisHarness) -> None:
        self.client = harness.client
        self.namespace = harness.config.namespace
        self._names = KeyNames(self.namespace).affinity("g")
        self._calls = 0

    async def run(self, script: Script, *arguments: object, op: str = "") -> list[Any]:
        self._calls += 1
        name = op or f"other {self._calls}"
        operation = hashlib.sha256(name.encode()).hexdigest()[:16]
        parts = [operation, "", str(GRACE_MS), *(str(part) for part in arguments)]
        reply: list[Any] = await self.client.read(
            "EVAL", script.source, len(self._names), *self._names, *parts
        )
        return reply

    async def left(self, script: Script, *arguments: object) -> int:
        """Return how many keys of the group exist at the end of a script.

        It is the maximum of several runs. Redis 7.0 measures expiry by its clock, not by the start
        of the script. A pause of a millisecond on a busy machine ends a lifetime of a millisecond.
        """
        source = and_what_is_left(script)
        most = 0
        for run in range(RUNS):
            parts: list[str | int] = [
                *self._names,
                f"{run:016}",
                "",
                GRACE_MS,
                *map(str, arguments),
            ]
            found = await self.client.read("EVAL", source, len(self._names), *parts)
            most = max(most, int(found))
        return most

    async def arrange(self) -> None:
        await self.run(scripts.AFFINITY_JOIN, "w1", "a", LEASE_MS, 0)
        await self.run(scripts.AFFINITY_JOIN, "w2", "b", LEASE_MS, 0)
        await self.run(scripts.AFFINITY_ASSIGN, "placed", 1000_000)
        await self.run(scripts.AFFINITY_ASSIGN, "pinned", 1000_000)
        await self.run(scripts.AFFINITY_PIN, "pinned", "w9", 1000_000)

    async def everything(self) -> dict[bytes, object]:
        return await snapshot(self.client, self.namespace)


Call = tuple[Script, tuple[object, ...]]
TRACED: Final[dict[str, Call]] = {
    "leave": (scripts.AFFINITY_LEAVE, ("w1", "a")),
    "pin": (scripts.AFFINITY_PIN, ("placed", "w2", 500_000)),
    "pin of a new key": (scripts.AFFINITY_PIN, ("new", "w2", 500_000)),
    "unpin": (scripts.AFFINITY_UNPIN, ("pinned", 500_000)),
    "touch": (scripts.AFFINITY_TOUCH, ("placed", 500_000)),
    "forget": (scripts.AFFINITY_FORGET, ("placed",)),
}
REPEATABLE: Final[dict[str, Call]] = {
    "join": (scripts.AFFINITY_JOIN, ("w3", "c", LEASE_MS, 0)),
    "renew": (scripts.AFFINITY_RENEW, ("w1", "a", LEASE_MS)),
    "assign": (scripts.AFFINITY_ASSIGN, ("placed", 500_000)),
    "assign of a new key": (scripts.AFFINITY_ASSIGN, ("new", 500_000)),
}


@pytest.fixture(params=["valkey_url", "redis_url"])
async def scripted(request: pytest.FixtureRequest) -> AsyncIterator[ScriptRunner]:
    async with RedisHarness(request.getfixturevalue(request.param)) as harness:
        runner = ScriptRunner(harness)
        await runner.arrange()
        yield runner


@pytest.mark.parametrize("name", TRACED)
async def test_a_repeated_call_is_answered_and_changes_nothing(
    scripted: ScriptRunner, name: str
) -> None:
    script, arguments = TRACED[name]
    assert await scripted.run(script, *arguments, op="the call") == [1]
    before = await scripted.everything()
    assert await scripted.run(script, *arguments, op="the call") == [1]
    assert await scripted.everything() == before
    # Although other workers made changes between them.
    await scripted.run(scripts.AFFINITY_FORGET, "placed")
    await scripted.run(scripts.AFFINITY_PIN, "pinned", "w2", 1000_000)
    await scripted.run(scripts.AFFINITY_PIN, "new", "w1", 1000_000)
    await scripted.run(scripts.AFFINITY_JOIN, "w1", "another's", LEASE_MS, 0)
    before = await scripted.everything()
    assert await scripted.run(script, *arguments, op="the call") == [1]
    assert await scripted.everything() == before


@pytest.mark.parametrize("name", REPEATABLE)
async def test_a_repeated_call_without_an_operation_log_returns_the_same_result(
    scripted: ScriptRunner, name: str
) -> None:
    script, arguments = REPEATABLE[name]
    first = await scripted.run(script, *arguments, op="the call")
    assert first[0] == 1
    again = await scripted.run(script, *arguments, op="the call")
    assert again[:2] == first[:2]
    assert set(await scripted.everything()) == {
        f"{scripted.namespace}:affinity:{{g}}:{part}".encode()
        for part in ("members", "places", "ends", "ops")
    }


async def test_what_is_for_a_millisecond_is_there_meanwhile(scripted: ScriptRunner) -> None:
    await scripted.run(scripts.AFFINITY_LEAVE, "w1", "a")
    await scripted.run(scripts.AFFINITY_LEAVE, "w2", "b")
    await scripted.run(scripts.AFFINITY_FORGET, "placed")
    await scripted.run(scripts.AFFINITY_FORGET, "pinned")
    ops = await scripted.everything()
    assert len(ops) == 2  # and the members, of which only the fencing token is kept
    assert await scripted.left(scripts.AFFINITY_JOIN, "w1", "a", 1, 0) == len(ops)
    assert await scripted.left(scripts.AFFINITY_PIN, "k", "w1", 1) >= 2 + len(ops)


async def test_calls_that_change_nothing_write_nothing(scripted: ScriptRunner) -> None:
    before = await scripted.everything()
    assert (await scripted.run(scripts.AFFINITY_JOIN, "w1", "z", LEASE_MS, 0))[0] == -6
    assert await scripted.run(scripts.AFFINITY_RENEW, "w1", "z", LEASE_MS) == [-8]
    assert await scripted.run(scripts.AFFINITY_LEAVE, "w1", "z") == [-8]
    assert await scripted.run(scripts.AFFINITY_UNPIN, "placed", 1000) == [0]
    assert await scripted.run(scripts.AFFINITY_TOUCH, "absent", 1000) == [0]
    assert await scripted.run(scripts.AFFINITY_FORGET, "absent") == [0]
    assert await scripted.everything() == before


# --- a faulty connection --------------------------------------------------------------------------


@pytest.mark.parametrize("chance", [0.0, 0.25], ids=["good", "bad"])
async def test_calls_over_a_faulty_connection_have_the_same_results_as_in_memory(
    tcp_server_url: str, chance: float
) -> None:
    async with (
        RedisHarness(tcp_server_url) as harness,
        InMemorySessionStore(clock=ManualClock()) as memory,
        Proxy(harness.config.port, at_random(chance)) as proxy,
        store_at(proxy.url, namespace=harness.config.namespace, max_connections=8) as store,
    ):
        done: list[str] = []

        async def go(number: int) -> None:
            group = f"group {number}"
            caller, expected = Caller(store, group), Caller(memory, group)
            for step in steps(SEED * 100 + number, 60):
                assert await caller.told(step) == await expected.told(step), (number, step)
                done.append(step[0])

        async with asyncio.timeout(50):
            for start in range(0, 64, 8):
                async with asyncio.TaskGroup() as tasks:
                    for number in range(start, start + 8):
                        tasks.create_task(go(number))
                if chance == 0 or min(proxy.met[fate] for fate in BREAKS) >= 10:
                    break
        assert set(done) == set(VERBS)
        assert chance == 0 or min(proxy.met[fate] for fate in BREAKS) >= 10, proxy.met


@pytest.mark.parametrize("fate", [Fate.LOSE, Fate.CUT], ids=lambda fate: fate.name.lower())
async def test_a_membership_begins_and_ends_though_each_answer_is_lost(
    tcp_server_url: str, fate: Fate
) -> None:
    met: set[str] = set()

    def once_each(request: bytes) -> Fate:
        for name in ("join", "leave"):
            script = getattr(scripts, f"AFFINITY_{name.upper()}")
            if script.sha1.encode() in request and name not in met:
                met.add(name)
                return fate
        return Fate.PASS

    async with (
        RedisHarness(tcp_server_url) as harness,
        Proxy(harness.config.port, once_each) as proxy,
        store_at(proxy.url, namespace=harness.config.namespace) as store,
    ):
        affinity = SessionAffinity(store)
        async with asyncio.timeout(30):
            async with affinity.member("w1") as membership:
                (seen,) = await affinity.members()
                assert seen.fence == membership.fence
            assert membership.ended
            assert await affinity.members() == ()
        assert met == {"join", "leave"}


async def test_joining_that_is_cancelled_leaves_no_member(tcp_server_url: str) -> None:
    join = scripts.AFFINITY_JOIN.sha1.encode()

    def delay(request: bytes) -> Fate:
        return Fate.LATE if join in request else Fate.PASS

    async with (
        RedisHarness(tcp_server_url) as harness,
        # Long enough to see the member and cancel its join, even on a busy machine.
        Proxy(harness.config.port, delay, delay_secs=3) as proxy,
        store_at(proxy.url, namespace=harness.config.namespace) as store,
    ):
        direct = SessionAffinity(await harness.open())
        async with direct.member("loads the scripts"):
            pass
        joining = asyncio.create_task(SessionAffinity(store).member("w1").__aenter__())

        async def has_joined() -> bool:
            return bool(await direct.members())

        await until_async(has_joined)
        joining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await joining
        assert await direct.members() == ()


async def test_leaving_waits_for_no_replicas(tcp_server_url: str) -> None:
    """If the server loses the leave, the lease still ends."""
    async with (
        RedisHarness(tcp_server_url) as harness,
        store_at(tcp_server_url, namespace=harness.config.namespace, deadline=1, acks=1) as store,
    ):
        near: Any = await harness.open()
        await near._affinity_backend().join("g", "w1", "a", LEASE_MS)
        far: Any = store
        assert await far._affinity_backend().leave("g", "w1", "a") is True
        with pytest.raises(DurabilityError):
            await far._affinity_backend().join("g", "w1", "a", LEASE_MS)


# --- a full server --------------------------------------------------------------------------------


async def _outcome(call: Awaitable[object]) -> object:
    try:
        return await call
    except SessionError as error:  # anything else fails the test as it is
        return error


async def test_a_full_server_takes_nothing_new_and_keeps_what_there_is() -> None:
    with LocalServer(valkey_binary()) as server:
        async with RedisHarness(server.url) as harness:
            store: Any = await harness.open()
            backend: AffinityBackend = store._affinity_backend()
            affinity = SessionAffinity(store)
            a, b = SessionKey("a"), SessionKey("b")
            for worker in WORKERS:
                await backend.join("default", worker, worker, LEASE_MS)
            await affinity.worker_for(a)
            await affinity.pin(b, "w1")
            await harness.client.read("CONFIG", "SET", "maxmemory-policy", "noeviction")
            await harness.client.read("CONFIG", "SET", "maxmemory", "1")
            before = await snapshot(harness.client, harness.config.namespace)
            for refused in (
                affinity.member("w9").__aenter__(),
                affinity.worker_for(SessionKey("new")),
                affinity.pin(a, "w2"),
                affinity.pin(SessionKey("new"), "w2"),
            ):
                assert isinstance(await _outcome(refused), StoreFullError)
            assert await snapshot(harness.client, harness.config.namespace) == before
            placement = await affinity.worker_for(a)
            assert placement is not None
            assert (await backend.renew("default", "w1", "w1", 2 * LEASE_MS)).verdict == 1
            assert await affinity.touch(b, 50) is True
            assert await affinity.unpin(b) is True
            assert await backend.leave("default", placement.worker, placement.worker) is True
            moved = await affinity.worker_for(a)
            assert moved is not None
            assert moved.worker != placement.worker
            assert await affinity.forget(a) is True
            await harness.client.read("CONFIG", "SET", "maxmemory", "0")
