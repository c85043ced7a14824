"""Tests of a server that replies to waits with errors: the caller's error, and the state left."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

from greentic_session import (
    DecodeError,
    DuplicateEventError,
    OutcomeUnknownError,
    SessionError,
    StoreFullError,
    StoreUnavailableError,
    WaitClaimedError,
    WaitRegistry,
)
from greentic_session.testing.harness import RedisHarness

from ..support.redis import next_of, snapshot, store_at
from ..support.waits import CTX, USER, answered, chat, owner, paused
from .test_wait_bad_lines import Conversation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from greentic_session import ReplyScope
    from greentic_session.testing.servers import LocalServer

    from ..support.waits import Registry, Store, Turn

    Verb = Callable[["Desk"], Awaitable[object]]

pytestmark = pytest.mark.anyio

HERE: Final = chat("here")
THERE: Final = chat("there")
HELD: Final = chat("held")


@pytest.fixture
async def harness(server: LocalServer) -> AsyncIterator[RedisHarness]:
    async with RedisHarness(server.url) as harness:
        yield harness


class Desk(NamedTuple):
    """A user with one session that waits here, and one that waits elsewhere and is claimed."""

    waits: Registry
    turn: Turn

    @classmethod
    async def of(cls, store: Store) -> Desk:
        waits: Registry = WaitRegistry(store)
        await waits.register_wait(CTX, USER, HERE, paused("form", ttl_secs=1000))
        await waits.register_wait(CTX, USER, HELD, paused("held", ttl_secs=1000))
        return cls(waits, await waits.claim(CTX, USER, HELD, event_id="reply"))

    async def register(self, name: str, scope: ReplyScope = HERE) -> object:
        return await self.waits.register_wait(CTX, USER, scope, paused(name))

    async def claim(self, **how: Any) -> Turn:
        return await self.waits.claim(CTX, USER, HERE, **how)

    def session(self) -> Any:
        return answered(self.turn.session, "a turn")


READING: Final[dict[str, Verb]] = {
    "find": lambda desk: desk.waits.find_wait_by_scope(CTX, USER, HERE),
    "find nothing": lambda desk: desk.waits.find_wait_by_scope(CTX, USER, THERE),
    "list": lambda desk: desk.waits.list_waits_for_user(CTX, USER),
}
REGISTERING: Final[dict[str, Verb]] = {
    "register": lambda desk: desk.register("new", THERE),
    "register in the place of another": lambda desk: desk.register("new"),
    "register again": lambda desk: desk.register("form"),
    "register elsewhere": lambda desk: desk.register("form", THERE),
}
ENDING: Final[dict[str, Verb]] = {
    "complete": lambda desk: desk.turn.complete(desk.session()),
    "finish": lambda desk: desk.turn.finish(),
    "release": lambda desk: desk.turn.release(),
    "renew": lambda desk: desk.turn.renew(),
}
PAUSING: Final[dict[str, Verb]] = {
    "wait again": lambda desk: desk.turn.wait_again(desk.session(), HELD),
    "wait again elsewhere": lambda desk: desk.turn.wait_again(desk.session(), THERE),
    "wait again in the place of another": lambda desk: desk.turn.wait_again(desk.session(), HERE),
    "save": lambda desk: desk.turn.save(desk.session()),
}
TAKING: Final[dict[str, Verb]] = {
    "claim": lambda desk: desk.claim(),
    "claim for an event": lambda desk: desk.claim(event_id="another reply"),
    "clear": lambda desk: desk.waits.clear_wait(CTX, USER, HERE),
}
WRITING: Final = {**REGISTERING, **ENDING, **PAUSING, **TAKING}


async def stored(harness: RedisHarness) -> dict[bytes, object]:
    """Return everything stored. For indexes: the waits and whether they have an expiry."""
    found: Any = await snapshot(harness.client, harness.config.namespace)
    return {
        name: (_hinted(content), expires_ms == -1)
        if b":waits:" in name and isinstance(content, dict)
        else (content, expires_ms)
        for name, (content, expires_ms) in found.items()
    }


def _hinted(content: dict[bytes, bytes]) -> dict[bytes, set[bytes]]:
    return {
        scope: {line.split(b":", 3)[3] for line in lines.splitlines()}
        for scope, lines in content.items()
    }


async def outcome_of(verb: Verb, desk: Desk) -> object:
    try:
        return await verb(desk)
    except SessionError as error:  # anything else fails the test as it is
        return error


# --- full -----------------------------------------------------------------------------------------


async def fill(harness: RedisHarness) -> None:
    await harness.client.read("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await harness.client.read("CONFIG", "SET", "maxmemory", "1")


async def empty(harness: RedisHarness) -> None:
    await harness.client.read("CONFIG", "SET", "maxmemory", "0")


class TestFull:
    async def test_nothing_is_paused_and_nothing_is_left_of_trying(
        self, harness: RedisHarness
    ) -> None:
        desk = await Desk.of(await harness.open())
        await fill(harness)
        before = await stored(harness)
        for name, verb in {**REGISTERING, **PAUSING}.items():
            outcome = await outcome_of(verb, desk)
            assert isinstance(outcome, StoreFullError), (name, outcome)
            after = await stored(harness)
            assert after == before, name
        # The turn continues and can be ended. Then the state is as before.
        assert await desk.turn.complete(desk.session()) == next_of(desk.turn.cas)
        await empty(harness)
        await desk.register("new", THERE)
        assert len(await desk.waits.list_waits_for_user(CTX, USER)) == 2

    async def test_memory_that_runs_out_half_way_leaves_neither_session_nor_hint(
        self, harness: RedisHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = await harness.open()
        desk = await Desk.of(store)
        backend = store._wait_backend()  # type: ignore[attr-defined] # of Redis, which keeps waits
        steps = type(backend.call())
        index_intent = steps.index_intent

        async def intend_the_last(*arguments: Any) -> object:
            intent = await index_intent(*arguments)
            await fill(harness)
            return intent

        monkeypatch.setattr(steps, "index_intent", intend_the_last)
        for name, verb in REGISTERING.items():
            before = await stored(harness)
            outcome = await outcome_of(verb, desk)
            assert isinstance(outcome, StoreFullError), (name, outcome)
            await empty(harness)
            assert await stored(harness) == before, name

    @pytest.mark.parametrize("ending", ENDING)
    async def test_turns_are_taken_and_ended(self, harness: RedisHarness, ending: str) -> None:
        store = await harness.open()
        desk = await Desk.of(store)
        await fill(harness)
        # The session that waited before can be answered now.
        turn = await desk.claim(event_id="another reply")
        with pytest.raises(WaitClaimedError):
            await desk.claim()
        assert await turn.renew() >= turn.lease_until
        await ENDING[ending](Desk(desk.waits, turn))
        found = await store.get(turn.key, ctx=owner())
        if ending == "complete":
            assert found is not None
            assert found.session.context == {"turns": ["a turn"]}
        if ending == "finish":
            assert found is None
        if ending in ("complete", "finish"):
            with pytest.raises(DuplicateEventError):
                await desk.claim(event_id="another reply")
            assert await desk.waits.find_wait_by_scope(CTX, USER, HERE) is None
        else:
            assert await desk.waits.find_wait_by_scope(CTX, USER, HERE) == turn.key
        await ENDING[ending](desk)
        await empty(harness)
        left = [] if ending in ("complete", "finish") else ["form", "held"]
        assert await desk.waits.list_waits_for_user(CTX, USER) == left

    async def test_waits_are_cleared(self, harness: RedisHarness) -> None:
        desk = await Desk.of(await harness.open())
        await fill(harness)
        for scope in (HERE, HELD):
            assert await desk.waits.clear_wait(CTX, USER, scope)
        assert await desk.waits.list_waits_for_user(CTX, USER) == []
        await empty(harness)


# --- not allowed ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param("~* +@all -evalsha -eval", id="no-script"),
        pytest.param("~* +@all -@write", id="no-write"),
        pytest.param("~*:lookup:* ~*:waits:* +@all", id="no-record"),
        pytest.param("~*:lookup:* ~*:default:* +@all", id="no-index"),
    ],
)
async def test_an_account_that_may_not_changes_nothing(
    harness: RedisHarness, server: LocalServer, rules: str
) -> None:
    namespace = harness.config.namespace
    is_record_open = ":default:" in rules
    await harness.client.read("ACL", "SETUSER", "ann", "on", ">s3cret")
    theirs = await Desk.of(await harness.open())
    url = server.url.replace("://", "://ann:s3cret@")
    async with store_at(url, namespace=namespace, deadline=5) as store:
        mine: Registry = WaitRegistry(store)
        # The turn was taken before the account lost its rights.
        await harness.client.read("ACL", "SETUSER", "ann", "~*", "+@all")
        await mine.register_wait(CTX, USER, chat("mine"), paused("mine", ttl_secs=1000))
        turn = await mine.claim(CTX, USER, chat("mine"), event_id="reply")
        await harness.client.read("ACL", "SETUSER", "ann", "resetkeys", *rules.split())
        desk = Desk(mine, turn)
        before = await stored(harness)
        for name, verb in {**READING, **WRITING}.items():
            if is_record_open and name in (*ENDING, "save"):
                continue
            outcome = await outcome_of(verb, desk)
            if name not in READING or isinstance(outcome, SessionError):
                assert type(outcome) in (StoreUnavailableError, OutcomeUnknownError), name
            assert await stored(harness) == before, name
        assert store.statistics().in_flight == 0
        if is_record_open:  # all that the turn needs
            assert await turn.complete(desk.session()) == next_of(turn.cas)
    assert await theirs.turn.complete(theirs.session()) == next_of(theirs.turn.cas)


# --- something else stands under a name -----------------------------------------------------------


def names(harness: RedisHarness) -> dict[str, str]:
    namespace = harness.config.namespace
    form, held = (f"{namespace}:default:acme:{{{key}}}" for key in ("form", "held"))
    index = f"{namespace}:waits:{{default:acme::{USER}}}"
    return {
        "record": form,
        "record of a claim": held,
        "lookup": f"{namespace}:lookup:{{form}}",
        "lookup of a claim": f"{namespace}:lookup:{{held}}",
        "events": f"{form}:events",
        "events of a claim": f"{held}:events",
        "index": index,
        "events of the index": f"{index}:events",
    }


SQUATTED: Final = (
    *("record", "record of a claim", "lookup", "lookup of a claim", "events", "events of a claim"),
    *("index", "events of the index"),
)


@pytest.mark.parametrize("squatted", SQUATTED)
async def test_a_name_that_holds_something_else_is_left_alone(
    server: LocalServer, squatted: str
) -> None:
    told: set[str] = set()
    failures: list[str] = []
    for name, verb in {**READING, **WRITING}.items():
        async with RedisHarness(server.url) as harness:
            desk = await Desk.of(await harness.open())
            taken = names(harness)[squatted]
            await harness.client.read("DEL", taken)
            await harness.client.read("RPUSH", taken, "somebody else's")
            before = await stored(harness)
            outcome = await outcome_of(verb, desk)
            after = await stored(harness)
            told.add(type(outcome).__name__)
            if after.get(taken.encode()) != before[taken.encode()]:
                failures.append(f"{name} did not leave it alone: {outcome!r}")
            elif isinstance(outcome, SessionError):
                if type(outcome) not in (DecodeError, StoreUnavailableError):
                    failures.append(f"{name} raised {outcome!r}")
                if after != before:
                    failures.append(f"{name} wrote, and raised {outcome!r}")
    assert not failures, "\n".join(failures)
    # Some of them do not use that key.
    assert told & {"DecodeError", "StoreUnavailableError"}, told


@pytest.mark.parametrize(("field", "value"), [("inc", "\xff"), ("since", "soon"), ("body", "{")])
async def test_a_claim_that_cannot_be_read_is_given_back(
    harness: RedisHarness, field: str, value: str
) -> None:
    desk = await Desk.of(await harness.open())
    record = names(harness)["record"]
    await harness.client.read("HSET", record, field, value)
    with pytest.raises(DecodeError):
        await desk.claim()
    assert await harness.client.read("HMGET", record, "lease", "attempt") == [None, None]


# --- lost scripts ---------------------------------------------------------------------------------


async def test_scripts_flushed_again_and_again_cause_no_error(harness: RedisHarness) -> None:
    store = await harness.open()
    over = False
    forgotten = 0

    async def forget() -> None:
        nonlocal forgotten
        while not over:
            await harness.client.read("SCRIPT", "FLUSH")
            forgotten += 1

    storm = asyncio.create_task(forget())
    try:
        conversations = [Conversation(store, number) for number in range(8)]
        async with asyncio.TaskGroup() as tasks:
            for conversation in conversations:
                tasks.create_task(conversation.go_on(12))
        for conversation in conversations:
            await conversation.check(store)
    finally:
        over = True
        await storm
    assert forgotten > 50
