"""The program whose instructions :mod:`.instructions` counts: one verb, a number of times.

Two runs that differ in VERB and OPERATIONS only differ in those operations' instructions. The rest
is the same in both: the interpreter's start, the imports, the sessions, a warm-up of every verb.
The package may be that of any revision, so only its public API is used.

Arguments: ``FOLDER SOCKET NAMESPACE CALLERS MOST VERB OPERATIONS``

* FOLDER: the folder from which the package must be imported.
* SOCKET: path of the server's socket, or ``-`` for the memory backend.
* NAMESPACE: namespace of the sessions on the server. Each run has its own, of the same length.
* CALLERS: number of callers. They start each step together.
* MOST: the largest OPERATIONS of the runs that are compared. Each run makes sessions for as many.
* VERB: the verb that is counted.
* OPERATIONS: operations of all callers together, after the warm-up.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import greentic_session
from greentic_session import (
    MemoryConfig,
    RedisConfig,
    ReplyScope,
    WaitRegistry,
    create_session_store,
)
from greentic_session.ordering import SessionInbox, SessionLocks

from .sessions import CTX, KEPT_SECS, key, session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from greentic_session import AsyncSessionStore

    Store = AsyncSessionStore[dict[str, Any]]  # Any: JSON values
    Operation = Callable[[], Awaitable[object]]

VERBS: Final = ("get", "put", "create", "update_cas", "touch", "wait", "turn", "lock")
"""Five verbs of a store, and three rounds of verbs: ``register_wait``, ``resume`` and ``finish`` of
a wait, ``admit``, ``take`` and ``finish`` of a turn, ``hold`` and release of a lock."""
_ROUNDS: Final = ("wait", "turn", "lock")
"""They take ten times the instructions of a verb, so fewer of them are a warm-up."""
_LEASE_SECS: Final = 3600.0
_WARM_UP: Final = 128
"""Operations of each verb before the counted ones, of all callers together.

Afterwards the interpreter has specialized the code, and a record's operation log has its full
length.
"""
_UNTIMED_SECS: Final = 3600.0
"""Timeout that never fires. valgrind makes the client 20 to 50 times slower."""
_FAR: Final = 1_000_000


class Arguments(NamedTuple):
    """The command line."""

    folder: Path
    socket: str
    namespace: str
    callers: int
    most: int
    verb: str
    operations: int


def _store(socket: str, namespace: str) -> Store:
    """Return a store without timers, on one connection."""
    if socket == "-":
        return create_session_store(MemoryConfig(sweep_interval_secs=_UNTIMED_SECS))
    # A store opens further connections when one seems to stall, as with a slow client.
    return create_session_store(
        RedisConfig(
            unix_path=socket, namespace=namespace, deadline_secs=_UNTIMED_SECS, max_connections=1
        )
    )


async def _operations(store: Store, number: int, most: int) -> dict[str, Operation]:
    """Return the operation of one caller, by verb.

    :param number: number of the caller, which has a session of its own.
    :param most: maximum number of calls of a verb.
    """
    own, own_key = session(number), key(number)
    await store.put(own)
    changed = session(_FAR + number)  # not the record that `put` writes, because its token changes
    cas = await store.put(changed)
    changed_state = session(number)
    unused = [session((number + 3) * _FAR + count) for count in range(most)]

    async def update() -> None:
        nonlocal cas
        cas = await store.update_cas(changed, cas)

    waits: WaitRegistry[dict[str, Any]] = WaitRegistry(store)  # Any: JSON values
    waiting, scope = session(2 * _FAR + number), ReplyScope(conversation=f"chat-{number:04}")
    # Each caller has an inbox of its own, because callers of one inbox take each other's turns.
    inbox = SessionInbox(store, CTX, name=f"inbox-{number:04}", lease=_LEASE_SECS)
    locks = SessionLocks(store)
    events = 0

    async def wait() -> None:
        await waits.register_wait(CTX, CTX.user_id or "", scope, waiting)
        async with waits.resume(CTX, CTX.user_id or "", scope, lease=_LEASE_SECS) as turn:
            await turn.finish()

    async def take_turn() -> None:
        nonlocal events
        events += 1
        await inbox.admit(own_key, f"{number:04}-{events:08}", b"hello")
        async with inbox.take("worker") as turn:
            await turn.finish(changed_state)

    async def lock() -> None:
        async with locks.hold(own_key, _LEASE_SECS):
            pass

    return {
        "wait": wait,
        "turn": take_turn,
        "lock": lock,
        "get": lambda: store.get(own_key, ctx=CTX),
        "put": lambda: store.put(own),
        "create": lambda: store.create(unused.pop()),
        "update_cas": update,
        "touch": lambda: store.touch(own_key, KEPT_SECS, ctx=CTX),
    }


async def _repeat(operations: list[Operation], steps: int) -> None:
    """Let all callers do one operation per step, and wait for all of them before the next."""
    if len(operations) == 1:
        (operate,) = operations
        for _ in range(steps):
            await operate()
        return
    for _ in range(steps):
        await asyncio.gather(*(operate() for operate in operations))


async def _run(given: Arguments) -> None:
    warm_up, counted = _WARM_UP // given.callers, given.operations // given.callers
    most = warm_up + given.most // given.callers
    async with _store(given.socket, given.namespace) as store:
        callers = [await _operations(store, number, most) for number in range(given.callers)]
        for verb in VERBS:
            steps = warm_up // 8 if verb in _ROUNDS else warm_up
            await _repeat([operations[verb] for operations in callers], steps)
        # The cost of a collection depends on the number of objects, not on the verb.
        gc.collect()
        gc.freeze()
        gc.disable()
        await _repeat([operations[given.verb] for operations in callers], counted)


def main() -> None:
    """Run the command line."""
    folder, socket, namespace, callers, most, verb, operations = sys.argv[1:]
    given = Arguments(
        Path(folder), socket, namespace, int(callers), int(most), verb, int(operations)
    )
    found = Path(greentic_session.__file__).parents[1]
    if found.resolve() != given.folder.resolve():
        raise SystemExit(f"wrong package imported: expected that of {given.folder}, got {found}")
    random.seed(0)
    asyncio.run(_run(given))


if __name__ == "__main__":
    main()
