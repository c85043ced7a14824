"""Sessions and waits that expire or are removed leave nothing behind."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from greentic_session import SessionKey, WaitRegistry
from greentic_session.testing.harness import MemoryHarness, RedisHarness
from greentic_session.testing.servers import LocalServer, valkey_binary

from ..support.redis import CTX, session
from ..support.waits import answered, chat, owner, paused

if TYPE_CHECKING:
    import random

    from greentic_session.testing.harness import StoreHarness

    from ..support.waits import Registry, Store
    from .report import Report

AT_ONCE: Final = 250
LIFE_SECS: Final = 3600.0
LONGER_THAN_ANY_MEMORY_SECS: Final = 3 * 86_400.0
"""Completed events are known for a day, and at least for the lifetime of their session."""


async def in_memory(report: Report) -> None:
    """Let sessions expire, in memory."""
    while not report.is_over:
        async with MemoryHarness() as harness:
            await _live_and_end(report, harness)


async def on_valkey(report: Report) -> None:
    """Let sessions expire, on a server."""
    with LocalServer(valkey_binary()) as server:
        while not report.is_over:
            async with RedisHarness(server.url) as harness:
                await _live_and_end(report, harness)


async def _live_and_end(report: Report, harness: StoreHarness) -> None:
    store = await harness.open()
    start = report.count
    numbers = range(start, min(start + AT_ONCE, report.wanted))
    async with asyncio.TaskGroup() as tasks:
        for number in numbers:
            live = _session if number % 2 else _wait
            tasks.create_task(live(store, number, report.dice(number)))
    await harness.advance(LONGER_THAN_ANY_MEMORY_SECS)
    left = await harness.residue()
    report.expect(not left, f"of lives {numbers}, {len(left)} names are left, as {left[:3]}")
    report.count = numbers.stop


async def _session(store: Store, number: int, dice: random.Random) -> None:
    key = SessionKey(f"session-{number}")
    for _ in range(dice.randint(1, 6)):
        made = await store.put(session(key, ttl_secs=dice.choice((0, LIFE_SECS))))
        await store.touch(key, dice.choice((0, 1, LIFE_SECS)), ctx=CTX)
        if dice.random() < 0.3:
            await store.delete(key, ctx=CTX, expected=made)
    if dice.random() < 0.5:
        await store.put(session(key, ttl_secs=LIFE_SECS))
    else:
        await store.delete(key, ctx=CTX)


async def _wait(store: Store, number: int, dice: random.Random) -> None:
    user = f"user {number}"
    waits: Registry = WaitRegistry(store)
    form = paused(f"wait-{number}", user, ttl_secs=LIFE_SECS)
    for turn in range(dice.randint(1, 3)):
        event_id = f"event {turn}"
        await waits.register_wait(CTX, user, chat(turn), form, event_id=event_id)
        if dice.random() < 0.3:
            continue
        claim = await waits.claim(CTX, user, chat(turn), event_id=f"reply {turn}")
        ending = dice.randrange(4)
        if ending == 0:
            await claim.complete(answered(claim.session, "a turn"))
        elif ending == 1:
            await claim.finish()
        elif ending == 2:
            await claim.release()
        else:
            await claim.wait_again(claim.session, chat("elsewhere"))
    if dice.random() < 0.3:
        await store.delete(form.key, ctx=owner(user))
