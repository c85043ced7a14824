"""Acts on an inbox for tests with faults: each act, and its required result."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from greentic_session import ReplyScope, Session, SessionKey, WaitRegistry
from greentic_session.testing.contract.inbox.helpers import (
    LEASE,
    OWNER,
    REST,
    FailedError,
    InboxHarness,
    counted,
    fail,
)
from greentic_session.testing.contract.samples import KEY, ctx, session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from greentic_session.testing.harness import RedisHarness

    Step = Callable[[InboxHarness], Awaitable[object]]

ANN: Final = ctx(user_id="ann")
CHAT: Final = ReplyScope(conversation="chat")
AGES: Final = 100 * 86_400.0


async def nothing(_at: InboxHarness) -> None:
    return


async def two(at: InboxHarness) -> None:
    await at.store.put(session(context={"told": []}))
    await at.admit("e1", "e2")


async def wait_for_ann(at: InboxHarness) -> None:
    waits: WaitRegistry[Any] = WaitRegistry(at.store)
    await waits.register_wait(ANN, "ann", CHAT, session(owner=ANN, context={"told": []}))


async def deliver(at: InboxHarness, event_id: str) -> None:
    await at.inbox.deliver(ANN, "ann", CHAT, event_id, b"hello")


async def early(at: InboxHarness) -> None:
    await deliver(at, "e1")
    await deliver(at, "e2")
    await wait_for_ann(at)


async def poisoned(at: InboxHarness) -> None:
    """Use up the attempts of the first message."""
    await at.admit("bad", "e1")
    await at.fail_for_good(2)


async def dead(at: InboxHarness) -> None:
    await poisoned(at)
    await at.drain()
    await at.admit("e2")


async def commit_one_by_one(at: InboxHarness) -> None:
    async with at.turn() as turn:
        for mail in turn.mail:
            state = turn.session or session()
            told = [*state.context.get("told", ()), mail.event_id]
            await turn.commit(counted_as(state, told), 1)
        await turn.finish()


async def remove(at: InboxHarness) -> None:
    async with at.turn() as turn:
        await turn.remove()


async def release(at: InboxHarness) -> None:
    async with at.turn() as turn:
        await turn.release()


async def fail_once(at: InboxHarness) -> None:
    with suppress(FailedError):
        async with at.turn():
            fail()


async def admit_in_hand(at: InboxHarness) -> None:
    async with at.turn() as turn:
        await at.admit("e3")
        await turn.finish(counted(turn))


async def replay(at: InboxHarness) -> None:
    for letter in await at.dead():
        await at.inbox.replay(letter)


async def discard(at: InboxHarness) -> None:
    for letter in await at.dead():
        await at.inbox.discard(letter)


class Act(NamedTuple):
    """An act that may be interrupted at any point.

    :ivar prepare: step before the act.
    :ivar act: the act.
    :ivar told: event ids that the session must get in the end, in order, once each.
    :ivar maybe: event ids that it gets if the act took effect. After a repeat it gets them.
    :ivar again: the act or a part of it, repeated as a caller would.
    :ivar owner: owner of the session.
    :ivar forgets: whether the session may be removed meanwhile.
    """

    prepare: Step
    act: Step
    told: tuple[str, ...] = ("e1", "e2")
    maybe: tuple[str, ...] = ()
    again: Step = nothing
    owner: Any = OWNER
    forgets: bool = False


ACTS: Final = {
    "admit the first": Act(
        nothing, lambda at: at.admit("e1"), (), ("e1",), lambda at: at.admit("e1")
    ),
    "admit another": Act(
        two, lambda at: at.admit("e3"), ("e1", "e2"), ("e3",), lambda at: at.admit("e3")
    ),
    "admit and finish": Act(two, admit_in_hand, ("e1", "e2"), ("e3",), lambda at: at.admit("e3")),
    "admit a known one": Act(two, lambda at: at.admit("e2")),
    "finish": Act(two, lambda at: at.handle()),
    "finish a part": Act(two, lambda at: at.handle(most=1)),
    "commit one by one": Act(two, commit_one_by_one),
    "remove": Act(two, remove, forgets=True),
    "release": Act(two, release),
    "fail": Act(two, fail_once),
    "bury": Act(poisoned, lambda at: at.handle(), ("e1",)),
    "replay": Act(dead, replay, ("e1", "e2"), ("bad",), replay),
    "discard": Act(dead, discard, ("e1", "e2")),
    "deliver": Act(
        wait_for_ann,
        lambda at: deliver(at, "e1"),
        (),
        ("e1",),
        lambda at: deliver(at, "e1"),
        ANN,
    ),
    "collect": Act(
        early,
        lambda at: at.inbox.collect(ANN, "ann", CHAT),
        (),
        ("e1", "e2"),
        lambda at: at.inbox.collect(ANN, "ann", CHAT),
        ANN,
    ),
}


def options() -> dict[str, Any]:
    return {"attempts": 2, "retry_delay": REST}


async def assert_healed(at: InboxHarness, act: Act) -> None:
    """Check that no message is lost, doubled or out of order, and that nothing is left."""
    harness = at.harness
    await harness.advance(LEASE + 100)  # past leases, backoffs and visits
    told = await drained_and_told(at, act)
    if not act.forgets:
        news = [one for one in act.maybe if one in told]
        assert told == [*act.told, *news]
    # The index entries have led to all messages.
    assert [name for name in await harness.residue() if name.endswith(":mail")] == []
    await act.again(at)
    told = await drained_and_told(at, act)
    if not act.forgets:
        assert told == [*act.told, *act.maybe]
    assert (await at.inbox.depth()).sessions == 0
    for letter in await at.dead():
        assert letter.event_id == "bad"
    await at.store.delete(SessionKey(KEY), ctx=act.owner)
    await harness.advance(AGES)
    assert await at.is_idle()
    await harness.advance(AGES)
    left = await harness.residue()
    if act.act.__name__ == "remove":
        # A caller that was cancelled leaves the index entry of the removed session to a search.
        left = [name for name in left if ":find:{" not in name]
    assert left == []


async def drained_and_told(at: InboxHarness, act: Act) -> list[str]:
    while True:
        async with at.take() as turn:
            if turn is None:
                break
            assert turn.mail
            state = turn.session or session(owner=act.owner)
            told = [*state.context.get("told", ()), *(mail.event_id for mail in turn.mail)]
            await turn.finish(counted_as(state, told))
    found = await at.store.get(SessionKey(KEY), ctx=act.owner)
    return found.session.context.get("told", []) if found else []


def counted_as(state: Session[Any], told: list[str]) -> Session[Any]:
    return msgspec.structs.replace(state, context={"told": told})


async def desk_for(harness: RedisHarness, act: Act) -> InboxHarness:
    return InboxHarness(harness, await harness.open(), **options(), ctx=act.owner)
