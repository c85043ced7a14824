"""Tests of full servers, and of keys with another type of value: nothing is damaged."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import pytest

from greentic_session import (
    DecodeError,
    OutcomeUnknownError,
    ReplyScope,
    SessionError,
    StoreFullError,
    StoreUnavailableError,
    WaitRegistry,
)
from greentic_session.abc.inbox import EarlyEventQueue
from greentic_session.abc.waits import EventMemory, WaitOwner
from greentic_session.testing.contract.inbox.helpers import InboxHarness, counted, desk
from greentic_session.testing.contract.samples import KEY, ctx, session
from greentic_session.testing.harness import RedisHarness

from ..redis.test_malformed_replies import answering
from ..support.inbox_scenarios import release, remove
from ..support.redis import snapshot, store_at
from ..waits.test_wait_refusals import empty, fill

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from greentic_session.testing.servers import LocalServer

    Verb = Callable[[InboxHarness], Awaitable[object]]

pytestmark = pytest.mark.anyio

ANN: Final = ctx(user_id="ann")
CHAT: Final = ReplyScope(conversation="chat")


@pytest.fixture
async def harness(server: LocalServer) -> AsyncIterator[RedisHarness]:
    async with RedisHarness(server.url) as harness:
        yield harness


async def deliver(at: InboxHarness) -> None:
    await at.inbox.deliver(ANN, "ann", CHAT, "early 2", b"hello")


async def commit(at: InboxHarness) -> None:
    async with at.turn() as turn:
        await turn.commit(counted(turn), 1)
        await turn.renew()


async def replay(at: InboxHarness) -> None:
    for letter in await at.dead():
        await at.inbox.replay(letter)


ADMITTING: Final[dict[str, Verb]] = {"admit": lambda at: at.admit("e9"), "deliver": deliver}
WORKING: Final[dict[str, Verb]] = {
    "finish": lambda at: at.handle(),
    "commit": commit,
    "remove": remove,
    "release": release,
    "fail": lambda at: at.fail(),
    "drain": lambda at: at.drain(),
}
OTHERS: Final[dict[str, Verb]] = {
    "dead": lambda at: at.dead(),
    "replay": replay,
    "depth": lambda at: at.inbox.depth(),
    "collect": lambda at: at.inbox.collect(ANN, "ann", CHAT),
}


async def prepared(harness: RedisHarness) -> InboxHarness:
    """Prepare a session with messages and a dead letter, and an early event."""
    at = await desk(harness, attempts=1)
    await at.admit("e1", "e2", "e3")
    await at.fail()
    await at.inbox.deliver(ANN, "ann", CHAT, "early 1", b"hello")
    async with at.turn() as turn:
        await turn.commit(counted(turn), 1)
    return at


# --- full -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ADMITTING)
async def test_a_full_server_takes_no_mail(harness: RedisHarness, name: str) -> None:
    at = await prepared(harness)
    before = await snapshot(harness.client, harness.config.namespace)
    await fill(harness)
    with pytest.raises(StoreFullError):
        await ADMITTING[name](at)
    assert await snapshot(harness.client, harness.config.namespace) == before
    await empty(harness)
    await ADMITTING[name](at)


@pytest.mark.parametrize("name", WORKING)
async def test_mail_is_handled_when_the_server_is_full(harness: RedisHarness, name: str) -> None:
    at = await prepared(harness)
    await fill(harness)
    await WORKING[name](at)
    await at.drain()
    await empty(harness)
    assert (await at.admit("e9")).is_new
    assert (await at.drain())[-1] == (KEY, ["e9"])


# --- another type of value under a key ------------------------------------------------------------


def names(harness: RedisHarness) -> dict[str, str]:
    namespace = harness.config.namespace
    record = f"{namespace}:default:acme:{{{KEY}}}"
    index = f"{namespace}:inbox:{{inbox}}"
    return {
        "record": record,
        "lookup": f"{namespace}:lookup:{{{KEY}}}",
        "events": f"{record}:events",
        "box": f"{record}:inbox",
        "mail": f"{record}:inbox:mail",
        "seen": f"{record}:inbox:seen",
        "dead": f"{record}:inbox:dead",
        "index": index,
        "index of the dead": f"{index}:dead",
        "early": f"{namespace}:early:{{default:acme::ann}}:{CHAT.scope_hash()}",
        "heads": f"{namespace}:early:{{default:acme::ann}}:{CHAT.scope_hash()}:heads",
    }


SQUATTED: Final = (
    *("record", "lookup", "events", "box", "mail", "seen", "dead"),
    *("index", "index of the dead", "early", "heads"),
)


@pytest.mark.parametrize("squatted", SQUATTED)
async def test_a_name_that_holds_something_else_is_left_alone(
    server: LocalServer, squatted: str
) -> None:
    failures: list[str] = []
    told: set[str] = set()
    for name, verb in {**ADMITTING, **WORKING, **OTHERS}.items():
        async with RedisHarness(server.url) as harness:
            at = await prepared(harness)
            if name == "collect":
                waits: WaitRegistry[Any] = WaitRegistry(at.store)
                await waits.register_wait(ANN, "ann", CHAT, session("other", owner=ANN))
            taken = names(harness)[squatted]
            await harness.client.read("SET", taken, "somebody else's")
            before = await harness.client.read("GET", taken)
            try:
                await verb(at)
            except SessionError as error:
                told.add(type(error).__name__)
                if type(error) not in (DecodeError, StoreUnavailableError):
                    failures.append(f"{name} raised {error!r}")
                if isinstance(error, StoreUnavailableError) and error.code != "internal":
                    failures.append(f"{name} raised {error!r} of code {error.code}")
            after = await harness.client.read("GET", taken)
            if after != before:
                failures.append(f"{name} did not leave it alone")
    assert not failures, "\n".join(failures)
    # Some of them do not use that key.
    assert told & {"DecodeError", "StoreUnavailableError"}, told


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [("record", "inc", b"\xff"), ("record", "ttl", b"soon"), ("record", "body", b"{")],
)
async def test_a_session_that_cannot_be_read_fails_and_blocks_no_other(
    harness: RedisHarness, name: str, field: str, value: bytes
) -> None:
    at = await desk(harness)
    await at.store.put(session())
    await at.admit("e1")
    await at.admit("f1", key="other")
    await harness.client.read("HSET", names(harness)[name], field, value)
    with pytest.raises((DecodeError, OutcomeUnknownError)):
        await at.handle()
    assert await at.handle() == ["f1"]
    assert await at.is_idle()
    mailbox = await harness.client.read("HMGET", names(harness)["box"], "lease", "by", "tries")
    assert mailbox in ([None, None, b"1"], [None, None, None])


async def test_a_hint_that_is_not_ours_is_taken_out(harness: RedisHarness) -> None:
    at = await desk(harness)
    for member in (b"nonsense", b"\xff/\xff/\xff", b"default/acme/nobody"):
        await harness.client.read("ZADD", names(harness)["index"], 1, member)
    await at.admit("e1")
    assert await at.handle() == ["e1"]
    assert (await at.inbox.depth()).sessions == 0


# --- another program answers ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [b"+OK\r\n", b":1\r\n", b"*1\r\n*1\r\n:1\r\n", b"*1\r\n:99\r\n", b"*2\r\n:1\r\n+x\r\n"],
    ids=["text", "number", "list", "verdict", "more"],
)
async def test_an_answer_of_another_shape_is_an_error_of_this_library(answer: bytes) -> None:
    place = EarlyEventQueue(WaitOwner("default/acme", "/ann"), CHAT.scope_hash())
    memory = EventMemory(10, 1000)
    verbs: dict[str, Verb] = {
        "admit": ADMITTING["admit"],
        "finish": WORKING["finish"],
        "dead": OTHERS["dead"],
        "depth": OTHERS["depth"],
        "keep": lambda at: at.inbox._backend.call().store_early(place, "e1", b"", memory),
        "assign": lambda at: at.inbox._backend.call().assign_early(place, KEY, "", memory),
    }
    async with answering(answer) as url, store_at(url, deadline=1) as store:
        harness: Any = None  # of none of its servers
        at = InboxHarness(harness, store)
        for name, verb in verbs.items():
            async with asyncio.timeout(20):
                outcome = await outcome_of(verb, at)
            if isinstance(outcome, SessionError):
                kinds = (StoreUnavailableError, OutcomeUnknownError, DecodeError)
                assert isinstance(outcome, kinds), name
            else:
                assert name in ("dead", "depth", "keep", "assign"), name


async def outcome_of(verb: Verb, at: InboxHarness) -> object:
    try:
        return await verb(at)
    except SessionError as error:  # anything else fails the test as it is
        return error
