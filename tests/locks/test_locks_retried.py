"""Tests of lock steps that are retried after a lost reply: done once, reported correctly."""

from __future__ import annotations

import asyncio
import hashlib
import random
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import uuid4

import anyio
import pytest

from greentic_session import LeaseLostError
from greentic_session.abc.fencing import LeaseKind, LeaseRef
from greentic_session.abc.locks import LockRef, LockRequest, SupportsLocks
from greentic_session.abc.records import DONE
from greentic_session.model import SessionKey
from greentic_session.ordering import SessionLocks
from greentic_session.redis import scripts
from greentic_session.testing.harness import MemoryHarness, RedisHarness
from greentic_session.testing.servers import LocalServer

from ..faults.test_versions import SERVERS, binary_of
from ..support.redis import KEY, SEED, control, session, store_at
from ..support.redis_proxy import LOSSES, Fate, Proxy
from ..support.scripts import FIELD, OWNER, and_what_is_left

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from greentic_session import AsyncSessionStore
    from greentic_session.redis.transport.script import Script
    from greentic_session.testing.harness import StoreHarness

pytestmark = pytest.mark.anyio

LOST: Final = [-8]
UNKNOWN: Final = [-5]
HOLDER: Final = "a"
FOREVER: Final = 600_000


class ScriptRunner:
    """Runs the scripts by hand. The test chooses the operation's id and age."""

    def __init__(self, harness: RedisHarness) -> None:
        self.harness = harness
        self.client = harness.client
        ns = harness.config.namespace
        self.record, self.lookup = f"{ns}:default:acme:{{{KEY}}}", f"{ns}:lookup:{{{KEY}}}"
        self.lock = f"{ns}:lock:{{{KEY}}}"
        self._calls = 0

    async def run(
        self,
        script: Script,
        names: tuple[str, ...],
        *arguments: object,
        op: str = "",
        age: object = "",
    ) -> list[Any]:
        self._calls += 1
        operation = hashlib.sha256((op or f"other {self._calls}").encode()).hexdigest()[:16]
        doubt = f"{await self.now_ms() - float(str(age)):.3f}" if age != "" else ""
        parts = *names, operation, doubt, *map(str, arguments)
        reply = await self.client.read("EVAL", script.source, len(names), *parts)
        if type(reply) is int:  # for a fenced update_cas: only the time
            return [1]
        assert type(reply[0]) is int
        assert all(type(part) is bytes for part in reply[1:])
        return list(reply)

    async def now_ms(self) -> float:
        secs, us = await self.client.read("TIME")
        return int(secs) * 1000 + int(us) / 1000

    async def step(self, script: Script, *arguments: object, **call: Any) -> list[Any]:
        return await self.run(script, (self.lock, f"{self.lock}:queue"), *arguments, **call)

    async def take(self, token: str = HOLDER, floor: int = 0, **call: Any) -> list[Any]:
        terms = (token, "a name", 30_000, FOREVER, 1, floor)
        return await self.step(scripts.ACQUIRE_LOCK, *terms, **call)

    async def renew(self, token: str = HOLDER, **call: Any) -> list[Any]:
        return await self.step(scripts.RENEW_LOCK, token, 60_000, **call)

    async def leave(self, token: str = HOLDER, lease: object = 0, **call: Any) -> list[Any]:
        return await self.step(scripts.RELEASE_LOCK, token, lease, "bell:", **call)

    async def put(self, fence: object = "", ttl: int = 0, **call: Any) -> list[Any]:
        names = (self.record, self.lookup, self.lock)
        state = (FIELD, OWNER, ttl, "{}", "a" * 32)
        if fence == "":
            return await self.run(scripts.PUT, names[:2], *state, **call)
        return await self.run(scripts.PUT_FENCED, names, *state, fence, **call)

    async def update(self, version: int, fence: object, ttl: int = 0, **call: Any) -> list[Any]:
        names = (self.record, self.lookup, self.lock)
        following = version + 1
        state = (FIELD, OWNER, ttl, "{}", "a" * 32, version, following, f"op{following % 8}")
        return await self.run(scripts.UPDATE_CAS_FENCED, names, *state, fence, **call)

    async def version(self) -> int:
        return int(await self.client.read("HGET", self.record, "cas") or 0)


@pytest.fixture
async def runner(valkey_url: str) -> AsyncIterator[ScriptRunner]:
    async with RedisHarness(valkey_url) as harness:
        yield ScriptRunner(harness)


# --- the scripts alone ----------------------------------------------------------------------------


async def test_a_lock_is_taken_once(runner: ScriptRunner) -> None:
    first = await runner.take(op="op")
    for op in ("op", "another"):
        again = await runner.take(op=op, age=5)
        assert again[:3] == first[:3]
        assert int(again[3]) <= int(first[3])


async def test_a_place_is_taken_once(runner: ScriptRunner) -> None:
    await runner.take()
    for token in ("b", "c", "b", "b"):
        assert (await runner.take(token, op=f"of {token}", age=5))[0] == -6
    assert await runner.client.read("ZRANGE", f"{runner.lock}:queue", 0, -1) == [b"b", b"c"]


async def test_a_lease_is_renewed_again(runner: ScriptRunner) -> None:
    await runner.take()
    first = await runner.renew(op="op")
    again = await runner.renew(op="op", age=5)
    assert int(again[1]) >= int(first[1])
    assert await runner.renew("b") == LOST


async def test_a_lock_that_was_given_back_is_told_so_again(runner: ScriptRunner) -> None:
    lease = (await runner.take())[2].decode()
    assert await runner.leave(lease=lease, op="op") == [1]
    assert await runner.leave(lease=lease, op="op", age=5) == [1]
    await runner.take("b")
    assert await runner.leave(lease=lease, op="op", age=5) == [1]
    assert (await runner.renew("b"))[0] == 1
    # A new request gets the true state.
    assert await runner.leave(lease=lease) == LOST
    # So does a retry if the lease had expired before.
    assert await runner.leave(lease=int(await runner.now_ms()) - 10, age=5) == LOST


async def test_a_fence_is_above_the_floor(runner: ScriptRunner) -> None:
    floor = int(await runner.now_ms() * 1000) + 3_600_000_000
    assert int((await runner.take(floor=floor))[1]) == floor + 1
    await runner.leave()
    assert int((await runner.take(floor=floor + 1))[1]) == floor + 2


async def test_a_fence_is_above_the_last_one_of_the_entry(runner: ScriptRunner) -> None:
    floor = int(await runner.now_ms() * 1000) + 3_600_000_000
    await runner.take(floor=floor)
    await runner.take("b")
    await runner.leave()
    assert int((await runner.take("b"))[1]) == floor + 2


async def test_what_is_for_a_millisecond_is_there_meanwhile(runner: ScriptRunner) -> None:
    names = (runner.lock, f"{runner.lock}:queue")

    async def left(*arguments: object, holder: str = "") -> int:
        # The maximum of several runs. Redis 7.0 measures expiry by its clock, not by the start of
        # the script. A busy machine may pause the script for a millisecond.
        most = 0
        for _ in range(8):
            await runner.client.read("DEL", *names)
            if holder:
                await runner.take(holder)
            parts = (*names, "op", "", *map(str, arguments))
            found = await runner.client.read(
                "EVAL", and_what_is_left(scripts.ACQUIRE_LOCK), 2, *parts
            )
            most = max(most, int(found))
        return most

    assert await left(HOLDER, "a name", 1, FOREVER, 1, 0) == 1
    assert await left(HOLDER, "a name", 1, 1, 1, 0, holder="b") == 2


async def test_a_fenced_put_is_done_once(runner: ScriptRunner) -> None:
    fence = int((await runner.take())[1])
    first = await runner.put(fence, op="op")
    assert first[:2] == [1, b"1"]
    await runner.leave()
    # It was done while the lease ran, whatever happened to the lease since.
    assert await runner.put(fence, op="op", age=5) == first
    assert await runner.put(fence, op="late", age=5) == LOST
    assert await runner.put(fence) == LOST
    assert await runner.version() == 1


async def test_a_fenced_update_is_done_once(runner: ScriptRunner) -> None:
    fence = int((await runner.take())[1])
    await runner.put()
    assert await runner.update(1, fence, op="op") == [1]
    await runner.leave()
    assert (await runner.update(1, fence, op="op", age=5))[:2] == [1, b"2"]
    await runner.put()
    assert (await runner.update(1, fence, op="op", age=5))[:2] == [1, b"2"]
    assert await runner.update(3, fence, op="late", age=5) == LOST
    assert await runner.update(3, fence) == LOST
    assert await runner.update(1, fence) == LOST
    assert await runner.version() == 3


async def test_a_fenced_write_is_unknown_where_its_trace_may_be_gone(runner: ScriptRunner) -> None:
    fence = int((await runner.take())[1])
    started_ms = await runner.now_ms()
    await runner.put(fence, op="put")
    await runner.leave()
    for _ in range(12):
        await runner.put()
    age = await runner.now_ms() - started_ms + 5
    assert await runner.put(fence, op="put", age=age) == UNKNOWN
    assert await runner.update(1, fence, op="update", age=age) == UNKNOWN
    assert await runner.update(13, fence, op="update", age=age) == LOST  # no later version


async def test_a_fenced_write_is_unknown_where_its_record_may_have_ended(
    runner: ScriptRunner,
) -> None:
    fence = int((await runner.take())[1])
    await runner.leave()
    assert await runner.put(fence, ttl=50, age=100) == UNKNOWN
    assert await runner.put(fence, ttl=FOREVER, age=100) == LOST
    assert await runner.update(1, fence, age=100) == UNKNOWN
    assert await runner.update(1, fence) == LOST


async def test_a_lost_lease_writes_nothing(runner: ScriptRunner) -> None:
    await runner.put()
    for fence in (0, 1, "", "x"):
        if fence != "":
            assert await runner.put(fence) == LOST
        assert await runner.update(1, fence) == LOST
    fence = int((await runner.take())[1])
    await runner.client.read("HSET", runner.lock, "lease", int(await runner.now_ms()) - 1)
    assert await runner.put(fence) == LOST
    assert await runner.update(1, fence) == LOST
    assert await runner.version() == 1


async def test_a_lock_that_was_given_back_guards_nothing_though_the_clock_is_set_back(
    runner: ScriptRunner,
) -> None:
    fence = int((await runner.take())[1])
    await runner.put()
    await runner.take("b")
    await runner.leave()
    # As after a clock was set back: the end of the lease is in the future again.
    await runner.client.read("HSET", runner.lock, "lease", int(await runner.now_ms()) + 5000)
    assert await runner.put(fence) == LOST
    assert await runner.update(1, fence) == LOST
    assert await runner.version() == 1


async def test_a_lock_that_was_given_back_is_open_though_the_clock_is_set_back(
    runner: ScriptRunner,
) -> None:
    await runner.take()
    await runner.take("b")
    await runner.take("c")
    await runner.leave()
    await runner.client.read("HSET", runner.lock, "lease", int(await runner.now_ms()) + 5000)
    assert int((await runner.take("c"))[2]) <= await runner.now_ms()
    assert (await runner.take("b"))[0] == 1


# --- over a faulty connection ---------------------------------------------------------------------


def nth_script(fate: Fate, number: int) -> Callable[[bytes], Fate]:
    """Applies a fate to one of the requests that run a script."""
    seen = 0

    def choose(request: bytes) -> Fate:
        nonlocal seen
        if b"EVAL" not in request:
            return Fate.PASS
        seen += 1
        return fate if seen == number else Fate.PASS

    return choose


@pytest.mark.parametrize("fate", LOSSES, ids=lambda fate: fate.name.lower())
async def test_a_turn_over_a_line_that_loses_one_request_or_reply(
    server: LocalServer, fate: Fate
) -> None:
    namespace = f"test:{uuid4().hex}"
    async with control(server) as client, store_at(server.url, namespace=namespace) as near:
        # The server has every script, so that each request executes one.
        await one_turn(near, KEY)

        async def disturbed(number: int) -> list[int]:
            async with (
                Proxy(server.port, nth_script(fate, number)) as proxy,
                store_at(proxy.url, namespace=namespace, deadline=3) as far,
            ):
                versions = await one_turn(far, SessionKey(f"turn {number}"))
                assert proxy.met[fate] == 1
                return versions

        with anyio.fail_after(20):
            turns = await asyncio.gather(*(disturbed(number) for number in range(1, 6)))
        assert turns == [[1, 2]] * 5
        for name in await client.read("KEYS", "*"):
            assert b"lock" not in name or await client.read("HKEYS", name) == [b"fence"]


async def one_turn(store: Any, key: SessionKey) -> list[int]:
    """Run five scripts: take the lock, write, renew, write, and release it."""
    async with SessionLocks(store).hold(key) as lease:
        one = await store.put(session(key), fence=lease)
        await lease.renew()
        two = await store.update_cas(session(key), one, fence=lease)
        assert await lease.release() is True
    return [one.value, two.value]


# --- memory and server alike ----------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVERS)
async def test_memory_and_server_do_the_same(name: str) -> None:
    print(f"GREENTIC_SESSION_TEST_SEED={SEED}")  # noqa: T201 - pytest shows it with a failure
    dice = random.Random(SEED)
    with LocalServer(binary_of(name)) as local:
        async with MemoryHarness() as memory, RedisHarness(local.url) as server:
            sides = [await Side.of(memory), await Side.of(server)]
            met: set[object] = set()
            for number in range(500):
                verb, *arguments = dice.choice(MOVES)
                token = dice.choice("abcdef")
                one, other = [await getattr(side, verb)(token, *arguments) for side in sides]
                if verb == "ask":
                    (one, left_ms), (other, its_left_ms) = one, other
                    assert abs(left_ms - its_left_ms) < 5000, f"step {number}"
                assert one == other, f"step {number}: {verb} {token} {arguments}"
                met.add((verb, one))
            assert {(verb, done) for verb in ("leave", "write") for done in (True, False)} <= met
            for side in sides:
                await side.end()


# Whole seconds, so that no two sums of them are close. The server's clock runs meanwhile.
MOVES: Final[list[tuple[Any, ...]]] = [
    *[("ask", True)] * 6,
    ("ask", False),
    *[("leave",)] * 3,
    ("renew",),
    *[("write",)] * 2,
    ("holder",),
    ("advance", 7),
    ("advance", 16),
    ("advance", 83),
]


class Side:
    """One backend's locks."""

    def __init__(self, harness: StoreHarness, store: AsyncSessionStore[Any]) -> None:
        assert isinstance(store, SupportsLocks)
        self._harness = harness
        self._store = store
        self._backend = store._lock_backend()
        self._fences = {"": 0}

    @classmethod
    async def of(cls, harness: StoreHarness) -> Side:
        return cls(harness, await harness.open())

    async def ask(self, token: str, queues: bool) -> tuple[object, int]:
        bid = LockRequest(self._place(token), token, 40_500, 61_000, queues=queues)
        outcome = await self._backend.call().acquire(bid)
        if outcome.verdict is DONE and self._fences.get(token) != outcome.fence:
            assert outcome.fence > max(self._fences.values())
            self._fences[token] = outcome.fence
        return outcome.verdict, outcome.left_ms

    async def leave(self, token: str) -> bool:
        return await self._backend.call().release(self._place(token), 0)

    async def renew(self, token: str) -> object:
        return (await self._backend.call().renew(self._place(token), 40_500)).verdict

    async def write(self, token: str) -> bool:
        try:
            await self._store.put(session(), fence=Held(self._fences.get(token, 1)))
        except LeaseLostError:
            return False
        return True

    async def holder(self, _token: str) -> object:
        found = await self._backend.call().holder("", KEY)
        return found and found.name

    async def advance(self, _token: str, secs: float) -> None:
        await self._harness.advance(secs)

    async def end(self) -> None:
        """Check that nothing is left when every lease has ended."""
        await self._store.delete(KEY)
        await self._harness.advance(1000)
        assert await self._harness.residue() == []

    @staticmethod
    def _place(token: str) -> LockRef:
        return LockRef("", KEY, token)


class Held(NamedTuple):
    """A lease with only its fencing token."""

    fence: int

    @property
    def guard(self) -> LeaseRef:
        return LeaseRef(LeaseKind.LOCK, "", KEY, self.fence)
