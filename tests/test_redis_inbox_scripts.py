"""The scripts of inboxes by themselves: what a repeated call is told, and what it leaves alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from greentic_session.redis import scripts
from greentic_session.testing.harness import RedisHarness

from .redis_rig import KEY
from .script_rig import FIELD, LEASE_MS, MEMORY_MS, OWNER, Bench

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


class MailBench(Bench):
    """Runs the scripts of mailboxes and their index by hand."""

    def __init__(self, harness: RedisHarness) -> None:
        super().__init__(harness)
        self.mailbox = f"{self.record}:inbox"
        self.index = f"{self._namespace}:inbox:{{inbox}}"
        self.member = f"{FIELD}/{KEY}"

    async def mail(self, script: Script, *arguments: object, **call: Any) -> Any:
        self.names = (self.record, self.lookup, self.mailbox, f"{self.mailbox}:mail")
        self.names += (f"{self.record}{SUFFIXES.get(script, ':unused')}",)
        return await self.run(script, *arguments, **call)

    async def post(self, event: str = "e1", *, full: int = 100, **call: Any) -> Any:
        letter = f"{len(OWNER)}:{OWNER}{len(event)}:{event}hello"
        limits = (full, 100, MEMORY_MS, KEEP_MS)
        return await self.mail(scripts.ADMIT, *MINE, event, letter, *limits, **call)

    async def take(
        self, by: str = "mine", *, bury: object = "", floor: int = 0, **call: Any
    ) -> Any:
        terms = (by, "worker", LEASE_MS, 10, 2, bury, MEMORY_MS, KEEP_MS, floor)
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

    async def due(self, visit: int = 5000, **call: Any) -> Any:
        return await self.agenda(scripts.INDEX_NEXT_DUE, visit, **call)

    async def expect(self, token: str, grace: int) -> None:
        assert await self.agenda(scripts.INDEX_ADD_PENDING, f"{token}!{self.member}", grace) == [1]

    async def hint(
        self, mark: bytes = b"", *, delay: object = "", token: str = "", member: str = ""
    ) -> None:
        terms = (member or self.member, mark.decode(), delay, "", token)
        assert await self.agenda(scripts.INDEX_SET_DUE, *terms) == [1]

    async def agenda(self, script: Script, *arguments: object, age: object = "") -> Any:
        doubt = f"{await self.now_us() / 1000 - float(str(age)):.3f}" if age != "" else ""
        parts = (str(part) for part in ("op", doubt, *arguments))
        return await self.client.read("EVAL", script.source, 1, self.index, *parts)

    async def turn(self) -> bytes:
        """Take the turn, and return its fence."""
        taken = await self.take()
        assert taken[0] == 1
        fence: bytes = taken[1]
        return fence

    async def letters(self) -> list[bytes]:
        """The ids of the events in the mailbox."""
        letters: list[bytes] = await self.client.read("LRANGE", f"{self.mailbox}:mail", 0, -1)
        return [letter.split(b":", 3)[3].removesuffix(b"hello") for letter in letters]


@pytest.fixture
async def bench(valkey_url: str) -> AsyncIterator[MailBench]:
    async with RedisHarness(valkey_url) as harness:
        yield MailBench(harness)


async def posted(bench: MailBench) -> Callable[..., Awaitable[Any]]:
    return bench.post


async def taken(bench: MailBench) -> Callable[..., Awaitable[Any]]:
    await bench.post()
    return bench.take


async def written(bench: MailBench) -> Callable[..., Awaitable[Any]]:
    await bench.post()
    fence = await bench.turn()
    return lambda **call: bench.commit(fence, **call)


async def written_on(bench: MailBench) -> Callable[..., Awaitable[Any]]:
    await bench.post()
    await bench.post("e2")
    fence = await bench.turn()
    return lambda **call: bench.commit(fence, in_hand=1, ends="", **call)


async def removed(bench: MailBench) -> Callable[..., Awaitable[Any]]:
    await bench.create()
    await bench.post()
    fence = await bench.turn()
    return lambda **call: bench.commit(fence, how="remove", token=("a" * 32, 1), **call)


async def left(bench: MailBench) -> Callable[..., Awaitable[Any]]:
    await bench.post()
    fence = await bench.turn()
    return lambda **call: bench.commit(fence, how="leave", **call)


async def given_back(bench: MailBench) -> Callable[..., Awaitable[Any]]:
    await bench.post()
    fence = await bench.turn()
    return lambda **call: bench.give_back(fence, rest=1000, **call)


async def forsaken(bench: MailBench) -> Callable[..., Awaitable[Any]]:
    await bench.post()
    await bench.turn()
    return lambda **call: bench.give_back(by="mine", **call)


STEPS: Final = [posted, taken, written, written_on, removed, left, given_back, forsaken]


@pytest.mark.parametrize("prepare", STEPS, ids=lambda step: step.__name__)
async def test_a_repeated_step_is_answered_and_not_done_again(
    bench: MailBench, prepare: Callable[[MailBench], Awaitable[Callable[..., Awaitable[Any]]]]
) -> None:
    step = await prepare(bench)
    first = await step(op="x")
    assert first[0] == 1
    before = await bench.everything()
    again = await step(op="x", age=5)
    if prepare is taken:  # the time that is left of a lease has passed meanwhile
        first[3] = again[3] = b""
    assert again == first
    assert await bench.everything() == before


@pytest.mark.parametrize("prepare", [written, removed, left, given_back], ids=lambda s: s.__name__)
async def test_a_step_repeated_after_others_have_come_is_answered(
    bench: MailBench, prepare: Callable[[MailBench], Awaitable[Callable[..., Awaitable[Any]]]]
) -> None:
    step = await prepare(bench)
    first = await step(op="x")
    for number in range(20):  # which are more than a ring holds
        await bench.post(f"later {number}")
    again = await step(op="x", age=5)
    if prepare is not given_back:
        assert again[:4] == first[:4]
    assert again[0] == 1
    assert len(await bench.letters()) == 20 + (prepare is given_back)


async def test_a_repeated_post_that_cannot_be_told_from_another_is_unknown(
    bench: MailBench,
) -> None:
    await bench.post(op="x")
    for number in range(20):
        await bench.post(f"later {number}")
    assert await bench.post(op="x", age=1000) == [-5]
    assert len(await bench.letters()) == 21
    # Another call that brings the event was not the one that brought it.
    assert (await bench.post(op="y"))[0] == -7


async def test_a_turn_that_was_taken_is_not_taken_by_another(bench: MailBench) -> None:
    await bench.post()
    await bench.turn()
    refused = await bench.take("other")
    assert refused[0] == -6
    assert 0 < int(refused[1]) <= LEASE_MS


async def test_a_turn_whose_lease_has_ended_is_lost_though_nobody_took_it(
    bench: MailBench,
) -> None:
    await bench.post()
    fence = await bench.turn()
    await bench.client.read("HSET", bench.mailbox, "lease", await bench.now_us() // 1000)
    assert await bench.commit(fence) == [-8]
    assert await bench.give_back(fence) == [-8]
    assert await bench.prolong(fence) == [-8]
    assert await bench.commit(fence, age=5) == [-8]
    await bench.client.read("DEL", bench.mailbox)
    # An earlier attempt may have ended the turn, and its trace be gone.
    assert await bench.commit(fence, age=5) == [-5]
    assert await bench.commit(fence) == [-8]


async def test_fences_grow_though_the_clock_was_set_back(bench: MailBench) -> None:
    await bench.post()
    future = await bench.now_us() + 10**12
    await bench.client.read("HSET", bench.mailbox, "fence", future)
    assert int(await bench.turn()) == future + 1


async def test_who_may_not_write_to_a_session_is_refused(bench: MailBench) -> None:
    await bench.create(owner="red/bob")
    before = await bench.everything()
    assert await bench.post() == [-3]
    assert await bench.everything() == before


async def test_the_head_is_buried_when_the_index_knows(bench: MailBench) -> None:
    await bench.post()
    await bench.post("e2")
    for _ in range(2):
        await bench.turn()
        await bench.client.read("HDEL", bench.mailbox, "lease")
    before = await bench.everything()
    assert await bench.take() == [-10]
    assert await bench.everything() == before
    taken = await bench.take(bury=1, op="x")
    assert taken[0] == 1
    assert taken[4] == b"1"
    assert await bench.take(bury=1, op="x", age=5) != [-10]
    assert await bench.letters() == [b"e2"]
    assert await bench.client.read("LLEN", f"{bench.mailbox}:dead") == 1


# --- the index ------------------------------------------------------------------------------------


async def test_a_hint_is_put_off_for_a_visit_and_taken_out_unless_it_was_touched(
    bench: MailBench,
) -> None:
    assert await bench.due() == [0]
    await bench.hint(delay=0)
    _, member, mark = await bench.due()
    assert member.decode() == bench.member
    none, ms = await bench.due()
    assert none == 0
    assert 0 < int(ms) <= 5000
    await bench.hint(delay=9000)  # touched
    await bench.hint(mark)
    assert await bench.client.read("ZCARD", bench.index) == 1
    assert 0 < int((await bench.due())[1]) <= 5000
    await bench.hint(delay=0)
    _, _, mark = await bench.due()
    await bench.hint(mark)
    assert await bench.client.read("ZCARD", bench.index) == 0


async def test_a_hint_is_due_no_later_than_others_have_said(bench: MailBench) -> None:
    await bench.hint(delay=1000)
    await bench.hint(delay=9000)
    assert 0 < int((await bench.due())[1]) <= 1000
    await bench.hint(delay=0)
    _, _, mark = await bench.due()
    await bench.hint(mark, delay=9000)  # but by who has looked
    assert 5000 < int((await bench.due())[1]) <= 9000


async def test_an_expectation_outlasts_every_look(bench: MailBench) -> None:
    await bench.expect("aa", 5000)
    await bench.hint(delay=0)
    _, _, mark = await bench.due()
    await bench.hint(mark)  # there was nothing
    assert await bench.client.read("ZCARD", bench.index) == 1
    assert 0 < int((await bench.due(age=1000))[1]) <= 5000
    await bench.hint(token="aa")
    assert await bench.due() == [0]
    await bench.expect("bb", 0)
    assert (await bench.due())[1].decode() == bench.member
    await bench.hint(token="bb")  # too late, and so without effect on the session
    assert 0 < int((await bench.due())[1]) <= 5000


async def test_a_key_is_not_taken_for_an_expectation(bench: MailBench) -> None:
    for member in ("abc/acme/aa!x", "abc/acme/x"):
        await bench.hint(member=member, delay=0)
        assert (await bench.due())[1].decode() == member


async def test_a_repeated_look_finds_again_what_the_first_was_given(bench: MailBench) -> None:
    for name in "ab":
        await bench.hint(member=f"{FIELD}/{name}", delay=0)
    given = [(await bench.due())[1] for _ in range(2)]
    again = [(await bench.due(age=1000))[1], (await bench.due())[1]]
    assert sorted(again) == sorted(given)
    # What was put off before the doubt stays so.
    await bench.age()
    assert (await bench.due(age=0))[0] == 0
