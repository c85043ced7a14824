"""Tests of wrong clocks: a client's has no effect, and a server's only moves lifetimes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from greentic_session import LeaseLostError, SessionKey, WaitClaimedError, WaitRegistry
from greentic_session.testing.harness import MemoryHarness, RedisHarness

from ..support.histories import Clients
from ..support.redis import CTX, SEED, session, store_at
from ..support.waits import CTX as ACME
from ..support.waits import USER, answered, chat, paused
from .invariants import PAUSE_SECS, at_work

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from greentic_session import AsyncSessionStore
    from greentic_session.testing.topologies import StandaloneRig

    from ..support.waits import Registry

    Store = AsyncSessionStore[Any]

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(150)]

HOUR_SECS: Final = 3600
LIFE_SECS: Final = HOUR_SECS / 2
FOR_EVER: Final = SessionKey("for ever")
FOR_A_WHILE: Final = SessionKey("for a while")
JUMPS: Final = pytest.mark.parametrize("secs", [HOUR_SECS, -HOUR_SECS], ids=["ahead", "behind"])


@JUMPS
async def test_client_clock_off_by_an_hour_server_clock_jumps_client(
    standalone: StandaloneRig, monkeypatch: pytest.MonkeyPatch, secs: int
) -> None:
    async with store_at(standalone.url) as right:
        await right.put(session(FOR_A_WHILE, ttl_secs=LIFE_SECS))
    real, real_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: real() + secs)
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + secs * 1_000_000_000)
    async with (
        at_work(standalone.url, nodes=standalone.nodes) as company,
        RedisHarness(standalone.url) as harness,
    ):
        store = await harness.open()
        for life in (LIFE_SECS, 0):
            await store.put(session(FOR_A_WHILE, ttl_secs=life))
            assert await store.get(FOR_A_WHILE, ctx=CTX) is not None
            record = f"{harness.config.namespace}:default:acme:{{{FOR_A_WHILE}}}"
            left_ms = int(await harness.client.read("PTTL", record))
            if life:
                assert (LIFE_SECS - 100) * 1000 < left_ms <= LIFE_SECS * 1000
            else:
                assert left_ms == -1
        waits: Registry = WaitRegistry(store)
        await waits.register_wait(ACME, USER, chat(), paused("form"))
        turn = await waits.claim(ACME, USER, chat(), lease=30)
        with pytest.raises(WaitClaimedError):
            await waits.claim(ACME, USER, chat())
        await turn.complete(answered(turn.session, "a turn"))
        await company.waits.has_completed(5)
    company.assert_unseen()


@JUMPS
async def test_client_clock_off_by_an_hour_server_clock_jumps_server(
    standalone: StandaloneRig, secs: int
) -> None:
    async with (
        RedisHarness(standalone.url) as harness,
        at_work(standalone.url, namespace=harness.config.namespace) as company,
    ):
        await only_lifetimes_move(await harness.open(), lambda: harness.advance(secs), secs)
        await company.clients.has_done(100)
        await company.waits.has_completed(5)
    company.assert_unseen()


@JUMPS
async def test_client_clock_off_by_an_hour_server_clock_jumps_in_memory(secs: int) -> None:
    async with MemoryHarness() as harness:
        store = await harness.open()
        clients = Clients([store], store, pause_secs=PAUSE_SECS)

        async def jump() -> None:
            harness.clock.set_ms(harness.clock.now_ms() + secs * 1000)

        async with clients.at_work(SEED):
            await only_lifetimes_move(store, jump, secs)
        assert not clients.verdicts, clients.verdicts[0].explanation


async def only_lifetimes_move(store: Store, jump: Callable[[], Awaitable[None]], secs: int) -> None:
    permanent = await store.put(session(FOR_EVER))
    mortal = await store.put(session(FOR_A_WHILE, ttl_secs=LIFE_SECS))
    waits: Registry = WaitRegistry(store)
    await waits.register_wait(ACME, USER, chat("jump"), paused("jump"))
    turn = await waits.claim(ACME, USER, chat("jump"), lease=30)
    await jump()
    found = await store.get(FOR_EVER, ctx=CTX)
    assert found is not None
    assert found.cas == permanent
    assert (await store.update_cas(session(FOR_EVER), permanent)).value == 2
    found = await store.get(FOR_A_WHILE, ctx=CTX)
    assert (found and found.cas) == (None if secs > 0 else mortal)
    if secs > 0:  # leases are lifetimes, too
        again = await waits.claim(ACME, USER, chat("jump"), lease=30)
        assert again.fence > turn.fence
        with pytest.raises(LeaseLostError):
            await turn.complete(answered(turn.session, "a turn"))
        turn = again
    else:
        with pytest.raises(WaitClaimedError):
            await waits.claim(ACME, USER, chat("jump"))
    await turn.complete(answered(turn.session, "a turn"))
    # A new grant has a higher token than all earlier ones, and its full lifetime.
    await waits.register_wait(ACME, USER, chat("jump"), paused("jump"))
    assert (await waits.claim(ACME, USER, chat("jump"))).fence > turn.fence
    await store.put(session(FOR_A_WHILE, ttl_secs=LIFE_SECS))
    assert await store.get(FOR_A_WHILE, ctx=CTX) is not None
