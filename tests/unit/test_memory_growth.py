"""Tests that the cost of the memory store's verbs does not grow with the stored data."""

from __future__ import annotations

from contextlib import suppress
from time import thread_time_ns
from typing import TYPE_CHECKING, Any, Final

import pytest

from greentic_session import (
    InMemorySessionStore,
    ManualClock,
    ReplyScope,
    Session,
    SessionCursor,
    SessionKey,
    SessionMeta,
    TenantCtx,
)
from greentic_session.errors import InboxFullError
from greentic_session.ordering import InboxLimits, SessionInbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.anyio

FEW, MANY = 100, 10_000
CTX: Final = TenantCtx(tenant_id="acme", user_id="ann")
CHAT: Final = ReplyScope(conversation="chat")
KEY: Final = SessionKey("shared")
CALLS: Final = 20
"""Calls in a batch. The fastest batch counts, in CPU time of this thread."""
BATCHES: Final = 15
ATTEMPTS: Final = 4


class Scene:
    """A store with a number of items of one kind."""

    def __init__(self, count: int) -> None:
        self.store: InMemorySessionStore[Any] = InMemorySessionStore(clock=ManualClock())
        self.count = count
        self.inbox: SessionInbox[Any] = SessionInbox(
            self.store,
            CTX,
            limits=InboxLimits(early=count, mail=MANY, events=MANY, dead_letters=MANY),
        )

    async def put(self, tenant_id: str, user_id: str | None = None) -> None:
        meta = SessionMeta(tenant_id=tenant_id, user_id=user_id)
        cursor = SessionCursor(flow_id="f", node_id="n")
        await self.store.put(Session(key=KEY, cursor=cursor, meta=meta, context=dict[str, Any]()))

    async def deliver(self, event_id: str) -> None:
        with suppress(InboxFullError):
            await self.inbox.deliver(CTX, "ann", CHAT, event_id, b"hello")


async def tenants(scene: Scene) -> Callable[[], Awaitable[object]]:
    for number in range(scene.count):
        await scene.put(f"tenant-{number}")

    async def create_delete() -> None:
        await scene.put("another")
        await scene.store.delete(KEY, ctx=TenantCtx(tenant_id="another"))

    return create_delete


async def refused_events(scene: Scene) -> Callable[[], Awaitable[object]]:
    for number in range(scene.count):
        await scene.deliver(f"event-{number}")
    return lambda: scene.deliver("refused")


async def dead_letters(scene: Scene) -> Callable[[], Awaitable[object]]:
    for number in range(scene.count):
        await scene.inbox.admit(KEY, f"event-{number}", b"hello")
    await scene.put("acme", "another")  # the caller of the messages may not act on this session
    async with scene.inbox.take("worker", wait=0) as turn:
        assert turn is None
    letters = [letter async for letter in scene.inbox.dead_letters()]
    return lambda: scene.inbox.discard(letters.pop())


@pytest.mark.parametrize("kind", [tenants, refused_events, dead_letters])
async def test_no_verb_takes_thrice_as_long_for_ten_thousand_as_for_a_hundred(
    kind: Callable[[Scene], Awaitable[Callable[[], Awaitable[object]]]],
) -> None:
    few = await least_ns(await kind(Scene(FEW)), 4)
    verb, many = await kind(Scene(MANY)), 0.0
    for _ in range(ATTEMPTS):
        many = await least_ns(verb, BATCHES)
        if many < 3 * few:
            return
    pytest.fail(f"{few} ns grow to {many} ns")


async def least_ns(verb: Callable[[], Awaitable[object]], batches: int) -> float:
    found: list[float] = []
    for _ in range(batches):
        started_at = thread_time_ns()
        for _ in range(CALLS):
            await verb()
        found.append((thread_time_ns() - started_at) / CALLS)
    return min(found)
