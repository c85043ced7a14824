"""What each verb that writes returns and stores, confirmed or not, and if its reply is lost.

Run as a program, it writes the table to ``tests/vectors/truth_table.md``.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, cast
from uuid import uuid4

import msgspec

from greentic_session import (
    Cas,
    DurabilityError,
    LeaseLostError,
    RedisConfig,
    SessionError,
    create_session_store,
)
from greentic_session.redis.key_names import KeyNames
from greentic_session.redis.transport.client import RedisClient
from greentic_session.testing.proxy import Fate, FaultProxy
from greentic_session.testing.servers import valkey_binary
from greentic_session.testing.topologies.node import Node, until

from .truth_verbs import CASES, HERE, THERE, Bench

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from greentic_session import AsyncSessionStore
    from greentic_session.testing.proxy import Schedule

    Call = Callable[[], Awaitable[object]]

GOLDEN: Final = Path(__file__).parents[1] / "vectors" / "truth_table.md"
SETUP_SECS: Final = 20
"""Deadline of calls that are to succeed, on a machine with other things to do."""
DEADLINE_SECS: Final = 2.5
"""Deadline of the calls that no replica confirms. None of them ends before it."""
LOSS_SECS: Final = 6
"""The same if the reply is lost as well, because the machine may be slow to reconnect."""

# --- the servers ----------------------------------------------------------------------------------


class ReplicatedRig:
    """A master and a replica, whose link is a proxy that can be cut.

    :ivar master: takes writes.
    :ivar replica: follows it, until it is promoted.
    :ivar link: between both.
    """

    def __init__(self) -> None:
        binary = valkey_binary()
        options = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
        self.master: Final = Node(binary, options)
        self.replica: Final = Node(binary, options)
        self._stack: Final = AsyncExitStack()
        self.link: FaultProxy

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for node in (self.master, self.replica):
                stack.callback(node.stop)
                await node.start()
            self.link = await stack.enter_async_context(
                FaultProxy(self.master.port, lambda _: Fate.PASS)
            )
            await self.replica.ask("REPLICAOF", "127.0.0.1", self.link.port)
            await self.until_equal()
            self._stack.push_async_callback(stack.pop_all().aclose)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def until_equal(self) -> None:
        """Wait until the replica has all that the master has."""

        async def is_equal() -> bool:
            role: Any = await self.replica.ask("ROLE")
            own: Any = await self.master.ask("ROLE")
            return bool(role[3] == b"connected" and role[4] >= own[1] and own[2])

        await until(is_equal, secs=20)

    async def promote(self) -> None:
        """Make the replica a master, as a failover does."""
        await self.replica.ask("REPLICAOF", "NO", "ONE")


# --- what is stored -------------------------------------------------------------------------------


class Observer:
    """Reads what is stored for a case, past the store.

    :param node: the server.
    :ivar namespace: of the store.
    """

    def __init__(self, node: Node, namespace: str) -> None:
        self._client: Final = RedisClient(
            RedisConfig.from_url(f"redis://{node.address}?deadline=20")
        )
        self.namespace: Final = namespace
        self._names: Final = KeyNames(namespace)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def state(self, name: str) -> str:
        """Return what is stored under the keys of a case."""
        names = self._names
        record, _, box, mail = names.mailbox_keys("default/acme", name)
        index = names.wait_index("default", "acme", None, name)
        scopes = HERE.scope_hash(), THERE.scope_hash()
        early = [names.early_events("default", "acme", None, name, scope) for scope in scopes]
        _, members, places, _ = names.affinity(name)
        commands: list[tuple[str, ...]] = [
            ("HMGET", record, "cas", "wait", "lease"),
            ("HGET", box, "by"),
            ("LLEN", mail),
            ("LLEN", f"{box}:dead"),
            ("HMGET", index, *scopes),
            *(("LLEN", queue) for queue in early),
            ("HGET", names.lock("", name), "by"),
            ("HKEYS", members),
            ("HVALS", places),
            ("ZCARD", names.inbox_index(name)),
            ("EXISTS", names.generation("default", "acme", None, name)),
        ]
        (
            (cas, wait, lease),
            by,
            mails,
            dead,
            entries,
            *early_counts,
            lock,
            fields,
            placed,
            due,
            generation,
        ) = await self._client.read_many(commands, key=record)
        # The highest fencing token outlives the members. Its field is no worker's name.
        joined = [field for field in fields if not field.startswith(b"\n")]
        words = [f"v{cas.decode()}"] if cas is not None else []
        words += [word for word, is_so in (("waits", wait), ("claimed", lease)) if is_so]
        words += [
            f"indexed {where}"
            for where, lines in zip(("here", "there"), entries, strict=True)
            if lines is not None
        ]
        for count, what in ((mails, "mail"), (dead, "dead"), (sum(early_counts), "early")):
            words += [f"{count} {what}"] if count else []
        words += ["due"] if due else []
        words += [
            word for word, is_so in (("turn", by), ("locked", lock), ("member", joined)) if is_so
        ]
        words += ["generation"] if generation else []
        if placed:
            words.append("pinned" if placed[0].split(b"\n")[1] else "placed")
        return ", ".join(words) or "nothing"


def told(result: object) -> str:
    """Return what a caller sees, in a word or two."""
    if isinstance(result, SessionError):
        name = type(result).__name__.removesuffix("Error")
        return f"**{name}** `{result.code}`" + (
            " applied" if isinstance(result, DurabilityError) and result.applied else ""
        )
    if isinstance(result, bool | int | None):
        return str(result)
    if isinstance(result, Cas):
        return "token"
    if hasattr(result, "is_new"):
        return "new" if result.is_new else "known"
    if hasattr(result, "verdict"):
        return str(result.verdict.name.lower())
    return type(result).__name__.lower().replace("datetime", "time")


# --- the columns ----------------------------------------------------------------------------------

COLUMNS: Final = (
    "confirmed",
    "retry",
    "not confirmed",
    "retry, not confirmed",
    "retry, confirmed",
    "reply lost",
    "retry",
    "reply lost, not confirmed",
    "retry, confirmed, then a failover",
)
Row = list[tuple[str, str]]
"""Per call, what the caller sees and what the master stores after it."""


def losing(armed: asyncio.Event) -> Schedule:
    """Return a schedule that loses the first reply of the main script of each case."""
    digests = {script.sha1.encode(): name for name, (script, _) in CASES.items()}
    pattern = re.compile(b"(" + b"|".join(digests) + rb").{0,200}?\{([^}]*)\}", re.DOTALL)
    met: set[tuple[bytes, bytes]] = set()

    def choose(request: bytes) -> Fate:
        if not armed.is_set():
            return Fate.PASS
        found = {
            (digest, name)
            for digest, name in pattern.findall(request)
            if digest == _main_digest(name)
        }
        if found <= met:
            return Fate.PASS
        met.update(found)
        return Fate.LOSE

    return choose


def _main_digest(braced: bytes) -> bytes:
    """Return the digest of the main script of the case whose key or user is in braces."""
    name = braced.decode().split(":")[-1]
    return next((s.sha1.encode() for n, (s, _) in CASES.items() if slug(n) == name), b"")


def slug(name: str) -> str:
    return re.sub(r"[^a-z]+", "-", name)


@asynccontextmanager
async def suppressing_losses() -> AsyncIterator[None]:
    with suppress(LeaseLostError):
        yield


def shorten(stores: list[AsyncSessionStore[Any]], deadline_secs: float) -> None:
    """Change the deadline of later calls."""
    for store in stores:
        client: Any = cast("Any", store)._client
        client._config = msgspec.structs.replace(client._config, deadline_secs=deadline_secs)


@dataclass
class Column:
    """One run of all verbs: setups, then calls while something is wrong.

    :ivar calls: how often each verb is called.
    :ivar cut_calls: during how many of these calls the link to the replica is cut.
    :ivar loses: whether the first reply of each verb is lost.
    :ivar promotes: whether the link is cut as soon as the last call was answered, and the replica
        is promoted.
    :ivar promoted: by case, what the promoted replica stores.
    """

    calls: int
    cut_calls: int = 0
    loses: bool = False
    promotes: bool = False
    promoted: dict[str, str] = field(default_factory=dict)
    namespace: str = field(default_factory=lambda: f"test:{uuid4().hex}")
    rows: dict[str, Row] = field(default_factory=dict)

    async def run(self, rig: ReplicatedRig) -> None:
        armed = asyncio.Event()
        schedule = losing(armed) if self.loses else lambda _: Fate.PASS
        stages = [asyncio.Barrier(len(CASES) + 1) for _ in range(2 * self.calls + 2)]
        async with FaultProxy(rig.master.port, schedule) as proxy:
            url = f"{proxy.url}?namespace={self.namespace}&acks=1&deadline={SETUP_SECS}"
            async with AsyncExitStack() as opened:
                # A lost reply breaks its connection, with all calls in flight there.
                count = len(CASES) if self.loses else 1
                stores = [
                    await opened.enter_async_context(create_session_store(url))
                    for _ in range(count)
                ]
                observer = Observer(rig.master, self.namespace)
                try:
                    async with asyncio.timeout(90), asyncio.TaskGroup() as tasks:
                        for number, name in enumerate(CASES):
                            store = stores[number % count]
                            tasks.create_task(self._case(name, store, observer, stages))
                        await self._direct(rig, armed, stages, stores)
                finally:
                    rig.link.heal()
                    await observer.aclose()

    async def _direct(
        self,
        rig: ReplicatedRig,
        armed: asyncio.Event,
        stages: list[asyncio.Barrier],
        stores: list[AsyncSessionStore[Any]],
    ) -> None:
        """Let the verbs go on together, and change what is wrong in between."""
        for number in range(self.calls):
            await stages[2 * number].wait()  # all are ready
            if number == 0:
                armed.set()
                if self.cut_calls:
                    await rig.until_equal()
                    rig.link.black_hole()
                    shorten(stores, LOSS_SECS if self.loses else DEADLINE_SECS)
            if number == self.cut_calls > 0:
                shorten(stores, SETUP_SECS)
                rig.link.heal()  # what the replica lacks is still under way
            await stages[2 * number + 1].wait()
        await stages[-2].wait()  # all were answered
        if self.promotes:
            rig.link.black_hole()
            await rig.promote()
            observer = Observer(rig.replica, self.namespace)
            for name in CASES:
                self.promoted[name] = await observer.state(slug(name))
            await observer.aclose()
        await stages[-1].wait()

    async def _case(
        self,
        name: str,
        store: AsyncSessionStore[Any],
        observer: Observer,
        stages: list[asyncio.Barrier],
    ) -> None:
        row = self.rows[name] = []
        # A block whose lease the verb has lost raises when it is left.
        async with suppressing_losses(), AsyncExitStack() as stack:
            bench = Bench(slug(name), store, stack)
            call = await CASES[name][1](bench)
            row.append(("", await observer.state(bench.name)))
            for number in range(self.calls):
                await stages[2 * number].wait()
                await stages[2 * number + 1].wait()
                try:
                    result = await call()
                except SessionError as error:
                    result = error
                row.append((told(result), await observer.state(bench.name)))
            await stages[-2].wait()
            await stages[-1].wait()


def columns() -> tuple[Column, ...]:
    """Return the runs. In the last one a failover follows."""
    return (
        Column(calls=2),
        Column(calls=3, cut_calls=2),
        Column(calls=2, loses=True),
        Column(calls=2, cut_calls=1, loses=True, promotes=True),
    )


def table(runs: tuple[Column, ...]) -> str:
    """Return the runs in Markdown. A cell tells what is stored if the call changed that."""
    lines = [
        "<!-- Written by `python -m tests.support.truth_table`. -->",
        "",
        "| verb | stored before | " + " | ".join(COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for name in CASES:
        cells = [f"**{name}**", runs[0].rows[name][0][1]]
        for run in runs:
            before = run.rows[name][0][1]
            for seen, stored in run.rows[name][1:]:
                cells.append(seen if stored == before else f"{seen} → {stored}")
                before = stored
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


async def _write() -> None:
    async with ReplicatedRig() as rig:
        runs = columns()
        for run in runs:
            await run.run(rig)
    GOLDEN.write_text(table(runs), "utf-8")


if __name__ == "__main__":
    asyncio.run(_write())
