"""A call on a lease that its holder has ended says which call ended it, and that none was lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from greentic_session import (
    DurabilityError,
    InMemorySessionStore,
    LeaseLostError,
    ReplyScope,
    Session,
    SessionCursor,
    SessionKey,
    SessionMeta,
    TenantCtx,
    WaitRegistry,
)
from greentic_session._core.leases import LeaseRenewer
from greentic_session.ordering import SessionInbox, SessionLocks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.anyio

CTX = TenantCtx(tenant_id="acme", user_id="7")
CHAT = ReplyScope(conversation="chat-42")
SESSION: Session[dict[str, Any]] = Session(
    key=SessionKey("k"),
    cursor=SessionCursor(flow_id="f", node_id="n"),
    meta=SessionMeta.of(CTX),
    context={},
)
OF_A_CLAIM: list[tuple[str, Callable[[Any], Awaitable[object]]]] = [
    ("complete()", lambda turn: turn.complete(SESSION)),
    ("wait_again()", lambda turn: turn.wait_again(SESSION)),
    ("finish()", lambda turn: turn.finish()),
    ("release() or the end of its block", lambda turn: turn.release()),
]
OF_A_TURN: list[tuple[str, Callable[[Any], Awaitable[object]]]] = [
    ("finish()", lambda turn: turn.finish()),
    ("remove()", lambda turn: turn.remove()),
    ("release() or the end of its block", lambda turn: turn.release()),
]


@pytest.mark.parametrize(("by", "end"), OF_A_CLAIM, ids=[by for by, _ in OF_A_CLAIM])
async def test_a_claim_that_was_ended_names_the_call(
    by: str, end: Callable[[Any], Awaitable[object]]
) -> None:
    async with InMemorySessionStore(dict[str, Any]) as store:
        waits = WaitRegistry(store)
        await waits.register_wait(CTX, "7", CHAT, SESSION)
        claim = await waits.claim(CTX, "7", CHAT)
        await claim.save(SESSION)  # which does not end it
        await end(claim)
        with pytest.raises(LeaseLostError) as caught:
            await claim.finish()
    assert caught.value.reason == f"the turn was already ended by {by}: no lease was lost"
    assert caught.value.code == "conflict"


@pytest.mark.parametrize(("by", "end"), OF_A_TURN, ids=[by for by, _ in OF_A_TURN])
async def test_a_turn_that_was_ended_names_the_call(
    by: str, end: Callable[[Any], Awaitable[object]]
) -> None:
    async with InMemorySessionStore(dict[str, Any]) as store:
        inbox = SessionInbox(store, CTX)
        await inbox.admit(SESSION.key, "1", b"")
        async with inbox.take("w") as turn:
            await turn.commit(SESSION, 0)  # which does not end it
            await end(turn)
            with pytest.raises(LeaseLostError) as caught:
                await turn.finish()
    assert caught.value.reason == f"the turn was already ended by {by}: no lease was lost"


async def test_a_lock_that_was_released_names_the_release() -> None:
    async with InMemorySessionStore(dict[str, Any]) as store:
        async with SessionLocks(store).hold(SESSION.key, ctx=CTX) as lease:
            pass
        with pytest.raises(LeaseLostError, match=r"the lock was already ended by release\(\) or"):
            await lease.renew()


async def test_an_unconfirmed_ending_names_the_call_too() -> None:
    renewer = LeaseRenewer(30, 30)
    with pytest.raises(DurabilityError), renewer.ending("finish()"):
        raise DurabilityError(0, 1)
    with pytest.raises(LeaseLostError, match=r"by finish\(\): no lease"):
        renewer.require_held("the turn")
