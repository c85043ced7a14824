"""The verbs that write, each with a setup, as rows of the truth table."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from greentic_session import (
    Cas,
    ReplyScope,
    Session,
    SessionCursor,
    SessionKey,
    SessionMeta,
    TenantCtx,
    WaitRegistry,
)
from greentic_session.abc.generations import GenerationOwner
from greentic_session.ordering import SessionAffinity, SessionInbox, SessionLocks
from greentic_session.redis import scripts as lua

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from greentic_session import AsyncSessionStore
    from greentic_session.redis.transport.script import Script

    Call = Callable[[], Awaitable[object]]

LEASE_SECS: Final = 60
LEASE_MS: Final = 60_000


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
        self.members: Any = backed._affinity_backend()
        self.generations: Any = backed._generation_backend()
        self.owner = GenerationOwner("default/acme", f"/{self.name}")

    async def created(self) -> Cas:
        return await self.store.create(self.session)

    async def updated(self) -> Cas:
        return await self.store.update_cas(self.session, await self.created())

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

    async def generation(self) -> Any:
        return await self.generations.read(self.owner, LEASE_MS)

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
_prepared(
    "replace_incarnation",
    lua.REPLACE,
    Bench.updated,
    lambda b, cas: b.store.replace_incarnation(b.session, cas),
)
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

_simple("generation.read", lua.READ_GENERATION, Bench.generation)
_prepared(
    "generation.confirm",
    lua.CONFIRM_GENERATION,
    Bench.generation,
    lambda b, generation: b.generations.confirm(b.owner, generation, LEASE_MS),
)
_prepared(
    "generation.raise",
    lua.RAISE_GENERATION,
    Bench.generation,
    lambda b, _: b.generations.raise_(b.owner, LEASE_MS),
)
