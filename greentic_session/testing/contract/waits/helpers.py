"""A registry on a store, and the callers and reply scopes that the wait contract uses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, final

import anyio
import pytest

from ....config import DEFAULT_MAX_PAYLOAD_BYTES
from ....errors import SessionError, WaitClaimedError
from ....model import Cas, ReplyScope, SessionKey
from ....waits import Claim, WaitRegistry
from ..assertions import everything
from ..samples import GLOBEX, KEY, ctx, evolve, session

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime, timedelta

    from ....model import Session, TenantCtx, Versioned
    from ....store import AsyncSessionStore
    from ...harness import StoreHarness

__all__ = [
    "ANN",
    "ANOTHER",
    "BOB",
    "CHAT",
    "ENDINGS",
    "HOUR",
    "LEASE",
    "MAIL",
    "STEPS",
    "THREAD",
    "WAYS_TO_WRITE",
    "Step",
    "WaitHarness",
    "evolve_ctx",
    "race",
    "wait_harness",
    "without_user",
]

ANN: Final = ctx(team_id="red", user_id="ann")
BOB: Final = ctx(team_id="red", user_id="bob")
_OWNERS: Final = (
    ANN,
    BOB,
    ctx(user_id="ann"),
    ctx(team_id="blue", user_id="ann"),
    ctx(GLOBEX, team_id="red", user_id="ann"),
    ctx(env="staging", team_id="red", user_id="ann"),
)
_TENANTS: Final = (ctx(), ctx(GLOBEX), ctx(env="staging"))

CHAT: Final = ReplyScope(conversation="chat-1")
THREAD: Final = ReplyScope(conversation="chat-1", thread="thread-1")
MAIL: Final = ReplyScope(conversation="mail", reply_to="<1@example.com>", correlation="c-1")
_SCOPES: Final = (CHAT, THREAD, MAIL)

ANOTHER: Final = SessionKey("conversation-2")
LEASE: Final = 30.0
HOUR: Final = 3600.0
"""One hour in seconds. It exceeds every trace of a call on a server."""
_PATIENCE_SECS: Final = 20
"""Limit in seconds for a race, so that a race without a winner ends even on a busy machine."""


def without_user(owner: TenantCtx) -> TenantCtx:
    """Return the caller without its user, as a connector may present it."""
    return evolve_ctx(owner, user_id=None)


def evolve_ctx(owner: TenantCtx, **fields: Any) -> TenantCtx:
    """Return a caller with other fields."""
    given = {name: getattr(owner, name) for name in ("tenant_id", "env", "team_id", "user_id")}
    return ctx(**{**given, **fields})


def _user_of(owner: TenantCtx) -> str:
    assert owner.user_id is not None
    return owner.user_id


@final
class WaitHarness:
    """A registry with short verbs: Ann waits in the chat with the session ``KEY``.

    :ivar harness: the test's harness.
    :ivar store: the store.
    :ivar waits: the registry.
    """

    def __init__(
        self, harness: StoreHarness, store: AsyncSessionStore[Any], **options: Any
    ) -> None:
        self.harness: Final = harness
        self.store: Final = store
        self.waits: Final[WaitRegistry[Any]] = WaitRegistry(store, **options)

    async def peer(self, **options: Any) -> WaitHarness:
        """Return another worker's registry, on a store of its own if stores share sessions."""
        shared = self.store.statistics().sessions is None  # otherwise the store is in this process
        store = await self.harness.open() if shared else self.store
        return WaitHarness(self.harness, store, **options)

    async def register(
        self,
        scope: ReplyScope = CHAT,
        key: str = KEY,
        ttl: timedelta | float | None = None,
        *,
        owner: TenantCtx = ANN,
        expected: Cas | None = None,
        **fields: Any,
    ) -> Cas:
        """Register a session of the owner with these fields."""
        given = session(key, owner=owner, **fields)
        return await self.waits.register_wait(
            owner, _user_of(owner), scope, given, ttl, expected=expected
        )

    async def create(self, key: str = KEY, *, owner: TenantCtx = ANN, **fields: Any) -> Cas:
        """Create a session of the owner that does not wait."""
        return await self.store.create(session(key, owner=owner, **fields))

    async def record(self, key: str = KEY, owner: TenantCtx = ANN) -> Versioned[Any]:
        """Return a session that must exist."""
        found = await self.store.get(SessionKey(key), ctx=owner)
        assert found is not None, f"no session under {key!r}"
        return found

    async def find(self, scope: ReplyScope = CHAT, owner: TenantCtx = ANN) -> SessionKey | None:
        """Return the key of the session that waits under the scope."""
        return await self.waits.find_wait_by_scope(owner, _user_of(owner), scope)

    async def listed(self, owner: TenantCtx = ANN) -> list[SessionKey]:
        """Return the keys of the owner's waiting sessions."""
        return await self.waits.list_waits_for_user(owner, _user_of(owner))

    async def find_by_user(
        self, caller: TenantCtx = ANN, user_id: str = "ann"
    ) -> Versioned[Any] | None:
        """Return the only waiting session of the user, by the deprecated lookup."""
        with pytest.warns(DeprecationWarning, match="find_by_user is deprecated"):
            return await self.waits.find_by_user(caller, user_id)

    async def clear(self, scope: ReplyScope = CHAT, owner: TenantCtx = ANN) -> bool:
        """Clear the wait under the scope."""
        return await self.waits.clear_wait(owner, _user_of(owner), scope)

    async def claim(
        self,
        scope: ReplyScope = CHAT,
        *,
        owner: TenantCtx = ANN,
        event_id: str | None = None,
        attempt_id: str | None = None,
        lease: timedelta | float = LEASE,
    ) -> Claim[Any]:
        """Claim the wait under the scope."""
        return await self.waits.claim(
            *(owner, _user_of(owner), scope),
            event_id=event_id,
            attempt_id=attempt_id,
            lease=lease,
        )

    def resume(
        self,
        scope: ReplyScope = CHAT,
        *,
        owner: TenantCtx = ANN,
        event_id: str | None = None,
        lease: timedelta | float = LEASE,
    ) -> AbstractAsyncContextManager[Claim[Any]]:
        """Resume the wait under the scope."""
        return self.waits.resume(owner, _user_of(owner), scope, event_id=event_id, lease=lease)

    async def claimed_until(self, scope: ReplyScope = CHAT, owner: TenantCtx = ANN) -> datetime:
        """Return the end of the claim on the wait under the scope, which must be claimed."""
        with pytest.raises(WaitClaimedError) as caught:
            await self.claim(scope, owner=owner)
        return caught.value.until

    async def take_turn(
        self,
        scope: ReplyScope = CHAT,
        event_id: str | None = None,
        *,
        owner: TenantCtx = ANN,
        onto: ReplyScope | None = None,
    ) -> Cas:
        """Take a turn that waits again, under the same or another reply scope."""
        turn = await self.claim(scope, owner=owner, event_id=event_id)
        return await turn.wait_again(turn.session, scope if onto is None else onto)

    @asynccontextmanager
    async def kept(self) -> AsyncGenerator[None]:
        """Check that a block leaves all sessions, waits and stored keys unchanged."""
        before = await self._seen()
        yield
        assert await self._seen() == before

    async def _seen(self) -> dict[str, Any]:
        waits = {
            (owner.env, owner.tenant_id, owner.team_id, owner.user_id): (
                [await self.find(scope, owner) for scope in _SCOPES],
                await self.listed(owner),
            )
            for owner in _OWNERS
        }
        sessions = [await everything(self.store, owner) for owner in _TENANTS]
        return {"waits": waits, "sessions": sessions, "stored": await self.harness.residue()}


async def wait_harness(
    harness: StoreHarness,
    context_type: Any = dict,  # Any: as in `StoreHarness`
    *,
    max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
    verify: bool = True,
    **options: Any,
) -> WaitHarness:
    """Return a registry with these options on a fresh store."""
    store = await harness.open(context_type, max_payload_bytes=max_payload_bytes, verify=verify)
    return WaitHarness(harness, store, **options)


Step = Callable[[Claim[Any]], Awaitable[object]]


def _changed(turn: Claim[Any]) -> Session[Any]:
    return evolve(turn.session.advance("next"), context={"step": "taken"})


WAYS_TO_WRITE: Final[dict[str, Callable[[Claim[Any], Any], Awaitable[Cas]]]] = {
    "complete": lambda turn, given: turn.complete(given),
    "wait again": lambda turn, given: turn.wait_again(given, CHAT),
    "wait elsewhere": lambda turn, given: turn.wait_again(given, THREAD),
    "save": lambda turn, given: turn.save(given),
}
"""Steps of a claim on a wait in the chat that take a session."""

ENDINGS: Final[dict[str, Step]] = {
    "complete": lambda turn: turn.complete(_changed(turn)),
    "wait again": lambda turn: turn.wait_again(_changed(turn), CHAT),
    "wait elsewhere": lambda turn: turn.wait_again(_changed(turn), THREAD),
    "finish": lambda turn: turn.finish(),
}
"""Steps that end a turn."""

STEPS: Final[dict[str, Step]] = {
    **ENDINGS,
    "save": lambda turn: turn.save(_changed(turn)),
    "renew": lambda turn: turn.renew(),
}
"""Steps that a lost claim refuses."""


async def race(calls: Iterable[Callable[[], Awaitable[Any]]]) -> list[Any]:
    """Start all calls at once. Return each result or library error."""
    ends: dict[int, Any] = {}
    start = anyio.Event()

    async def run(index: int, call: Callable[[], Awaitable[Any]]) -> None:
        await start.wait()
        try:
            ends[index] = await call()
        except SessionError as error:
            ends[index] = error

    with anyio.fail_after(_PATIENCE_SECS):
        async with anyio.create_task_group() as tasks:
            for index, call in enumerate(calls):
                tasks.start_soon(run, index, call)
            start.set()
    return [ends[index] for index in range(len(ends))]
