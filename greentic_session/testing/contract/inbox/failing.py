"""Contract tests of failing messages: retried with backoff, then dead letters, then replayed."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from ...._core.tenancy import allowed_owners_of
from ....abc.inbox import MailboxRef, NewMessage
from ....abc.waits import EventMemory
from ....codec import Codec, JsonCodec, SessionBody
from ....errors import DecodeError, InboxFullError
from ....ordering import InboxLimits
from ..samples import GLOBEX, KEY, LIFE, SECRET, ctx, session
from .helpers import OWNER, REST, FailedError, InboxHarness, counted, desk, fail

if TYPE_CHECKING:
    from ...harness import StoreHarness


class _Moody:
    """Makes codecs that fail to decode while :attr:`is_broken` is set."""

    def __init__(self) -> None:
        self.is_broken = False

    def __call__(self, context_type: type[Any]) -> Codec[Any]:
        return _MoodyCodec(self, JsonCodec(context_type))


class _MoodyCodec:
    def __init__(self, mood: _Moody, codec: Codec[Any]) -> None:
        self._mood = mood
        self.encode = codec.encode
        self._decode = codec.decode

    def decode(self, data: bytes) -> SessionBody[Any]:
        if self._mood.is_broken:
            raise msgspec.DecodeError
        return self._decode(data)


class _OddError(BaseException):
    """No ``Exception``, like some errors that end a worker."""


@pytest.mark.anyio
class InboxFailingContract:
    """A message has a limited number of attempts, and delays no other session."""

    async def test_a_failed_session_rests_and_then_its_head_comes_alone(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness)
        await at.admit("e1", "e2", "e3")
        assert await at.fail() == (["e1", "e2", "e3"], 1)
        assert await at.is_idle()
        await harness.advance(REST)
        async with at.turn() as turn:
            assert [(mail.event_id, mail.attempt) for mail in turn.mail] == [("e1", 2)]
            await turn.finish()
        assert await at.handle() == ["e2", "e3"]

    async def test_each_rest_is_longer_than_the_one_before(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.admit("e1")
        for rest in (REST, 2 * REST, 4 * REST):
            await at.fail()
            await harness.advance(rest * 0.8)
            assert await at.is_idle()
            await harness.advance(rest * 0.2)
        assert await at.handle() == ["e1"]

    async def test_no_rest_is_longer_than_a_minute(self, harness: StoreHarness) -> None:
        at = await desk(harness, retry_delay=timedelta(seconds=50), attempts=10)
        await at.admit("e1")
        for _ in range(4):
            await at.fail()
            await harness.advance(60)
        assert await at.handle() == ["e1"]

    async def test_others_go_on_while_a_session_rests(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.admit("e1", key="bad")
        await at.fail()
        await at.admit("f1", key="good")
        assert await at.drain() == [("good", ["f1"])]
        assert (await at.admit("e2", key="bad")).worker is None
        assert await at.is_idle()
        await harness.advance(REST)
        assert await at.drain() == [("bad", ["e1"]), ("bad", ["e2"])]

    @pytest.mark.parametrize(
        "error",
        [
            SystemExit(1),
            _OddError(),
            BaseExceptionGroup("several", [KeyboardInterrupt(), _OddError()]),
            asyncio.CancelledError(),  # the task was not cancelled, it awaited a cancelled one
        ],
        ids=lambda error: type(error).__name__,
    )
    async def test_whatever_the_handler_raises_was_an_attempt(
        self, harness: StoreHarness, error: BaseException
    ) -> None:
        at = await desk(harness, attempts=2)
        await at.admit("e1")
        for attempt in (1, 2):
            with suppress(type(error)):
                async with at.turn() as turn:
                    assert turn.mail[0].attempt == attempt
                    raise error
            await harness.advance(REST)
        assert await at.is_idle()
        assert [letter.event_id for letter in await at.dead()] == ["e1"]

    async def test_a_letter_is_replayed_by_any_inbox_and_comes_by_that_one(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness, attempts=1)
        other = await at.peer(name="other")
        await at.admit("e1")
        await at.fail()
        assert await at.is_idle()
        (letter,) = await at.dead()
        assert await other.dead() == []
        assert await other.inbox.replay(letter) is True
        assert await other.inbox.replay(letter) is False
        assert await at.is_idle()
        assert await other.handle() == ["e1"]

    @pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit])
    async def test_an_interruption_does_not_count_as_an_attempt(
        self, harness: StoreHarness, error: type[BaseException]
    ) -> None:
        at = await desk(harness, attempts=1)
        await at.admit("e1")
        with suppress(error):
            async with at.turn():
                raise error
        assert await at.handle() == ["e1"]

    @pytest.mark.parametrize("attempts", [1, 3])
    async def test_a_message_that_fails_too_often_is_given_up(
        self, harness: StoreHarness, attempts: int
    ) -> None:
        at = await desk(harness, attempts=attempts)
        await at.admit("e1", "e2", payload=b"poison")
        await at.fail_for_good(attempts)
        assert await at.handle() == ["e2"]
        (letter,) = await at.dead()
        assert (letter.key, letter.event_id, letter.payload) == (KEY, "e1", b"poison")
        assert letter.ctx == OWNER
        assert letter.attempts == attempts
        assert letter.died_at >= letter.admitted_at
        assert await at.told() == ["e2"]
        assert not (await at.admit("e1")).is_new

    async def test_the_last_failure_is_followed_by_no_rest(self, harness: StoreHarness) -> None:
        at = await desk(harness, attempts=1)
        await at.admit("e1", "e2")
        await at.fail()
        assert await at.handle() == ["e2"]

    async def test_a_turn_of_a_killed_worker_counts_as_an_attempt(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness, attempts=2)
        await at.admit("e1", "e2")
        for _ in range(2):
            async with at.doomed() as turn:
                await at.die(turn)
        assert await at.handle() == ["e2"]
        assert [letter.event_id for letter in await at.dead()] == ["e1"]

    async def test_only_the_guilty_message_is_given_up(self, harness: StoreHarness) -> None:
        at = await desk(harness, attempts=3)
        await at.admit(*"abcdef")
        handled: list[str] = []
        for _ in range(40):
            await harness.advance(100 * REST)
            with suppress(FailedError):
                async with at.take() as turn:
                    if turn is None:
                        break
                    told = [mail.event_id for mail in turn.mail]
                    if "d" in told:
                        fail()
                    await turn.finish(counted(turn))
                    handled += told
        assert handled == list("abcef")
        assert await at.told() == list("abcef")
        assert [letter.event_id for letter in await at.dead()] == ["d"]

    async def test_what_was_committed_is_not_tried_again(self, harness: StoreHarness) -> None:
        at = await desk(harness, attempts=2)
        await at.admit("e1", "e2", "e3")
        for _ in range(2):
            with suppress(FailedError):
                async with at.turn() as turn:
                    if turn.mail[0].event_id == "e1":
                        await turn.commit(session(context={"told": ["e1"]}), 1)
                    fail()
            await harness.advance(100 * REST)
        assert await at.handle() == ["e3"]
        assert [(one.event_id, one.attempts) for one in await at.dead()] == [("e2", 2)]

    async def test_a_failure_without_mail_is_none(self, harness: StoreHarness) -> None:
        at = await desk(harness)
        await at.admit("e1")
        with suppress(FailedError):
            async with at.turn() as turn:
                await turn.commit(counted(turn), 1)
                await at.admit("e2")
                fail()
        async with at.turn() as turn:
            assert [(mail.event_id, mail.attempt) for mail in turn.mail] == [("e2", 1)]
            await turn.finish()

    async def test_a_dead_letter_is_replayed_at_the_end_as_new(self, harness: StoreHarness) -> None:
        at = await desk(harness, attempts=1)
        await at.admit("e1", "e2", payload=b"again")
        await at.fail()
        await at.handle()
        (letter,) = await at.dead()
        await at.admit("e3")
        assert await at.inbox.replay(letter) is True
        assert await at.inbox.replay(letter) is False
        assert await at.inbox.discard(letter) is False
        assert await at.dead() == []
        async with at.turn() as turn:
            assert [(mail.event_id, mail.attempt) for mail in turn.mail] == [("e3", 1), ("e1", 1)]
            assert turn.mail[1].payload == b"again"
            await turn.finish()

    async def test_a_full_mailbox_takes_no_replay(self, harness: StoreHarness) -> None:
        at = await desk(harness, attempts=1, limits=InboxLimits(mail=1))
        await at.admit("e1")
        await at.fail()
        assert await at.is_idle()
        (letter,) = await at.dead()
        await at.admit("e2")
        with pytest.raises(InboxFullError):
            await at.inbox.replay(letter)
        assert await at.dead() == [letter]
        await at.handle()
        assert await at.inbox.replay(letter) is True
        assert await at.handle() == ["e1"]

    async def test_a_dead_letter_is_discarded(self, harness: StoreHarness) -> None:
        at = await desk(harness, attempts=1)
        await at.admit("e1")
        await at.fail()
        assert await at.is_idle()
        (letter,) = await at.dead()
        assert await at.inbox.discard(letter) is True
        assert await at.inbox.discard(letter) is False
        assert await at.inbox.replay(letter) is False
        assert await at.dead() == []
        assert await at.is_idle()

    async def test_dead_letters_of_many_sessions_are_listed(self, harness: StoreHarness) -> None:
        at = await desk(harness, attempts=1, tenants="all")
        other = ctx(GLOBEX)
        for owner in (ctx(), other):
            for key in "abc":
                await at.admit("e1", "e2", key=key, owner=owner)
        for _ in range(12):
            await at.fail()
        assert await at.is_idle()
        letters = await at.dead()
        assert len(letters) == 12
        assert {(one.ctx.tenant_id, one.key) for one in letters} == {
            (owner.tenant_id, key) for owner in (ctx(), other) for key in "abc"
        }
        for tenant_id in ("acme", GLOBEX):
            for key in "abc":
                mine = [
                    one.event_id
                    for one in letters
                    if (one.ctx.tenant_id, one.key) == (tenant_id, key)
                ]
                assert mine == ["e1", "e2"]

    async def test_no_dead_letter_is_passed_over_while_others_die_and_end(
        self, harness: StoreHarness
    ) -> None:
        at = await desk(harness, attempts=1)
        keys = [f"k{number:03}" for number in range(150)]
        for key in keys:
            await at.admit("e1", key=key)
            await at.fail()
        assert await at.is_idle()
        listed: dict[str, int] = {}
        async for letter in at.inbox.dead_letters():
            listed[letter.key] = listed.get(letter.key, 0) + 1
            if len(listed) in (1, 100):
                for key in keys[:3]:  # now they are the newest
                    await at.admit(f"later {len(listed)}", key=key)
                    await at.fail()
                assert await at.is_idle()
        assert sorted(listed) == keys
        assert all(count == 1 for key, count in listed.items() if key not in keys[:3])

    async def test_dead_letters_end_by_themselves(self, harness: StoreHarness) -> None:
        at = await desk(harness, attempts=1, limits=InboxLimits(dead_ttl_secs=10 * LIFE))
        await at.admit("e1")
        await at.fail()
        assert await at.is_idle()
        await harness.advance(6 * LIFE)
        await at.admit("e2")
        await at.fail()
        assert await at.is_idle()
        first, second = await at.dead()
        await harness.advance(6 * LIFE)
        assert [letter.event_id for letter in await at.dead()] == [second.event_id]
        assert await at.inbox.replay(first) is False
        await harness.advance(6 * LIFE)
        assert await at.dead() == []

    async def test_a_dead_letter_ends_at_its_own_instant(self, harness: StoreHarness) -> None:
        at = await desk(harness, attempts=1, limits=InboxLimits(dead_ttl_secs=LIFE))
        for event_id in ("e1", "e2"):
            await at.admit(event_id)
            await at.fail()
            assert await at.is_idle()
            await harness.advance(LIFE / 2)
        assert [letter.event_id for letter in await at.dead()] == ["e2"]

    async def test_a_session_that_cannot_be_read_is_an_attempt(self, harness: StoreHarness) -> None:
        codec = _Moody()
        at = InboxHarness(harness, await harness.open(codec=codec), attempts=2)
        await at.store.put(session())
        await at.admit("e1", "e2")
        codec.is_broken = True
        for _ in range(2):
            with pytest.raises(DecodeError):
                await at.handle()
            await harness.advance(REST)  # less than the lease, so the turn was given back
        codec.is_broken = False
        assert await at.handle() == ["e2"]
        assert [letter.event_id for letter in await at.dead()] == ["e1"]

    async def test_no_repr_shows_a_message(self, harness: StoreHarness) -> None:
        at = await desk(harness, attempts=1)
        await at.admit("e1", payload=SECRET.encode())
        mailbox, memory = MailboxRef("default/acme", KEY), EventMemory(1, 1)
        allowed = allowed_owners_of(OWNER)[1]
        posting = NewMessage("inbox", mailbox, allowed, "e1", SECRET.encode(), 1, memory)
        assert SECRET not in repr(posting)
        async with at.turn() as turn:
            assert SECRET not in repr(turn.mail)
        await at.fail()
        assert await at.is_idle()
        (letter,) = await at.dead()
        assert SECRET not in repr(letter)
        changed = msgspec.structs.replace(letter, attempts=7)
        assert await at.inbox.discard(changed) is False
