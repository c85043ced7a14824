"""The contract suite on the flow runtime: inherit :class:`FlowContract`, give it a ``harness``.

The fixture is as for :class:`SessionStoreContract`. The store needs inboxes and waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

import anyio
import pytest

from ....errors import InvalidInputError
from ....flows import End, FlowMessage, FlowRuntime, Pause, Reply
from ....model import ReplyScope, Session, SessionKey
from ....ordering import SessionInbox
from ..samples import KEY, ctx, session

if TYPE_CHECKING:
    from ....store import AsyncSessionStore
    from ...harness import StoreHarness

__all__ = ["FlowContract"]

_ANN: Final = ctx(user_id="ann")
_CHAT: Final = ReplyScope(conversation="chat")
_PATIENCE_SECS: Final = 20
_BACKOFF_SECS: Final = 60
"""Longer than the backoff of every failed attempt in this suite."""


class _DeadError(BaseException):
    """Stands for the death of a worker at one point."""


@final
class _Bot(FlowRuntime[dict[str, Any]]):
    """Counts the messages of a session, and replies with the count.

    :ivar sent: the replies that were sent.
    :ivar dies: when its worker dies: ``before`` or ``after`` it sends a reply.
    """

    def __init__(
        self, harness: StoreHarness, store: AsyncSessionStore[Any], **options: Any
    ) -> None:
        super().__init__(store, SessionInbox(store, ctx(), **options))
        self._harness: Final = harness
        self.sent: Final[list[Reply]] = []
        self.errors: Final[list[type[Exception]]] = []
        self.dies = ""

    async def step(
        self, message: FlowMessage[dict[str, Any]]
    ) -> Pause[dict[str, Any]] | End | None:
        text, at = message.mail.payload.decode(), message.session
        if text == "ignore":
            return None
        if text == "fail":
            raise ValueError(text)
        if at is None:
            at = message.start("count", "counting", {"n": 0})
        at.context["n"] += 1
        replies = ({"text": text, "n": at.context["n"]},)
        if text == "end":
            return End(replies=replies)
        scope = _CHAT if text == "ask" else None
        return Pause(session=at.advance("counting"), replies=replies, scope=scope)

    async def send(self, reply: Reply) -> None:
        if self.dies == "before":
            raise _DeadError
        self.sent.append(reply)
        if self.dies == "after":
            raise _DeadError

    async def failed(self, key: SessionKey | None, error: Exception) -> None:
        assert key == KEY
        self.errors.append(type(error))
        await self._harness.advance(_BACKOFF_SECS)

    @property
    def texts(self) -> list[object]:
        """The payloads that were sent."""
        return [reply.payload for reply in self.sent]

    async def say(self, *texts: str, first: int = 1) -> None:
        """Admit messages with numbers as event ids."""
        for number, text in enumerate(texts, first):
            await self.inbox.admit(SessionKey(KEY), f"{number}", text.encode(), ctx=_ANN)

    async def drain(self) -> None:
        """Handle messages until there are none. Time advances over the backoff of a session."""
        with anyio.fail_after(_PATIENCE_SECS):
            while (await self.inbox.depth()).sessions:
                async with self.inbox.take("worker", most=1, wait=0.01) as turn:
                    if turn is not None:
                        await self.handle(turn)
                        continue
                await self._harness.advance(_BACKOFF_SECS)


async def _bot(harness: StoreHarness, **options: Any) -> _Bot:
    return _Bot(harness, await harness.open(), **options)


def _counted(*texts: str) -> list[object]:
    return [{"text": text, "n": number} for number, text in enumerate(texts, 1)]


@pytest.mark.anyio
class FlowContract:
    """A flow answers each message once, in order, and its replies are sent at least once."""

    async def test_a_flow_answers_each_message_and_ends(self, harness: StoreHarness) -> None:
        bot = await _bot(harness)
        await bot.say("hi", "ignore", "again", "end", "hi")
        await bot.drain()
        assert bot.texts == [*_counted("hi", "again", "end"), *_counted("hi")]
        assert [reply.entry.seq for reply in bot.sent] == [0, 1, 2, 0]
        assert len({reply.entry.payload_sha256 for reply in bot.sent}) == 4

    async def test_workers_handle_messages_while_the_block_runs(
        self, harness: StoreHarness
    ) -> None:
        bot = await _bot(harness)
        with anyio.fail_after(_PATIENCE_SECS):
            async with bot.working(3):
                await bot.say("hi", "again")
                while len(bot.sent) < 2:  # noqa: ASYNC110 - the replies are the only sign
                    await anyio.sleep(0.001)
        assert bot.texts == _counted("hi", "again")

    @pytest.mark.parametrize("text", ["hi", "ask", "end"])
    @pytest.mark.parametrize("dies", ["before", "after"])
    async def test_replies_of_a_dead_worker_are_sent_first_and_the_step_is_not_repeated(
        self, harness: StoreHarness, dies: str, text: str
    ) -> None:
        bot = await _bot(harness)
        await bot.say("hi")
        await bot.drain()
        await bot.say(text, "next", first=2)
        bot.dies = dies
        with pytest.raises(_DeadError):
            await bot.drain()
        bot.dies = ""
        await bot.drain()
        again = [] if dies == "before" else _counted("hi", text)[1:]
        after = _counted("next") if text == "end" else [{"text": "next", "n": 3}]
        assert bot.texts == [*_counted("hi"), *again, *_counted("hi", text)[1:], *after]
        if again:
            assert bot.sent[1] == bot.sent[2]

    async def test_an_answered_dead_letter_is_ignored_when_it_is_replayed(
        self, harness: StoreHarness
    ) -> None:
        bot = await _bot(harness, attempts=1)
        await bot.say("hi")
        bot.dies = "before"
        with pytest.raises(_DeadError):
            await bot.drain()
        bot.dies = ""
        await bot.say("next", first=2)
        await bot.drain()
        letters = [letter async for letter in bot.inbox.dead_letters()]
        assert [letter.event_id for letter in letters] == ["1"]
        assert await bot.inbox.replay(letters[0]) is True
        await bot.drain()
        assert bot.texts == _counted("hi", "next")

    async def test_a_failing_step_is_retried_and_given_up(self, harness: StoreHarness) -> None:
        bot = await _bot(harness, attempts=2)
        await bot.say("fail", "hi")
        with anyio.fail_after(_PATIENCE_SECS):
            async with bot.working(2):
                while not bot.sent:  # noqa: ASYNC110 - the reply is the only sign
                    await anyio.sleep(0.001)
        assert bot.texts == _counted("hi")
        assert bot.errors == [ValueError, ValueError]
        letters = [letter async for letter in bot.inbox.dead_letters()]
        assert [letter.event_id for letter in letters] == ["1"]

    async def test_a_pause_under_a_reply_scope_gets_the_reply(self, harness: StoreHarness) -> None:
        bot = await _bot(harness)
        early = await bot.inbox.deliver(_ANN, "ann", _CHAT, "e1", b"early")
        assert early is None
        await bot.say("ask")
        await bot.drain()
        assert await bot.waits.find_wait_by_scope(_ANN, "ann", _CHAT) == KEY
        late = await bot.inbox.deliver(_ANN, "ann", _CHAT, "e2", b"late")
        assert late is not None
        await bot.drain()
        await bot.inbox.deliver(_ANN, "ann", _CHAT, "e3", b"end")
        await bot.drain()
        assert bot.texts == _counted("ask", "early", "late", "end")
        assert await bot.waits.find_wait_by_scope(_ANN, "ann", _CHAT) is None
        await harness.advance(10_000_000)
        assert await harness.residue() == []

    async def test_outbox_entries_of_the_application_stay(self, harness: StoreHarness) -> None:
        store = await harness.open()
        bot = _Bot(harness, store)
        mine, _ = session(owner=_ANN, context={"n": 0}).with_outbox(b"mine")
        await store.create(mine)
        await bot.say("hi")
        await bot.drain()
        found = await store.get(SessionKey(KEY), ctx=_ANN)
        assert found is not None
        after: Session[Any] = found.session
        assert after.outbox == mine.outbox
        assert after.context == {"n": 1}

    async def test_bad_arguments_are_refused(self, harness: StoreHarness) -> None:
        store = await harness.open()
        bot = _Bot(harness, store)
        given: Any = store
        with pytest.raises(InvalidInputError, match="inbox"):
            _Other(store, given)
        for workers in (0, True, 1.5):
            many: Any = workers
            with pytest.raises(InvalidInputError, match="workers"):
                async with bot.working(many):
                    pytest.fail("the block must not be entered")
        await bot.say("hi", "hi")
        async with bot.inbox.take("worker") as turn:
            with pytest.raises(InvalidInputError, match="most=1"):
                await bot.handle(turn)
            await turn.finish()


class _Other(FlowRuntime[Any]):
    """A runtime that does nothing."""

    async def step(self, message: FlowMessage[Any]) -> None:  # noqa: ARG002
        return None

    async def send(self, reply: Reply) -> None: ...
