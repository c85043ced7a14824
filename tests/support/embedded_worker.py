"""A process that runs commands, for tests of an embedded store.

``python -m tests.support.embedded_worker URL`` reads one command per line and writes one answer
each.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any

from greentic_session import SessionKey, TenantCtx, create_session_store

from .redis import counted, session

if TYPE_CHECKING:
    from greentic_session import AsyncSessionStore

CTX = TenantCtx(tenant_id="acme")


async def obey(store: AsyncSessionStore[Any], command: str, key: str) -> object:
    """Run a command and return its answer."""
    if command == "open":
        await store.__aenter__()
        return "open"
    if command == "close":
        await store.aclose()
        return "closed"
    if command == "put":
        return (await store.put(session(key, count=0))).value
    if command == "count":
        versioned = await store.mutate(SessionKey(key), counted, ctx=CTX)
        return versioned.session.context["count"]
    if command == "get":
        found = await store.get(SessionKey(key), ctx=CTX)
        return None if found is None else found.session.context["count"]
    raise ValueError(command)


def answer(text: object) -> None:
    """Write a line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def fork(store: AsyncSessionStore[Any], command: str) -> str:
    """Run a command in a forked process, which then ends or stays until its parent ends."""
    lasting, held = os.pipe()
    ready, tell = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(held)
        os.write(tell, b".")
        if command == "stay":
            os.read(lasting, 1)
        else:
            answer(asyncio.run(obey(store, command, "forked")))
        os._exit(0)
    os.close(lasting)
    os.read(ready, 1)  # until it is a process of its own, it holds its parent's descriptors
    if command == "stay":
        return str(pid)
    os.close(held)
    _, status = os.waitpid(pid, 0)
    return str(status)


def main() -> None:
    url = sys.argv[1]
    store = create_session_store(url)
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            command, _, key = line.strip().partition(" ")
            if command == "open":
                store = create_session_store(url)
            if command == "fork":
                answer(fork(store, key))
            else:
                answer(runner.run(obey(store, command, key)))


if __name__ == "__main__":
    main()
