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
    ReplyScope,
    Session,
    SessionCursor,
    SessionError,
    SessionKey,
    SessionMeta,
    TenantCtx,
    WaitRegistry,
    create_session_store,
)
from greentic_session.ordering import SessionAffinity, SessionInbox, SessionLocks
from greentic_session.redis import scripts as lua
from greentic_session.redis.key_names import KeyNames
from greentic_session.redis.transport.client import RedisClient
from greentic_session.testing.proxy import Fate, FaultProxy
from greentic_session.testing.servers import valkey_binary
from greentic_session.testing.topologies.node import Node, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from greentic_session import AsyncSessionStore
    from greentic_session.redis.transport.script import Script
    from greentic_session.testing.proxy import Schedule

    Call = Callable[[], Awaitable[object]]

GOLDEN: Final = Path(__file__).parents[1] / "vectors" / "truth_table.md"
SETUP_SECS: Final = 20
"""Deadline of calls that are to succeed, on a machine with other things to do."""
DEADLINE_SECS: Final = 2.5
"""Deadline of the calls that no replica confirms. None of them ends before it."""
LOSS_SECS: Final = 6
"""The same if the reply is lost as well, because the machine may be slow to reconnect."""
LEASE_SECS: Final = 60
LEASE_MS: Final = 60_000

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


# --- the verbs ------------------------------------------------------------------------------------


@dataclass
class Bench:
    """What a verb is called with.

    :ivar name: of the case: its key, user, inbox and group.
    :ivar store: asks for confirmation.
    :ivar stack: leaves the blocks that the setup entered, in the task that entered them.
    """

    name: str
    store: AsyncSessionStore[Any]
    stack: AsyncExitStack
    ctx: TenantCtx = field(init=False)
    key: SessionKey = field(init=False)
    session: Session[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.ctx = TenantCtx(tenant_id="acme", user_id=self.name)
        self.key = SessionKey(self.name)
        self.session = Session(
            key=self.key,
            cursor=SessionCursor(flow_id="flow", node_id="node"),
            meta=SessionMeta.of(self.ctx),
            context={},
        )
        self.waits: WaitRegistry[Any] = WaitRegistry(self.store)
        self.inbox: SessionInbox[Any] = SessionInbox(
            self.store, self.ctx, name=self.name, attempts=1, lease=LEASE_SECS
        )
        self.locks = SessionLocks(self.store)
        self.affinity = SessionAffinity(self.store, self.name)
        backed: Any = self.store
        self.members: Any = backed.affinity_backend()

    async def created(self) -> Cas:
        return await self.store.create(self.session)

    async def lock(self) -> Any:
        return await self.stack.enter_async_context(
            self.locks.hold(self.key, lease=LEASE_SECS, wait=0)
        )

    async def register(self, **options: Any) -> Cas:
        return await self.waits.register_wait(self.ctx, self.name, HERE, self.session, **options)

    async def claim(self, **options: Any) -> Any:
        return await self.waits.claim(self.ctx, self.name, HERE, lease=LEASE_SECS, **options)

    async def claimed(self, **options: Any) -> Any:
        await self.register()
        return await self.claim(**options)

    async def resume(self) -> None:
        async with self.waits.resume(self.ctx, self.name, HERE, lease=LEASE_SECS):
            pass

    async def admit(self, event: str = "e1") -> Any:
        return await self.inbox.admit(self.key, event, b"")

    async def take(self) -> Any:
        return await self.stack.enter_async_context(self.inbox.take("w", wait=0))

    async def taken(self, *, created: bool = True) -> Any:
        if created:
            await self.created()
        await self.admit()
        await self.admit("e2")
        await self.admit("e3")
        return await self.take()

    async def dead_letter(self) -> Any:
        await self.admit()
        with suppress(ZeroDivisionError):
            async with self.inbox.take("w"):
                raise ZeroDivisionError
        async with self.inbox.take("w", wait=0):
            pass
        (letter,) = [found async for found in self.inbox.dead_letters()]
        return letter

    async def deliver(self) -> Any:
        return await self.inbox.deliver(self.ctx, self.name, HERE, "early", b"")

    async def joined(self) -> None:
        await self.members.join(self.name, "w", "attempt", LEASE_MS)


HERE: Final = ReplyScope(conversation="here")
THERE: Final = ReplyScope(conversation="there")
CASES: Final[dict[str, tuple[Script, Callable[[Bench], Awaitable[Call]]]]] = {}
"""Per verb, the script that writes, and a setup that returns the call."""


def case(name: str, script: Script) -> Callable[[Callable[[Bench], Awaitable[Call]]], None]:
    def add(setup: Callable[[Bench], Awaitable[Call]]) -> None:
        CASES[name] = script, setup

    return add


def _simple(name: str, script: Script, call: Callable[[Bench], Awaitable[object]]) -> None:
    """Add a verb without a setup."""

    async def setup(bench: Bench) -> Call:
        return lambda: call(bench)

    CASES[name] = script, setup


def _prepared(
    name: str,
    script: Script,
    prepare: Callable[[Bench], Awaitable[Any]],
    call: Callable[[Bench, Any], Awaitable[object]],
) -> None:
    """Add a verb that is called with what its setup returned."""

    async def setup(bench: Bench) -> Call:
        prepared = await prepare(bench)
        return lambda: call(bench, prepared)

    CASES[name] = script, setup


async def _created_and_locked(bench: Bench) -> Any:
    return await bench.created(), await bench.lock()


async def _early_and_waiting(bench: Bench) -> None:
    await bench.deliver()
    await bench.register()


async def _assigned(bench: Bench) -> None:
    await bench.joined()
    await bench.affinity.worker_for(bench.key)


async def _pinned(bench: Bench) -> None:
    await _assigned(bench)
    await bench.affinity.pin(bench.key, "w")


_simple("create", lua.CREATE, lambda b: b.store.create(b.session))
_simple("put", lua.PUT, lambda b: b.store.put(b.session))
_prepared("put, waiting", lua.PUT, Bench.register, lambda b, _: b.store.put(b.session))
_prepared(
    "put, fenced", lua.PUT_FENCED, Bench.lock, lambda b, lease: b.store.put(b.session, fence=lease)
)
_prepared(
    "update_cas", lua.UPDATE_CAS, Bench.created, lambda b, cas: b.store.update_cas(b.session, cas)
)
_prepared(
    "update_cas, fenced",
    lua.UPDATE_CAS_FENCED,
    _created_and_locked,
    lambda b, held: b.store.update_cas(b.session, held[0], fence=held[1]),
)
_prepared(
    "mutate",
    lua.UPDATE_CAS,
    Bench.created,
    lambda b, _: b.store.mutate(b.key, lambda found: found, ctx=b.ctx),
)
_prepared("touch", lua.TOUCH, Bench.created, lambda b, _: b.store.touch(b.key, 60, ctx=b.ctx))
_prepared("delete", lua.DELETE, Bench.created, lambda b, _: b.store.delete(b.key, ctx=b.ctx))

_simple("register_wait", lua.REGISTER, Bench.register)
_simple("register_wait, event", lua.REGISTER, lambda b: b.register(event_id="e"))
_prepared(
    "clear_wait", lua.CLEAR, Bench.register, lambda b, _: b.waits.clear_wait(b.ctx, b.name, HERE)
)
_prepared("claim", lua.CLAIM, Bench.register, lambda b, _: b.claim())
_prepared("claim, attempt", lua.CLAIM, Bench.register, lambda b, _: b.claim(attempt_id="a"))
_prepared("resume", lua.CLAIM, Bench.register, lambda b, _: b.resume())
_prepared("claim.save", lua.END_CLAIM, Bench.claimed, lambda b, turn: turn.save(b.session))
_prepared("claim.complete", lua.END_CLAIM, Bench.claimed, lambda b, turn: turn.complete(b.session))
_prepared(
    "claim.wait_again",
    lua.END_CLAIM,
    Bench.claimed,
    lambda b, turn: turn.wait_again(b.session, THERE),
)
_prepared("claim.finish", lua.END_CLAIM, Bench.claimed, lambda _, turn: turn.finish())
_prepared("claim.renew", lua.RENEW_CLAIM, Bench.claimed, lambda _, turn: turn.renew())
_prepared("claim.release", lua.RELEASE_CLAIM, Bench.claimed, lambda _, turn: turn.release())


@case("claim.complete, then claim of its event", lua.END_CLAIM)
async def _(bench: Bench) -> Call:
    turn = await bench.claimed(event_id="e")

    async def complete_or_claim() -> object:
        if not turn.ended:
            return await turn.complete(bench.session)
        return await bench.claim(event_id="e")

    return complete_or_claim


_simple("admit", lua.ADMIT, Bench.admit)
_prepared("take", lua.TAKE_TURN, Bench.admit, lambda b, _: b.take())
_prepared("turn.commit", lua.COMMIT_TURN, Bench.taken, lambda b, turn: turn.commit(b.session, 1))
_prepared("turn.finish", lua.COMMIT_TURN, Bench.taken, lambda b, turn: turn.finish(b.session))
_prepared(
    "turn.finish, no session",
    lua.COMMIT_TURN,
    lambda b: b.taken(created=False),
    lambda _, turn: turn.finish(),
)
_prepared("turn.remove", lua.COMMIT_TURN, Bench.taken, lambda _, turn: turn.remove())
_prepared("turn.renew", lua.RENEW_TURN, Bench.taken, lambda _, turn: turn.renew())
_prepared("turn.release", lua.RELEASE_TURN, Bench.taken, lambda _, turn: turn.release())
_prepared(
    "replay", lua.REPLAY_DEAD_LETTER, Bench.dead_letter, lambda b, letter: b.inbox.replay(letter)
)
_prepared(
    "discard", lua.DISCARD_DEAD_LETTER, Bench.dead_letter, lambda b, letter: b.inbox.discard(letter)
)
_simple("deliver, early", lua.STORE_EARLY, Bench.deliver)
_prepared("deliver, waiting", lua.ADMIT, Bench.register, lambda b, _: b.deliver())
_prepared(
    "collect", lua.ADMIT, _early_and_waiting, lambda b, _: b.inbox.collect(b.ctx, b.name, HERE)
)

_simple("lock, acquire", lua.ACQUIRE_LOCK, Bench.lock)
_prepared("lock, renew", lua.RENEW_LOCK, Bench.lock, lambda _, lease: lease.renew())
_prepared("lock, release", lua.RELEASE_LOCK, Bench.lock, lambda _, lease: lease.release())

_simple(
    "member, join",
    lua.AFFINITY_JOIN,
    lambda b: b.stack.enter_async_context(b.affinity.member("w", lease=LEASE_SECS)),
)
_prepared(
    "member, renew",
    lua.AFFINITY_RENEW,
    Bench.joined,
    lambda b, _: b.members.renew(b.name, "w", "attempt", LEASE_MS),
)
_prepared(
    "member, leave",
    lua.AFFINITY_LEAVE,
    Bench.joined,
    lambda b, _: b.members.leave(b.name, "w", "attempt"),
)
_prepared(
    "worker_for", lua.AFFINITY_ASSIGN, Bench.joined, lambda b, _: b.affinity.worker_for(b.key)
)
_prepared("pin", lua.AFFINITY_PIN, Bench.joined, lambda b, _: b.affinity.pin(b.key, "w"))
_prepared("unpin", lua.AFFINITY_UNPIN, _pinned, lambda b, _: b.affinity.unpin(b.key))
_prepared("affinity.touch", lua.AFFINITY_TOUCH, _assigned, lambda b, _: b.affinity.touch(b.key))
_prepared("forget", lua.AFFINITY_FORGET, _assigned, lambda b, _: b.affinity.forget(b.key))

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
            ("HLEN", members),
            ("HVALS", places),
            ("ZCARD", names.inbox_index(name)),
        ]
        (
            (cas, wait, lease),
            by,
            mails,
            dead,
            entries,
            *early_counts,
            lock,
            joined,
            placed,
            due,
        ) = await self._client.read_many(commands, key=record)
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
