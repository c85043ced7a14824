"""Writers that each know the state of their session, while servers come and go."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from greentic_session import (
    Cas,
    CasConflictError,
    DurabilityError,
    OutcomeUnknownError,
    Session,
    SessionCursor,
    SessionError,
    SessionKey,
    SessionMeta,
    TenantCtx,
    create_session_store,
)
from greentic_session.testing.topologies import ClusterRig

from .stopwatch import Stopwatch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from greentic_session import AsyncSessionStore
    from greentic_session.testing.history import History, RecordedStore
    from greentic_session.testing.topologies import Node, SentinelRig

    Store = AsyncSessionStore[Any]
    Client = AsyncSessionStore[Any] | RecordedStore[Any]

CTX = TenantCtx(tenant_id="acme")
DEADLINE_SECS: Final = 20.0
"""Deadline of each call of a fleet's store, in seconds."""
_PAUSE_SECS: Final = 0.002


def numbered(key: SessionKey, number: int) -> Session[dict[str, Any]]:
    return Session(
        key=key,
        cursor=SessionCursor(flow_id="fleet", node_id="at sea"),
        meta=SessionMeta.of(CTX),
        context={"number": number},
    )


def slot_of(key: str) -> int:
    return ClusterRig.slot_of(f"{{{key}}}")


async def other_master(rig: ClusterRig, key: str) -> Node:
    """Return a master that does not have the key's slot."""
    owner = await rig.master_of(slot_of(key))
    return next(node for node in await rig.masters() if node is not owner)


@asynccontextmanager
async def store_of(rig: SentinelRig | ClusterRig, **options: object) -> AsyncIterator[Store]:
    """Return a store at a rig, with a fresh namespace and a deadline of 8 s by default."""
    given = {"namespace": f"test:{uuid4().hex}", "deadline": 8, **options}
    query = "&".join(f"{name}={value}" for name, value in given.items())
    async with create_session_store(f"{rig.url}?{query}") as store:
        yield store


class Writer:
    """The only writer of its key. Each write is a number one higher than the last.

    :ivar acknowledged: the last number that a call acknowledged with the requested durability.
    :ivar lost: number of acknowledged writes that were missing after a recovery.
    """

    def __init__(self, store: Client, key: SessionKey, stopwatch: Stopwatch) -> None:
        self._store = store
        self._stopwatch = stopwatch
        self.key = key
        self.number = 0
        self.acknowledged = 0
        self.cas: Cas | None = None
        self._is_astray = False
        self.lost = 0
        self.told: Counter[str] = Counter()

    async def write(self) -> None:
        if self._is_astray:
            await self.look()
            return
        with self._stopwatch.timed():
            try:
                await self._write()
            except CasConflictError as conflict:
                # No other client writes, so the stored token must be an older one. The writes after
                # it are lost.
                is_old = self.cas is not None and conflict.current.value < self.cas.value
                self.told["conflict" if is_old else "false conflict"] += 1
            except (DurabilityError, OutcomeUnknownError) as error:
                self.told[type(error).__name__] += 1
            except SessionError as error:
                self.told[f"{type(error).__name__}: {error}"] += 1
                return
            else:
                return
        await self.look()

    async def _write(self) -> None:
        number = self.number = self.number + 1
        if self.cas is None:
            self.cas = await self._store.create(numbered(self.key, number))
            assert self.cas.value == 1
        else:
            cas = await self._store.update_cas(numbered(self.key, number), self.cas)
            assert (cas.incarnation, cas.value) == (self.cas.incarnation, self.cas.value + 1)
            self.cas = cas
        self.acknowledged = number

    async def look(self) -> None:
        """Read the stored session, and continue from it."""
        try:
            found = await self._store.get(self.key, ctx=CTX)
        except SessionError as error:
            self.told[f"get: {type(error).__name__}"] += 1
            self._is_astray = True
            return
        self._is_astray = False
        there: int = found.session.context["number"] if found else 0
        assert there <= self.number
        self.lost += max(0, self.acknowledged - there)
        self.acknowledged = there
        self.cas = found.cas if found else None


class Fleet:
    """Writers at work on a store.

    :param keys: keys of the writers, one for each.
    :param history: history that records the calls.
    """

    def __init__(
        self, store: Store, keys: Sequence[SessionKey], history: History | None = None
    ) -> None:
        self.store = store
        self.stopwatch = Stopwatch(DEADLINE_SECS)
        clients = [store if history is None else history.client(store, key) for key in keys]
        self.writers = [
            Writer(client, key, self.stopwatch) for client, key in zip(clients, keys, strict=True)
        ]

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Let all write continuously, from before the block until after it."""
        leave = asyncio.Event()

        async def work(writer: Writer) -> None:
            while not leave.is_set():
                await writer.write()
                await asyncio.sleep(_PAUSE_SECS)  # limits the load on a laptop

        async with self.stopwatch.running(), asyncio.TaskGroup() as tasks:
            for writer in self.writers:
                tasks.create_task(work(writer))
            try:
                await self.has_written(5)
                yield
                await self.has_written(5)
            finally:
                leave.set()
        for writer in self.writers:
            await writer.look()
        print(self)  # noqa: T201 - pytest shows it with a failure

    async def has_written(self, more: int) -> None:
        """Wait until each writer has written this number of times more."""
        goals = [(writer, writer.acknowledged + more) for writer in self.writers]
        async with asyncio.timeout(40):
            while any(writer.acknowledged < goal for writer, goal in goals):  # noqa: ASYNC110
                await asyncio.sleep(0.005)  # no notification

    @property
    def told(self) -> Counter[str]:
        return sum((writer.told for writer in self.writers), Counter())

    @property
    def lost(self) -> int:
        return sum(writer.lost for writer in self.writers)

    def __str__(self) -> str:
        p50, p99, longest = (self.quantile_secs(share) * 1000 for share in (0.5, 0.99, 1))
        return (
            f"{len(self.stopwatch.took)} writes, {self.store.statistics().retries} retries, "
            f"{self.lost} lost, p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {longest:.0f} ms, "
            f"results {dict(self.told)}"
        )

    def quantile_secs(self, share: float) -> float:
        """Return the time in seconds within which this share of the writes ended."""
        return sorted(self.stopwatch.took)[math.ceil(len(self.stopwatch.took) * share) - 1]
