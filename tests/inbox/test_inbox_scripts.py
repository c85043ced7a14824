"""Tests of the inbox scripts alone: the replies to retries, and the absence of side effects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from greentic_session.abc.inbox import NothingDue, TakeRequest
from greentic_session.redis import scripts
from greentic_session.testing.contract.inbox.helpers import desk
from greentic_session.testing.harness import RedisHarness

from ..support.redis import KEY
from ..support.scripts import FIELD, LEASE_MS, MEMORY_MS, OWNER, ScriptRunner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from greentic_session.redis.transport.script import Script

pytestmark = pytest.mark.anyio

KEEP_MS: Final = 60_000
MINE: Final = (OWNER, "red/")
NONE: Final = ("", "0")
SUFFIXES: Final = {
    scripts.ADMIT: ":inbox:seen",
    scripts.TAKE_TURN: ":inbox:dead",
    scripts.REPLAY_DEAD_LETTER: ":inbox:dead",
    scripts.DISCARD_DEAD_LETTER: ":inbox:dead",
    scripts.COMMIT_TURN: ":events",
}


class InboxScriptRunner(ScriptRunner):
    """Runs the scripts of mailboxes and their index by hand."""

    def __init__(self, harness: RedisHarness) -> None:
        super().__init__(harness)
        self.mailbox = f"{self.record}:inbox"
        self.index = f"{self._namespace}:inbox:{{inbox}}"
        self.member = f"{FIELD}/{KEY}"

    async def mail(self, script: Script, *arguments: object, **call: Any) -> Any:
        self.names = (self.record, self.lookup, self.mailbox, f"{self.mailbox}:mail")
        self.names += (f"{self.record}{SUFFIXES.get(script, ':unused')}",)
        if script is scripts.TAKE_TURN:
            self.names += (f"{self.mailbox}:fence",)
        self.names += (f"{self.mailbox}:headers",)
        return await self.run(script, *arguments, **call)

    async def post(self, event: str = "e1", *, full: int = 100, **call: Any) -> Any:
        message = f"{len(OWNER)}:{OWNER}{len(event)}:{event}hello"
        limits = (full, 100, MEMORY_MS, KEEP_MS, "", 0, 0)
        return await self.mail(scripts.ADMIT, *MINE, event, message, *limits, **call)

    async def take(
        self,
        by: str = "mine",
        *,
        bury: object = "",
        floor: int = 0,
        dead: int = 100,
        **call: Any,
    ) -> Any:
        terms = (by, "worker", LEASE_MS, 10, 2, bury, MEMORY_MS, KEEP_MS, floor, dead)
        return await self.mail(scripts.TAKE_TURN, *terms, **call)

    async def commit(
        self,
        fence: bytes,
        *,
        how: str = "write",
        token: tuple[object, object] = NONE,
        handled: int = 1,
        in_hand: int = 0,
        ends: str = "1",
        ttl: int = 0,
        **call: Any,
    ) -> Any:
        state = (OWNER, ttl, "{}") if how == "write" else ("", "", "")
        rest = (fence.decode(), how, handled, in_hand, ends, "a" * 32, KEEP_MS)
        return await self.mail(scripts.COMMIT_TURN, *state, *token, *rest, **call)

    async def give_back(
        self, fence: bytes = b"", by: str = "", rest: object = "", **call: Any
    ) -> Any:
        return await self.mail(scripts.RELEASE_TURN, fence.decode(), by, rest, KEEP_MS, **call)

    async def prolong(self, fence: bytes, **call: Any) -> Any:
        return await self.mail(scripts.RENEW_TURN, fence.decode(), LEASE_MS, KEEP_MS, **call)

    async def due(self, visit: int = 5000, *, longest: int = 10_000, **call: Any) -> Any:
        found = await self.agenda(scripts.INDEX_NEXT_DUE, visit, longest, "", "", **call)
        assert found[-2:] == [b"", b"0"]  # for all tenants, no entries are copied
        return found[:-2]

    async def add_pending(self, token: str, grace: int) -> None:
        assert await self.agenda(scripts.INDEX_ADD_PENDING, f"{token}!{self.member}", grace) == [1]

    async def set_due(
        self, score: bytes = b"", *, delay: object = "", token: str = "", member: str = ""
    ) -> None:
        terms = (member or self.member, score.decode(), delay, "", token, "")
        assert await self.agenda(scripts.INDEX_SET_DUE, *terms) == [1]

    async def agenda(self, script: Script, *arguments: object, age: object = "") -> Any:
        doubt = f"{await self.now_us() / 1000 - float(str(age)):.3f}" if age != "" else ""
        parts = (str(part) for part in ("op", doubt, *arguments))
        return await self.client.read("EVAL", script.source, 1, self.index, *parts)

    async def turn(self) -> bytes:
        """Take the turn, and return its fencing token."""
        taken = await self.take()
        assert taken[0] == 1
        fence: bytes = taken[1]
        return fence

    async def event_ids(self) -> list[bytes]:
        """Return the ids of the events in the mailbox."""
        messages: list[bytes] = await self.client.read("LRANGE", f"{self.mailbox}:mail", 0, -1)
        return [message.split(b":", 3)[3].removesuffix(b"hello") for message in messages]


@pytest.fixture
async def runner(valkey_url: str) -> AsyncIterator[InboxScriptRunner]:
    async with RedisHarness(valkey_url) as harness:
        yield InboxScriptRunner(harness)


async def posted(runner: InboxScriptRunner) -> Callable[..., Awaitable[Any]]:
    return runner.post


async def taken(runner: InboxScriptRunner) -> Callable[..., Awaitable[Any]]:
    await runner.post()
    return runner.take


async def written(runner: InboxScriptRunner) -> Callable[..., Awaitable[Any]]:
    await runner.post()
    fence = await runner.turn()
    return lambda **call: runner.commit(fence, **call)


async def written_on(runner: InboxScriptRunner) -> Callable[..., Awaitable[Any]]:
    await runner.post()
    await runner.post("e2")
    fence = await runner.turn()
    return lambda **call: runner.commit(fence, in_hand=1, ends="", **call)


async def removed(runner: InboxScriptRunner) -> Callable[..., Awaitable[Any]]:
    await runner.create()
    await runner.post()
    fence = await runner.turn()
    return lambda **call: runner.commit(fence, how="remove", token=("a" * 32, 1), **call)


async def left(runner: InboxScriptRunner) -> Callable[..., Awaitable[Any]]:
    await runner.post()
    fence = await runner.turn()
    return lambda **call: runner.commit(fence, how="leave", **call)


async def given_back(runner: InboxScriptRunner) -> Callable[..., Awaitable[Any]]:
    await runner.post()
    fence = await runner.turn()
    return lambda **call: runner.give_back(fence, rest=1000, **call)


async def forsaken(runner: InboxScriptRunner) -> Callable[..., Awaitable[Any]]:
    await runner.post()
    await runner.turn()
    return lambda **call: runner.give_back(by="mine", **call)


STEPS: Final = [posted, taken, written, written_on, removed, left, given_back, forsaken]


@pytest.mark.parametrize("prepare", STEPS, ids=lambda step: step.__name__)
async def test_a_repeated_step_is_answered_and_not_done_again(
    runner: InboxScriptRunner,
    prepare: Callable[[InboxScriptRunner], Awaitable[Callable[..., Awaitable[Any]]]],
) -> None:
    step = await prepare(runner)
    first = await step(op="x")
    assert first[0] == 1
    before = await runner.everything()
    again = await step(op="x", age=5)
    if prepare is taken:  # the rest of the lease has become shorter meanwhile
        first[3] = again[3] = b""
    assert again == first
    assert await runner.everything() == before


async def test_a_session_in_its_backoff_is_not_taken_though_its_index_entry_is_due(
    runner: InboxScriptRunner,
) -> None:
    await runner.post()
    await runner.give_back(await runner.turn(), rest=60_000)
    verdict, left_ms = await runner.take("another")
    assert verdict == -6
    assert 0 < int(left_ms) <= 60_000


@pytest.mark.parametrize("prepare", [written, removed, left, given_back], ids=lambda s: s.__name__)
async def test_a_step_repeated_after_others_have_come_is_answered(
    runner: InboxScriptRunner,
    prepare: Callable[[InboxScriptRunner], Awaitable[Callable[..., Awaitable[Any]]]],
) -> None:
    step = await prepare(runner)
    first = await step(op="x")
    for number in range(20):  # more than the operation log holds
        await runner.post(f"later {number}")
    again = await step(op="x", age=5)
    if prepare is not given_back:
        assert again[:4] == first[:4]
    assert again[0] == 1
    assert len(await runner.event_ids()) == 20 + (prepare is given_back)


async def test_a_repeated_post_that_cannot_be_told_from_another_is_unknown(
    runner: InboxScriptRunner,
) -> None:
    await runner.post(op="x")
    for number in range(20):
        await runner.post(f"later {number}")
    assert await runner.post(op="x", age=1000) == [-5]
    assert len(await runner.event_ids()) == 21
    # Another call with the event did not admit it.
    assert (await runner.post(op="y"))[0] == -7


async def test_a_turn_that_was_taken_is_not_taken_by_another(runner: InboxScriptRunner) -> None:
    await runner.post()
    await runner.turn()
    refused = await runner.take("other")
    assert refused[0] == -6
    assert 0 < int(refused[1]) <= LEASE_MS


async def test_a_turn_whose_lease_has_ended_is_lost_before_another_takes_it(
    runner: InboxScriptRunner,
) -> None:
    await runner.post()
    fence = await runner.turn()
    await runner.client.read("HSET", runner.mailbox, "lease", await runner.now_us() // 1000)
    assert await runner.commit(fence) == [-8]
    assert await runner.give_back(fence) == [-8]
    assert await runner.prolong(fence) == [-8]
    assert await runner.commit(fence, age=5) == [-8]
    await runner.client.read("DEL", runner.mailbox)
    # An earlier attempt may have ended the turn, and its trace may be gone.
    assert await runner.commit(fence, age=5) == [-5]
    assert await runner.commit(fence) == [-8]


async def test_fences_grow_though_the_clock_was_set_back(runner: InboxScriptRunner) -> None:
    await runner.post()
    future = await runner.now_us() + 10**12
    await runner.client.read("HSET", runner.mailbox, "fence", future)
    assert int(await runner.turn()) == future + 1


async def test_a_message_of_a_caller_without_write_access_is_refused(
    runner: InboxScriptRunner,
) -> None:
    await runner.create(owner="red/bob")
    before = await runner.everything()
    assert await runner.post() == [-3]
    assert await runner.everything() == before


async def test_the_head_becomes_a_dead_letter_after_its_index_entry(
    runner: InboxScriptRunner,
) -> None:
    await runner.post()
    await runner.post("e2")
    for _ in range(2):
        await runner.turn()
        await runner.client.read("HDEL", runner.mailbox, "lease")
    before = await runner.everything()
    assert await runner.take() == [-10, b"0"]
    assert await runner.everything() == before
    taken = await runner.take(bury=1, op="x")
    assert taken[0] == 1
    assert taken[4] == b"1"
    assert await runner.take(bury=1, op="x", age=5) != [-10, b"0"]
    assert await runner.event_ids() == [b"e2"]
    assert await runner.client.read("LLEN", f"{runner.mailbox}:dead") == 1


# --- the index ------------------------------------------------------------------------------------


async def test_an_entry_is_deferred_for_a_worker_and_removed_unless_it_was_changed(
    runner: InboxScriptRunner,
) -> None:
    assert await runner.due() == [0, b""]
    await runner.set_due(delay=0)
    _, member, score = await runner.due()
    assert member.decode() == runner.member
    none, ms = await runner.due()
    assert none == 0
    assert 0 < int(ms) <= 5000
    await runner.set_due(delay=9000)  # changed
    await runner.set_due(score)
    assert await runner.client.read("ZCARD", runner.index) == 1
    assert 0 < int((await runner.due())[1]) <= 5000
    await runner.set_due(delay=0)
    _, _, score = await runner.due()
    await runner.set_due(score)
    assert await runner.client.read("ZCARD", runner.index) == 0


async def test_an_entry_is_due_no_later_than_other_callers_have_set(
    runner: InboxScriptRunner,
) -> None:
    await runner.set_due(delay=1000)
    await runner.set_due(delay=9000)
    assert 0 < int((await runner.due())[1]) <= 1000
    await runner.set_due(delay=0)
    _, _, score = await runner.due()
    await runner.set_due(score, delay=9000)  # unless the caller has read the score
    assert 5000 < int((await runner.due())[1]) <= 9000


async def test_a_pending_entry_outlasts_every_worker(runner: InboxScriptRunner) -> None:
    await runner.add_pending("aa", 5000)
    await runner.set_due(delay=0)
    _, _, score = await runner.due()
    await runner.set_due(score)  # it found no messages
    assert await runner.client.read("ZCARD", runner.index) == 1
    assert 0 < int((await runner.due(age=1000))[1]) <= 5000
    await runner.set_due(token="aa")
    assert await runner.due() == [0, b""]
    await runner.add_pending("bb", 0)
    assert (await runner.due())[1].decode() == runner.member
    await runner.set_due(token="bb")  # too late, and so without effect on the session
    assert 0 < int((await runner.due())[1]) <= 5000


async def test_entries_after_a_clock_step_are_due_in_order_but_running_calls_keep_their_time(
    runner: InboxScriptRunner,
) -> None:
    hour = 3_600_000
    await runner.add_pending("aa", hour)
    for place, name in enumerate("ab"):
        await runner.set_due(member=f"{FIELD}/{name}", delay=hour + place)
    await runner.set_due(member=f"{FIELD}/later", delay=9000)  # as a worker sets it
    taken = [await runner.due() for _ in range(3)]
    assert [reply[1].decode() for reply in taken[:2]] == [f"{FIELD}/a", f"{FIELD}/b"]
    assert taken[2][0] == 0
    assert await runner.client.read("ZCARD", runner.index) == 4
    latest = await runner.now_us() / 1000 + 10_000
    assert await runner.client.read("ZCOUNT", runner.index, f"({latest:.3f}", "+inf") == 0


async def test_a_backoff_beyond_the_longest_time_is_looked_at_once_and_not_in_a_loop(
    valkey_url: str,
) -> None:
    async with RedisHarness(valkey_url, deadline_secs=5) as harness:  # so the longest time is 10 s
        at = await desk(harness, lease=10, retry_delay=60)
        await at.admit("one")
        await at.fail()
        request = TakeRequest("inbox", "worker", 10_000, 10, 5, MEMORY_MS, 100)
        looks = [await at.backend.call().take(request) for _ in range(2)]
        assert looks[0] == NothingDue(0)
        assert isinstance(looks[1], NothingDue)
        assert looks[1].due_secs is not None
        assert 0 < looks[1].due_secs <= 10


async def test_a_key_is_not_taken_for_a_pending_entry(runner: InboxScriptRunner) -> None:
    for member in ("abc/acme/aa!x", "abc/acme/x"):
        await runner.set_due(member=member, delay=0)
        assert (await runner.due())[1].decode() == member


async def test_a_repeated_look_finds_again_what_the_first_was_given(
    runner: InboxScriptRunner,
) -> None:
    for name in "ab":
        await runner.set_due(member=f"{FIELD}/{name}", delay=0)
    given = [(await runner.due())[1] for _ in range(2)]
    again = [(await runner.due(age=1000))[1], (await runner.due())[1]]
    assert sorted(again) == sorted(given)
    # A message that was delayed before the unknown outcome stays delayed.
    await runner.age()
    assert (await runner.due(age=0))[0] == 0
