"""Each verb of the Redis store: the gain from shared connections, latency, CPU."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Final

import msgspec
import redis

from greentic_session import (
    ReplyScope,
    TenantCtx,
    WaitRegistry,
    create_session_store,
    new_session_key,
)
from greentic_session.testing.servers import LocalServer, valkey_binary

from .conditions import Recorder, progress
from .findings import Finding, Table
from .measuring import Spread, percentiles, race, ratios, short, timed
from .pooled import pooled_store
from .sessions import CTX, session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greentic_session import AsyncSessionStore, Cas, Session, SessionKey

    from .measuring import Operation, Plan, Preparation, Round

__all__ = ["VERBS", "Workload", "measure"]

_AT_ONCE: Final = 16
_SCOPE: Final = ReplyScope(conversation="chat-42")


class Workload:
    """The operations of callers on one store, verb by verb.

    Sessions that a verb uses up, such as those to delete, are prepared before each turn.

    :param store: any store of the library that supports waits.
    :param each: operations of one caller in one turn.
    """

    def __init__(self, store: AsyncSessionStore, callers: int, each: int) -> None:
        self._store: Final = store
        self._waits: Final = WaitRegistry(store)
        self._callers: Final = callers
        self._each: Final = each
        self._users: Final = count()

    async def _held(self) -> list[tuple[Session, Cas]]:
        """Return a stored session for each caller, with its current token."""
        sessions = [session(number) for number in range(self._callers)]
        tokens = await asyncio.gather(*map(self._store.put, sessions))
        return list(zip(sessions, tokens, strict=True))

    async def get(self) -> list[Operation]:
        """Read a session."""

        def one(key: SessionKey) -> Operation:
            return lambda: self._store.get(key, ctx=CTX)

        return [one(mine.key) for mine, _ in await self._held()]

    async def get_many(self) -> list[Operation]:
        """Read sixteen sessions in one call."""
        held = await self._held()
        keys = [mine.key for mine, _ in held]

        def some(number: int) -> Operation:
            given = [keys[(number + step) % len(keys)] for step in range(_AT_ONCE)]
            return lambda: self._store.get_many(given, ctx=CTX)

        return [some(number) for number in range(len(keys))]

    async def create(self) -> list[Operation]:
        """Store a new session."""

        def one(number: int) -> Operation:
            sample = session(number)

            async def create() -> None:
                await self._store.create(msgspec.structs.replace(sample, key=new_session_key()))

            return create

        return [one(number) for number in range(self._callers)]

    async def put(self) -> list[Operation]:
        """Replace a session."""

        def one(mine: Session) -> Operation:
            return lambda: self._store.put(mine)

        return [one(mine) for mine, _ in await self._held()]

    async def update_cas(self) -> list[Operation]:
        """Replace a session, if it is the version that was read."""

        def one(mine: Session, cas: Cas) -> Operation:
            async def update_cas() -> None:
                nonlocal cas
                cas = await self._store.update_cas(mine, cas)

            return update_cas

        return [one(mine, cas) for mine, cas in await self._held()]

    async def mutate(self) -> list[Operation]:
        """Read, change and write a session."""

        def change(found: Session) -> Session:
            return found.advance("ask_plan")

        def one(key: SessionKey) -> Operation:
            return lambda: self._store.mutate(key, change, ctx=CTX)

        return [one(mine.key) for mine, _ in await self._held()]

    async def touch(self) -> list[Operation]:
        """Restart a session's lifetime."""

        def one(key: SessionKey) -> Operation:
            return lambda: self._store.touch(key, ctx=CTX)

        return [one(mine.key) for mine, _ in await self._held()]

    async def delete(self) -> list[Operation]:
        """Remove a session, a fresh one each time."""
        sample = session(0)

        async def one() -> Operation:
            doomed = [
                msgspec.structs.replace(sample, key=new_session_key()) for _ in range(self._each)
            ]
            for each in doomed:
                await self._store.create(each)
            keys = deque(each.key for each in doomed)

            async def delete() -> None:
                if not await self._store.delete(keys.pop(), ctx=CTX):
                    raise RuntimeError("there was nothing to delete")

            return delete

        return list(await asyncio.gather(*(one() for _ in range(self._callers))))

    async def wait(self) -> list[Operation]:
        """Claim a wait and complete it, a fresh one of another user each time."""

        async def one() -> Operation:
            owners: deque[TenantCtx] = deque()
            for _ in range(self._each):
                ctx = TenantCtx(tenant_id="acme", user_id=f"{next(self._users)}")
                sample = msgspec.structs.replace(session(0, ctx), key=new_session_key())
                await self._waits.register_wait(ctx, ctx.user_id or "", _SCOPE, sample)
                owners.append(ctx)

            async def wait() -> None:
                ctx = owners.pop()
                claim = await self._waits.claim(ctx, ctx.user_id or "", _SCOPE, event_id="1")
                await claim.complete(claim.session)

            return wait

        return list(await asyncio.gather(*(one() for _ in range(self._callers))))


VERBS: Final = {
    "get": Workload.get,
    "get_many of 16": Workload.get_many,
    "create": Workload.create,
    "put": Workload.put,
    "update_cas": Workload.update_cas,
    "mutate": Workload.mutate,
    "touch": Workload.touch,
    "delete": Workload.delete,
    "claim and complete a wait": Workload.wait,
}

_SHARED, _POOLED = "shared connections", "a pool"


def measure(plan: Plan) -> Finding:
    """Race the store on shared connections against the same store on a pool."""
    recorder = Recorder()
    taken: dict[str, dict[int, dict[str, list[Round]]]] = {verb: {} for verb in VERBS}
    latencies: dict[str, dict[int, list[float]]] = {verb: {} for verb in VERBS}
    # Some verbs need several scripts, and prepare the sessions that they use up.
    plan = msgspec.structs.replace(plan, operations=max(8, plan.operations // 2))
    with LocalServer(valkey_binary(), tcp=True) as server, redis.Redis(port=server.port) as admin:
        recorder.engine(server)
        with asyncio.Runner() as runner, asyncio.Runner() as pooled_runner:
            shared = create_session_store(f"{server.tcp_url}?deadline=20&namespace=shared")
            pooled = pooled_runner.run(pooled_store(f"{server.tcp_url}?namespace=pooled"))
            for verb, work in VERBS.items():
                for callers in plan.callers:
                    admin.flushall()
                    each = plan.each(callers)
                    ours, theirs = (Workload(store, callers, each) for store in (shared, pooled))
                    entries: dict[str, tuple[asyncio.Runner, Preparation]] = {
                        _SHARED: (runner, lambda work=work, ours=ours: work(ours)),
                        _POOLED: (pooled_runner, lambda work=work, theirs=theirs: work(theirs)),
                    }
                    taken[verb][callers] = race(entries, plan.rounds, each)
                    into: list[float] = []
                    latencies[verb][callers] = into
                    race({"": (runner, _watched(entries[_SHARED][1], into))}, plan.rounds, each)
                ratio = ratios(
                    *(taken[verb][plan.callers[-1]][name] for name in (_SHARED, _POOLED))
                )
                progress(f"{verb}, {plan.callers[-1]} callers: {ratio.text()} a pool")
            runner.run(shared.aclose())
            pooled_runner.run(pooled.aclose())
    columns = ("callers", *map(str, plan.callers))
    return Finding(
        subject="verbs",
        title="Each verb on a server",
        text="The store as it is, on connections that its callers share, against the same store "
        "with `redis.asyncio`'s `BlockingConnectionPool` of 64 in place of its client: the same "
        "checks, encoding and scripts, so what differs is the client alone.",
        conditions=recorder.conditions(plan),
        busy=recorder.is_busy(),
        tables=(
            Table(
                title="Throughput, shared connections against a pool",
                columns=columns,
                rows=tuple(
                    (verb, *(ratios(at[_SHARED], at[_POOLED]).text() for at in levels.values()))
                    for verb, levels in taken.items()
                ),
            ),
            Table(
                title="Latency p50 / p99 / p99.9, in µs",
                columns=columns,
                rows=tuple(
                    (
                        verb,
                        *(
                            " / ".join(f"{us:.0f}" for us in percentiles(at))
                            for at in levels.values()
                        ),
                    )
                    for verb, levels in latencies.items()
                ),
                notes=("Closed loop: with more callers, latency is waiting time.",),
            ),
            Table(
                title="CPU of the client's process per operation, in µs",
                columns=columns,
                rows=tuple(
                    (
                        verb,
                        *(
                            short(Spread.of([turn.cpu_us for turn in at[_SHARED]]).median)
                            for at in levels.values()
                        ),
                    )
                    for verb, levels in taken.items()
                ),
            ),
        ),
    )


def _watched(prepare: Preparation, latencies: list[float]) -> Preparation:
    async def watched() -> Sequence[Operation]:
        return [timed(operation, latencies) for operation in await prepare()]

    return watched
