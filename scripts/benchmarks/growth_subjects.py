"""Items that may be stored in large numbers, each with a direct fill and the verbs on it.

A verb here is one public call, or a few calls that leave the same number of items.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec

from greentic_session import (
    AmbiguousKeyError,
    ReplyScope,
    Session,
    SessionKey,
    SessionMeta,
    TenantCtx,
    WaitRegistry,
)
from greentic_session.errors import InboxFullError
from greentic_session.ordering import InboxLimits, SessionAffinity, SessionInbox, SessionLocks
from greentic_session.redis.key_names import KeyNames

from .server_cost import fill_records, sample
from .sessions import CTX, session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from greentic_session import AsyncSessionStore

    from .server_cost import Call, Line

__all__ = ["PARTS", "Sessions", "Subject"]

_MOST: Final = 100_000
_FAR_MS: Final = 4_000_000_000_000
"""A time in the future, in milliseconds since the epoch."""
_CHAT: Final = ReplyScope(conversation="chat")
_USER: Final = CTX.user_id or ""
_OWNER: Final = f"{CTX.team_id}/{CTX.user_id}"
_HEAD: Final = f"{len(_OWNER)}:{_OWNER}"


class Subject(ABC):
    """A kind of item that is stored in large numbers.

    :ivar title: title of the table.
    """

    title: str

    def __init__(self, store: AsyncSessionStore[Any], line: Line, namespace: str) -> None:
        self.store: Final = store
        self.line: Final = line
        self.names: Final = KeyNames(namespace)
        self.count = 0
        self._calls = 0

    def fresh(self) -> str:
        """Return a name that no earlier call used."""
        self._calls += 1
        return f"fresh-{self._calls}"

    def fill(self, count: int) -> None:
        """Store items until there are ``count``."""
        self.line.run(self.commands(range(self.count, count)))
        self.count = count

    @abstractmethod
    def commands(self, numbers: Sequence[int]) -> list[Call]:
        """Return the commands that store some of the items."""

    @abstractmethod
    def verbs(self) -> Mapping[str, Callable[[], Awaitable[object]]]:
        """Return the verbs by name."""


class Sessions(Subject):
    """Sessions of a tenant."""

    title = "sessions"

    def fill(self, count: int) -> None:
        """Store sessions in parts, because the commands of a million do not fit in memory."""
        for start in range(self.count, count, 10_000):
            stop = min(count, start + 10_000)
            fill_records(self.line, self.names, [session(n).key for n in range(start, stop)])
        self.count = count

    def commands(self, numbers: Sequence[int]) -> list[Call]:
        """Return no commands, because :meth:`fill` does not use them."""
        del numbers
        return []

    def verbs(self) -> Mapping[str, Callable[[], Awaitable[object]]]:
        """Return the verbs by name."""
        mine = session(0)

        async def create_delete() -> None:
            one = msgspec.structs.replace(mine, key=SessionKey(self.fresh()))
            await self.store.create(one)
            await self.store.delete(one.key, ctx=CTX)

        async def update() -> None:
            if (found := await self.store.get(mine.key, ctx=CTX)) is not None:
                await self.store.update_cas(*found)

        keys = [session(number).key for number in range(16)]
        return {
            "create, delete": create_delete,
            "put": lambda: self.store.put(mine),
            "get, update_cas": update,
            "touch": lambda: self.store.touch(mine.key, ctx=CTX),
            "get": lambda: self.store.get(mine.key, ctx=CTX),
            "get without ctx": lambda: self.store.get(mine.key),
            "get_many of 16": lambda: self.store.get_many(keys, ctx=CTX),
        }


class Tenants(Subject):
    """Tenants that hold the same key."""

    title = "tenants of one key"
    _key: Final = SessionKey("shared")

    def commands(self, numbers: Sequence[int]) -> list[Call]:
        encoded = sample()
        calls: list[Call] = []
        for number in numbers:
            scope = f"default/tenant-{number}"
            record, lookup = self.names.session_keys(scope, self._key)
            fields = ("cas", "1", "inc", "a" * 32, "owner", _OWNER, "ttl", "0", "at", "1")
            calls.append(("HSET", record, *fields, "body", encoded.body, "ops", ""))
            calls.append(("HSET", lookup, scope, "0"))
        return calls

    def verbs(self) -> Mapping[str, Callable[[], Awaitable[object]]]:
        first = self._of("tenant-0")
        ctx = TenantCtx(tenant_id="tenant-0", team_id=CTX.team_id, user_id=CTX.user_id)

        async def create_delete() -> None:
            one = self._of(self.fresh())
            await self.store.create(one)
            meta = one.meta
            owner = TenantCtx(tenant_id=meta.tenant_id, team_id=meta.team_id, user_id=meta.user_id)
            await self.store.delete(one.key, ctx=owner)

        async def touch_twice() -> None:
            await self.store.touch(self._key, 3600, ctx=ctx)
            await self.store.touch(self._key, 0, ctx=ctx)

        async def get() -> None:
            with suppress(AmbiguousKeyError):
                await self.store.get(self._key)

        async def touch() -> None:
            with suppress(AmbiguousKeyError):
                await self.store.touch(self._key)

        return {
            "create, delete": create_delete,
            "put": lambda: self.store.put(first),
            "touch with a ttl, touch without": touch_twice,
            "get without ctx": get,
            "touch without ctx": touch,
        }

    def _of(self, tenant_id: str) -> Session:
        meta = SessionMeta(tenant_id=tenant_id, team_id=CTX.team_id, user_id=CTX.user_id)
        return msgspec.structs.replace(session(0), key=self._key, meta=meta, ttl_secs=0)


class Waits(Subject):
    """Permanent waits of one user."""

    title = "waits of one user"

    def commands(self, numbers: Sequence[int]) -> list[Call]:
        index = self.names.wait_index(CTX.env, CTX.tenant_id, CTX.team_id, _USER)
        return [
            (
                "HSET",
                index,
                ReplyScope(conversation=f"c{n}").scope_hash(),
                f"{n + 1}:0:0:wait-{n}\n",
            )
            for n in numbers
        ]

    def verbs(self) -> Mapping[str, Callable[[], Awaitable[object]]]:
        waits: WaitRegistry[Any] = WaitRegistry(self.store)

        async def finish(ttl: float | None = None) -> None:
            one = msgspec.structs.replace(session(0), ttl_secs=0)
            await waits.register_wait(CTX, _USER, _CHAT, one, ttl)
            async with waits.resume(CTX, _USER, _CHAT) as claim:
                await claim.finish()

        async def clear() -> None:
            one = msgspec.structs.replace(session(0), ttl_secs=0)
            await waits.register_wait(CTX, _USER, _CHAT, one)
            await waits.clear_wait(CTX, _USER, _CHAT)

        return {
            "register, resume, finish": finish,
            "the same with a ttl": lambda: finish(60),
            "register, clear": clear,
            "find": lambda: waits.find_wait_by_scope(CTX, _USER, _CHAT),
        }


class EarlyEvents(Subject):
    """Early events of one reply scope."""

    title = "early events of one reply scope"

    def commands(self, numbers: Sequence[int]) -> list[Call]:
        name = self.names.early_events(
            CTX.env, CTX.tenant_id, CTX.team_id, _USER, _CHAT.scope_hash()
        )
        calls: list[Call] = []
        for number in numbers:
            event_id = f"event-{number}"
            head = f"{_HEAD}{len(event_id)}:{event_id}"
            calls.append(("RPUSH", name, f"{_FAR_MS}:{head}{'x' * 100}"))
            calls.append(("ZADD", f"{name}:heads", str(_FAR_MS), head))
        return calls

    def verbs(self) -> Mapping[str, Callable[[], Awaitable[object]]]:
        full = self._inbox(InboxLimits(early=max(1, self.count)))
        roomy = self._inbox(InboxLimits(early=_MOST))

        async def refused() -> None:
            with suppress(InboxFullError):
                await full.deliver(CTX, _USER, _CHAT, self.fresh(), b"four")

        return {
            "deliver, refused": refused,
            "deliver, known": lambda: roomy.deliver(CTX, _USER, _CHAT, "event-7", b"four"),
            "deliver": lambda: roomy.deliver(CTX, _USER, _CHAT, self.fresh(), b"four"),
        }

    def _inbox(self, limits: InboxLimits) -> SessionInbox[Any]:
        return SessionInbox(self.store, CTX, limits=limits)


class Messages(Subject):
    """Messages of one session."""

    title = "messages of one session"
    _limits: Final = InboxLimits(mail=_MOST, events=_MOST, dead_letters=_MOST)

    def commands(self, numbers: Sequence[int]) -> list[Call]:
        name = self.names.mailbox_keys(sample().scope, session(0).key)[3]
        return [("RPUSH", name, f"1763650000000:{_HEAD}6:{n:06}{'x' * 100}") for n in numbers]

    def verbs(self) -> Mapping[str, Callable[[], Awaitable[object]]]:
        inbox: SessionInbox[Any] = SessionInbox(self.store, CTX, limits=self._limits)

        async def handle() -> None:
            await inbox.admit(session(0).key, self.fresh(), b"hello")
            async with inbox.take("worker", most=1) as turn:
                await turn.finish()

        async def release() -> None:
            async with inbox.take("worker", most=1) as turn:
                await turn.release()

        return {"admit, take, finish": handle, "take, release": release}


class _FailedError(Exception):
    pass


class DeadLetters(Messages):
    """Dead letters of one session."""

    title = "dead letters of one session"

    def commands(self, numbers: Sequence[int]) -> list[Call]:
        encoded, key = sample(), session(0).key
        name = f"{self.names.inbox(encoded.scope, key)}:dead"
        index = f"{self.names.inbox_index('inbox')}:dead"
        calls: list[Call] = [("ZADD", index, str(_FAR_MS), f"{encoded.scope}/{key}")]
        calls += [
            ("RPUSH", name, f"{_FAR_MS - _MOST + n}:1:{_FAR_MS}:{_HEAD}6:{n:06}{'x' * 100}")
            for n in numbers
        ]
        return calls

    def verbs(self) -> Mapping[str, Callable[[], Awaitable[object]]]:
        inbox: SessionInbox[Any] = SessionInbox(
            self.store, CTX, limits=self._limits, attempts=1, retry_delay=0.001
        )

        async def die() -> None:
            await inbox.admit(session(0).key, self.fresh(), b"hello")
            with suppress(_FailedError):
                async with inbox.take("worker"):
                    raise _FailedError
            async with inbox.take("worker", wait=0):
                pass

        async def discard() -> None:
            await die()
            letter = await anext(inbox.dead_letters())
            await inbox.discard(letter)

        async def replay() -> None:
            await die()
            letter = await anext(inbox.dead_letters())
            await inbox.replay(letter)
            async with inbox.take("worker") as turn:
                await turn.finish()

        return {
            "admit, fail, die, then discard the first": discard,
            "admit, fail, die, then replay the first": replay,
        }


class Mailboxes(Messages):
    """Sessions of one inbox that have messages."""

    title = "sessions of one inbox"

    def commands(self, numbers: Sequence[int]) -> list[Call]:
        index = self.names.inbox_index("inbox")
        return [("ZADD", index, str(_FAR_MS + n), f"default/acme/session-{n}") for n in numbers]

    def verbs(self) -> Mapping[str, Callable[[], Awaitable[object]]]:
        inbox: SessionInbox[Any] = SessionInbox(self.store, CTX)
        return {"admit, take, finish": super().verbs()["admit, take, finish"], "depth": inbox.depth}


class Waiters(Subject):
    """Waiters of one lock."""

    title = "waiters of one lock"
    _key: Final = SessionKey("contended")

    def commands(self, numbers: Sequence[int]) -> list[Call]:
        lock, queue = self.names.lock_keys("", self._key)
        calls: list[Call] = []
        for number in numbers:
            calls.append(("ZADD", queue, str(number), f"waiter-{number}"))
            calls.append(("HSET", lock, f"w:waiter-{number}", str(_FAR_MS), "kept", str(_FAR_MS)))
        return calls

    def verbs(self) -> Mapping[str, Callable[[], Awaitable[object]]]:
        locks = SessionLocks(self.store)

        async def refused() -> None:
            async with locks.try_hold(self._key):
                pass

        async def hold() -> None:
            async with locks.hold(SessionKey("free")):
                pass

        return {"try_hold, refused": refused, "hold of another lock, release": hold}


class Placements(Subject):
    """Placed keys of one group of workers."""

    title = "placed keys of one group"

    def commands(self, numbers: Sequence[int]) -> list[Call]:
        _, members, places, ends = self.names.affinity("default")
        calls: list[Call] = [("HSET", members, "worker", f"{_FAR_MS}:1:attempt")]
        for number in numbers:
            calls.append(("HSET", places, f"key-{number}", f"{_FAR_MS}:3600000:worker\n"))
            calls.append(("ZADD", ends, str(_FAR_MS), f"key-{number}"))
        return calls

    def verbs(self) -> Mapping[str, Callable[[], Awaitable[object]]]:
        affinity = SessionAffinity(self.store)
        mine = SessionKey("key-0")

        async def forget() -> None:
            one = SessionKey(self.fresh())
            await affinity.worker_for(one)
            await affinity.forget(one)

        async def pin() -> None:
            await affinity.pin(mine, "worker")
            await affinity.unpin(mine)

        return {
            "worker_for": lambda: affinity.worker_for(mine),
            "worker_for another, forget": forget,
            "pin, unpin": pin,
            "touch": lambda: affinity.touch(mine),
        }


class Members(Subject):
    """Live workers of one group."""

    title = "workers of one group"

    def commands(self, numbers: Sequence[int]) -> list[Call]:
        members = self.names.affinity("default")[1]
        return [("HSET", members, f"worker-{n}", f"{_FAR_MS}:1:attempt-{n}") for n in numbers]

    def verbs(self) -> Mapping[str, Callable[[], Awaitable[object]]]:
        affinity = SessionAffinity(self.store)

        async def join() -> None:
            async with affinity.member(self.fresh()):
                pass

        mine = SessionKey("placed")
        places, ends = self.names.affinity("default")[2:]
        self.line.run(
            [
                ("HSET", places, str(mine), f"{_FAR_MS}:3600000:worker-1\n"),
                ("ZADD", ends, str(_FAR_MS), str(mine)),
            ]
        )
        return {
            "join, leave": join,
            "worker_for": lambda: affinity.worker_for(mine),
            "placement": lambda: affinity.placement(mine),
        }


PARTS: Final = (
    Tenants,
    Waits,
    EarlyEvents,
    Messages,
    DeadLetters,
    Mailboxes,
    Waiters,
    Placements,
    Members,
)
"""The items of one session, user, lock, inbox or group."""
