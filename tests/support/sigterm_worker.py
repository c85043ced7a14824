"""A worker process for the test of SIGTERM.

Usage: ``python -m tests.support.sigterm_worker URL WAY``.

It holds a lock, a claim, a turn and a membership, prints ``held``, and waits for the signal.
``WAY`` is ``released``, or ``plain`` for no handler.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from typing import Any, Final

import anyio

from greentic_session import ReplyScope, SessionKey, TenantCtx, WaitRegistry, create_session_store
from greentic_session.ordering import (
    SessionAffinity,
    SessionInbox,
    SessionLocks,
    release_on_sigterm,
)

CTX: Final = TenantCtx(tenant_id="acme")
USER: Final = "ann"
CHAT: Final = ReplyScope(conversation="chat")
LOCKED: Final = SessionKey("locked")
LEASE_SECS: Final = 600.0


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def work(url: str, way: str) -> int:
    async with AsyncExitStack() as stack:
        store: Any = await stack.enter_async_context(create_session_store(url))
        termination = None
        if way == "released":
            termination = await stack.enter_async_context(release_on_sigterm())
        enter = stack.enter_async_context
        await enter(SessionLocks(store).hold(LOCKED, LEASE_SECS, ctx=CTX))
        await enter(WaitRegistry(store).resume(CTX, USER, CHAT, lease=LEASE_SECS))
        turn = await enter(SessionInbox(store, CTX, lease=LEASE_SECS).take("worker", wait=60))
        await enter(SessionAffinity(store).member("worker", lease=LEASE_SECS))
        say("held" if turn is not None else "no turn")
        await anyio.sleep_forever()
    say("released")
    assert termination is not None
    assert termination.signal is not None
    return 128 + termination.signal


if __name__ == "__main__":
    sys.exit(asyncio.run(work(*sys.argv[1:])))
