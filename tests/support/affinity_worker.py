"""A worker process for the tests of affinity.

Usage: ``python -m tests.support.affinity_worker URL NAME LEASE``.

It joins under its name and reports that. Each line of its standard input is a seed. It replies with
the worker that serves each key, until its input ends or its lease is lost. Its output is lines of
JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from typing import Any, Final

from greentic_session import LeaseLostError, SessionKey, TenantCtx, create_session_store
from greentic_session.ordering import SessionAffinity

KEYS: Final = tuple(SessionKey(f"chat-{number}") for number in range(400))
CTX: Final = TenantCtx(tenant_id="acme")


def say(word: str, **told: object) -> None:
    # One write per line, so that a kill leaves no partial line.
    os.write(1, json.dumps({"word": word, **told}).encode() + b"\n")


async def asked(affinity: SessionAffinity, seed: int) -> dict[str, str | None]:
    """Ask for every key, in an order that the seed gives, several at a time."""
    left = random.Random(seed).sample(KEYS, len(KEYS))
    answers: dict[str, str | None] = {}

    async def ask() -> None:
        while left:
            key = left.pop()
            placement = await affinity.worker_for(key, ctx=CTX)
            answers[key] = None if placement is None else placement.worker

    async with asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(ask())
    return answers


async def work(url: str, name: str, lease: str) -> None:
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    cancellations = 0
    async with create_session_store(url) as store:
        affinity: Any = SessionAffinity(store)
        try:
            async with affinity.member(name, lease=float(lease)) as membership:
                say("joined", fence=membership.fence)
                try:
                    while line := await lines.readline():
                        say("asked", answers=await asked(affinity, int(line)))
                except asyncio.CancelledError:
                    cancellations += 1
                    raise
            say("left", ended=membership.ended)
        except LeaseLostError:
            say("lost", cancellations=cancellations)


if __name__ == "__main__":
    asyncio.run(work(*sys.argv[1:]))
